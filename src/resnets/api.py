"""Provide the Python API: train, evaluate, predict, load_model, check_data.

The command line calls it too.
"""

import os
import re
import time as clock
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnets.arguments import checked
from resnets.audit.check_page import check_folder
from resnets.audit.checker import Checker
from resnets.audit.findings import CheckReport
from resnets.data import Split, open_data
from resnets.data.corrupt import CorruptImages
from resnets.data.dataset import describe_classes, notices_of
from resnets.data.file_limits import MAX_PIXELS
from resnets.data.loader import EvalLoader
from resnets.data.sources.source_config import SourceConfig
from resnets.data.wide_pixels import described
from resnets.device import choose_device, restore_num_threads
from resnets.errors import StoppedError, UserError, out_of_memory_advice, public_name, unknown
from resnets.evaluation.evaluator import BATCH_SIZE, Mistakes, score, score_cautions
from resnets.evaluation.metrics import Scores
from resnets.fileio import check_can_make
from resnets.inference.model_file import ModelFile, ModelFileError, read_model
from resnets.inference.predictor import Prediction, Predictor, Source
from resnets.models.download import is_tag, local_path
from resnets.models.pretrained import local_weights
from resnets.models.registry import MODELS, unknown_model
from resnets.models.resnet import ResNet
from resnets.report.page import Mistake, ReportRecord, missing_charts, write_report
from resnets.training.auto_config import ResolvedConfig
from resnets.training.distributed import init_distributed
from resnets.training.recipe import TIME_OR_LENGTH, Recipe
from resnets.training.recipes import named_recipe
from resnets.training.run_dir import RunDir, find_restarted_run, is_run, num_restarts
from resnets.training.trainer import Log, Trainer, TrainingResult


@checked(data="a path or a name (str or Path); Datasets, loaders and arrays cannot be trained on")
@restore_num_threads()
def train(
    data: str | Path | None = None,
    *,
    recipe: str | Recipe | Mapping[str, Any] = "default",
    time: str | float | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    name: str | None = None,
    device: str | torch.device = "auto",
    force: bool = False,
    verify: bool = False,
    log: Log | None = None,
    started: float | None = None,
    **fields: Any,
) -> TrainingResult:
    """Train a network on DATA and leave a run folder with the model file and a report.

    Args:
        data: A folder of class folders, a manifest, an .npz, a parquet data set, or a name such as
            "cifar10".
        recipe: The name of a recipe, a `Recipe`, or the fields that it sets.
        time: Wall-clock time from `started` to the finished run folder: "20m", "1h30m", seconds.
        out: The run folder; None takes the next `runs/NAME-NNN`.
        resume: Folder of an interrupted run to resume, with its own data and recipe.
        name: The NAME of a numbered run folder; None takes the name of the data.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps", or a torch.device.
        force: Whether to resume although something has changed that decides bits.
        verify: Whether to record a digest of every image; when resuming, whether to compare it.
        log: Called with every record, a dictionary with a `kind`.
        started: When `time` begins, by `time.perf_counter()`; None is now.
        **fields: Recipe fields that override the recipe, or change on resume.

    Returns:
        The run folder, the scores, and whether the run was interrupted.

    Raises:
        UserError: An argument, the data or the run folder cannot be used.
        StoppedError: Too many images turned out to be damaged, or a worker process was lost, after
            the start; a checkpoint is saved.
        NotFiniteError: The loss became NaN or infinite.
    """
    started = clock.perf_counter() if started is None else started
    asked = str(device)
    config, command, deadline = ResolvedConfig(), dict[str, Any](), None
    if resume is not None:
        if recipe != "default" or any(given is not None for given in (data, time, out, name)):
            raise UserError(
                "--resume uses the run's own data, recipe, time and name: leave out DATA, "
                "--recipe, --recipe-file, --time and --out"
            )
    elif force:
        raise UserError("--force belongs to --resume: it accepts what has changed since")
    else:
        choose_device(asked)
        if data is None:
            raise UserError("no DATA given: a folder of images, or a name such as fashion-mini")
        _check_storable("DATA", data)
        if out is not None:
            _check_storable("--out", out)
        budget = None if time is None else parse_time(time)
        deadline = None if budget is None else started + budget
        config = _configured(recipe, fields, timed=budget is not None)
        command = {"data": str(data), "time": budget, "name": name, "device": asked}
        command |= {"verify": verify, "recipe": config.recipe.flat()}
    advice = "take a smaller --size, --model, --batch-size or --cache-mb"
    with out_of_memory_advice(advice), init_distributed() as dist:
        restarted = bool(dist.all_gather(num_restarts()).max())

        def find_run() -> tuple[RunDir | None, str]:
            """Return the run to resume, and the device, by default that of its start."""
            if resume is not None:
                found: RunDir | None = RunDir.open(resume)
            else:
                found = find_restarted_run(out, command, restarted=restarted)
            if found is None:
                RunDir.check(out)
            elif asked == "auto":
                return found, found.read_json("environment.json")["device"]
            return found, asked

        run_dir, where = dist.on_rank_zero(find_run)
        shared: dict[str, Any] = {"device": dist.device(choose_device(where))}
        shared |= {"dist": dist, "log": log, "verify": verify}
        if run_dir is None:
            assert data is not None
            shared |= {"out": out, "name": name, "deadline": deadline, "command": command}
            trainer = Trainer.start(data, config, **shared)
        else:
            changes = {} if resume is None else fields
            trainer = Trainer.resume(run_dir, changes=changes, force=force, **shared)
        with trainer:
            return trainer.fit()


