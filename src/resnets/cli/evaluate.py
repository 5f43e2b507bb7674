"""Provide `resnets evaluate`: score a model file on images with known classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.cli.flags import Device, ModelPath, Switch, default, find_model
from resnets.cli.output import print_json, print_message, print_result, print_table
from resnets.data.file_limits import MAX_PIXELS
from resnets.errors import StoppedError, UserError

if TYPE_CHECKING:
    from resnets.evaluation.metrics import Interval, Scores


@dataclass(frozen=True)
class Evaluate:
    """Score a model file on images with known classes. Classes are matched by name.

    for example:
      resnets evaluate runs/photos-001 held-out/
      resnets evaluate model.safetensors labels.csv --format json
    """

    model: ModelPath
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """images, as for `resnets train`"""
    split: Annotated[str | None, default("test, else val; all images without splits")] = None
    """split of DATA to score: train, val or test"""
    format: Literal["table", "json"] = "table"
    """table for people, or one JSON document on standard output"""
    report: Annotated[Path | None, default("no page")] = None
    """folder for a page with charts and the worst mistakes"""
    workers: int = 2
    """processes that decode images when they do not fit in memory"""
    max_corrupt: float = 0.01
    """largest share of unreadable images, 0 to 1"""
    columns: Annotated[str | None, default("by their usual names")] = None
    """columns of a table, as path=image_id,label=breed"""
    allow_outside: Switch = False
    """read images that a table names outside its own folder"""
    max_pixels: int = MAX_PIXELS
    """most pixels of an image; larger JPEGs are decoded at a part of their size"""
    device: Device = "auto"
    """where to compute"""
    quiet: Switch = False
    """print the scores only"""

    def run(self, started: float) -> int:
        if self.workers < 0:
            raise UserError(f"--workers {self.workers}: must be 0 or more")
        find_model(self.model)
        from resnets import api
        from resnets.cli.progress import Display

        failure = None
        with Display(quiet=self.quiet) as display:
            try:
                scores = api.evaluate(
                    self.model,
                    self.data,
                    split=self.split,
                    device=self.device,
                    workers=self.workers,
                    max_corrupt=self.max_corrupt,
                    columns=self.columns,
                    allow_outside=self.allow_outside,
                    max_pixels=self.max_pixels,
                    report=self.report,
                    log=display,
                )
            except StoppedError as error:
                if error.result is None:
                    raise
                scores, failure = error.result, error
        if self.format == "json":
            cautions = {"cautions": display.cautions} if display.cautions else {}
            print_json(scores.to_dict() | cautions)
        else:
            _print_scores(scores)
            for text in display.cautions:
                print_result(f"caution: {text}")
        if failure is not None:
            raise failure
        if self.report is not None and not self.quiet:
            print_message(f"report {self.report / 'report.html'}")
        return 0


def _print_scores(scores: "Scores") -> None:
    rows = {
        "images": f"{scores.num_images:,}",
        "top-1": _with_interval(scores.top1, scores.top1_interval),
        "top-5": "- (fewer than six classes)",
        "balanced accuracy": f"{scores.balanced_accuracy:.2%}",
        "loss": f"{scores.loss:.4f}",
        "calibration error": f"{scores.calibration_error:.2%}",
    }
    if scores.top5 is not None and scores.top5_interval is not None:
        rows["top-5"] = _with_interval(scores.top5, scores.top5_interval)
    for name, value in rows.items():
        print_result(f"{name:18} {value}")
    table = [
        (row.name, f"{row.num_images:,}", _percent(row.recall), _percent(row.precision))
        for row in scores.per_class
    ]
    print_table(("class", "images", "recall", "precision"), "lrrr", table)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _with_interval(value: float, interval: "Interval") -> str:
    return f"{value:.2%}   (95 % interval {interval[0]:.2%} to {interval[1]:.2%})"
