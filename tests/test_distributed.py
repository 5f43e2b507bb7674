"""Several ranks compute what one does: the same samples, the same losses, the same end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tiny_runs
from resnets.data.loader import Batch, EvalLoader, TrainLoader
from resnets.data.transforms import Preprocess
from resnets.errors import StoppedError, UserError
from resnets.evaluation.metrics import Scores, evaluate
from resnets.training.auto_config import ResolvedConfig
from resnets.training.distributed import SINGLE_PROCESS, DistContext
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir, load_checkpoint
from resnets.training.signals import SignalHandler
from resnets.training.step_metrics import NotFiniteError
from resnets.training.sync_batchnorm import convert_sync_batchnorm
from resnets.training.train_step import TrainState
from resnets.training.trainer import Trainer
from some_ranks import on_ranks
from tiny_runs import CPU, HARD, RANDOM, digest, images_of, network, recipe_of, trainer_of

SAME = 1e-9  # float64 losses, another order of summation
FLOAT32 = 1e-6  # the same of validations, whose logits are float32
NUM = 22  # images: epochs begin inside a batch, and parts of 4 ranks differ in size
MIXED: dict[str, Any] = HARD | {"mixup": 0.4, "cutmix": 0.4}

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")


# --- samples


def stream_of(recipe: Recipe, dist: DistContext, *, cache_mb: float = 1024) -> TrainLoader:
    assert recipe.schedule.batch_size is not None
    places = dist.shard_batch(
        recipe.schedule.batch_size, grad_accum_steps=recipe.optimizer.grad_accum_steps
    )
    return tiny_runs.stream_of(recipe, num=NUM, cache_mb=cache_mb, places=places)


@pytest.mark.parametrize("cache_mb", [0, 1024], ids=["streamed", "cached"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"grad_accum_steps": 2},
        MIXED,
        MIXED | {"mixup": 0.0},
        MIXED | {"cutmix": 0.0},
        MIXED | {"crop": "resized", "grad_accum_steps": 1, "auto_augment": "trivialaugment"},
    ],
    ids=["plain", "accumulate", "mixed", "cutmix", "mixup", "resized"],
)
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_divide_the_batches_of_one_process(
    count: int, values: dict[str, Any], cache_mb: float
) -> None:
    """Micro-batch by micro-batch, the slices side by side are the whole, to the last bit."""
    recipe = recipe_of(**values)
    whole = stream_of(recipe, SINGLE_PROCESS, cache_mb=cache_mb).batches(3, 8)
    slices = [
        stream_of(recipe, DistContext(rank, count), cache_mb=cache_mb).batches(3, 8)
        for rank in range(count)
    ]
    for batch, *parts in zip(whole, *slices, strict=True):
        for name in ("images", "targets", "indices"):
            pieces = [torch.as_tensor(getattr(part, name)) for part in parts]
            rows = zip(
                *(piece.chunk(recipe.optimizer.grad_accum_steps) for piece in pieces), strict=True
            )
            joined = torch.cat([torch.cat(row) for row in rows])
            assert torch.equal(joined, torch.as_tensor(getattr(batch, name))), name


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UserError, match="--batch-size 8: must be divisible by 3 ranks x"):
        DistContext(0, 3).shard_batch(8, grad_accum_steps=1)
    with pytest.raises(UserError, match="divisible by 4 ranks x --grad-accum-steps 4"):
        DistContext(0, 4).shard_batch(8, grad_accum_steps=4)


# --- losses


class Exact:
    """A stream or an evaluation in float64."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Batch]:
        return map(exact, self.inner)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        return map(exact, self.inner.batches(first, last))


def exact(batch: Batch) -> Batch:
    return replace(batch, images=batch.images.double())


def validation_of(dist: DistContext) -> EvalLoader:
    return EvalLoader(
        dist.shard(images_of(NUM)), preprocess=Preprocess(size=12), batch_size=4, device=CPU
    )


def scores_of(dist: DistContext, model: nn.Module, signals: SignalHandler) -> Scores:
    dist.broadcast_buffers(model)
    batches = dist.in_lockstep(validation_of(dist), rounds=6, signals=signals)
    double = next(model.parameters()).dtype == torch.float64
    kept = Exact(batches) if double else batches
    return evaluate(model, kept, tuple("abcd"), all_reduce=dist.all_reduce_metrics)


