"""Provide `resnets predict`: classify images with a model file."""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.cli.flags import Device, ModelPath
from resnets.errors import UserError

if TYPE_CHECKING:
    from resnets.inference.predictor import Prediction

UNREADABLE = 2


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
