"""What only a CUDA device can show: steps that wait for nothing and repeat their bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resnets.data import open_data
from resnets.training.auto_config import ResolvedConfig
from resnets.training.recipe import Recipe
from resnets.training.recipes import named_recipe
from resnets.training.train_step import TrainState, train_step
from resnets.training.trainer import Trainer, splits_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
DEVICE = torch.device("cuda")
STEPS = 12
SHARED: dict[str, Any] = {
    "steps": STEPS,
    "epochs": None,
    "batch_size": 64,
    "size": 28,
    "learning_rate": 0.01,
    "precision": "bf16",
    "memory_format": "channels_last",
    "workers": 0,
    "threads": 1,
    "auto_augment": "none",
}
RECIPES: dict[str, dict[str, Any]] = {
    "fast": {**named_recipe("fast"), "model": "resnet8_fast_half"},
    "sgd": {"model": "resnet20", "optimizer": "sgd", "crop": "shift", "drop_path": 0.2},
    "adamw": {"model": "resnet20", "optimizer": "adamw", "crop": "resized", "erasing": 0.5}
    | {"mixup": 0.2, "cutmix": 0.2, "dropout": 0.1, "grad_accum_steps": 2},
}


def trained(
    name: str, *, restored_at: int | None = None, waits: str = "default"
) -> dict[str, torch.Tensor]:
    """Train for some steps, perhaps over a checkpoint and a new network; return the weights."""
    recipe = Recipe().override(**{**RECIPES[name], **SHARED})
    data = open_data("fashion-mini")
    splits = splits_for(data, recipe)
    with Trainer(ResolvedConfig(recipe), data, splits, device=DEVICE) as trainer:
        state = TrainState.start(trainer.new_model().train(), recipe, device=DEVICE)
        for batch in trainer.train_loader.batches(0, STEPS):
            train_step(state, state.model, batch, recipe)
            state.step += 1
            if state.step == restored_at:
                checkpoint = state.checkpoint()
                state = TrainState.start(trainer.new_model().train(), recipe, device=DEVICE)
                state.restore(checkpoint)
            # The first steps make the optimizer's state, and the last batch is followed by none.
            torch.cuda.set_sync_debug_mode(waits if 3 <= state.step < STEPS - 1 else "default")
    torch.cuda.set_sync_debug_mode("default")
    return state.model.state_dict()


@pytest.mark.parametrize("name", RECIPES)
def test_a_restored_state_goes_on_to_the_same_bits(name: str) -> None:
    whole, restored = trained(name), trained(name, restored_at=5)
    assert all(torch.equal(whole[key], restored[key]) for key in whole)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_waits_for_nothing(name: str) -> None:
    trained(name, waits="error")
