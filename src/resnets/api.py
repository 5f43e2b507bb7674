"""One function per verb: the only place where the rooms meet.

`resnets.train`, `evaluate`, `predict` and `load_model` are these functions; the command line calls
the same ones with the same words.
"""

from __future__ import annotations

import re
import time as clock
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from resnets.course import Log
from resnets.data import Split, open_data
from resnets.device import choose_device, kept_threads
from resnets.errors import UserError, unknown
from resnets.evaluation.evaluator import Mistakes, score, unreadable_notice
from resnets.evaluation.metrics import Scores
from resnets.inference.model_file import ModelFile, ModelFileError, read_model
from resnets.inference.predictor import Prediction, Predictor
from resnets.models.registry import MODELS, unknown_model
from resnets.models.resnet import ResNet
from resnets.report.page import Mistake, ReportRecord, missing_charts, write_report
from resnets.results import TrainingResult
from resnets.run import notices_of, resume_run, start
from resnets.training.checkpoint import RunFolder, is_run
from resnets.training.distributed import DistContext, joined
from resnets.training.recipe import TIME_OR_LENGTH, Recipe, override
from resnets.training.recipes import named_recipe
from resnets.training.run_metadata import begun, restarts


@kept_threads()
def train(
    data: str | Path | None = None,
    *,
    recipe: str | Recipe = "default",
    time: str | float | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    name: str | None = None,
    device: str = "auto",
    force: bool = False,
    verify: bool = False,
    log: Log | None = None,
    started: float | None = None,
    **fields: Any,
) -> TrainingResult:
    """Train a network on DATA and leave a run folder.

    `recipe` is a name or a `Recipe`; `fields` override it. `time` is wall clock ("20m", "90s",
    seconds) from `started` (a `time.perf_counter()` value, now when left out) to the finished
    folder. `out` is that folder; left out it is `runs/NAME-NNN`, where `name` is the data's own
    when it is left out too. `resume` goes on with an interrupted run, on its own data; what has
    changed since and decides bits, a recipe field among them, is refused unless `force`. `verify`
    records a digest of every image, and compares it on resuming. `log` sees every record.
    Raises UserError for mistakes, NotFiniteError when the loss is lost.
    """
    started = clock.perf_counter() if started is None else started
    if resume is not None:
        if recipe != "default" or any(given is not None for given in (data, time, out, name)):
            raise UserError(
                "--resume goes on with the run's own data, recipe, time and name: leave out DATA, "
                "--recipe, --recipe-file, --time and --out"
            )
        with joined() as ranks:
            say = log if log and ranks.first else _silently
            folder = ranks.decided(lambda: RunFolder.open(resume))
            return _resume(folder, device, say, fields, force=force, verify=verify, ranks=ranks)
    if force:
        raise UserError("--force belongs to --resume: it goes on with what has changed")
    place = choose_device(device)
    if data is None:
        raise UserError("no DATA given: a folder of images, or a name such as fashion-mini")
    budget = None if time is None else parse_time(time)
    wanted, every = _wanted(recipe, fields, timed=budget is not None)
    asked = {"data": str(data), "time": budget, "name": name, "device": device}
    command = asked | {"verify": verify, "recipe": asdict(wanted)}
    with joined() as ranks:
        say = log if log and ranks.first else _silently
        restarted = bool(ranks.exchange(restarts()).max())
        own = ranks.decided(lambda: begun(out, command, restarted=restarted))
        if own is not None:
            return _resume(own, device, say, {}, force=False, verify=verify, ranks=ranks)
        ranks.decided(lambda: RunFolder.check(out))
        return start(
            data,
            wanted,
            every,
            budget,
            out,
            name,
            ranks.device(place),
            say,
            started,
            verify,
            command=command,
            ranks=ranks,
        )


def _resume(
    folder: RunFolder,
    device: str,
    say: Log,
    changes: Mapping[str, Any],
    *,
    force: bool,
    verify: bool,
    ranks: DistContext,
) -> TrainingResult:
    """Go on with a run, on the kind of device that it was begun on."""
    if device == "auto":
        device = ranks.decided(lambda: folder.read_json("environment.json")["device"])
    place = ranks.device(choose_device(device))
    return resume_run(folder, place, say, changes=changes, force=force, verify=verify, ranks=ranks)


def evaluate(
    model: str | Path | ModelFile,
    data: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    workers: int = 2,
    max_corrupt: float = 0.01,
    report: str | Path | None = None,
    log: Log | None = None,
) -> Scores:
    """Score a model file on DATA; classes are matched by name.

    DATA without splits is used whole; with splits, `split` or else test, or else validation.
    `workers` processes decode images that do not fit in memory; `max_corrupt` is the largest share
    of unreadable ones. `report` is a folder for the page and its figures. `log` sees a notice of
    the part that was taken and of whatever was left out, and a caution where the model carries one.
    Raises UserError for mistakes, ModelFileError for an unusable model file.
    """
    place = choose_device(device)
    if report is not None and Path(report).is_file():
        raise UserError(f"--report {report}: is a file; give a folder")
    if report is not None and is_run(Path(report)):
        raise UserError(f"--report {report}: is a run with a page of its own; give another folder")
    file = model if isinstance(model, ModelFile) else read_model(model)
    dataset = open_data(data, max_corrupt=max_corrupt, classes=file.classes)
    chosen = choose_split(dataset.splits, split)
    images = dataset.splits[chosen]
    taken = f"{'the whole' if chosen == 'all' else f'the part {chosen}'} of {data}"
    notices = notices_of(dataset)
    mistakes = Mistakes(images, file.classes, file.preprocess)
    callback = None if report is None else mistakes
    scores = score(file, images, device=place, workers=workers, callback=callback)
    notices += unreadable_notice(scores, images)
    notices += missing_charts() if report is not None else []
    cautions = [f"of its training: {text}" for text in _cautions(file)]
    if log is not None:
        scored = f"scored: {taken}, {len(images):,} images"
        for kind, texts in (("notice", [scored, *notices]), ("caution", cautions)):
            for text in texts:
                log({"kind": kind, "text": text})
    if report is not None:
        page = ReportRecord(
            model=file.recipe.get("model", "unnamed"),
            image_size=file.preprocess.size,
            data=dataset.name,
            split="validation" if chosen == "val" else "test",
            scores=scores.to_dict(),
            model_file=None if isinstance(model, ModelFile) else str(model),
            source=taken,
            trained_on=str(file.data.get("name", "unknown")),
            mistakes=[Mistake(**row) for row in mistakes.worst()],
            notices=notices,
            cautions=cautions,
        )
        write_report(Path(report), page)
    return scores


