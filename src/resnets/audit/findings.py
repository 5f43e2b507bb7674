"""Provide the records of a check: what was found, in which images, and how bad it is."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["problem", "notice"]


@dataclass(frozen=True)
class ImageRef:
    """One image in a finding.

    Args:
        id: Its name in the data set.
        split: "train", "val", "test" or "all".
        label: Its class.
        detail: What was found in it, as "3 x 2 pixels"; may be empty.
        index: Its index in the split; None for a file whose header cannot be read.
    """

    id: str
    split: str
    label: str
    detail: str = ""
    index: int | None = None


@dataclass(frozen=True)
class Finding:
    """One kind of fault.

    Args:
        kind: Its name in the JSON document, as "exact-leak".
        level: "problem" if it would spoil a score, else "notice".
        title: What was found, with its number, in one line.
        advice: What it means and what to do.
        groups: The images, those that belong together (copies of each other) in one group.
    """

    kind: str
    level: Level
    title: str
    advice: str
    groups: tuple[tuple[ImageRef, ...], ...] = ()

    @property
    def num_images(self) -> int:
        """Number of images in all groups."""
        return sum(map(len, self.groups))


@dataclass(frozen=True)
class CheckReport:
    """What `check_data` found in a data set.

    Args:
        name: Name of the data set.
        classes: Names of the classes.
        split_sizes: Number of images in each split, the unreadable ones included.
        findings: The problems first, then the notices.
        skipped: What was not checked, and why.
    """

    name: str
    classes: tuple[str, ...]
    split_sizes: dict[str, int]
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that would spoil a score."""
        return tuple(found for found in self.findings if found.level == "problem")

    @property
    def ok(self) -> bool:
        """Whether nothing would spoil a score."""
        return not self.problems

    def find(self, kind: str) -> Finding | None:
        """Return a finding by its kind.

        Args:
            kind: As in `Finding.kind`.

        Returns:
            The first finding of this kind, or None.
        """
        return next((found for found in self.findings if found.kind == kind), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the values of a JSON document."""
        return {"ok": self.ok, **asdict(self)}
