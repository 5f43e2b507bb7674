"""Run all checks of a data set, and write what was asked for: the page, the clean manifest."""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnets.audit.check_page import write_check
from resnets.audit.clean_manifest import (
    check_target,
    kept_rows,
    leaves_its_folder,
    write_clean,
)
from resnets.audit.copies import Copies, copy_findings, find_copies
from resnets.audit.findings import CheckReport, Finding, ImageRef
from resnets.audit.image_facts import (
    blank_images,
    class_findings,
    image_findings,
    unreadable_finding,
)
from resnets.audit.image_scan import SIDE, ScannedImages, scan_images
from resnets.audit.wrong_labels import find_wrong_labels
from resnets.data.dataset import DataSet
from resnets.data.file_store import Array
from resnets.errors import StoppedError

Log = Callable[[Mapping[str, Any]], None]

# Seconds between two lines of progress.
EVERY_SECONDS = 10.0
# Estimated share of wrong labels above which the classes look too much alike to be judged.
MOST_WRONG = 0.5
NEEDS_CLEANLAB = "wrong labels: needs cleanlab, pip install 'resnets[check]'"


@dataclass
class Checker:
    """Check a data set: `run` reads every image once and returns the report.

    Args:
        data: The data set, opened so that unreadable files are left out and listed.
        max_corrupt: Largest share of unreadable images that is no problem.
        device: Where the networks of the label check are trained.
        labels: Whether to look for wrong labels.
        out: Folder of the page and the JSON document, or None.
        clean: The manifest to write, or None.
        log: Called with records of progress, or None.
    """

    data: DataSet
    max_corrupt: float
    device: torch.device
    labels: bool = True
    out: Path | None = None
    clean: Path | None = None
    log: Log | None = None
    skipped: list[str] = field(default_factory=list)
    _line_time: float = field(default_factory=time.monotonic)

    def run(self) -> CheckReport:
        """Check the data set.

        Raises:
            UserError: The clean manifest cannot be written; nothing is written then.
            StoppedError: The page cannot be written; its `result` is the report.
        """
        if self.clean is not None:
            check_target(self.clean, self.data)
        for text in self.data.notices:  # such as files that are left out
            self._progress(text, always=True)
        scan = scan_images(self.data, progress=self._count)
        blank = blank_images(scan)
        copies = find_copies(scan, blank, progress=self._progress)
        findings = [
            *unreadable_finding(
                self.data, scan, self._reference(scan), max_corrupt=self.max_corrupt
            ),
            *copy_findings(copies, scan, self._reference(scan)),
            *class_findings(self.data, scan),
            *self._label_findings(scan, blank, copies),
            *image_findings(scan, blank, self._reference(scan)),
        ]
        report = CheckReport(
            name=self.data.name,
            classes=self.data.classes,
            split_sizes={name: len(split) for name, split in self.data.splits.items()},
            findings=tuple(sorted(findings, key=lambda found: found.level != "problem")),
            skipped=tuple(self.skipped),
        )
        if self.clean is not None:
            kept = kept_rows(scan, copies)
            write_clean(self.clean, self.data, scan, kept)
            flag = " --allow-outside" if leaves_its_folder(self.clean, self.data) else ""
            self._progress(
                f"{self.clean} lists {int(kept.sum()):,} images: "
                f"resnets train {shlex.quote(str(self.clean))}{flag}",
                always=True,
            )
        if self.out is not None:
            try:
                write_check(self.out, report, self.data, clean=self.clean)
            except OSError as error:
                reason = error.strerror or error
                stopped = StoppedError(f"--out {self.out}: {reason}; give another folder")
                stopped.result = report
                raise stopped from error
        return report

    def _label_findings(
        self, scan: ScannedImages, blank: Array, copies: list[Copies]
    ) -> list[Finding]:
        """Return the likely wrong labels; note in `skipped` why there are none to be had."""
        if not self.labels:
            self.skipped.append("wrong labels: left out by --no-labels")
            return []
        if find_spec("cleanlab") is None:
            self.skipped.append(NEEDS_CLEANLAB)
            return []
        rows = np.flatnonzero(scan.readable & ~blank)
        groups = np.arange(len(scan))
        for group in copies:
            groups[list(group.rows)] = group.rows[0]
        issues = find_wrong_labels(
            scan.thumbnails[rows],
            scan.targets[rows],
            groups[rows],
            device=self.device,
            progress=self._progress,
        )
        if issues is None:
            self.skipped.append("wrong labels: too few images of a class to tell")
            return []
        if issues.share > MOST_WRONG:
            self.skipped.append(f"wrong labels: at {SIDE} pixels the classes look too much alike")
            return []
        if not len(issues.rows):
            return []
        names, refer = self.data.classes, self._reference(scan)
        found = [
            (refer(int(rows[row]), f"looks like {names[answer]}"),)
            for row, answer in zip(issues.rows.tolist(), issues.suggested.tolist(), strict=True)
        ]
        images = f"{len(found):,} {'image' if len(found) == 1 else 'images'}"
        return [
            Finding(
                kind="wrong-label",
                level="notice",
                title=f"{images} with a label that is probably wrong",
                advice=f"About {issues.share:.1%} of all labels are estimated to be wrong. As many "
                "images are listed, the most doubtful first; up to half of their labels may be "
                "right. They are judged by their patches, which predict "
                f"{issues.accuracy:.0%} of all labels unseen, and by a small network. Look at "
                "each before you change it.",
                groups=tuple(found),
            )
        ]

    def _reference(self, scan: ScannedImages) -> Callable[[int, str], ImageRef]:
        """Return the function that makes a row of the scan a part of a finding."""

        def refer(row: int, detail: str) -> ImageRef:
            split = scan.split_of(row)
            index, target = int(scan.index[row]), int(scan.targets[row])
            name = self.data.splits[split].ids[index]
            return ImageRef(name, split, self.data.classes[target], detail, index)

        return refer

    def _count(self, done: int, total: int) -> None:
        if done == total:
            self._progress(f"read {total:,} images", always=True)
        else:
            self._progress(f"read {done:,} of {total:,} images")

    def _progress(self, text: str, *, always: bool = False) -> None:
        """Log a line, at most one every few seconds."""
        now = time.monotonic()
        if self.log is not None and (always or now - self._line_time >= EVERY_SECONDS):
            self._line_time = now
            self.log({"kind": "notice", "text": text})
