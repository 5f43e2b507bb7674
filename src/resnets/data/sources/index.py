"""What a source lists -> `Images` and `ImageFiles`, after one look at every header.

Enters: `Found`, a reader's list of files (or ready arrays) with the names of their labels. Leaves:
the parts, without the files that cannot be read, and the list of those. Reading headers only costs
about 0.1 ms a file; a file that is damaged further in is found when it is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from resnets.data.decode import DecodeError, Header, inspect
from resnets.data.sources.parts import ImageFiles, Images, Part
from resnets.errors import UserError

Skipped: TypeAlias = tuple[tuple[str, str], ...]

_NUM_THREADS = 8  # headers wait for the disk, not for the processor
_CHUNK = 256
_NUM_LISTED = 10


@dataclass(frozen=True, slots=True)
class Listed:
    """One file as its source lists it."""

    id: str  # posix path relative to the source, or another name that is unique in it
    file: str | bytes
    label: str


@dataclass(frozen=True, eq=False)
class Found:
    """What a reader found: labels by name, in the order its source gives the classes."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Images | list[Listed]]
    notices: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()  # class folders without images

    def labels(self, part: str) -> set[str]:
        """The classes of which `part` has an image."""
        content = self.parts[part]
        if isinstance(content, Images):
            return {self.classes[target] for target in np.unique(content.targets)}
        return {listed.label for listed in content}


def index_parts(found: Found, *, max_bad: float) -> tuple[dict[str, Part], Skipped]:
    """The parts with targets in the order of `found.classes`, and (id, reason) of skipped files.

    Raises UserError with the list if more than the fraction `max_bad` of all files is unreadable.
    """
    parts: dict[str, Part] = {}
    skipped: list[tuple[str, str]] = []
    for name, content in found.parts.items():
        if isinstance(content, Images):
            parts[name] = content
        else:
            parts[name], bad = _index(content, found.classes)
            skipped += bad
    total = sum(map(len, parts.values())) + len(skipped)
    if len(skipped) > max_bad * total:
        raise UserError(_too_many(skipped, total, max_bad))
    return parts, tuple(skipped)


def _index(
    listed: list[Listed], classes: tuple[str, ...]
) -> tuple[ImageFiles, list[tuple[str, str]]]:
    headers = read_headers([entry.file for entry in listed])
    good = [
        (entry, header)
        for entry, header in zip(listed, headers, strict=True)
        if isinstance(header, Header)
    ]
    bad = [
        (entry.id, header)
        for entry, header in zip(listed, headers, strict=True)
        if isinstance(header, str)
    ]
    target = {label: index for index, label in enumerate(classes)}
    sizes = [(header.width, header.height) for _, header in good]
    files = ImageFiles(
        files=tuple(entry.file for entry, _ in good),
        targets=np.array([target[entry.label] for entry, _ in good], np.int64),
        ids=tuple(entry.id for entry, _ in good),
        widths_heights=np.array(sizes, np.int32).reshape(-1, 2),
        channels=max((header.channels for _, header in good), default=3),
    )
    return files, bad


def read_headers(files: Sequence[str | bytes]) -> list[Header | str]:
    """Each file's header, or the reason why it has none."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return [header for chunk in pool.map(_read_chunk, chunks) for header in chunk]


def _read_chunk(files: Sequence[str | bytes]) -> list[Header | str]:
    headers: list[Header | str] = []
    for file in files:
        try:
            headers.append(inspect(file))
        except DecodeError as error:
            headers.append(error.reason)
    return headers


def _too_many(skipped: list[tuple[str, str]], total: int, max_bad: float) -> str:
    listing = "; ".join(f"{name} ({reason})" for name, reason in skipped[:_NUM_LISTED])
    more = len(skipped) - _NUM_LISTED
    return (
        f"{len(skipped)} of {total} images ({len(skipped) / total:.1%}) cannot be read, more than "
        f"--max-bad {max_bad:g} allows: {listing}{f'; and {more} more' if more > 0 else ''}. "
        "Repair or remove them, or raise --max-bad"
    )
