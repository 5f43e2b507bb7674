"""Provide `resnets evaluate`: score a model file on images with known classes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnets.cli.flags import Device, ModelPath
from resnets.errors import UserError

if TYPE_CHECKING:
    from resnets.evaluation.metrics import Scores


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
                self.model,
                self.data,
                split=self.part,
                device=self.device,
                workers=self.workers,
                max_corrupt=self.max_corrupt,
                report=self.report,
                log=log,
            )
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
        "top-5": "- (fewer than six classes)"
        if scores.top5 is None or scores.top5_interval is None
        else _with_interval(scores.top5, scores.top5_interval),
        "balanced accuracy": f"{scores.balanced_accuracy:.2%}",
        "loss": f"{scores.loss:.4f}",
        "calibration error": f"{scores.calibration_error:.2%}",
    }
    for name, value in rows.items():
        console.print(f"{name:18} {value}", markup=False)
    table = Table(
        "class", "images", "recall", "precision", box=None, header_style="bold", pad_edge=False
    )
    for row in scores.per_class:
        values = ["-" if v is None else f"{v:.1%}" for v in (row.recall, row.precision)]
        table.add_row(Text(row.name), f"{row.num_images:,}", *values)
    console.print(table)


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2%}   (95 % interval {interval[0]:.2%} to {interval[1]:.2%})"
