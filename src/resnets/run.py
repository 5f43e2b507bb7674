"""One training run, from an opened data set to the finished run folder.

`start` begins a new run: open the data, choose what the recipe leaves open, make the folder.
`go_on` rebuilds an interrupted run from its folder and measures nothing again. Both end in the
loop, and in what follows it: the model file, the scores of that very file, the page. scores.json
is written last: where it is missing, the run can go on.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.data.pixels import usable_cpus
from resnets.data.sources import NAMES, DataSet, open_data
from resnets.errors import UserError
from resnets.evaluation import Scores
from resnets.modelfile import ModelFile, read_model, save_model
from resnets.models.resnet import ResNet
from resnets.report import write_report
from resnets.scoring import Mistakes, score
from resnets.training.checkpoints import MODEL_FILE, Checkpoint, RunFolder
from resnets.training.environment import describe_environment
from resnets.training.interrupt import Interruption
from resnets.training.job import Job, divide, fingerprint
from resnets.training.loop import State, train
from resnets.training.planning import Plan, plan, with_steps
from resnets.training.probe import Advice
from resnets.training.recipes import Recipe, override
from resnets.training.shares import Clock, Outlook, Shares

Log = Callable[[Mapping[str, Any]], None]

SAMPLES_SHOWN = 32
OF_THE_MACHINE = ("threads", "tune", "workers", "cache_mb", "compile", "weights")
"""recipe fields that stay out of the model file: they say where it was made, not what it is"""
CAUTION = "the test images also chose the best epoch (--validate-on test): scores are optimistic"
SKIPPED_SHOWN = 10


@dataclass(frozen=True)
class TrainingResult:
    """What `train` leaves behind."""

    folder: Path
    scores: Scores | None
    """None when the run was interrupted, or its model file could not be written"""
    part: str
    """the images that were scored: "test", or "validation" where there are no test images"""
    caution: str | None = None
    """what must be said wherever the scores are"""
    signal: int | None = None
    """number of the signal that interrupted the run"""
    unsaved: str | None = None
    """why not everything could be written at the end"""

    @property
    def model(self) -> Path:
        """The model file."""
        return self.folder / MODEL_FILE


def start(
    data: str | Path, recipe: Recipe, origins: dict[str, str], budget: float | None,
    out: str | Path | None, name: str | None, device: torch.device, say: Log, started: float,
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
    _notice(
        say,
        f"{dataset.name}: {facts.num_train:,} training, {facts.num_val:,} validation and "
        f"{facts.num_test:,} test images of {facts.num_classes} classes; measuring this machine",
    )
    current = plan(recipe, origins, facts, seconds=left(), device=device)
    assert current.recipe.threads is not None
    torch.set_num_threads(current.recipe.threads)
    job = Job.build(current.recipe, parts, classes=dataset.classes, device=device)
    model = job.new_model()
    step_seconds, image_seconds = job.measure(model, budget=budget)
    current = with_steps(
        current, facts, seconds=left(), step_seconds=step_seconds, image_seconds=image_seconds
    )
    job = replace(job, recipe=current.recipe)
    folder = RunFolder.create(out, name=name or dataset.name)
    _write_start(folder, current, job, data=data, dataset=dataset)
    for reason in current.reasons:
        _notice(say, reason)
    return _run(job, folder, model, say, checkpoint=None, notices=notices, advice=current.advice)


def go_on(folder: RunFolder, device: torch.device, say: Log) -> TrainingResult:
    """A resumed run: everything comes from the folder, nothing is measured again."""
    if (folder.path / "scores.json").is_file():
        raise UserError(f"--resume {folder.path}: this run is finished; use its {MODEL_FILE}")
    values = {key: entry["value"] for key, entry in folder.read_json("config.json").items()}
    recipe = override(Recipe(), values)
    stored = folder.read_json("data.json")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    dataset = open_data(stored["data"], max_bad=recipe.max_bad)
    if fingerprint(dataset) != stored["fingerprint"]:
        raise UserError(f"--resume {folder.path}: the images in {stored['data']} have changed")
    parts = divide(dataset, recipe, held_out=stored["held_out"])
    job = Job.build(
        recipe, parts, classes=dataset.classes, device=device, preprocess=stored["preprocess"]
    )
    checkpoint = folder.load()
    step = checkpoint.scalars["step"] if checkpoint else 0
    folder.forget_after(step)
    _notice(say, f"going on with {folder.path} at step {step}")
    return _run(
        job,
        folder,
        job.new_model(pretrained=checkpoint is None),
        say,
        checkpoint=checkpoint,
        notices=notices_of(dataset),
        advice=(),
    )


def _run(
    job: Job, folder: RunFolder, model: ResNet, say: Log, *, checkpoint: Checkpoint | None,
    notices: list[str], advice: tuple[Advice, ...],
) -> TrainingResult:  # fmt: skip
    """The loop, and what follows it."""
    if job.recipe.validate_on == "test":
        notices = [*notices, CAUTION]
        _notice(say, CAUTION)
    state = State.start(model, job.recipe, device=job.device)
    if checkpoint is not None:
        state.restore(checkpoint)

    def log(record: dict[str, Any]) -> None:
        folder.log(record)
        say(record)

    outlook = Outlook(
        job.recipe, num_train=len(job.parts.train), num_val=len(job.parts.val),
        cores=usable_cpus(), streamed=not job.stream.cached, advice=advice,
    )  # fmt: skip
    part, _ = job.parts.scored
    interruption = Interruption()
    try:
        say({"kind": "start", "step": state.step, "steps": job.recipe.steps})
        with interruption:
            finished = train(
                state, job.recipe, stream=job.stream, validate=job.validate, folder=folder,
                shares=Shares(outlook, clock=Clock.of(job.device)),
                num_images=len(job.parts.train), log=log, stopped=interruption.received,
            )  # fmt: skip
        if not finished:
            return TrainingResult(folder.path, None, part, signal=interruption.number)
        if state.replaced:
            notices = [*notices, f"{state.replaced} images failed while training: replaced"]
            _notice(say, notices[-1])
        return _finish(job, folder, notices)
    except RuntimeError:
        if interruption.number is None:
            raise
        # A signal to the whole process group ended the workers too; the last step was whole.
        folder.save(state.checkpoint(), step=state.step)
        return TrainingResult(folder.path, None, part, signal=interruption.number)
    except KeyboardInterrupt:  # a second signal, or one while scoring: the last checkpoint stands
        number = interruption.number or signal.SIGINT
        return TrainingResult(folder.path, None, part, signal=number)
    finally:
        job.stream.close()
        job.validation.close()


def _finish(job: Job, folder: RunFolder, notices: list[str]) -> TrainingResult:
    """Model file, final scores of that very file, page and pictures."""
    part, images = job.parts.scored
    caution = CAUTION if job.recipe.validate_on == "test" else None
    path, scores = folder.path / MODEL_FILE, None
    mistakes = Mistakes(images, job.classes, job.preprocess)
    try:
        save_model(path, _contents(job, folder, scores=None))
        scores = score(
            read_model(path), images, device=job.device, workers=job.recipe.workers or 0,
            watch=mistakes, cache_mb=job.recipe.cache_mb,
        )  # fmt: skip
        record = scores.to_dict() | {"part": part, "validate_on": job.recipe.validate_on}
        save_model(path, _contents(job, folder, scores=record))
        write_report(
            folder.path, title=f"{job.recipe.model} on {folder.read_json('data.json')['name']}",
            facts=_facts(job, folder, scores, part), history=folder.history(),
            scores=scores.to_dict(), samples=_samples(job), mistakes=mistakes.worst(),
            notices=notices, part=part,
        )  # fmt: skip
        folder.write_json("scores.json", record)
    except OSError as error:
        return TrainingResult(folder.path, scores, part, caution, unsaved=str(error))
    return TrainingResult(folder.path, scores, part, caution)


def _contents(job: Job, folder: RunFolder, *, scores: dict[str, Any] | None) -> ModelFile:
    recipe = {k: v for k, v in asdict(job.recipe).items() if k not in OF_THE_MACHINE}
    stored = folder.read_json("data.json")
    return ModelFile(
        spec=job.new_model_spec(), preprocess=job.preprocess, classes=job.classes, scores=scores,
        recipe=json.loads(json.dumps(recipe)),
        data={key: stored[key] for key in ("name", "fingerprint", "sizes")},
        weights=folder.load_best().tensors,
    )  # fmt: skip


def _samples(job: Job) -> list[tuple[NDArray[np.uint8], str]]:
    """Training images as the network sees them: augmented, back in colours."""
    batch = next(iter(job.stream.batches(0, 1)))
    mean = torch.tensor(job.preprocess.mean, device=job.device).view(1, -1, 1, 1)
    std = torch.tensor(job.preprocess.std, device=job.device).view(1, -1, 1, 1)
    colours = ((batch.images * std + mean) * 255).round().clamp(0, 255).byte()
    targets = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(1)
    pixels = colours.permute(0, 2, 3, 1).cpu().numpy()
    labels = [job.classes[int(target)] for target in targets]
    return list(zip(pixels, labels, strict=True))[:SAMPLES_SHOWN]


def _facts(job: Job, folder: RunFolder, scores: Scores, part: str) -> list[tuple[str, str]]:
    recipe, sizes = job.recipe, job.sizes()
    low, high = scores.top1_interval
    best = folder.load_best().scalars
    facts = [
        (f"top-1 on {scores.num_images:,} {part} images",
         f"{scores.top1:.2%} (95 % interval {low:.2%} to {high:.2%})"),
        ("network", f"{recipe.model}, {recipe.size} x {recipe.size} pixels"),
        ("images", ", ".join(f"{count:,} {name}" for name, count in sizes.items())),
        ("run", f"{recipe.steps:,} steps of {recipe.batch_size}, best validation at step "
                f"{best['step']:,}"),
        ("recipe", f"{recipe.optimizer}, {recipe.schedule}, peak learning rate "
                   f"{recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}"),
    ]  # fmt: skip
    facts += [("speed", r["text"]) for r in folder.history() if r["kind"] == "shares"][-1:]
    return [*facts, ("caution", CAUTION)] if recipe.validate_on == "test" else facts


def _write_start(
    folder: RunFolder, current: Plan, job: Job, *, data: str | Path, dataset: DataSet
) -> None:
    values = asdict(current.recipe)
    config = {
        k: {"value": v, "origin": current.origins.get(k, "default")} for k, v in values.items()
    }
    folder.write_json("config.json", config)
    folder.write_json("environment.json", describe_environment(job.device))
    named = isinstance(data, str) and data in NAMES  # before a folder of that name, as in open_data
    place = str(data) if named else str(Path(data).expanduser().resolve())
    facts = job.describe(data=place, name=dataset.name, fingerprint=fingerprint(dataset))
    folder.write_json("data.json", facts | {"skipped": dict(dataset.skipped)})


def notices_of(dataset: DataSet) -> list[str]:
    """What the user should know about the data: the reader's words, and the files left out."""
    if not dataset.skipped:
        return list(dataset.notices)
    listed = "; ".join(f"{name} ({reason})" for name, reason in dataset.skipped[:SKIPPED_SHOWN])
    more = len(dataset.skipped) - SKIPPED_SHOWN
    tail = f" and {more} more, listed in data.json" if more > 0 else ""
    text = f"{len(dataset.skipped)} unreadable images left out: {listed}{tail}"
    return [*dataset.notices, text]


def _notice(say: Log, text: str) -> None:
    say({"kind": "notice", "text": text})