def lived(
    dist: DistContext,
    folder: RunDir,
    recipe: Recipe,
    *,
    double: bool,
    stream: Any = None,
    resumed: bool = False,
    signals: SignalHandler | None = None,
    **config: Any,
) -> TrainState:
    """One rank's run, or what is left of it."""
    model = network(**config)
    if recipe.model.sync_batchnorm:
        convert_sync_batchnorm(model, dist=dist, device=CPU)
    state = TrainState.start(model.double() if double else model, recipe, device=CPU)
    checkpoint = dist.on_rank_zero(folder.load) if resumed else None
    if checkpoint is not None:
        state.restore(checkpoint)
    signals = signals or SignalHandler(single_process=dist.world_size == 1)
    stream = stream or stream_of(recipe, dist)
    trainer = trainer_of(
        recipe,
        folder,
        num=NUM,
        dist=dist,
        stream=Exact(stream) if double else stream,
        validate=lambda model: scores_of(dist, model, signals),
        signals=signals,
    )
    trainer.state, trainer.log_every = state, 0.0
    with signals:
        trainer.train_loop()
    return state


EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no norm": (MIXED, {"norm": "none"}),
    "group norm": (
        {"grad_accum_steps": 2, "optimizer": "adamw"},
        {"norm": "group", "order": "pre"},
    ),
    "head first": ({"freeze_backbone": 0.5, "layer_decay": 0.7}, {"norm": "group"}),
    "synchronised": (
        {"sync_batchnorm": True, "grad_accum_steps": 2, "ema": 0.9},
        {"norm": "batch"},
    ),
}


