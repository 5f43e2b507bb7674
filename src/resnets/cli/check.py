"""Provide `resnets check`: look for what would spoil a score, before training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.cli.flags import Device, Switch, default
from resnets.cli.output import print_json, print_message, print_result
from resnets.data.sources.source_config import SourceConfig
from resnets.errors import StoppedError, UserError

if TYPE_CHECKING:
    from resnets.audit.findings import CheckReport

# Exit code where something was found that would spoil a score.
FOUND = 1
# Images of a finding that the table names.
NUM_NAMED = 3


@dataclass(frozen=True)
class Check:
    """Look for copies, leaks, wrong labels and broken images. DATA are never changed.

    Exits with 1 where something would spoil a score: one picture in two splits or in two classes,
    too many unreadable images, a split without a class.

    for example:
      resnets check photos/
      resnets check photos/ --no-labels --write-clean clean.csv
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """images, as for `resnets train`"""
    labels: bool = True
    """look for wrong labels, the part that takes minutes"""
    out: Annotated[Path | None, default("runs/check-NAME")] = None
    """folder for a page with pictures and check.json"""
    write_clean: Annotated[Path | None, default("none")] = None
    """write a manifest (.csv) without copies, leaks and unreadable images"""
    format: Literal["table", "json"] = "table"
    """table for people, or one JSON document on standard output"""
    source: SourceConfig = field(default_factory=SourceConfig)
    device: Device = "auto"
    """where to train the networks that look for wrong labels"""
    quiet: Switch = False
    """print the findings only"""

    def run(self, started: float) -> int:
        from resnets import api
        from resnets.audit.check_page import PAGE, is_inside
        from resnets.cli.progress import Display
        from resnets.data.sources.builtin import NAMES

        folder = self.out
        if folder is None:
            name = Path(self.data).expanduser().resolve().stem or "data"
            folder = Path("runs", f"check-{self.data if self.data in NAMES else name}")
            if is_inside(folder, self.data):
                raise UserError(
                    "the page would be written into the data, which a check never changes: "
                    "pass --out FOLDER outside them"
                )
        stopped: StoppedError | None = None
        with Display(quiet=self.quiet) as display:
            try:
                report = api.check_data(
                    self.data,
                    labels=self.labels,
                    out=folder,
                    write_clean=self.write_clean,
                    device=self.device,
                    log=display,
                    **vars(self.source),
                )
            except StoppedError as error:
                if error.result is None:
                    raise
                stopped, report = error, error.result
        if self.format == "json":
            print_json(report.to_dict())
        else:
            _print_findings(report)
        if stopped is not None:
            raise stopped  # after the findings, which took minutes
        if not self.quiet:
            print_message(f"page {folder / PAGE}")
        return 0 if report.ok else FOUND


def _print_findings(report: "CheckReport") -> None:
    sizes = ", ".join(f"{count:,} {name}" for name, count in report.split_sizes.items())
    print_result(f"{report.name}: {len(report.classes):,} classes; images: {sizes}")
    for finding in report.findings:
        print_result(f"{finding.level}: {finding.title}")
        for group in finding.groups[:NUM_NAMED]:
            images = [
                f"{image.id}{f' ({image.detail})' if image.detail else ''}"
                for image in group[:NUM_NAMED]
            ]
            more = len(group) - NUM_NAMED
            print_result(f"    {' = '.join(images)}{f' and {more} more' if more > 0 else ''}")
        if len(finding.groups) > NUM_NAMED:
            print_result(f"    and {len(finding.groups) - NUM_NAMED:,} more")
    for text in report.skipped:
        print_result(f"not checked: {text}")
    if report.ok:
        found = "worth a look" if report.findings else "nothing found"
        print_result(f"no problems; {found}")
    else:
        number = len(report.problems)
        print_result(f"{number} {'problem' if number == 1 else 'problems'} would spoil a score")