def _cautions(file: ModelFile) -> list[str]:
    """What must be said wherever scores of this model are, such as --validate-on test."""
    return list((file.scores or {}).get("cautions", ()))


def choose_split(parts: Mapping[str, Split], part: str | None) -> str:
    """The name of the part to evaluate."""
    if part is None:
        return next(name for name in ("all", "test", "val", "train") if name in parts)
    name = "val" if part == "validation" else part
    if name not in parts:
        if "all" in parts:
            raise UserError(f"--split {part}: these images have no parts; leave --split out")
        raise unknown("part", part, parts)
    return name


def predict(
    model: str | Path | ModelFile,
    images: Any,
    *,
    top: int = 5,
    device: str = "auto",
) -> Iterator[Prediction]:
    """Classify one image or several (paths, bytes, arrays, PIL images) with a model file alone.

    The model file is read at once, the images as the answers are asked for, in their order. One
    that cannot be read answers with an `error`. Raises UserError, ModelFileError.
    """
    return Predictor(model, device=choose_device(device)).predict(images, top=top)


def load_model(model: str | Path) -> ResNet:
    """The network of a model file (or of a run folder), in evaluation mode.

    It takes N C H W images normalised by the file's Preprocess; `Predictor` does that too.
    """
    return read_model(model).build()


def parse_time(text: str | float) -> float:
    """Seconds of "90s", "20m", "1.5h", "1h30m" or a plain number of seconds."""
    pattern = r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?"
    match = re.fullmatch(pattern, str(text).strip().lower())
    hours, minutes, seconds = match.groups(default="0") if match else ("0", "0", "0")
    total = 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    if total <= 0:
        raise UserError(f"--time {text!r}: expected a duration such as 90s, 20m or 1h30m")
    return total


def _silently(record: Mapping[str, Any]) -> None:
    """A log that nobody reads."""


def _wanted(
    recipe: str | Recipe, fields: Mapping[str, Any], *, timed: bool
) -> tuple[Recipe, dict[str, str]]:
    """The recipe with the fields that override it, and who set each."""
    base = named_recipe(recipe) if isinstance(recipe, str) else recipe
    label = f"recipe {recipe}" if isinstance(recipe, str) else "recipe"
    wanted = override(base, fields)
    if timed:
        if fields.get("epochs") or fields.get("steps"):
            raise UserError(TIME_OR_LENGTH)
        wanted = replace(wanted, epochs=None, steps=None)  # a time replaces a recipe's own length
    _check_model(wanted)
    wanted = _with_absolute_weights(wanted)
    origins = {key: _origin(label, base, wanted, key) for key in asdict(wanted)}
    if wanted.model is None and wanted.weights is not None:
        wanted = replace(wanted, model=_model_of(wanted.weights))
        origins["model"] = "weights"
    return wanted, origins


def _origin(label: str, base: Recipe, wanted: Recipe, field: str) -> str:
    """Who set a field: a flag, the recipe, or nobody."""
    if getattr(wanted, field) != getattr(base, field):
        return "flag"
    return "default" if getattr(base, field) == getattr(Recipe(), field) else label


def _check_model(recipe: Recipe) -> None:
    """Names and paths that are not there are found before anything is measured."""
    if recipe.model is not None and recipe.model not in MODELS:
        raise unknown_model(recipe.model)
    weights = recipe.weights  # other forms than a path have a colon
    if weights is not None and ":" not in weights and not Path(weights).expanduser().exists():
        raise UserError(f"--weights {weights}: no such file")
    if weights is None and recipe.freeze_backbone:
        raise UserError(
            f"--freeze-backbone {recipe.freeze_backbone:g} (recipe finetune has it) trains a head "
            "on weights that know something: pass --weights, a run folder for example"
        )


def _with_absolute_weights(recipe: Recipe) -> Recipe:
    """A run must find them again from any folder; other forms than a path have a colon."""
    if recipe.weights is None or ":" in recipe.weights:
        return recipe
    return replace(recipe, weights=str(Path(recipe.weights).expanduser().absolute()))


def _model_of(weights: str) -> str:
    """The network that a model file of ours was trained in."""
    try:
        return str(read_model(Path(weights).expanduser()).recipe["model"])
    except (ModelFileError, KeyError):
        raise UserError(
            f"--weights {weights}: pass --model too, the network that they belong to"
        ) from None
