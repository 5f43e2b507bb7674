"""Provide `SourceListing`, what a source lists, and turn it into splits after reading all headers.

ImageStore whose headers cannot be read are left out and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from resnets.data.dataset import ImageFiles, Images, Split
from resnets.data.file_store import Array, ImageStore
from resnets.data.sources.header_cache import read_headers
from resnets.errors import UserError

Skipped: TypeAlias = tuple[tuple[str, str], ...]

_NUM_LISTED = 10


@dataclass(frozen=True, eq=False)
class SplitListing:
    """Hold the files of one split as their source lists them."""

    files: ImageStore
    targets: Array  # N int64, indices into the classes of `SourceListing`


@dataclass(frozen=True, eq=False)
class SourceListing:
    """Hold what a source lists, with the classes in the order of the source."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Images | SplitListing]
    notices: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()  # class folders without images
    source: str = ""  # absolute path of the source

    def labels(self, split: str) -> set[str]:
        """Return the classes of which a split has an image."""
        return {self.classes[target] for target in np.unique(self.splits[split].targets)}


def numbered(labels: Sequence[str], classes: Sequence[str]) -> Array:
    """Return the index of each label among the classes, N int64."""
    position = {name: index for index, name in enumerate(classes)}
    return np.fromiter((position[label] for label in labels), np.int64, len(labels))


def read_all_headers(
    found: SourceListing, *, max_corrupt: float
) -> tuple[dict[str, Split], Skipped, tuple[str, ...]]:
    """Read all headers.

    Returns:
        The splits, (id, reason) of each unreadable file, and notices for the user.

    Raises:
        UserError: More than the fraction `max_corrupt` of all files is unreadable.
    """
    splits: dict[str, Split] = {}
    skipped: list[tuple[str, str]] = []
    notices: tuple[str, ...] = ()
    for name, content in found.splits.items():
        if isinstance(content, Images):
            splits[name] = content
            continue
        splits[name], bad, new = _index(content, f"{found.source} {name}")
        skipped, notices = skipped + bad, notices + new
    total = sum(map(len, splits.values())) + len(skipped)
    if len(skipped) > max_corrupt * total:
        raise UserError(_too_many(skipped, total, max_corrupt))
    return splits, tuple(skipped), notices


def _index(
    listing: SplitListing, source: str
) -> tuple[ImageFiles, list[tuple[str, str]], tuple[str, ...]]:
    files, stamps = listing.files, listing.files.stamps()
    headers, reasons, notices = read_headers(files, source=source, stamps=stamps)
    bad = [(files.names[index], reason) for index, reason in sorted(reasons.items())]
    good = np.flatnonzero(headers[:, 2])
    split = ImageFiles(
        files=files.subset(good),
        targets=listing.targets[good],
        widths_heights=headers[good, :2],
        num_bytes=stamps[good, 0],
        channels=int(headers[good, 2].max(initial=0)) or 3,
    )
    return split, bad, notices


def _too_many(skipped: list[tuple[str, str]], total: int, max_corrupt: float) -> str:
    listing = "; ".join(f"{name} ({reason})" for name, reason in skipped[:_NUM_LISTED])
    more = len(skipped) - _NUM_LISTED
    return (
        f"{len(skipped)} of {total} images ({len(skipped) / total:.1%}) cannot be read, more than "
        f"--max-corrupt {max_corrupt:g} allows: {listing}"
        f"{f'; and {more} more' if more > 0 else ''}. "
        "Repair or remove them, or raise --max-corrupt"
    )
