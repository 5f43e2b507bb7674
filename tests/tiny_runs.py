"""Tiny networks, streams and runs for the tests of the loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnets.data import DataSet, Images
from resnets.data.dataset import Splits
from resnets.data.loader import Batch, TrainLoader
from resnets.data.transforms import Preprocess
from resnets.models.registry import MODELS
from resnets.models.resnet import ResNet, ResNetConfig
from resnets.training import trainer
from resnets.training.auto_config import ResolvedConfig
from resnets.training.distributed import SINGLE_PROCESS, DistContext
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir
from resnets.training.signals import SignalHandler
from resnets.training.train_step import TrainState
from resnets.training.trainer import Trainer

CPU = torch.device("cpu")
SUMMATION = 1e-10  # float64, another order of summation
ROUNDING = 1e-5  # float32, sums over some hundred numbers
STEPS = 30
K = 4

TINY: dict[str, Any] = {
    "depths": (1, 1),
    "block": "basic",
    "widths": (8, 8),
    "num_classes": K,
    "stem": "small",
}
# What a run leaves, but for the page and its figures.
RUN_FILES = {"config.json", "environment.json", "data.json", "metrics.jsonl", "checkpoints"}
RUN_FILES |= {"digests.json", "model.safetensors", "scores.json"}
# The same as a row of the table: whole runs take its two blocks, where resnet20 has nine.
TINY_ENTRY = replace(MODELS["resnet20"], config=ResNetConfig(**TINY))
BASE: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 8,
    "learning_rate": 0.05,
    "precision": "fp32",
    "crop": "none",
    "flip": "none",
    "auto_augment": "none",
    "label_smoothing": 0.0,
    "evaluate_every": 1.0,
    "optimizer": "sgd",
    "memory_format": "channels_last",
}
HARD: dict[str, Any] = {
    "crop": "shift",
    "crop_padding": 2,
    "flip": "random",
    "erasing": 0.3,
    "mixup": 0.4,
    "cutmix": 0.4,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "clip_grad_norm": 1.0,
    "grad_accum_steps": 2,
}
RANDOM = {"dropout": 0.2, "drop_path": 0.3}


def network(**values: Any) -> ResNet:
    torch.manual_seed(0)
    return ResNet(ResNetConfig(**TINY | values))


def recipe_of(**values: Any) -> Recipe:
    return Recipe().override(**BASE | values)


def start(recipe: Recipe, **values: Any) -> TrainState:
    state = TrainState.start(network(**values), recipe, device=CPU)
    state.model.train()
    return state


def batch_of(num: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num, 3, 12, 12, generator=generator, dtype=dtype)
    return Batch(images, torch.arange(num) % K, np.arange(num), 0)


def images_of(num: int) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (num, 12, 12, 3), dtype=np.uint8)
    targets = np.arange(num) % K
    return Images(pixels, targets, tuple(map(str, range(num))))


def stream_of(recipe: Recipe, *, num: int = 20, **options: Any) -> TrainLoader:
    assert recipe.schedule.batch_size is not None
    return TrainLoader(
        images_of(num),
        preprocess=Preprocess(size=12),
        augment=recipe.augment,
        num_classes=K,
        batch_size=recipe.schedule.batch_size,
        seed=recipe.seed,
        device=CPU,
        **options,
    )


def digest(tensors: dict[str, torch.Tensor]) -> str:
    value = hashlib.sha256()
    for name in sorted(tensors):
        value.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return value.hexdigest()


class Scripted:
    """Validation scores given beforehand, one a call; then the last again."""

    def __init__(self, *scores: float, loss: float = 1.0) -> None:
        self.scores, self.loss, self.seen = scores, loss, 0

    def __call__(self, model: nn.Module) -> Any:
        score = self.scores[min(self.seen, len(self.scores) - 1)]
        self.seen += 1
        return SimpleNamespace(top1=score, loss=self.loss)


def trainer_of(
    recipe: Recipe,
    run_dir: RunDir,
    *,
    num: int = 20,
    dist: DistContext = SINGLE_PROCESS,
    stream: Any = None,
    validate: Callable[[nn.Module], Any] | None = None,
    signals: SignalHandler | None = None,
) -> Trainer:
    """A trainer of tiny images, with a stream and a validation of the test's own."""
    recipe = recipe.override(model="resnet20", size=12, workers=0)
    images = images_of(num)
    made = Trainer(
        ResolvedConfig(recipe),
        DataSet("noise", tuple("abcd"), {"all": images}),
        Splits(images, images, None),
        device=CPU,
        dist=dist,
        preprocess={"size": 12},
        run_dir=run_dir if dist.is_first else replace(run_dir, writable=False),
    )
    given: dict[str, Any] = {"train_loader": stream, "evaluate": validate, "signals": signals}
    for name, value in given.items():
        if value is not None:
            setattr(made, name, value)
    made.train_loader.cached = True  # also that of the test
    return made


def run(state: TrainState, recipe: Recipe, run_dir: RunDir, **given: Any) -> bool:
    """The loop from a state on; False when a signal stopped it."""
    given = {"stream": stream_of(recipe), "validate": Scripted(0.5)} | given
    made = trainer_of(recipe, run_dir, **given)
    made.state = state
    return made.train_loop()


def quick_runs(patch: pytest.MonkeyPatch, *, report: Any = None) -> None:
    """Name the tiny network, log every step, and leave the report to its own tests."""
    patch.setitem(MODELS, "tiny", TINY_ENTRY)
    patch.setattr(Trainer, "measure_seconds", 0.01)
    patch.setattr(Trainer, "log_every", 0.0)
    patch.setattr(trainer, "write_report", report or (lambda *_, **__: None))
