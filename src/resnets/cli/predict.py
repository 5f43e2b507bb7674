"""Provide `resnets predict`: classify images with a model file."""

import csv
import glob
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.cli.flags import Device, ModelPath, Switch, find_model
from resnets.cli.output import print_json, print_message, print_result
from resnets.data.file_limits import MAX_PIXELS
from resnets.errors import UserError, public_name, visible

if TYPE_CHECKING:
    from resnets.inference.predictor import Prediction

UNREADABLE = 2
# Predictions printed at a time, with aligned columns: what the predictor computes at a time.
CHUNK = 64


@dataclass(frozen=True)
class Predict:
    """Classify images with a model file alone.

    IMAGES are files, folders (searched at any depth) or patterns. `-` reads one path per line from
    standard input. An unreadable image is reported, and the exit code is 2 after the others.

    for example:
      resnets predict runs/photos-001 new/ --top 3
      find new/ -name '*.jpg' | resnets predict model.safetensors - --format csv
    """

    model: ModelPath
    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGES", help_behavior_hint="(required)"),
    ]
    """files, folders, patterns or -"""
    top: int = 5
    """classes shown for each image"""
    format: Literal["table", "json", "csv"] = "table"
    """table for people, one JSON document, or CSV with a row per image and class"""
    csv_safe: bool = True
    """in CSV, escape control characters and put ' before a cell that a spreadsheet takes for a
    formula; --no-csv-safe writes all names as they are"""
    max_pixels: int = MAX_PIXELS
    """most pixels of an image; larger JPEGs are decoded at a part of their size"""
    device: Device = "auto"
    """where to compute"""
    quiet: Switch = False
    """leave out the messages about unreadable images"""

    def run(self, started: float) -> int:
        if self.top < 1:
            raise UserError(f"--top {self.top}: must be at least 1")
        if not self.images:
            raise UserError("IMAGES is missing: give files, folders, patterns or -")
        find_model(self.model)
        from resnets import api

        images = find_images(self.images)
        predictions = api.predict(
            self.model, images, top=self.top, device=self.device, max_pixels=self.max_pixels
        )
        formats: dict[str, Callable[[list[Prediction]], None]] = {
            "table": _print_table,
            "json": _print_json,
            "csv": partial(_print_csv, safe=self.csv_safe),
        }
        show = formats[self.format]
        if self.format == "csv":
            print_result("path,rank,class,probability")
        code, size = 0, None if self.format == "json" else CHUNK
        while chunk := list(islice(predictions, size)):
            show(chunk)
            for prediction in chunk:
                if prediction.error is not None:
                    code = UNREADABLE
                    if not self.quiet:
                        print_message(
                            f"resnets: {public_name(prediction.source)}: {prediction.error}"
                        )
        return code


def find_images(patterns: Iterable[str]) -> Iterator[str]:
    """Yield paths of images: of files, folders at any depth, patterns and standard input."""
    for pattern in patterns:
        if not pattern:
            raise UserError("an empty text among IMAGES: give a file, a folder, a pattern or -")
        if pattern == "-":
            lines = (line.rstrip("\r\n") for line in sys.stdin if line.strip())
            if not (first := next(lines, "")):
                raise UserError("-: standard input names no image")
            yield from chain([first], lines)
        elif Path(pattern).is_dir():
            yield from _images_in(Path(pattern))
        elif Path(pattern).exists() or not glob.has_magic(pattern):
            yield pattern
        elif matches := sorted(glob.glob(pattern, recursive=True)):
            yield from matches
        else:
            raise UserError(f"{pattern}: the pattern matches no file")


def _images_in(folder: Path) -> list[str]:
    """Return every image at any depth, sorted; what training ignores is left out."""
    from resnets.data.sources.file_tree import FolderScan

    tree = FolderScan(folder).tree
    images = [folder / path / name for path, inner in tree.walk() for name in inner.images]
    if not images:
        raise UserError(f"{folder}: no images in this folder")
    return [str(path) for path in sorted(images)]


def _pairs(prediction: "Prediction") -> "zip[tuple[str, float]]":
    return zip(prediction.classes, prediction.probabilities, strict=True)


def _print_json(predictions: "list[Prediction]") -> None:
    records = [
        {
            "path": prediction.source,
            "top": [{"class": name, "probability": share} for name, share in _pairs(prediction)],
            "error": prediction.error,
        }
        for prediction in predictions
    ]
    print_json(records)


def csv_cell(text: str) -> str:
    """Return a text as a cell that a terminal can show and a spreadsheet does not compute.

    A formula begins with = + - or @ (also full-width), after a tab or a line break too; a plain
    number such as -1 is none. OWASP, "CSV Injection".
    """
    formula = re.match(r"\s*[=+\-@＝＋－＠]|[\t\r\n]", text)
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE)
    return f"'{visible(text)}" if formula and not number else visible(text)


def _print_csv(predictions: "list[Prediction]", *, safe: bool) -> None:
    cell = csv_cell if safe else str
    # A name that is written as it is may hold a line break, which readers find within quotes only.
    writer = csv.writer(
        sys.stdout, lineterminator="\n", quoting=csv.QUOTE_MINIMAL if safe else csv.QUOTE_ALL
    )
    writer.writerows(
        (cell(prediction.source), rank, cell(name), f"{share:.6f}")
        for prediction in predictions
        for rank, (name, share) in enumerate(_pairs(prediction), 1)
    )


def _print_table(predictions: "list[Prediction]") -> None:
    """Print the predictions of readable images in aligned columns."""
    from rich.cells import cell_len

    rows = [
        [
            visible(prediction.source),
            *(f"{share:6.1%} {visible(name)}" for name, share in _pairs(prediction)),
        ]
        for prediction in predictions
        if prediction.error is None
    ]
    widths = [max(map(cell_len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        cells = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=False)
        )
        print_result("  ".join(cells).rstrip())
