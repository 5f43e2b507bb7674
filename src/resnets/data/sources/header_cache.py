"""Provide the headers of image files, read once and cached.

As in git's index, files are always listed again, and a cached header is used only where name, size
and both times of its file are identity. Losing the cache costs time only.
"""

from __future__ import annotations

import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from resnets.data.decode import DecodeError, inspect
from resnets.data.file_store import Array, ImageStore, PackedStrings
from resnets.fileio import atomic_writer, cache_dir, sha256

# Number of files from which headers are cached; fewer are read again in a second.
REMEMBERED_FROM = 10_000
# Age in ns from which a file is cached: a younger one may change within one tick of its times.
SETTLED = 2 * 10**9
_CHUNK = 256


def read_headers(
    files: ImageStore, *, source: str, stamps: Array
) -> tuple[Array, dict[int, str], tuple[str, ...]]:
    """Read the headers of all files.

    Returns:
        Width, height and channels, N 3 int32 (0 where unreadable), the reason of each unreadable
        index, and notices for the user.
    """
    place = cache_dir("indexes", f"{sha256(os.fsencode(source))}.npz")
    large = len(stamps) >= REMEMBERED_FROM
    begin = time.time_ns()
    headers = (
        remembered(place, files.names, stamps) if large else np.zeros((len(stamps), 3), np.int32)
    )
    missing = np.flatnonzero(headers[:, 2] == 0)
    reasons = _read(files, missing, headers)
    notices: tuple[str, ...] = ()
    if large and len(missing) > len(reasons):  # else there is nothing new
        settled = stamps[:, 1:].max(axis=1) < begin - SETTLED
        try:
            remember(place, files.names, stamps, headers * settled[:, None])
        except OSError as error:
            notices = (
                f"the headers of {source} could not be cached ({error}): "
                "the next start reads them again",
            )
    return headers, reasons, notices


def _read(files: ImageStore, indices: Array, headers: Array) -> dict[int, str]:
    """Fill `headers` at `indices`; return the reasons of those that cannot be read."""

    def read(start: int) -> dict[int, str]:
        reasons = {}
        for index in indices[start : start + _CHUNK].tolist():
            try:
                header = inspect(files[index])
            except DecodeError as error:
                reasons[index] = error.reason
            else:
                headers[index] = header.width, header.height, header.channels
        return reasons

    with ThreadPoolExecutor(files.num_readers) as pool:
        found = pool.map(read, range(0, len(indices), _CHUNK))
        return {index: reason for reasons in found for index, reason in reasons.items()}


def remembered(place: Path, names: PackedStrings, stamps: Array) -> Array:
    """Return the cached headers N 3 int32 of identity files, 0 for all others."""
    headers = np.zeros((len(stamps), 3), np.int32)
    try:
        with place.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            known = PackedStrings(file["names"].tobytes(), file["starts"], file["ends"])
            old_stamps, old_headers = file["stamps"], file["headers"]
    # Absent or damaged: the zip has checksums.
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error):
        return headers
    now, before = _shared(names, known)
    same = (stamps[now] == old_stamps[before]).all(axis=1)
    headers[now[same]] = old_headers[before[same]]
    return headers


def _shared(names: PackedStrings, known: PackedStrings) -> tuple[Array, Array]:
    """Return the places of common names in both lists."""
    if np.array_equal(names.ends, known.ends) and names.buffer == known.buffer:
        everywhere = np.arange(len(names))
        return everywhere, everywhere
    places = {name: place for place, name in enumerate(known.raws())}
    before = np.array([places.get(name, -1) for name in names.raws()], np.int64)
    now = np.flatnonzero(before >= 0)
    return now, before[now]


def remember(place: Path, names: PackedStrings, stamps: Array, headers: Array) -> None:
    """Write the cache; a concurrent reader finds the old one or the new one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    buffer = np.frombuffer(names.buffer, np.uint8)
    with atomic_writer(place) as file:
        np.savez(
            file, names=buffer, starts=names.starts, ends=names.ends, stamps=stamps, headers=headers
        )
