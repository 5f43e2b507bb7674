"""One function per verb: the only place where the rooms meet.

`resnets.train`, `evaluate`, `predict` and `load_model` are these functions; the command line calls
the same ones with the same words.
"""

from __future__ import annotations

import re
import time as clock
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnets.data.sources import Part, open_data
from resnets.deploy.predictor import Prediction, Predictor
from resnets.errors import UserError, unknown
from resnets.evaluation import Scores
from resnets.modelfile import ModelFile, read_model
from resnets.models.families import MODELS
from resnets.models.resnet import ResNet
from resnets.report import write_report
from resnets.results import TrainingResult
from resnets.run import Log, go_on, notices_of, start
from resnets.scoring import Mistakes, score
from resnets.training.checkpoints import RunFolder
from resnets.training.environment import choose_device, kept_threads
from resnets.training.named import named_recipe
from resnets.training.recipes import Recipe, override


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
    say = log or (lambda record: None)
    if resume is not None:
        if data is not None or recipe != "default" or time is not None or out is not None:
            raise UserError(
                "--resume goes on with the run's own data, recipe and time: leave out DATA, "
                "--recipe, --recipe-file, --time and --out"
            )
        folder = RunFolder.open(resume)
        if device == "auto":
            device = folder.read_json("environment.json")["device"]
        place = choose_device(device)
        return go_on(folder, place, say, changes=fields, force=force, verify=verify)
    if force:
        raise UserError("--force belongs to --resume: it goes on with what has changed")
    place = choose_device(device)
    if data is None:
        raise UserError("no DATA given: a folder of images, or a name such as fashion-mini")
    base = named_recipe(recipe) if isinstance(recipe, str) else recipe
    label = f"recipe {recipe}" if isinstance(recipe, str) else "recipe"
    wanted = override(base, fields)
    budget = None if time is None else parse_time(time)
    if budget is not None and (wanted.epochs or wanted.steps):
        raise UserError("--time together with --epochs or --steps: pass one of them")
    RunFolder.check(out)
    _check_model(wanted)
    _check_weights(wanted)
    every = {key: _origin(label, base, wanted, key) for key in asdict(wanted)}
    return start(data, wanted, every, budget, out, name, place, say, started, verify)


def evaluate(
    model: str | Path | ModelFile,
    data: str | Path,
    *,
    part: str | None = None,
    device: str = "auto",
    workers: int = 2,
    max_bad: float = 0.01,
    report: str | Path | None = None,
    log: Log | None = None,
) -> Scores:
    """Score a model file on DATA; classes are matched by name.

    DATA without parts is used whole; with parts, `part` or else test, or else validation.
    `workers` processes decode images that do not fit in memory; `max_bad` is the largest share of
    unreadable ones. `report` is a folder for the page
    and its figures. `log` sees a notice of the part that was taken and of whatever was left out.
    Raises UserError for mistakes, ModelFileError for an unusable model file.
    """
    place = choose_device(device)
    if report is not None and Path(report).is_file():
        raise UserError(f"--report {report}: is a file; give a folder")
    file = model if isinstance(model, ModelFile) else read_model(model)
    dataset = open_data(data, max_bad=max_bad, classes=file.classes)
    chosen = choose_part(dataset.parts, part)
    images = dataset.parts[chosen]
    taken = "the whole" if chosen == "all" else f"the part {chosen}"
    notices = [*notices_of(dataset), f"scored: {taken} of {data}, {len(images):,} images"]
    mistakes = Mistakes(images, file.classes, file.preprocess)
    watch = None if report is None else mistakes
    scores = score(file, images, device=place, workers=workers, watch=watch)
    if scores.num_images < len(images):
        lost = len(images) - scores.num_images
        notices.append(f"{lost:,} of them could not be read and were left out")
    if log is not None:
        for text in notices:
            log({"kind": "notice", "text": text})
    if report is not None:
        write_report(
            Path(report), title=f"{dataset.name}: evaluation", facts=[("data", str(data))],
            history=[], scores=scores.to_dict(), samples=[], mistakes=mistakes.worst(),
            notices=notices, part="validation" if chosen == "val" else "test",
        )  # fmt: skip
    return scores


def choose_part(parts: Mapping[str, Part], part: str | None) -> str:
    """The name of the part to evaluate."""
    if part is None:
        return next(name for name in ("all", "test", "val", "train") if name in parts)
    name = "val" if part == "validation" else part
    if name not in parts:
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
    predictor = Predictor(model, device=choose_device(device))
    array = hasattr(images, "__array_interface__") and getattr(images, "ndim", 2) < 4
    single = array or isinstance(images, (str, bytes, Path))
    return predictor.predict([images] if single else images, top=top)


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


def _origin(label: str, base: Recipe, wanted: Recipe, field: str) -> str:
    """Who set a field: a flag, the recipe, or nobody."""
    if getattr(wanted, field) != getattr(base, field):
        return "flag"
    return "default" if getattr(base, field) == getattr(Recipe(), field) else label


def _check_model(recipe: Recipe) -> None:
    if recipe.model is not None and recipe.model not in MODELS:
        raise unknown("model", recipe.model, MODELS)


def _check_weights(recipe: Recipe) -> None:
    """A path that is not there is found before anything is measured; other forms have a colon."""
    weights = recipe.weights
    if weights is not None and ":" not in weights and not Path(weights).expanduser().exists():
        raise UserError(f"--weights {weights}: no such file")