@checked(data="a path or a name (str or Path); Datasets, loaders and arrays cannot be scored")
def evaluate(
    model: str | Path | ModelFile,
    data: str | Path,
    *,
    split: str | None = None,
    device: str | torch.device = "auto",
    workers: int = 2,
    max_corrupt: float = 0.01,
    columns: str | None = None,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    report: str | Path | None = None,
    log: Log | None = None,
) -> Scores:
    """Score a model file on images with known classes; classes are matched by name.

    Args:
        model: A model file, a run folder, or the contents of a model file.
        data: Images, as `train` takes them.
        split: "train", "val" or "test"; None takes test, else validation, else all images.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps", or a torch.device.
        workers: Processes that decode images which do not fit in memory.
        max_corrupt: Largest share of unreadable images of the scored split, and of all headers.
        columns: Columns of a table, as "path=image_id,label=breed"; None takes usual names.
        allow_outside: Read images that a table names outside its own folder.
        max_pixels: Most pixels of an image; larger JPEGs are decoded at a part of their size.
        report: Folder for a report page with figures, or None.
        log: Called with notices (which split was scored, what was left out) and cautions.

    Returns:
        The scores.

    Raises:
        UserError: An argument or the data cannot be used, or too many images cannot be read.
        StoppedError: A worker process was lost, or the page could not be written; its `result` then
            has the scores.
        ModelFileError: The model file cannot be used.
    """
    place = choose_device(device)
    if report is not None:
        _check_report_folder(Path(report))
    file = model if isinstance(model, ModelFile) else read_model(model)
    source = SourceConfig(
        max_corrupt=max_corrupt,
        max_pixels=max_pixels,
        columns=columns,
        allow_outside=allow_outside,
    )
    dataset = open_data(data, source, classes=file.classes, preprocess=file.preprocess)
    chosen = choose_split(dataset.splits, split)
    images = dataset.splits[chosen]
    taken = f"{'all' if chosen == 'all' else f'split {chosen}'} of {data}"
    notices = notices_of(dataset)
    mistakes = Mistakes(images, file.classes, file.preprocess)
    corrupt = CorruptImages(dataset, max_corrupt=max_corrupt, splits=[chosen])
    loader = EvalLoader(
        images, preprocess=file.preprocess, batch_size=BATCH_SIZE, device=place, workers=workers
    )

    def check() -> None:
        corrupt.add(corrupt.unknown(chosen, images, loader.failures))
        corrupt.check()

    check()
    advice = "give it more memory, or take fewer images"
    with closing(loader), out_of_memory_advice(advice):
        scores = score(file, loader, check=check, callback=None if report is None else mistakes)
    notices += missing_charts() if report is not None else []
    kind = "images" if chosen == "all" else f"{chosen} images"
    cautions = score_cautions(scores, corrupt.reasons, images=kind)
    cautions += [f"from training: {text}" for text in (file.scores or {}).get("cautions", ())]
    if log is not None:
        classes = describe_classes(file.classes, images.targets)
        scored = f"scored: {taken}, {len(images):,} images; {classes}"
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
            wide_pixels=described(file.preprocess.pixel_range),
            trained_on=str(file.data.get("name", "unknown")),
            mistakes=[Mistake(**row) for row in mistakes.worst()],
            notices=notices,
            cautions=cautions,
        )
        try:
            write_report(Path(report), page)
        except OSError as error:
            reason = f"the page could not be written ({error.strerror or error})"
            stopped = StoppedError(f"--report {report}: {reason}; give another folder")
            stopped.result = scores
            raise stopped from None
    return scores


