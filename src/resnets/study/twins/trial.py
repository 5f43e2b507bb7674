"""Train one network of a study and measure it: a run as a pure function of its job.

A run has one thread, and a process does one run at a time, because torch's random state belongs to
the whole process.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import Split, open_data, stratified_split
from resnets.data.loader import EvalLoader, TrainLoader, channel_statistics
from resnets.data.transforms import Preprocess
from resnets.device import deterministic_kernels, keep_freed_memory, restore_num_threads
from resnets.errors import UserError
from resnets.evaluation.metrics import Scores, evaluate
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet
from resnets.study.tables import Row
from resnets.study.twins.study_config import CURVE_POINTS, Setup, TwinJob
from resnets.study.twins.variants import config_of
from resnets.training.train_step import TrainState, train_step

EVALUATION_BATCH = 500
# Steps at the end of a run, whose mean training loss is a measure beside the training error.
LAST_STEPS = 50
# Steps between looks at the losses, for which a GPU would have to wait.
CHECK_EVERY = 50
# Times the loss of chance, beyond which a run has diverged though its numbers are finite.
EXPLODED = 10
SPLIT_SEED = 0
# The numbers of a row; a row whose run diverged has none.
METRICS = (
    "train_error",
    "train_loss",
    "last_loss",
    "test_error",
    "test_loss",
    "val_error",
    "val_loss",
)
ONE_RUN = threading.Lock()


@dataclass(frozen=True, eq=False)
class TrialResult:
    """The result of a run. Seconds are not in the row, since they differ from run to run."""

    row: Row
    seconds: float
    weights: dict[str, NDArray[Any]] | None = None
    test: dict[str, Any] | None = None  # scores of the kept weights


@dataclass(frozen=True, eq=False)
class StudyDataset:
    """The images of a study."""

    classes: tuple[str, ...]
    preprocess: Preprocess
    train: Split
    val: Split  # a share of `train`
    rest: Split  # its other images, for training where `val` chooses
    test: Split

    @property
    def chance(self) -> float:
        """Error of always guessing the most frequent class of the training images."""
        targets = self.train.targets
        return float(1 - np.bincount(targets).max() / len(targets))


@lru_cache(maxsize=2)
def _dataset(data: str, side: int, held_out: float) -> StudyDataset:
    found = open_data(data)
    if "train" not in found.splits or "test" not in found.splits:
        raise UserError(f"{data}: a study needs the splits train and test in its data")
    train, test = found.splits["train"], found.splits["test"]
    plain = Preprocess(
        size=side,
        channels=train.channels,
        resize_mode="squash",
        pixel_range=train.pixel_range,
    )
    mean, std = channel_statistics(train, plain)
    kept, held = stratified_split(train.targets, fraction=held_out, seed=SPLIT_SEED)
    return StudyDataset(
        classes=found.classes,
        preprocess=replace(plain, mean=mean, std=std),
        train=train,
        val=train.subset(held),
        rest=train.subset(kept),
        test=test,
    )


def dataset_of(setup: Setup) -> StudyDataset:
    """Return the images of a setup; raises UserError without the splits train and test."""
    return _dataset(setup.data, setup.side, setup.held_out)


def run_trial(job: TwinJob) -> TrialResult:
    """Train one cell with one rate and one seed, and measure it."""
    start = time.perf_counter()
    with prepared(job) as (state, stream):
        images = dataset_of(job.setup)
        losses = _train(job, state, stream)
        row: Row = {"purpose": job.purpose, "family": job.family, "depth": job.depth}
        row |= {"lr": job.rate, "seed": job.seed, "steps": job.steps}
        row |= {"num_classes": len(images.classes), "curve": thinned(losses)}
        row["status"] = divergence(losses, num_classes=len(images.classes))
        test: Scores | None = None
        if not row["status"]:
            row["last_loss"] = float(np.mean(losses[-LAST_STEPS:]))
            test = _measure(job, state.model, images, row)
        seconds = time.perf_counter() - start
        if test is None or row["status"] or not job.keeps_weights:
            return TrialResult(row, seconds)
        weights = {k: v.cpu().numpy().copy() for k, v in state.model.state_dict().items()}
        return TrialResult(row, seconds, weights, test.to_dict())


@contextmanager
def prepared(job: TwinJob) -> Iterator[tuple[TrainState, TrainLoader]]:
    """Prepare a run, before its first step and in the one thread that all of it takes."""
    recipe, device = job.recipe, torch.device(job.setup.device)
    assert recipe.schedule.batch_size is not None
    with ONE_RUN, restore_num_threads(), deterministic_kernels():
        torch.set_num_threads(1)
        keep_freed_memory()
        images = dataset_of(job.setup)
        stream = TrainLoader(
            images.rest if job.purpose == "tune" else images.train,
            preprocess=images.preprocess,
            augment=recipe.augment,
            num_classes=len(images.classes),
            batch_size=recipe.schedule.batch_size,
            seed=job.seed,
            device=job.setup.device,
        )
        try:
            yield TrainState.start(new_network(job), recipe, device=device), stream
        finally:
            stream.close()


def network_config(job: TwinJob) -> ResNetConfig:
    """Return the config of a job's network."""
    images = dataset_of(job.setup)
    sizes = {"num_classes": len(images.classes), "in_channels": images.preprocess.channels}
    return config_of(job.family, job.depth, widths=job.setup.widths, **sizes)


