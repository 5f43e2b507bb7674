"""A run's folder, or a job of a study, enters; its network leaves as it was at the first steps.

The idea: a run is a pure function of recipe, data and step, so nothing of its youth need be kept:
it is trained again for a hundred steps, by the loop's own `train_step`, on the device and with as
many threads as then. The end of a run is its newest checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from resnets.data import open_data
from resnets.data.dataset import fingerprint
from resnets.data.loader import TrainLoader
from resnets.device import choose_device, restore_num_threads
from resnets.errors import UserError
from resnets.models.resnet import ResNet
from resnets.study.plan import Job as StudyJob
from resnets.study.single import beginning
from resnets.training.auto_config import ResolvedConfig
from resnets.training.recipe import Recipe
from resnets.training.reproducibility import RunFingerprint
from resnets.training.run_dir import RunDir
from resnets.training.train_step import TrainState, train_step
from resnets.training.trainer import Trainer, splits_for

STEPS = (0, 1, 10, 100)


def networks_by_step(folder: RunDir) -> Iterator[tuple[int, ResNet]]:
    """The run's network, a copy in evaluation mode, after each of STEPS and at its end.

    Raises UserError where the run cannot be repeated: several ranks, a change on the way, or other
    images than then.
    """
    basis = RunFingerprint.stored(folder)
    ranks, recipe = basis.environment.get("ranks", 1), basis.recipe
    if ranks > 1:
        raise UserError(f"{folder.path}: it ran on {ranks} ranks, and is repeated on one only")
    if basis.environment.get("forced"):
        raise UserError(f"{folder.path}: it went on with --force, so its beginning is not recorded")
    assert recipe.schedule.steps is not None, "a run folder holds a resolved recipe"
    trainer = _trainer(folder, basis)
    with restore_num_threads():
        if recipe.runtime.threads:
            torch.set_num_threads(recipe.runtime.threads)
        try:
            state = TrainState.start(trainer.new_model(), recipe, device=trainer.device)
            yield from _first(state, trainer.train_loader, recipe)
            newest = folder.load()
            if newest is not None and newest.scalars["step"] > state.step:
                state.restore(newest)
                yield state.step, copy.deepcopy(state.model).eval()
        finally:
            trainer.close()


def networks_of_job(job: StudyJob) -> Iterator[tuple[int, ResNet]]:
    """The network of a study's run, a copy in evaluation mode, after each of STEPS."""
    with beginning(job) as (state, stream):
        yield from _first(state, stream, job.recipe)


def _first(state: TrainState, stream: TrainLoader, recipe: Recipe) -> Iterator[tuple[int, ResNet]]:
    assert recipe.schedule.steps is not None
    for step in (step for step in STEPS if step <= recipe.schedule.steps):
        state.model.train()
        for batch in stream.batches(state.step, step):
            train_step(state, state.model, batch, recipe)
            state.step += 1
        yield step, copy.deepcopy(state.model).eval()


def _trainer(folder: RunDir, basis: RunFingerprint) -> Trainer:
    stored, recipe = basis.data, basis.recipe
    dataset = open_data(stored["data"], max_corrupt=recipe.runtime.max_corrupt)
    if fingerprint(dataset) != stored["fingerprint"]:
        raise UserError(f"{folder.path}: the images in {stored['data']} are not those of the run")
    return Trainer(
        ResolvedConfig(recipe),
        dataset,
        splits_for(dataset, recipe, held_out=stored["held_out"]),
        preprocess=stored["preprocess"],
        device=choose_device(basis.environment["device"]),
    )
