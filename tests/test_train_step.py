"""One training step: it can learn, and what changes and what does not."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnets.data import Images, open_data
from resnets.data.augment import Augment
from resnets.data.loader import Batch, EvalLoader, TrainLoader
from resnets.data.transforms import Preprocess
from resnets.evaluation.metrics import evaluate
from resnets.models.registry import create_model
from resnets.training.run_dir import RunDir
from resnets.training.train_step import TrainState, train_step
from tiny_runs import (
    CPU,
    RANDOM,
    ROUNDING,
    SUMMATION,
    K,
    batch_of,
    network,
    recipe_of,
    run,
    start,
)

# It can learn


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"block": "bottleneck", "groups": 2},
        {"order": "pre"},
        {"shortcut": "none"},
        *(
            pytest.param(values, marks=pytest.mark.slow)
            for values in (
                {"shortcut": "pad"},
                {"se": 0.25},
                {"residual_init": "zero"},
                {"residual_init": "scalar"},
            )
        ),
    ],
    ids=lambda values: "-".join(map(str, values)) or "basic",
)
def test_overfits_one_batch(values: dict[str, Any]) -> None:
    recipe = recipe_of(learning_rate=0.2, weight_decay=0.0, steps=100)
    state, batch = start(recipe, **values), batch_of(8)
    for _ in range(100):
        loss, correct = train_step(state, state.model, batch, recipe)
        state.step += 1
    assert loss.item() < 1e-3
    assert correct.item() == 8


def test_overfits_with_adamw() -> None:
    recipe = recipe_of(optimizer="adamw", learning_rate=0.03, steps=100)
    state, batch = start(recipe), batch_of(8)
    for _ in range(100):
        loss, _ = train_step(state, state.model, batch, recipe)
        state.step += 1
    assert loss.item() < 1e-3


@pytest.mark.parametrize(
    ("name", "init", "tolerance"),
    [
        ("plain20", "default", 0.03),
        ("preact_resnet18", "default", 0.03),
        ("resnet20", "zero", 0.03),
        ("resnet20", "default", 0.15),  # each unit adds its variance to the last map
    ],
)
def test_initial_loss_is_that_of_a_guess(name: str, init: str, tolerance: float) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=100, residual_init=init).train()
    images = torch.randn(32, 3, 32, 32)
    with torch.no_grad():
        loss = F.cross_entropy(model(images), torch.arange(32))
    assert loss.item() == pytest.approx(math.log(100), rel=tolerance)


def learned(targets: np.ndarray[Any, Any], run_dir: RunDir) -> float:
    """Accuracy on true labels after a short run on the targets given."""
    data = open_data("fashion-mini")
    part, test = data.splits["train"].subset(np.arange(1000)), data.splits["test"]
    assert isinstance(part, Images)
    part = Images(part.pixels, targets, part.ids)
    plain = Preprocess(size=28, channels=1, mean=(0.286,), std=(0.353,))
    recipe = recipe_of(steps=60, batch_size=50, learning_rate=0.1, evaluate_every=3.0)
    state = start(recipe, in_channels=1, num_classes=10, stem="imagenet", widths=(16, 16))
    stream = TrainLoader(
        part, preprocess=plain, augment=Augment(), num_classes=10, batch_size=50, seed=0, device=CPU
    )
    batches = EvalLoader(test.subset(np.arange(500)), preprocess=plain, batch_size=250, device=CPU)
    run(
        state,
        recipe,
        run_dir,
        num=1000,
        stream=stream,
        validate=lambda m: evaluate(m, batches, data.classes),
    )
    return state.best_score


def test_learns_from_true_labels_and_nothing_from_shuffled_ones(tmp_path: Path) -> None:
    targets = open_data("fashion-mini").splits["train"].targets[:1000]
    shuffled = np.random.default_rng(0).permutation(targets)
    assert learned(targets, RunDir.create(tmp_path / "true", name="x")) > 0.6
    assert learned(shuffled, RunDir.create(tmp_path / "shuffled", name="x")) < 0.2


# What moves and what does not


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_every_parameter_changes(optimizer: str, order: str) -> None:
    recipe = recipe_of(optimizer=optimizer, steps=2)
    state = start(recipe, order=order, se=0.5)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    for _ in range(2):
        train_step(state, state.model, batch_of(8), recipe)
        state.step += 1
    same = [name for name, p in state.model.named_parameters() if torch.equal(p, before[name])]
    assert same == []


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_head_first_moves_the_head_alone_then_everything(optimizer: str, order: str) -> None:
    recipe = recipe_of(optimizer=optimizer, freeze_backbone=0.5, steps=8)
    state = start(recipe, order=order)
    changed: list[set[str]] = []
    for _ in range(8):
        before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
        train_step(state, state.model, batch_of(8), recipe)
        state.step += 1
        after = dict(state.model.named_parameters())
        changed.append({name for name, p in before.items() if not torch.equal(p, after[name])})
    everything = {name for name, _ in state.model.named_parameters()}
    assert changed == [{"fc.weight", "fc.bias"}] * 4 + [everything] * 4


def test_permuting_a_batch_permutes_the_outputs() -> None:
    model, images = network().eval(), batch_of(8).images
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    torch.testing.assert_close(model(images)[order], model(images[order]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("mixed", [False, True])
def test_accumulating_four_times_eight_is_a_batch_of_32(mixed: bool) -> None:
    batch = batch_of(32, dtype=torch.float64)
    if mixed:
        targets = torch.softmax(batch_of(32, seed=1).images[:, :, 0, 0].double(), 1)
        batch = Batch(batch.images, F.pad(targets, (0, 1)), batch.indices, 0)
    results = []
    for grad_accum_steps in (1, 4):
        recipe = recipe_of(
            batch_size=32, grad_accum_steps=grad_accum_steps, learning_rate=0.01, steps=3
        )
        model = network(norm="none").double()
        state = TrainState.start(model, recipe, device=CPU)
        for _ in range(3):
            loss, _ = train_step(state, state.model, batch, recipe)
            state.step += 1
        results.append((model.state_dict(), loss))
    (one, loss_one), (four, loss_four) = results
    torch.testing.assert_close(one, four, rtol=0, atol=SUMMATION)
    torch.testing.assert_close(loss_one, loss_four, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e3])
def test_clip_bounds_the_step(clip: float, precision: str) -> None:
    rate = 0.05 * 0.5 / 1  # one_cycle without warm-up, the middle of one step
    values = {"momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "precision": precision}
    recipe = recipe_of(clip_grad_norm=clip, steps=1, **values)
    state, batch = start(recipe), batch_of(8)
    model = copy.deepcopy(state.model)
    F.cross_entropy(model(batch.images), batch.targets).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    before = flat(state.model)
    train_step(state, state.model, batch, recipe)
    moved = before - flat(state.model)
    norm = gradients.norm().item()
    expected = rate * (min(norm, clip) if clip else norm)
    assert moved.norm().item() == pytest.approx(
        expected, rel=2e-2
    )  # differences, and half precision
    assert norm > 1e-3


def test_the_loss_is_the_smoothed_cross_entropy() -> None:
    state, batch = start(recipe_of()), batch_of(8)
    shares = F.one_hot(batch.targets, K) * 0.8 + 0.2 / K
    logits = copy.deepcopy(state.model)(batch.images)
    expected = -(shares * logits.log_softmax(1)).sum(1).mean().item()
    hits = (logits.argmax(1) == batch.targets).sum().item()
    recipe = recipe_of(label_smoothing=0.2, steps=1)
    loss, correct = train_step(state, state.model, batch, recipe)
    assert loss.item() == pytest.approx(expected, rel=ROUNDING)
    assert correct.item() == hits


def test_progressive_resizing_is_smaller_in_the_first_part() -> None:
    recipe = recipe_of(progressive=0.5, steps=4)
    state, batch = start(recipe), batch_of(8)
    batch.images.fill_(0.7)
    seen: list[torch.Tensor] = []
    state.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for _ in range(4):
        train_step(state, state.model, batch, recipe)
        state.step += 1
    side = batch.images.shape[-1]
    assert [images.shape[-1] for images in seen] == [3 * side // 4] * 2 + [side] * 2
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 0.7))


def test_the_average_follows_every_step() -> None:
    recipe, seen = recipe_of(ema=0.75, steps=3), []
    state = start(recipe)
    for _ in range(3):
        train_step(state, state.model, batch_of(8), recipe)
        state.step += 1
        seen.append(flat(state.model))
    expected = 0.75 * (0.75 * seen[0] + 0.25 * seen[1]) + 0.25 * seen[2]
    torch.testing.assert_close(flat(state.evaluated_model), expected, rtol=0, atol=ROUNDING)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_draws_inside_the_network_follow_the_step_alone() -> None:
    recipe = recipe_of(steps=9)
    losses = []
    for noise in (1, 2):
        state = start(recipe, **RANDOM)
        torch.manual_seed(noise)
        torch.rand(noise)
        losses.append(train_step(state, state.model, batch_of(8), recipe)[0].item())
    assert losses[0] == losses[1]
    for step, seed in ((1, 0), (0, 1)):
        state = start(recipe, **RANDOM)
        state.step = step
        other = recipe_of(seed=seed, steps=9)
        assert train_step(state, state.model, batch_of(8), other)[0].item() != losses[0]