def losses(dist: DistContext, folder: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Losses and accuracies, of training and validation, of float64 runs that should be equal."""
    found = {}
    for name, (values, config) in EQUAL.items():
        recipe = recipe_of(**values | {"steps": 4, "evaluate_every": 2 * 8 / NUM})
        place = RunDir(folder / f"{dist.world_size} {name}")
        if dist.is_first:
            (place.path / "checkpoints").mkdir(parents=True)
        lived(dist, place, recipe, double=True, **config)
        found[name] = {
            kind: [(r["loss"], r[score]) for r in place.history() if r["kind"] == kind]
            for kind, score in (("train", "accuracy"), ("validation", "top1"))
        }
    return found


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_number_of_ranks_changes_no_loss(count: int, tmp_path: Path) -> None:
    one = losses(SINGLE_PROCESS, tmp_path)
    assert [tuple(map(len, kinds.values())) for kinds in one.values()] == [(4, 2)] * len(EQUAL)
    several = on_ranks(count, losses, tmp_path, folder=tmp_path)[0]
    for name, kinds in one.items():
        for kind, most in (("train", SAME), ("validation", FLOAT32)):
            apart = np.array(several[name][kind]) - np.array(kinds[kind])
            assert np.abs(apart).max() < most, (name, kind)


# --- to the last bit, and ends


EVERYTHING = MIXED | {"steps": 8, "evaluate_every": 3 * 8 / NUM, "checkpoint_every": 5.0}
STOPPED = 4


class Telling:
    """Batches that send one rank a signal while the one for a step is waited for."""

    def __init__(self, inner: TrainLoader, *, rank: int, dist: DistContext) -> None:
        self.inner, self.tells = inner, rank == dist.rank

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        for step, batch in enumerate(self.inner.batches(first, last), first + 1):
            if self.tells and step == STOPPED:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def whole_and_resumed(dist: DistContext, folder: Path) -> tuple[str, str, int, int | None]:
    """Digests of an uninterrupted run and of one that one rank's signal stopped; where, by what."""
    recipe = recipe_of(**EVERYTHING | {"grad_accum_steps": 1})
    places = [RunDir(folder / name) for name in ("whole", "stopped")]
    for place in places if dist.is_first else ():
        (place.path / "checkpoints").mkdir(parents=True)
    dist.on_rank_zero(lambda: None)
    whole = lived(dist, places[0], recipe, double=False, **RANDOM)
    heard = SignalHandler(single_process=False)
    telling = Telling(stream_of(recipe, dist), rank=2, dist=dist)
    stopped = lived(dist, places[1], recipe, double=False, stream=telling, signals=heard, **RANDOM)
    at = stopped.step
    state = lived(dist, places[1], recipe, double=False, resumed=True, **RANDOM)
    ends = [digest(dict(s.model.named_parameters())) for s in (whole, state)]
    return ends[0], ends[1], at, heard.number


@pytest.mark.slow
def test_four_ranks_stop_together_and_go_on_to_the_same_bits(tmp_path: Path) -> None:
    """The whole run and the resumed one are also twice the same number of ranks."""
    ends = on_ranks(4, whole_and_resumed, tmp_path, folder=tmp_path)
    assert len({(whole, resumed) for whole, resumed, _, _ in ends}) == 1
    assert ends[0][0] == ends[0][1]
    assert [(at, number) for _, _, at, number in ends] == [(STOPPED, signal.SIGTERM)] * 4
    for file in ("state-00000008.safetensors", "best.safetensors"):
        whole, resumed = (
            load_checkpoint(tmp_path / name / "checkpoints" / file) for name in ("whole", "stopped")
        )
        assert digest(whole.tensors) == digest(resumed.tensors)
        assert whole.scalars == resumed.scalars


def lost(dist: DistContext, folder: Path) -> int:
    """A run in which the last rank's slice becomes infinite at step 3; the step of the end."""

    class Poisoned:
        def batches(self, first: int, last: int) -> Iterator[Batch]:
            for step, batch in enumerate(stream_of(recipe, dist).batches(first, last), 1):
                bad = step == 3 and dist.rank == dist.world_size - 1
                yield replace(batch, images=batch.images * (float("inf") if bad else 1))

    recipe = recipe_of(steps=8)
    try:
        lived(dist, RunDir(folder), recipe, double=False, stream=Poisoned())
    except NotFiniteError as error:
        return int(str(error).split()[-1]) if error.indices is not None else -1
    return 0


def test_a_loss_lost_on_one_rank_ends_all_at_that_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert on_ranks(2, lost, tmp_path, folder=tmp_path) == [3, 3]


def evaluated(dist: DistContext) -> tuple[dict[str, Any], dict[str, Any] | None]:
    torch.manual_seed(dist.rank)  # buffers that differ are rank 0's before they are used
    model = network()
    for buffer in model.buffers():
        buffer.copy_(torch.rand(buffer.shape) + 0.5 * (dist.rank + 1))
    return scores_of(dist, model, SignalHandler(single_process=False)).to_dict(), None


def test_evaluation_counts_every_image_once(tmp_path: Path) -> None:
    one = evaluated(SINGLE_PROCESS)[0]
    for found, _ in on_ranks(4, evaluated, folder=tmp_path):
        assert found["num_images"] == NUM
        for name in ("confusion", "top1", "per_class"):
            assert found[name] == one[name]
        assert found["loss"] == pytest.approx(one["loss"], rel=1e-6)


def test_fewer_images_than_ranks_are_refused() -> None:
    with pytest.raises(UserError, match="3 validation images for 4 ranks: start fewer"):
        DistContext(0, 4).shard(images_of(3))


def refused(dist: DistContext) -> list[str]:
    """What each kind of agreement says when one rank fails."""

    def fail_on(rank: int) -> int:
        if dist.rank == rank:
            raise UserError(f"from {rank}")
        return dist.rank

    def fail_in_turn(rank: int) -> None:
        with dist.local_rank_zero_first():
            fail_on(rank)

    said = [
        str(dist.all_gather_object(lambda: fail_on(9))),
        str(dist.on_rank_zero(lambda: fail_on(9))),
    ]
    for attempt in (
        lambda: dist.all_gather_object(lambda: fail_on(1)),
        lambda: dist.on_rank_zero(lambda: fail_on(0)),
        lambda: fail_in_turn(1),
        lambda: dist.check_equal("x", f"{dist.rank}"),
    ):
        with pytest.raises(UserError) as error:
            attempt()
        said.append(str(error.value))
    return said


def test_an_error_of_one_rank_is_that_of_all(tmp_path: Path) -> None:
    one, two = on_ranks(2, refused, folder=tmp_path)
    assert one == two
    assert one[:5] == ["[0, 1]", "0", "from 1", "from 0", "from 1"]
    assert "x: rank 1 finds something else than rank 0" in one[5]


# --- images that cannot be read


def damaged(dist: DistContext, folder: Path) -> tuple[str, int, list[str]]:
    """A streamed run whose images are damaged after its start; how it ends, and what it knows."""
    values: dict[str, Any] = {"cache_mb": 0, "batch_size": 8, "steps": 40, "max_corrupt": 0.2}
    values |= {"model": "resnet20", "size": 12, "workers": 0}
    data, run = folder / "photos", folder / "run"
    config = ResolvedConfig(recipe_of(**values))
    with Trainer.start(data, config, device=CPU, dist=dist, out=run) as trainer:
        dist.on_rank_zero(lambda: damage(data))
        try:
            trainer.fit()
        except StoppedError as error:
            return str(error), trainer.running_state.step, sorted(trainer.corrupt.damaged)
    return "not stopped", 0, []


def paint_all(data: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(data / name)


def damage(data: Path) -> None:
    for path in sorted(data.rglob("*.png"))[::3]:
        path.write_bytes(path.read_bytes()[:-40])


def test_all_ranks_stop_at_the_same_damaged_images(tmp_path: Path) -> None:
    names = [f"{name}/{number}.png" for name in "ab" for number in range(16)]
    paint_all(tmp_path / "photos", names)
    one, other = on_ranks(2, damaged, tmp_path, folder=tmp_path)
    assert one == other
    text, step, lost = one
    assert len(lost) > 0.2 * 32
    assert f"the run is saved at step {step}; to accept them: resnets train --resume" in text
    checkpoint = RunDir(tmp_path / "run").load()
    assert checkpoint is not None and checkpoint.scalars["step"] == step
    assert sorted(RunDir(tmp_path / "run").read_json("data.json")["skipped"]) == lost
