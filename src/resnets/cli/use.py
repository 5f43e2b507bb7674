"""`resnets evaluate` and `resnets predict`: a model file at work."""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnets.cli.flags import Device
from resnets.errors import UserError

if TYPE_CHECKING:
    from resnets.evaluation.metrics import Scores
    from resnets.inference.predictor import Prediction

ModelPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
UNREADABLE = 2


@dataclass(frozen=True)
class Evaluate:
    """Score a model file on images with known classes, matched by name.

    DATA without parts is used whole; with parts, --split, or else test, or else validation.

    for example:
      resnets evaluate runs/photos-001 held-out/
      resnets evaluate model.safetensors labels.csv --format json
    """

    model: ModelPath
    """model file or run folder"""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """images, as for `resnets train`"""
    part: str | None = None
    """train, val or test; what DATA has of them"""
    format: Literal["table", "json"] = "table"
    """json is one document on standard output"""
    report: Path | None = None
    """also write a page with pictures into this folder"""
    workers: int = 2
    """processes that decode images when they do not fit in memory"""
    max_corrupt: float = 0.01
    """largest share of unreadable images"""
    device: Device = "auto"
    """where to compute"""
    quiet: bool = False
    """print the scores only"""

    def run(self, started: float) -> int:
        """Evaluate and print."""
        from resnets import api
        from resnets.cli.progress import Display

        if self.workers < 0:
            raise UserError(f"--workers {self.workers}: must be 0 or more")
        if not 0 <= self.max_corrupt <= 1:
            raise UserError(f"--max-corrupt {self.max_corrupt}: must be between 0 and 1")
        cautions: list[str] = []
        with Display(quiet=self.quiet) as display:

            def log(record: Mapping[str, Any]) -> None:
                display(record)
                if record["kind"] == "caution":
                    cautions.append(record["text"])

            scores = api.evaluate(
                self.model, self.data, part=self.part, device=self.device, workers=self.workers,
                max_corrupt=self.max_corrupt, report=self.report, log=log,
            )  # fmt: skip
        if self.format == "json":
            print(json.dumps(scores.to_dict() | ({"cautions": cautions} if cautions else {})))
        else:
            print_scores(scores)
            for text in cautions:
                print(f"caution: {text}")
        if self.report is not None and not self.quiet:
            print(f"report {self.report / 'report.html'}", file=sys.stderr)
        return 0


def print_scores(scores: Scores) -> None:
    """A table for people."""
    from rich.table import Table
    from rich.text import Text

    from resnets.cli.progress import printer

    console = printer()
    rows = {
        "images": f"{scores.num_images:,}",
        "top-1": _with_interval(scores.top1, scores.top1_interval),
        "top-5": "- (fewer than six classes)" if scores.top5 is None or scores.top5_interval is None
        else _with_interval(scores.top5, scores.top5_interval),
        "balanced accuracy": f"{scores.balanced_accuracy:.2%}",
        "loss": f"{scores.loss:.4f}",
        "calibration error": f"{scores.calibration_error:.2%}",
    }  # fmt: skip
    for name, value in rows.items():
        console.print(f"{name:18} {value}", markup=False)
    table = Table(
        "class", "images", "recall", "precision", box=None, header_style="bold", pad_edge=False
    )
    for row in scores.per_class:
        values = ["-" if v is None else f"{v:.1%}" for v in (row.recall, row.precision)]
        table.add_row(Text(row.name), f"{row.num_images:,}", *values)
    console.print(table)


@dataclass(frozen=True)
class Predict:
    """Classify images with a model file alone.

    IMAGES are files, folders (searched at any depth) or patterns; `-` reads one path a line from
    standard input. An image that cannot be read is reported, the rest is predicted, exit 2.

    for example:
      resnets predict runs/photos-001 new/ --top 3
      find new/ -name '*.jpg' | resnets predict model.safetensors - --format csv
    """

    model: ModelPath
    """model file or run folder"""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """files, folders, patterns or -"""
    top: int = 5
    """classes shown for each image"""
    format: Literal["table", "json", "csv"] = "table"
    """json is one document on standard output"""
    device: Device = "auto"
    """where to compute"""
    quiet: bool = False
    """do not repeat unreadable images on standard error"""

    def run(self, started: float) -> int:
        """Predict and print."""
        from resnets import api

        if self.top < 1:
            raise UserError(f"--top {self.top}: must be at least 1")
        if not self.images:
            raise UserError("no IMAGES given: files, folders, patterns or - for standard input")
        found = api.predict(self.model, find_images(self.images), top=self.top, device=self.device)
        code = 0
        for prediction in _print(found, self.format):
            if prediction.error is not None:
                code = UNREADABLE
                if not self.quiet:
                    print(f"resnets: {prediction.source}: {prediction.error}", file=sys.stderr)
        return code


def find_images(patterns: Iterable[str]) -> Iterator[str]:
    """Paths of images: a folder at any depth, a pattern, a file, or the lines of standard input."""
    for pattern in patterns:
        if not pattern:
            raise UserError("an empty text among IMAGES: give a file, a folder, a pattern or -")
        if pattern == "-":
            named = False
            for line in filter(str.strip, sys.stdin):
                named = True
                yield line.rstrip("\r\n")
            if not named:
                raise UserError("-: standard input names no image")
        elif Path(pattern).is_dir():
            yield from _images_in(Path(pattern))
        elif Path(pattern).exists() or not glob.has_magic(pattern):
            yield pattern
        else:
            matches = sorted(glob.glob(pattern, recursive=True))
            if not matches:
                raise UserError(f"{pattern}: the pattern matches no file")
            yield from matches


def _images_in(folder: Path) -> list[str]:
    """Every image at any depth, sorted; what is hidden is passed over, as in training."""
    from resnets.data.decode import SUFFIXES

    images = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not images:
        raise UserError(f"{folder}: no images in this folder")
    return [str(path) for path in sorted(images)]


def _print(predictions: Iterable[Prediction], form: str) -> Iterator[Prediction]:
    """Print each prediction in its form and hand it on."""
    if form == "json":
        listed = list(predictions)
        print(json.dumps([_record(prediction) for prediction in listed]))
        yield from listed
        return
    if form == "csv":
        print("path,rank,class,probability")
    for prediction in predictions:
        if prediction.error is None:
            sys.stdout.write(_csv(prediction) if form == "csv" else _lines(prediction))
        yield prediction


def _record(prediction: Prediction) -> dict[str, object]:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    top = [{"class": name, "probability": probability} for name, probability in pairs]
    return {"path": prediction.source, "top": top, "error": prediction.error}


def _csv(prediction: Prediction) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    for rank, (name, probability) in enumerate(pairs, 1):
        writer.writerow([prediction.source, rank, name, f"{probability:.6f}"])
    return buffer.getvalue()


def _lines(prediction: Prediction) -> str:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    shown = "   ".join(f"{name} {probability:.1%}" for name, probability in pairs)
    return f"{prediction.source}   {shown}\n"


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2%}   (95 % interval {interval[0]:.2%} to {interval[1]:.2%})"
