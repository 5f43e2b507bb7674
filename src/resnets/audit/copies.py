"""Turn pairs of equal and of nearly equal images into groups, and groups into findings."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from resnets.audit.findings import Finding, ImageRef, Level
from resnets.audit.image_scan import ScannedImages
from resnets.audit.near_duplicates import ORIENTATIONS, near_duplicates
from resnets.data.file_store import Array

# A copy of these bytes has other bytes but the same pixels.
_SAME_PIXELS = "same pixels, another file"


@dataclass(frozen=True)
class Copies:
    """Images that show one picture.

    Args:
        rows: Their rows in the scan; the others are copies of the first.
        details: How each differs from the first: empty for equal bytes.
        exact: Whether all have the same pixels.
    """

    rows: tuple[int, ...]
    details: tuple[str, ...]
    exact: bool


def find_copies(
    scan: ScannedImages, blank: Array, *, progress: Callable[[str], None]
) -> list[Copies]:
    """Return all groups of copies; blank images are compared by their pixels only."""
    readable = np.flatnonzero(scan.readable)
    _, first, inverse = np.unique(scan.pixels[readable], return_index=True, return_inverse=True)
    original = np.arange(len(scan))
    original[readable] = readable[first][inverse]  # the first image with the same pixels
    exact = _grouped(original)
    groups = [
        Copies(
            rows=tuple(rows),
            details=tuple(
                "" if scan.contents[row] == scan.contents[rows[0]] else _SAME_PIXELS for row in rows
            ),
            exact=True,
        )
        for rows in exact
    ]
    unique = np.flatnonzero((original == np.arange(len(scan))) & scan.readable & ~blank)
    pairs, orientations = near_duplicates(
        scan.thumbnails[unique],
        progress=lambda done, total: progress(f"comparing images: orientation {done} of {total}"),
    )
    how = {
        (int(unique[a]), int(unique[b])): ORIENTATIONS[orientation]
        for (a, b), orientation in zip(pairs.tolist(), orientations.tolist(), strict=True)
    }
    members = defaultdict(list)
    for row, source in enumerate(original.tolist()):
        members[source].append(row)
    for near in _connected(how):
        rows = sorted(row for source in near for row in members[source])
        details = tuple(_detail(rows[0], int(original[row]), how) for row in rows)
        groups.append(Copies(tuple(rows), details, exact=False))
    return sorted(groups, key=lambda group: group.rows)


def _detail(first: int, source: int, how: dict[tuple[int, int], str]) -> str:
    """Say how an image differs from the first one of its group."""
    if source == first:
        return ""
    known = how.get((first, source))
    return "nearly the same" if known in ("", None) else str(known)


def _grouped(keys: Array) -> list[list[int]]:
    """Return the positions of each key that occurs more than once, ascending."""
    groups: dict[int, list[int]] = defaultdict(list)
    for position, key in enumerate(keys.tolist()):
        groups[key].append(position)
    return [group for group in groups.values() if len(group) > 1]


def _connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the sets of rows that pairs connect."""
    root: dict[int, int] = {}

    def find(row: int) -> int:
        while root.setdefault(row, row) != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for one, other in pairs:
        root[max(find(one), find(other))] = min(find(one), find(other))
    groups: dict[int, list[int]] = defaultdict(list)
    for row in sorted(root):
        groups[find(row)].append(row)
    return list(groups.values())


def copy_findings(
    groups: list[Copies], scan: ScannedImages, refer: Callable[[int, str], ImageRef]
) -> list[Finding]:
    """Return the findings: leaks, contradicting labels, and copies within a class and a split."""
    kinds: dict[str, list[Copies]] = defaultdict(list)
    for group in groups:
        rows, how = list(group.rows), "exact" if group.exact else "near"
        crossing = [
            kind
            for kind, values in (("leak", scan.which), ("contradiction", scan.targets))
            if len(np.unique(values[rows])) > 1
        ]
        for kind in crossing or ["duplicate"]:
            kinds[f"{how}-{kind}"].append(group)
    found = []
    for kind, (level, title, advice) in _TEXTS.items():
        if not kinds[kind]:
            continue
        rows = [row for group in kinds[kind] for row in group.rows]
        splits = " and ".join(name for name in scan.splits if name in map(scan.split_of, rows))
        found.append(
            Finding(
                kind=kind,
                level=level,
                title=title.format(
                    images=f"{len(rows):,}", groups=_count(len(kinds[kind])), splits=splits
                ),
                advice=advice,
                groups=tuple(tuple(map(refer, group.rows, group.details)) for group in kinds[kind]),
            )
        )
    return found


def _count(number: int) -> str:
    return f"{number:,} picture" if number == 1 else f"{number:,} pictures"


_LEAK_ADVICE = (
    "A network that has seen an image in training answers it from memory: the score is too high. "
    "Keep each picture in one split."
)
_CONTRADICTION_ADVICE = (
    "At most one of the labels is right, and no network can answer all of them. Correct the labels."
)
_LOOK_FIRST = "Look first: things of a simple shape can look alike without being copies."
_COPY_ADVICE = (
    "Copies weigh more in training, and a random split puts some into validation: "
    "the score is then too high. Keep one of each."
)
_TEXTS: dict[str, tuple[Level, str, str]] = {
    "exact-leak": (
        "problem",
        "{groups} in more than one split ({splits}): {images} images",
        _LEAK_ADVICE,
    ),
    "near-leak": (
        "problem",
        "{groups}, nearly the same, in more than one split ({splits}): {images} images",
        f"{_LEAK_ADVICE} {_LOOK_FIRST}",
    ),
    "exact-contradiction": (
        "problem",
        "{groups} in more than one class: {images} images",
        _CONTRADICTION_ADVICE,
    ),
    "near-contradiction": (
        "problem",
        "{groups}, nearly the same, in more than one class: {images} images",
        f"{_CONTRADICTION_ADVICE} {_LOOK_FIRST}",
    ),
    "exact-duplicate": (
        "notice",
        "{groups} more than once in one class: {images} images",
        _COPY_ADVICE,
    ),
    "near-duplicate": (
        "notice",
        "{groups} more than once in one class, nearly the same: {images} images",
        f"Recompressed, resized, brighter, rotated or mirrored. {_COPY_ADVICE} {_LOOK_FIRST}",
    ),
}
