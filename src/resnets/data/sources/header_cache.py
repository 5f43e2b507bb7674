"""Files -> the header of each, read once and remembered.

Enters: `Files` and the source they belong to. Leaves: N 3 widths, heights, channels, and why some
have none. The idea is git's index: listing a folder is quick and opening every file in it is not,
so files are always listed and looked at anew, and a header is taken from memory only where the
name, the size and both times of its file are what they were. A changed folder is never answered
from an old index; what is remembered can be lost without harm.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from resnets.data.decode import DecodeError, inspect
from resnets.data.file_store import Files
from resnets.data.packed_strings import Array, Names
from resnets.data.sources.cache_dir import data_home

REMEMBERED_FROM = 10_000  # files: fewer are read again in a second
SETTLED = (
    2 * 10**9
)  # ns: a file younger than a clock's tick may change without its times showing it
_CHUNK = 256


def read_headers(
    files: Files, *, source: str, stamps: Array
) -> tuple[Array, dict[int, str], tuple[str, ...]]:
    """N 3 int32 (0 where there is no header), index -> reason of those, and what to tell."""
    place = data_home() / "indexes" / f"{hashlib.sha256(os.fsencode(source)).hexdigest()}.npz"
    large = len(stamps) >= REMEMBERED_FROM
    begin = time.time_ns()
    headers = (
        remembered(place, files.names, stamps) if large else np.zeros((len(stamps), 3), np.int32)
    )
    missing = np.flatnonzero(headers[:, 2] == 0)
    reasons = _read(files, missing, headers)
    notices: tuple[str, ...] = ()
    if large and len(missing) > len(reasons):  # else nothing was learned
        settled = stamps[:, 1:].max(axis=1) < begin - SETTLED
        try:
            remember(place, files.names, stamps, headers * settled[:, None])
        except OSError as error:
            notices = (
                f"the headers of {source} could not be remembered ({error}): "
                "the next start reads them again",
            )
    return headers, reasons, notices


def _read(files: Files, indices: Array, headers: Array) -> dict[int, str]:
    """Fills `headers` at `indices`; why some could not be filled."""

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


def remembered(place: Path, names: Names, stamps: Array) -> Array:
    """N 3 int32: the headers of the files that are as they were, 0 for all others."""
    headers = np.zeros((len(stamps), 3), np.int32)
    try:
        with place.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            known = Names(file["names"].tobytes(), file["starts"], file["ends"])
            old_stamps, old_headers = file["stamps"], file["headers"]
    # Absent, or not what we wrote: the zip's own checksums see to that.
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error):
        return headers
    now, before = _shared(names, known)
    same = (stamps[now] == old_stamps[before]).all(axis=1)
    headers[now[same]] = old_headers[before[same]]
    return headers


def _shared(names: Names, known: Names) -> tuple[Array, Array]:
    """Where the names that occur in both lie in the one and in the other."""
    if np.array_equal(names.ends, known.ends) and names.buffer == known.buffer:
        everywhere = np.arange(len(names))
        return everywhere, everywhere
    places = {name: place for place, name in enumerate(known.raws())}
    before = np.array([places.get(name, -1) for name in names.raws()], np.int64)
    now = np.flatnonzero(before >= 0)
    return now, before[now]


def remember(place: Path, names: Names, stamps: Array, headers: Array) -> None:
    """Written beside and renamed, so that another process finds the old one or the new one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, path = tempfile.mkstemp(dir=place.parent, suffix=".part")
    try:
        with open(descriptor, "wb") as file:
            np.savez(
                file,
                names=np.frombuffer(names.buffer, np.uint8),
                starts=names.starts,
                ends=names.ends,
                stamps=stamps,
                headers=headers,
            )
        os.replace(path, place)
    except BaseException:
        os.unlink(path)
        raise