def new_network(job: TwinJob) -> ResNet:
    """Make the network of a job; equal seeds give twins equal initial values."""
    config = network_config(job)
    torch.manual_seed(job.seed)
    return ResNet(config)


def _train(job: TwinJob, state: TrainState, stream: TrainLoader) -> list[float]:
    """The loss of every step, to the last or to the first look that finds one not finite."""
    recipe = job.recipe
    state.model.train()
    losses: list[float] = []
    pending: list[Tensor] = []
    for batch in stream.batches(0, job.steps):
        loss, _ = train_step(state, state.model, batch, recipe)
        state.step += 1
        pending.append(loss)
        if state.step % CHECK_EVERY == 0 or state.step == job.steps:
            losses += torch.stack(pending).tolist()
            pending = []
            if not all(map(math.isfinite, losses[-CHECK_EVERY:])):
                break
    return losses


def _measure(job: TwinJob, model: ResNet, images: StudyDataset, row: Row) -> Scores:
    """Add the errors after the end: on validation images to tune, else on training and test."""
    scored = {"train": images.train, "test": images.test}
    for name, part in ({"val": images.val} if job.purpose == "tune" else scored).items():
        batches = EvalLoader(
            part, preprocess=images.preprocess, batch_size=EVALUATION_BATCH, device=job.setup.device
        )
        scores = evaluate(model, iter(batches), images.classes)
        if not math.isfinite(scores.loss):
            row["status"] = "diverged in evaluation"
            for metric in METRICS:
                row.pop(metric, None)
            return scores
        row |= {f"{name}_error": 1 - scores.top1, f"{name}_loss": scores.loss}
        row[f"{name}_images"] = scores.num_images
    return scores


def divergence(losses: list[float], *, num_classes: int) -> str:
    """Return where a run diverged, or that its last losses are far above chance; else nothing."""
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            return f"diverged at step {step}"
    last = float(np.mean(losses[-LAST_STEPS:]))
    return f"diverged to a loss of {last:.3g}" if last > EXPLODED * math.log(num_classes) else ""


def thinned(losses: list[float]) -> list[list[float]]:
    """Return [step, mean loss of the steps up to it], at most CURVE_POINTS times, while finite."""
    width = max(1, math.ceil(len(losses) / CURVE_POINTS))
    points = []
    for start in range(0, len(losses), width):
        mean = float(np.mean(losses[start : start + width]))
        if not math.isfinite(mean):
            break
        points.append([min(start + width, len(losses)), mean])
    return points
