"""What a source lists -> `Images` and `ImageFiles`, after a look at every header.

Enters: `Found`, a reader's list of files (or ready arrays) with the numbers of their classes.
Leaves: the parts, without the files that cannot be read, and the list of those. Only headers are
read; a file that is damaged further in is found when it is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from resnets.data.dataset import ImageFiles, Images, Split
from resnets.data.file_store import Files
from resnets.data.packed_strings import Array
from resnets.data.sources.header_cache import read_headers
from resnets.errors import UserError

Skipped: TypeAlias = tuple[tuple[str, str], ...]

_NUM_LISTED = 10


@dataclass(frozen=True, eq=False)
class Listing:
    """The files of one part as their source lists them."""

    files: Files
    targets: Array  # N int64, indices into the classes of `Found`


@dataclass(frozen=True, eq=False)
class Found:
    """What a reader found, with the classes in the order its source gives them."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Images | Listing]
    notices: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()  # class folders without images
    source: str = ""  # the absolute path of what lists files

    def labels(self, part: str) -> set[str]:
        """The classes of which `part` has an image."""
        return {self.classes[target] for target in np.unique(self.splits[part].targets)}


def numbered(labels: Sequence[str], classes: Sequence[str]) -> Array:
    """The index of each label among the classes, N int64."""
    position = {name: index for index, name in enumerate(classes)}
    return np.fromiter((position[label] for label in labels), np.int64, len(labels))


def index_parts(
    found: Found, *, max_corrupt: float
) -> tuple[dict[str, Split], Skipped, tuple[str, ...]]:
    """The parts, (id, reason) of the files that were skipped, and what to tell the user.

    Raises UserError with the list if more than the fraction `max_corrupt` of all is unreadable.
    """
    parts: dict[str, Split] = {}
    skipped: list[tuple[str, str]] = []
    notices: tuple[str, ...] = ()
    for name, content in found.splits.items():
        if isinstance(content, Images):
            parts[name] = content
            continue
        parts[name], bad, told = _index(content, f"{found.source} {name}")
        skipped, notices = skipped + bad, notices + told
    total = sum(map(len, parts.values())) + len(skipped)
    if len(skipped) > max_corrupt * total:
        raise UserError(_too_many(skipped, total, max_corrupt))
    return parts, tuple(skipped), notices


def _index(
    listing: Listing, source: str
) -> tuple[ImageFiles, list[tuple[str, str]], tuple[str, ...]]:
    files, stamps = listing.files, listing.files.stamps()
    headers, reasons, notices = read_headers(files, source=source, stamps=stamps)
    bad = [(files.names[index], reason) for index, reason in sorted(reasons.items())]
    good = np.flatnonzero(headers[:, 2])
    part = ImageFiles(
        files=files.subset(good),
        targets=listing.targets[good],
        widths_heights=headers[good, :2],
        num_bytes=stamps[good, 0],
        channels=int(headers[good, 2].max(initial=0)) or 3,
    )
    return part, bad, notices


def _too_many(skipped: list[tuple[str, str]], total: int, max_corrupt: float) -> str:
    listing = "; ".join(f"{name} ({reason})" for name, reason in skipped[:_NUM_LISTED])
    more = len(skipped) - _NUM_LISTED
    return (
        f"{len(skipped)} of {total} images ({len(skipped) / total:.1%}) cannot be read, more than "
        f"--max-corrupt {max_corrupt:g} allows: {listing}"
        f"{f'; and {more} more' if more > 0 else ''}. "
        "Repair or remove them, or raise --max-corrupt"
    )
