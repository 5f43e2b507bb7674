"""Compute the first 30 losses of every recipe on a tiny network; tests compare them with files.

    .venv/bin/python tests/curves.py [NAME ...]

rewrites `tests/curves/NAME.json`, for all recipes when no name is given: do so after a deliberate
change of a recipe or of the training. How to compute is fixed, so that nothing is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from resnets.data import DataSet, open_data
from resnets.models.config import ResNetConfig
from resnets.models.registry import MODELS
from resnets.training.auto_config import DataFacts, ResolvedConfig, resolve
from resnets.training.recipe import Recipe
from resnets.training.recipes import RECIPES, named_recipe
from resnets.training.train_step import TrainState, train_step
from resnets.training.trainer import Trainer, splits_for

FOLDER = Path(__file__).parent / "curves"
STEPS = 30
IMAGES = 400
CPU = torch.device("cpu")
# One block that starts as its shortcut: in resnet20 the last bit of a float32 grows to 10 % of the
# loss within 30 steps at these learning rates, and here to less than 1e-6 of it.
TINY = ResNetConfig((1,), "basic", widths=(8,), stem="small", residual_init="zero")
PINNED: dict[str, Any] = {
    "model": "tiny",
    "size": 16,
    "batch_size": 64,
    "steps": STEPS,
    "tune": "off",
    "threads": 1,
    "precision": "fp32",
    "memory_format": "channels_last",
    "compile": False,
    "workers": 0,
}
WITH_TINY = patch.dict(MODELS, {"tiny": replace(MODELS["resnet20"], config=TINY)})


def images() -> DataSet:
    """The first images of the embedded set, without a validation part."""
    data = open_data("fashion-mini")
    part = data.splits["train"].subset(np.arange(IMAGES))
    return DataSet(data.name, data.classes, {"train": part})


@WITH_TINY
def settled(name: str, data: DataSet) -> Recipe:
    """The recipe on the tiny network, with nothing left open."""
    recipe = Recipe().override(**named_recipe(name)).override(**PINNED)
    facts = DataFacts.of(splits_for(data, recipe), num_classes=len(data.classes))
    return resolve(ResolvedConfig(recipe), facts, seconds=None, device=CPU).recipe


def losses(recipe: Recipe, data: DataSet) -> Iterator[float]:
    """The loss of every step, and last that of the network which a validation scores."""
    trainer = Trainer(ResolvedConfig(recipe), data, splits_for(data, recipe), device=CPU)
    with WITH_TINY:
        state = TrainState.start(trainer.new_model(), recipe, device=CPU)
    state.model.train()
    for batch in trainer.train_loader.batches(0, STEPS):
        loss, _ = train_step(state, state.model, batch, recipe)
        state.step += 1
        yield loss.item()
    yield trainer.evaluate(state.evaluated_model).loss


def committed(name: str) -> list[float]:
    """The curve in the repository."""
    return [float.fromhex(loss) for loss in json.loads((FOLDER / f"{name}.json").read_text())]


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    data = images()
    for name in names or RECIPES:
        curve = list(losses(settled(name, data), data))
        text = json.dumps([loss.hex() for loss in curve], indent=0)
        (FOLDER / f"{name}.json").write_text(text + "\n")
        print(f"{name}: {curve[0]:.4f} to {curve[-2]:.4f}, validation {curve[-1]:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
