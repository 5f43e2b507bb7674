"""Resuming to the last bit: every step of a run is a place to stop at and to go on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from resnets.data.loader import Batch
from resnets.models.resnet import ResNet
from resnets.training.run_dir import RunDir, load_checkpoint
from resnets.training.signals import SignalHandler
from resnets.training.train_step import TrainState
from tiny_runs import (
    CPU,
    HARD,
    RANDOM,
    STEPS,
    Scripted,
    digest,
    recipe_of,
    run,
    start,
    stream_of,
)


def ends(state: TrainState, folder: RunDir) -> tuple[str, str, list[dict[str, Any]]]:
    """Digests of the whole state and of the best weights, and what was logged but for times."""
    timeless = [
        {key: record[key] for key in ("step", "epoch", "top1")}
        for record in folder.history()
        if record["kind"] == "validation"
    ]
    return digest(state.checkpoint().tensors), digest(folder.load_best().tensors), timeless


EVERY_STEP = range(1, STEPS)
SOME_STEPS = (1, 9, 12, 13, 29)  # freeze_backbone 0.4 ends with step 12
TWO_STEPS = (12, 29)
MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sgd": (HARD, RANDOM),
    "head-first": ({"freeze_backbone": 0.4, "layer_decay": 0.7}, RANDOM | {"order": "pre"}),
    "bf16": (HARD | {"memory_format": "contiguous", "precision": "bf16"}, RANDOM),
    "adamw": (HARD | {"optimizer": "adamw"}, RANDOM | {"order": "pre"}),
    "muon": (
        HARD | {"optimizer": "muon", "flip": "alternating"},
        {"stem": "whitened", "halving": "max_pool", "shortcut": "avg_conv"},
    ),
    "fp16": ({"precision": "fp16", "momentum": 0.0, "schedule": "step"}, RANDOM),
}


def modes(*names: str, stops: Sequence[int], slow: bool = False) -> list[Any]:
    """Cases of modes that are stopped at these steps."""
    marks = [pytest.mark.slow] if slow else []
    return [pytest.param(*MODES[n], stops, id=f"{n}-{len(stops)}", marks=marks) for n in names]


@pytest.mark.parametrize(
    ("values", "config", "stops"),
    [
        *modes("sgd", "head-first", stops=SOME_STEPS),
        *modes("bf16", "adamw", "muon", "fp16", stops=TWO_STEPS),
        *modes("bf16", "adamw", "muon", "fp16", stops=SOME_STEPS, slow=True),
        *modes("sgd", stops=EVERY_STEP, slow=True),
    ],
)
def test_resumed_anywhere_a_run_ends_in_the_same_bits(
    tmp_path: Path,
    values: dict[str, Any],
    config: dict[str, Any],
    stops: Sequence[int],
) -> None:
    """Every generation of one run is restored into a network of other weights, and gone on with."""
    recipe = recipe_of(evaluate_every=5 * 8 / 20, **values)
    saving = recipe.override(checkpoint_every=0.0)  # of the resumed runs the end is enough
    stream, whole = stream_of(recipe), start(recipe, **config)
    folder = replace(RunDir.create(tmp_path / "run", name="x"), generations=STEPS)
    assert run(whole, saving, folder, stream=stream, validate=by_step(whole))
    expected = digest(whole.checkpoint().tensors)
    for step in stops:
        state = TrainState.start(ResNet(whole.model.config), recipe, device=CPU)
        state.restore(load_checkpoint(folder.path / f"checkpoints/state-{step:08d}.safetensors"))
        assert state.step == step
        again = RunDir(tmp_path / str(step))
        (again.path / "checkpoints").mkdir(parents=True)
        assert run(state, recipe, again, stream=stream, validate=by_step(state))
        assert digest(state.checkpoint().tensors) == expected, f"resumed after step {step}"
        assert state.checkpoint().scalars == whole.checkpoint().scalars
        assert again.history()[-1]["top1"] == folder.history()[-1]["top1"]


def by_step(state: TrainState) -> Callable[[nn.Module], Any]:
    return lambda model: SimpleNamespace(top1=abs(math.sin(state.step)), loss=1.0)


@pytest.mark.parametrize("stop", [1, 14, 15, 16])
def test_a_run_that_was_asked_to_stop_goes_on(tmp_path: Path, stop: int) -> None:
    """Stopped before, at and after a validation: the same state, best weights and scores."""
    recipe = recipe_of(**HARD | {"evaluate_every": 5 * 8 / 20})
    ended = []
    for stops in ((STEPS,), (stop, STEPS)):
        folder = RunDir.create(tmp_path / str(len(stops)), name="x")
        for last in stops:
            state = start(recipe, **RANDOM)
            checkpoint = folder.load()
            if checkpoint is not None:
                state.restore(checkpoint)
            asked = StopAt(state, last if last < STEPS else -1)
            finished = run(state, recipe, folder, validate=by_step(state), signals=asked)
            assert finished == (last == STEPS)
        ended.append(ends(state, folder))
    assert ended[0] == ended[1]


class StopAt(SignalHandler):
    """Interrupted when the state has reached a step."""

    def __init__(self, state: TrainState, step: int) -> None:
        super().__init__()
        self.state, self.step = state, step

    def should_stop(self) -> bool:
        return self.state.step == self.step


def test_a_run_that_died_between_checkpoints_does_its_last_steps_again(tmp_path: Path) -> None:
    """Killed at step 12, the newest checkpoint torn: on from an older one, with the same end."""
    recipe = recipe_of(**HARD | {"evaluate_every": 5 * 8 / 20})
    saving = recipe.override(checkpoint_every=0.0)
    reference = RunDir.create(tmp_path / "whole", name="x")
    whole = start(recipe, **RANDOM)
    assert run(whole, recipe, reference, validate=Scripted(0.5))
    folder = RunDir.create(tmp_path / "killed", name="x")

    class KilledError(Exception):
        pass

    class Dying:
        def batches(self, first: int, last: int) -> Iterator[Batch]:
            yield from stream_of(recipe).batches(first, 12)
            raise KilledError

    with pytest.raises(KilledError):
        run(start(recipe, **RANDOM), saving, folder, stream=Dying())
    newest = folder.path / "checkpoints" / "state-00000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    checkpoint = folder.load()
    assert checkpoint is not None
    assert checkpoint.scalars["step"] == 11
    folder.forget_after(11, validated=10)
    state = start(recipe, **RANDOM)
    state.restore(checkpoint)
    assert run(state, recipe, folder)
    assert ends(state, folder) == ends(whole, reference)
