"""One training run, from an opened data set to the finished run folder.

`start` begins a new run: open the data, choose what the recipe leaves open, make the folder.
`go_on` rebuilds an interrupted run from its folder and measures nothing again. Both end in the
loop, and in what follows it (`results.py`); meanwhile no other process gets into the folder.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from resnets.data.pixels import usable_cpus
from resnets.data.sources import NAMES, DataSet, Part, open_data
from resnets.errors import UserError
from resnets.results import TrainingResult, finish
from resnets.training.checkpoints import MODEL_FILE, Checkpoint, NotSavedError, RunFolder
from resnets.training.environment import describe_environment
from resnets.training.finite import NotFiniteError
from resnets.training.interrupt import Interrupted, Interruption
from resnets.training.job import Job, content_digest, divide, fingerprint
from resnets.training.loop import train
from resnets.training.memory import fitting
from resnets.training.planning import Facts, Plan, plan, with_steps
from resnets.training.probe import Advice
from resnets.training.promise import Basis, cautions_of, differences, take_over
from resnets.training.recipes import Recipe, override
from resnets.training.shares import Clock, Outlook, Shares
from resnets.training.state import State

Log = Callable[[Mapping[str, Any]], None]

CAUTION = "the test images also chose the best epoch (--validate-on test): scores are optimistic"
SKIPPED_SHOWN = 10
IDS_SHOWN = 8


def start(
    data: str | Path, recipe: Recipe, origins: dict[str, str], budget: float | None,
    out: str | Path | None, name: str | None, device: torch.device, say: Log, started: float,
    verify: bool,
) -> TrainingResult:  # fmt: skip
    """A new run: open the data, choose what is open, make the folder, train."""

    def left() -> float | None:
        return None if budget is None else budget - (time.perf_counter() - started)

    dataset = open_data(data, max_bad=recipe.max_bad)
    notices = notices_of(dataset)
    for text in notices:
        _notice(say, text)
    parts = divide(dataset, recipe)
    if not len(parts.val):
        raise UserError(
            f"{data} has one image of each class: none can be held out to choose the best epoch by"
        )
    facts = parts.facts(dataset.classes)
    _notice(say, f"{dataset.name}: {_counts(facts)}; measuring this machine")
    current = plan(recipe, origins, facts, seconds=left(), device=device)
    assert current.recipe.threads is not None
    torch.set_num_threads(current.recipe.threads)
    job = Job.build(current.recipe, parts, classes=dataset.classes, device=device)

    def measure(current: Plan) -> tuple[float, float]:
        return replace(job, recipe=current.recipe).measure(job.new_model(), budget=budget)

    current, (step_seconds, image_seconds) = fitting(current, measure)
    current = with_steps(
        current, facts, seconds=left(), step_seconds=step_seconds, image_seconds=image_seconds
    )
    for reason in current.reasons:
        _notice(say, reason)
    folder = RunFolder.create(out, name=name or dataset.name)
    with folder.lock():
        _write_start(folder, job, data=data, dataset=dataset, verify=verify)
        return _begin(job, folder, current, say, notices)


def _begin(
    job: Job, folder: RunFolder, current: Plan, say: Log, notices: Sequence[str]
) -> TrainingResult:
    """Step 0 on; and again from there where the first steps run out of memory."""

    def attempt(tried: Plan) -> TrainingResult:
        for reason in tried.reasons[len(current.reasons) :]:
            _notice(say, reason)
        _write_config(folder, tried)
        folder.forget_after(0, validated=0)
        ready = replace(job, recipe=tried.recipe)
        return _run(ready, folder, say, notices=notices, advice=tried.advice)

    return fitting(current, attempt)[1]


def go_on(
    folder: RunFolder, device: torch.device, say: Log, *, changes: Mapping[str, Any],
    force: bool, verify: bool,
) -> TrainingResult:  # fmt: skip
    """A resumed run: everything comes from the folder, nothing is measured again.

    `changes` are recipe fields with other values. Raises UserError where something has changed
    that decides bits, unless `force`: then every result says what.
    """
    with folder.lock():
        if (folder.path / "scores.json").is_file():
            raise UserError(f"--resume {folder.path}: this run is finished; use its {MODEL_FILE}")
        before = Basis.stored(folder)
        recipe, stored = override(before.recipe, changes), before.data
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        dataset = open_data(stored["data"], max_bad=recipe.max_bad)
        if verify:
            _verify(folder, dataset, stored)
        parts = divide(dataset, recipe, held_out=stored["held_out"])
        found = {"fingerprint": fingerprint(dataset), "classes": list(dataset.classes)}
        data = {**stored, **found, "sizes": parts.sizes()}
        after = Basis(recipe, data, describe_environment(device))
        changed = differences(before, after, folder=folder, force=force)
        job = Job.build(
            recipe, parts, classes=dataset.classes, device=device, preprocess=stored["preprocess"]
        )
        checkpoint = _newest(folder, say)
        scalars = {"step": 0, "validated": 0} if checkpoint is None else checkpoint.scalars
        take_over(folder, before, after, changed=changed, step=scalars["step"])
        folder.forget_after(scalars["step"], validated=scalars["validated"])
        return _run(job, folder, say, notices=notices_of(dataset), checkpoint=checkpoint)


def _newest(folder: RunFolder, say: Log) -> Checkpoint | None:
    """The checkpoint to go on from; says which and why."""
    damaged: list[str] = []
    checkpoint = folder.load(damaged.append)
    for text in damaged:
        _notice(say, f"passed over: {text}")
    which = "its newest whole checkpoint" if damaged else "its newest checkpoint"
    where = "step 0: it has no checkpoint yet"
    if checkpoint is not None:
        where = f"step {checkpoint.scalars['step']}: {which}"
    _notice(say, f"going on with {folder.path} at {where}")
    return checkpoint


def _verify(folder: RunFolder, dataset: DataSet, stored: Mapping[str, Any]) -> None:
    if "content" not in stored:
        raise UserError(f"--verify {folder.path}: the run was not begun with --verify")
    if content_digest(dataset) != stored["content"]:
        raise UserError(
            f"--verify {folder.path}: the content of images in {stored['data']} has changed"
        )


def _run(
    job: Job, folder: RunFolder, say: Log, *, notices: Sequence[str],
    checkpoint: Checkpoint | None = None, advice: tuple[Advice, ...] = (),
) -> TrainingResult:  # fmt: skip
    """The loop and what follows it, or how it was stopped."""
    model = job.new_model(pretrained=checkpoint is None)
    state = State.start(model, job.recipe, device=job.device)
    if checkpoint is not None:
        state.restore(checkpoint)
    interruption, unsaved = Interruption(), None
    outlook = Outlook(
        job.recipe, num_train=len(job.parts.train), num_val=len(job.parts.val),
        cores=usable_cpus(), streamed=not job.stream.cached, advice=advice,
    )  # fmt: skip
    shares = Shares(outlook, clock=Clock.of(job.device))
    try:
        progress = {"step": state.step, "steps": job.recipe.steps, "seconds": folder.seconds()}
        say({"kind": "start", **progress})
        with interruption:
            result = _train_and_finish(state, job, folder, say, notices, shares, interruption)
        if result is not None:
            return result
    except NotFiniteError as error:
        raise _with_ids(error, job.parts.train) from None
    except torch.OutOfMemoryError as error:
        if folder.load() is None:
            raise  # nothing is lost by beginning anew in smaller pieces
        raise UserError(
            f"out of memory at step {state.step}: go on with --resume {folder.path} --force "
            f"--accumulate {2 * job.recipe.accumulate} ({error})"
        ) from None
    except NotSavedError as error:
        unsaved = str(error)
    except (Interrupted, KeyboardInterrupt):
        pass  # a second signal, or one while scoring: the last checkpoint stands
    except RuntimeError:
        if not interruption.received():
            raise
        # The signal reached a worker before it could be told to leave it to this process.
    finally:
        job.stream.close()
        job.validation.close()
    number = interruption.number or (None if unsaved else signal.SIGINT)
    return TrainingResult(folder.path, None, job.parts.scored[0], signal=number, unsaved=unsaved)


def _train_and_finish(
    state: State, job: Job, folder: RunFolder, say: Log, notices: Sequence[str],
    shares: Shares, interruption: Interruption,
) -> TrainingResult | None:  # fmt: skip
    """None when a signal stopped the loop."""
    cautions = [CAUTION] if job.recipe.validate_on == "test" else []
    cautions += cautions_of(folder)
    for text in cautions:
        _notice(say, text)

    def log(record: dict[str, Any]) -> None:
        if record["kind"] != "notice":
            folder.log(record)
        say(record)

    finished = train(
        state, job.recipe, stream=job.stream, validate=job.validate, folder=folder,
        shares=shares, num_images=len(job.parts.train), log=log, interruption=interruption,
    )  # fmt: skip
    if not finished:
        return None
    if state.replaced:
        notices = [*notices, f"{state.replaced} images failed while training: replaced"]
        _notice(say, notices[-1])
    with interruption.breaks():
        return finish(job, folder, notices=[*notices, *cautions], cautions=cautions)


def _with_ids(error: NotFiniteError, images: Part) -> NotFiniteError:
    """The same error, naming images of its batch."""
    if error.indices is None:
        return error
    shown = ", ".join(images.ids[index] for index in error.indices[:IDS_SHOWN])
    more = len(error.indices) - IDS_SHOWN
    tail = f" and {more} more" if more > 0 else ""
    return NotFiniteError(f"{error}, of the images {shown}{tail}", error.indices)


def _write_config(folder: RunFolder, current: Plan) -> None:
    values = asdict(current.recipe)
    config = {
        k: {"value": v, "origin": current.origins.get(k, "default")} for k, v in values.items()
    }
    folder.write_json("config.json", config)


def _write_start(
    folder: RunFolder, job: Job, *, data: str | Path, dataset: DataSet, verify: bool
) -> None:
    named = isinstance(data, str) and data in NAMES  # before a folder of that name, as in open_data
    place = str(data) if named else str(Path(data).expanduser().resolve())
    facts = job.describe(data=place, name=dataset.name, fingerprint=fingerprint(dataset))
    content = {"content": content_digest(dataset)} if verify else {}
    folder.write_json("data.json", facts | content | {"skipped": dict(dataset.skipped)})
    folder.write_json("environment.json", describe_environment(job.device))


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


def _notice(say: Log, text: str) -> None:
    say({"kind": "notice", "text": text})