def _check_report_folder(report: Path) -> None:
    """Refuse a folder for a page that cannot be made, or that has a page of its own."""
    if report.is_file():
        raise UserError(f"--report {report}: is a file; give a folder")
    if is_run(report):
        raise UserError(f"--report {report}: is a run with a page of its own; give another folder")
    check_can_make(report, flag="--report")


def choose_split(splits: Mapping[str, Split], split: str | None) -> str:
    """Return the name of the split to evaluate; raise UserError if there is none of that name."""
    if split is None:
        return next(name for name in ("all", "test", "val", "train") if name in splits)
    name = "val" if split == "validation" else split
    if name not in splits:
        if "all" in splits:
            raise UserError(f"--split {split}: these images have no splits; leave --split out")
        raise unknown("split", split, splits)
    return name


@checked()
def predict(
    model: str | Path | ModelFile,
    images: Source | Iterable[Source],
    *,
    top: int = 5,
    device: str | torch.device = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Prediction]:
    """Classify one image or several with a model file alone.

    The model file is read at once, the images one batch at a time while the result is read.

    Args:
        model: A model file, a run folder, or the contents of a model file.
        images: A path, bytes, an array H W C or H W, a PIL image, or an iterable of these.
        top: Number of classes per image.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps", or a torch.device.
        max_pixels: Most pixels of an image; larger JPEGs are decoded at a part of their size.

    Returns:
        One prediction per image, in order. An unreadable image has an `error`.

    Raises:
        UserError: An argument cannot be used.
        ModelFileError: The model file cannot be used.
    """
    with out_of_memory_advice("give it more memory, or take a smaller network"):
        predictor = Predictor(model, device=choose_device(device), max_pixels=max_pixels)
    return predictor.predict(images, top=top)


@checked()
def load_model(model: str | Path) -> ResNet:
    """Load the network of a model file.

    Args:
        model: A model file or a run folder.

    Returns:
        The network in evaluation mode. It takes images normalised by the file's `Preprocess`.

    Shape:
        N C H W -> N K.

    Raises:
        ModelFileError: The model file cannot be used.
    """
    return read_model(model).build()


@checked()
def check_data(
    data: str | Path,
    *,
    labels: bool = True,
    out: str | Path | None = None,
    write_clean: str | Path | None = None,
    device: str | torch.device = "auto",
    log: Log | None = None,
    **source: Any,
) -> CheckReport:
    """Look for what would spoil a score: copies, leaks, wrong labels, broken images.

    The data are never changed.

    Args:
        data: Images, as `train` takes them.
        labels: Whether to look for wrong labels, which takes minutes and needs cleanlab.
        out: Folder for a page with pictures and check.json, or None.
        write_clean: Manifest (.csv) to write, without copies, leaks, contradicting labels and
            unreadable images, or None.
        device: Where the label check trains: "auto", "cpu", "cuda", "cuda:1" or "mps".
        log: Called with notices of progress.
        **source: Fields of `SourceConfig`: how the data are read. More unreadable images than
            `max_corrupt` are a problem in the report.

    Returns:
        What was found; `ok` is False where something would spoil a score.

    Raises:
        UserError: An argument or the data cannot be used.
    """
    place = choose_device(device)
    if unknown_names := sorted(source.keys() - {field.name for field in fields_of(SourceConfig)}):
        names = [field.name for field in fields_of(SourceConfig)]
        raise unknown("option of reading data", unknown_names[0], names)
    config = SourceConfig(**source)
    if out is not None:
        check_folder(Path(out), data)
    checker = Checker(
        open_data(data, replace(config, max_corrupt=1.0)),
        max_corrupt=config.max_corrupt,
        device=place,
        labels=labels,
        out=None if out is None else Path(out),
        clean=None if write_clean is None else Path(write_clean),
        log=log,
    )
    return checker.run()


