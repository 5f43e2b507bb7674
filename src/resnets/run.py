"""One training run, from an opened data set to the finished run folder.

`start` begins a new run: open the data, choose what the recipe leaves open, make the folder.
`resume` rebuilds an interrupted run from its folder and measures nothing again. Both end in the
loop and what follows it (`course.py`); meanwhile no other process gets into the folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from resnets.course import Log, follow, notice
from resnets.data import DataSet, open_data
from resnets.device import describe_environment, keep_freed_memory
from resnets.errors import UserError
from resnets.results import TrainingResult
from resnets.training.auto_config import Facts, Plan, plan, with_steps
from resnets.training.checkpoint import MODEL_FILE, Checkpoint, RunFolder
from resnets.training.distributed import DistContext
from resnets.training.job import Job, content_digest, fingerprint, make_splits
from resnets.training.oom import fitting
from resnets.training.recipe import Recipe, override
from resnets.training.reproducibility import Basis, differences, take_over
from resnets.training.run_metadata import write_command, write_config, write_start

SKIPPED_SHOWN = 10


def start(
    data: str | Path,
    recipe: Recipe,
    origins: dict[str, str],
    budget: float | None,
    out: str | Path | None,
    name: str | None,
    device: torch.device,
    say: Log,
    started: float,
    verify: bool,
    *,
    command: Mapping[str, Any],
    ranks: DistContext,
) -> TrainingResult:
    """A new run: open the data, choose what is open, make the folder, train."""
    keep_freed_memory()

    def left() -> float | None:
        return None if budget is None else budget - (time.perf_counter() - started)

    if recipe.batch_size is not None:
        ranks.slice(recipe.batch_size, grad_accum_steps=recipe.grad_accum_steps)  # or refuse
    dataset = ranks.in_turn(lambda: open_data(data, max_corrupt=recipe.max_corrupt))
    ranks.agree_on(str(data), fingerprint(dataset) if ranks.count > 1 else "")
    notices = notices_of(dataset)
    for text in notices:
        notice(say, text)
    parts = make_splits(dataset, recipe)
    if not len(parts.val):
        raise UserError(
            f"{data} has one image of each class: none can be held out to choose the best epoch by"
        )
    if origins["batch_size"] == "flag" and (recipe.batch_size or 0) > len(parts.train):
        raise UserError(
            f"--batch-size {recipe.batch_size}: more than the {len(parts.train):,} training images"
        )
    facts = parts.facts(dataset.classes)
    notice(say, f"{dataset.name}: {_counts(facts)}; measuring this machine")
    current = ranks.decided(
        lambda: plan(recipe, origins, facts, seconds=left(), device=device, ranks=ranks.count)
    )
    assert current.recipe.threads is not None
    torch.set_num_threads(current.recipe.threads)
    job = Job.build(current.recipe, parts, classes=dataset.classes, device=device, ranks=ranks)
    current, (step_seconds, image_seconds) = fitting(
        current, partial(_measure, job, budget), ranks=ranks.count
    )
    current = ranks.decided(
        lambda: with_steps(
            current, facts, seconds=left(), step_seconds=step_seconds, image_seconds=image_seconds
        )
    )
    for reason in current.reasons:
        notice(say, reason)
    with ExitStack() as held:

        def make_folder() -> RunFolder:
            folder = RunFolder.create(out, name=name or dataset.name)
            write_command(folder, command)
            held.enter_context(folder.lock())
            write_start(folder, job, data=data, dataset=dataset, verify=verify)
            return folder

        return _begin(job, _followed(ranks.decided(make_folder), ranks), current, say, notices)


def _measure(job: Job, budget: float | None, current: Plan) -> tuple[float, float]:
    """Seconds of one training step, and of evaluating one image, of the slowest rank."""
    ranks, tried = job.ranks, replace(job, recipe=current.recipe)
    model = ranks.in_turn(job.new_model)
    found = ranks.everywhere(lambda: tried.measure(model, budget=budget))
    step_seconds, image_seconds = map(max, zip(*found, strict=True))
    exchange = ranks.exchange_seconds(model, device=job.device)
    return step_seconds + exchange, image_seconds / ranks.count


def _followed(folder: RunFolder, ranks: DistContext) -> RunFolder:
    """The folder as this rank may use it."""
    return folder if ranks.first else replace(folder, written=False)


def _begin(
    job: Job, folder: RunFolder, current: Plan, say: Log, notices: Sequence[str]
) -> TrainingResult:
    """Step 0 on; and again from there where the first steps run out of memory."""

    def attempt(tried: Plan) -> TrainingResult:
        for reason in tried.reasons[len(current.reasons) :]:
            notice(say, reason)
        write_config(folder, tried)
        folder.forget_after(0, validated=0)
        ready = replace(job, recipe=tried.recipe)
        return follow(ready, folder, say, notices=notices, advice=tried.advice)

    return fitting(current, attempt)[1]


def resume_run(
    folder: RunFolder,
    device: torch.device,
    say: Log,
    *,
    changes: Mapping[str, Any],
    force: bool,
    verify: bool,
    ranks: DistContext,
) -> TrainingResult:
    """A resumed run: everything comes from the folder, nothing is measured again.

    `changes` are recipe fields with other values. Raises UserError where something has changed
    that decides bits, unless `force`: then every result says what.
    """
    keep_freed_memory()
    with ExitStack() as held:

        def enter() -> Basis:
            held.enter_context(folder.lock())
            if (folder.path / "scores.json").is_file():
                raise UserError(
                    f"--resume {folder.path}: this run is finished; use its {MODEL_FILE}"
                )
            return Basis.stored(folder)

        before = ranks.decided(enter)
        recipe, stored = override(before.recipe, changes), before.data
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        dataset = ranks.in_turn(lambda: open_data(stored["data"], max_corrupt=recipe.max_corrupt))
        if verify and "content" not in stored:
            raise UserError(f"--verify {folder.path}: the run was not begun with --verify")
        parts = make_splits(dataset, recipe, held_out=stored["held_out"])
        found = {"fingerprint": fingerprint(dataset), "classes": list(dataset.classes)}
        ranks.agree_on(stored["data"], found["fingerprint"])
        if verify or ("content" in stored and found["fingerprint"] != stored["fingerprint"]):
            found["content"] = ranks.decided(lambda: content_digest(dataset))
        data = {**stored, **found, "sizes": parts.sizes()}
        environment = describe_environment(device) | {"ranks": ranks.count}
        after = Basis(recipe, data, environment)

        def take() -> Checkpoint | None:
            changed = differences(before, after, folder=folder, force=force)
            checkpoint = _newest(folder, say)
            step = 0 if checkpoint is None else checkpoint.scalars["step"]
            validated = 0 if checkpoint is None else checkpoint.scalars["validated"]
            take_over(folder, before, after, changed=changed, step=step)
            folder.forget_after(step, validated=validated)
            return checkpoint

        job = Job.build(
            recipe,
            parts,
            classes=dataset.classes,
            device=device,
            preprocess=stored["preprocess"],
            ranks=ranks,
        )
        return follow(
            job,
            _followed(folder, ranks),
            say,
            notices=notices_of(dataset),
            checkpoint=ranks.decided(take),
        )


def _newest(folder: RunFolder, say: Log) -> Checkpoint | None:
    """The checkpoint to go on from; says which and why."""
    damaged: list[str] = []
    checkpoint = folder.load(damaged.append)
    for text in damaged:
        notice(say, f"passed over: {text}")
    which = "its newest whole checkpoint" if damaged else "its newest checkpoint"
    where = "step 0: it has no checkpoint yet"
    if checkpoint is not None:
        where = f"step {checkpoint.scalars['step']}: {which}"
    notice(say, f"going on with {folder.path} at {where}")
    return checkpoint


def _counts(facts: Facts) -> str:
    return (
        f"{facts.num_train:,} training, {facts.num_val:,} validation and "
        f"{facts.num_test:,} test images of {facts.num_classes} classes"
    )


def notices_of(dataset: DataSet) -> list[str]:
    """What the user should know about the data: the reader's words, and the files left out."""
    if not dataset.skipped:
        return list(dataset.notices)
    listed = "; ".join(f"{name} ({reason})" for name, reason in dataset.skipped[:SKIPPED_SHOWN])
    more = len(dataset.skipped) - SKIPPED_SHOWN
    tail = f" and {more} more, listed in data.json" if more > 0 else ""
    images = "image" if len(dataset.skipped) == 1 else "images"
    text = f"{len(dataset.skipped)} unreadable {images} left out: {listed}{tail}"
    return [*dataset.notices, text]
