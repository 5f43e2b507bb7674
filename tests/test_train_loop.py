"""How the loop ends: a lost loss, patience, the last step, a signal; and what is on the disk."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnets.data.loader import Batch
from resnets.training.run_dir import RunDir
from resnets.training.signals import SIGNALS, SignalHandler
from resnets.training.step_metrics import NotFiniteError, StepMetrics
from resnets.training.train_step import TrainState
from tiny_runs import (
    Scripted,
    batch_of,
    digest,
    recipe_of,
    run,
    start,
    stream_of,
)


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", name="x")


# Ends of a run


def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_saved(
    folder: RunDir,
) -> None:
    recipe = recipe_of(checkpoint_every=0.0)

    class Poisoned:
        def batches(self, first: int, last: int) -> Iterator[Batch]:
            whole = batch_of(8)
            broken = Batch(whole.images * math.nan, whole.targets, whole.indices + 5, 0)
            for step in range(first, last):
                yield whole if step < 5 else broken

    state = start(recipe)
    with pytest.raises(NotFiniteError, match="the loss is nan at step 6") as caught:
        run(state, recipe, folder, stream=Poisoned())
    assert state.step == 6
    assert caught.value.indices is not None
    assert caught.value.indices.tolist() == list(range(5, 13))
    checkpoint = folder.load()
    assert checkpoint is not None
    assert checkpoint.scalars["step"] == 5
    assert all(torch.isfinite(t).all() for t in checkpoint.tensors.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_on_cuda_a_loss_is_looked_at_one_step_late() -> None:
    metrics, lost = StepMetrics(torch.device("cuda")), torch.tensor(math.nan, device="cuda")
    batch: dict[str, Any] = {"images": 3, "indices": np.arange(3)}
    metrics.add(lost, torch.zeros((), device="cuda"), step=1, **batch)
    with pytest.raises(NotFiniteError, match="step 1"):
        metrics.add(torch.ones((), device="cuda"), torch.zeros((), device="cuda"), step=2, **batch)
    metrics.add(lost, torch.zeros((), device="cuda"), step=3, **batch)
    with pytest.raises(NotFiniteError, match="step 3"):
        metrics.settle()


def test_a_validation_loss_that_is_not_finite_ends_the_run(folder: RunDir) -> None:
    recipe = recipe_of()
    with pytest.raises(NotFiniteError):
        run(start(recipe), recipe, folder, validate=Scripted(0.5, loss=math.inf))
    assert not (folder.path / "checkpoints" / "best.safetensors").exists()


def test_patience(folder: RunDir) -> None:
    """Better at the second validation, equal or worse ever after: three more, then the end."""
    recipe = recipe_of(patience=3, evaluate_every=8 / 20)
    state, validate = start(recipe), Scripted(0.4, 0.5, 0.5, 0.3)
    assert run(state, recipe, folder, validate=validate)
    assert (state.step, validate.seen) == (5, 5)
    checkpoint = folder.load()
    assert checkpoint is not None
    again = start(recipe)
    again.restore(checkpoint)
    assert run(again, recipe, folder, validate=validate)
    assert (again.step, validate.seen) == (5, 5)


def test_the_best_weights_are_kept(folder: RunDir) -> None:
    """The averaged weights of the best validation, and of the last among equals."""
    recipe = recipe_of(ema=0.5, evaluate_every=8 / 20, steps=6)
    state, seen = start(recipe), []

    def validate(model: nn.Module) -> Any:
        assert state.average is not None
        assert model is state.average.module
        seen.append(digest(dict(model.state_dict())))
        score = (0.2, 0.7, 0.3, 0.7, 0.1, 0.6)[len(seen) - 1]
        return SimpleNamespace(top1=score, loss=1.0)

    assert run(state, recipe, folder, validate=validate)
    best = folder.load_best()
    assert best.scalars == {"step": 4, "score": 0.7}
    assert digest(best.tensors) == seen[3]
    assert (state.best_step, state.best_score, state.validations_since_best) == (4, 0.7, 4)


@pytest.mark.parametrize("every", [0.1, 0.4, 1.0, 1.7, 12.0])
def test_the_last_step_is_always_validated(folder: RunDir, every: float) -> None:
    recipe = recipe_of(evaluate_every=every, steps=30)
    run(start(recipe), recipe, folder)
    history = folder.history()
    steps = [record["step"] for record in history if record["kind"] == "validation"]
    assert steps[-1] == 30
    assert len(set(np.diff(steps))) <= 1
    assert steps == [r["step"] for r in history if r["kind"] == "train"][-len(steps) :]


def test_records(folder: RunDir) -> None:
    recipe = recipe_of(steps=5, evaluate_every=2.0)
    run(start(recipe), recipe, folder)
    trained, validated = folder.history()
    assert set(trained) == {
        "kind",
        "step",
        "epoch",
        "loss",
        "accuracy",
        "learning_rate",
        "images_per_second",
        "seconds",
    }
    assert set(validated) == {"kind", "step", "epoch", "loss", "top1", "seconds"}
    assert (trained["step"], trained["epoch"]) == (5, 2.0)
    assert 0 <= trained["accuracy"] <= 1


def test_replaced_files_are_counted(folder: RunDir) -> None:
    class Replacing:
        def batches(self, first: int, last: int) -> Iterator[Batch]:
            for step in range(first, last):
                batch = batch_of(8)
                yield Batch(batch.images, batch.targets, batch.indices, step)

    state = start(recipe_of(steps=4))
    run(state, recipe_of(steps=4), folder, stream=Replacing())
    assert state.replaced == 0 + 1 + 2 + 3


def test_validation_does_not_leave_the_network_in_evaluation_mode(folder: RunDir) -> None:
    recipe = recipe_of(steps=4, evaluate_every=8 / 20)
    modes: list[bool] = []

    class Watching:
        def batches(self, first: int, last: int) -> Iterator[Batch]:
            for _ in range(first, last):
                modes.append(state.model.training)
                yield batch_of(8)

    def validate(model: nn.Module) -> Any:
        model.eval()
        return SimpleNamespace(top1=0.5, loss=1.0)

    state = start(recipe)
    run(state, recipe, folder, stream=Watching(), validate=validate)
    assert modes == [True] * 4


# Signals


def raise_in(place: str, number: int, state: TrainState) -> dict[str, Any]:
    """A stream and a validation, one of which sends this process a signal when step 10 is done."""

    def send(here: str, step: int) -> None:
        if here == place and step == 10:
            os.kill(os.getpid(), number)

    class Sending:
        def batches(self, first: int, last: int) -> Iterator[Batch]:
            for step, batch in enumerate(stream_of(recipe_of()).batches(first, last), start=first):
                send("the wait for a batch", step)
                yield batch

    def validate(model: nn.Module) -> Any:
        send("validation", state.step)
        return SimpleNamespace(top1=0.5, loss=1.0)

    state.model.register_forward_hook(lambda *_: send("the step", state.step))
    return {"stream": Sending(), "validate": validate}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("place", "saved"), [("the wait for a batch", 10), ("the step", 11), ("validation", 10)]
)
def test_a_signal_finishes_the_step_and_saves(
    folder: RunDir, place: str, saved: int, number: int
) -> None:
    former = {n: signal.getsignal(n) for n in SIGNALS}
    recipe = recipe_of(evaluate_every=5 * 8 / 20)
    state = start(recipe)
    with SignalHandler() as signals:
        assert not signals.should_stop()
        sending = raise_in(place, number, state)
        assert not run(state, recipe, folder, signals=signals, **sending)
    assert signals.number == number
    checkpoint = folder.load()
    assert checkpoint is not None
    assert checkpoint.scalars["step"] == state.step == saved
    assert checkpoint.scalars["validated"] == (5 if place == "validation" else 10)
    assert folder.history()[-1]["step"] == saved
    assert {n: signal.getsignal(n) for n in SIGNALS} == former


def test_a_second_signal_stops_at_once() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with SignalHandler():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is former


def test_an_ignored_signal_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalHandler() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.should_stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