def _check_storable(flag: str, path: str | Path) -> None:
    """Refuse a path that the files of a run cannot hold: JSON and safetensors are UTF-8."""
    try:
        os.path.abspath(path).encode()
    except FileNotFoundError:
        raise UserError("the working folder does not exist any more; change to another") from None
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        advice = "rename it, or set PYTHONUTF8=1 where the locale is not UTF-8"
        raise UserError(f"{flag} {shown}: the path is not UTF-8 text here; {advice}") from None


def parse_time(text: str | float) -> float:
    """Return the seconds of "90s", "20m", "1.5h" or "1h30m"; a number is already in seconds."""
    if isinstance(text, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*", text):
        number = text.strip()
        raise UserError(
            f"--time {number!r}: {number} seconds or minutes? write {number}s or {number}m"
        )
    pattern = "(?:{0}h)?(?:{0}m)?(?:{0}s?)?".format(r"(\d+(?:\.\d+)?)")
    match = re.fullmatch(pattern, str(text).strip().lower())
    hours, minutes, seconds = map(float, match.groups(default="0") if match else (0, 0, 0))
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise UserError(f"--time {text!r}: expected a duration such as 90s, 20m or 1h30m")
    return total


def _configured(
    recipe: str | Recipe | Mapping[str, Any], fields: Mapping[str, Any], *, timed: bool
) -> ResolvedConfig:
    """Return the recipe with the fields that override it, and who set each."""
    if isinstance(recipe, Recipe):
        config = ResolvedConfig(recipe, dict.fromkeys(recipe.flat(), "recipe"))
    elif isinstance(recipe, str):
        config = ResolvedConfig().set(f"recipe {recipe}", **named_recipe(recipe))
    else:
        config = ResolvedConfig().set("recipe", **recipe)
    config = config.set("flag", **{name.replace("-", "_"): fields[name] for name in fields})
    if timed:  # a time replaces a recipe's own length
        if fields.get("epochs") or fields.get("steps"):
            raise UserError(TIME_OR_LENGTH)
        length: dict[str, Any] = {
            n: None for n in ("epochs", "steps") if config.recipe.flat()[n] is not None
        }
        config = config.set("time budget", **length)
    model, frozen = config.recipe.model, config.recipe.schedule.freeze_backbone
    if model.name is not None and model.name not in MODELS:
        raise unknown_model(model.name)
    if model.weights is None:
        if frozen:
            raise UserError(
                f"--freeze-backbone {frozen:g} (as in recipe finetune) needs pretrained weights: "
                "pass --weights, for example a run folder"
            )
        return config
    given = public_name(model.weights)
    if given != model.weights:  # what opens it must not reach the run folder
        file = local_weights(model.weights)
        config = config.set(config.origins.get("weights", "default"), weights=str(file))
    elif is_tag(model.weights):
        text = f"torchvision:{model.weights}"
        config = config.set(config.origins.get("weights", "default"), weights=text)
    elif ":" not in model.weights:  # found from any folder when resumed
        path = local_path(model.weights).absolute()
        if not path.exists():
            raise UserError(f"--weights {model.weights}: no such file")
        config = config.set(config.origins.get("weights", "default"), weights=str(path))
    if model.name is not None:
        return config
    try:
        name = read_model(config.recipe.model.weights or "").recipe.get("model")
    except ModelFileError:
        name = None
    if name is None:
        if ":" not in given and not is_tag(given):
            local_weights(given)  # raises where the file is damaged
        raise UserError(f"--weights {given}: pass --model too, the network of these weights")
    return config.set("weights", model=name)
