"""Provide the headers of image files, read once and cached, and the splits that they make.

As in git's index, files are always listed again, and a cached header is used only where name, size
and both times of its file are the same. Losing the cache costs time only.
"""

import os
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from resnets.data.dataset import ImageFiles, Images, Split, listed_reasons
from resnets.data.decode import ANIMATED, CMYK, LAB, PROFILE, TRAITS, DecodeError, inspect
from resnets.data.file_limits import MAX_PIXELS
from resnets.data.file_store import Array, ImageStore, PackedStrings
from resnets.data.sources.listing import SourceListing, SplitListing
from resnets.data.wide_pixels import KINDS
from resnets.errors import UserError
from resnets.fileio import atomic_writer, cache_dir, sha256

# Number of files from which headers are cached; fewer are read again in a second.
REMEMBERED_FROM = 10_000
# Age in ns from which a file is cached: a younger one may change within one tick of its times.
SETTLED = 2 * 10**9
_CHUNK = 256
# Sides in pixels below which an image is tiny, and longer to shorter side from which it is thin.
TINY_SIDE, THIN = 8, 20


def read_splits(
    found: SourceListing, *, max_corrupt: float, max_pixels: int = MAX_PIXELS
) -> tuple[dict[str, Split], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the splits, (id, reason) of each unreadable file, and notices for the user.

    Raises UserError where more than the fraction `max_corrupt` of all files is unreadable.
    """
    splits: dict[str, Split] = {}
    skipped: list[tuple[str, str]] = []
    notices: list[str] = []
    traits = Counter[str]()
    for name, listing in found.splits.items():
        if isinstance(listing, Images):
            splits[name] = listing
        else:
            place = f"{found.source} {name}"
            splits[name] = _read_split(listing, place, skipped, notices, traits, max_pixels)
    total = sum(map(len, splits.values())) + len(skipped)
    if len(skipped) > max_corrupt * total:
        raise UserError(
            f"{len(skipped)} of {total} images ({len(skipped) / total:.1%}) cannot be read, more "
            f"than --max-corrupt {max_corrupt:g} allows: {listed_reasons(dict(skipped))}. "
            "Repair or remove them, or raise --max-corrupt"
        )
    files = [split for split in splits.values() if isinstance(split, ImageFiles)]
    return splits, tuple(skipped), (*notices, *_converted(traits), *_odd_sizes(files))


def _converted(traits: Counter[str]) -> list[str]:
    """Return notices on what decoding leaves out or converts."""
    notices = []
    if number := traits[ANIMATED]:
        notices.append(f"{_images(number)} with several frames or pages: the first one is used")
    if colours := [f"{traits[kind]:,} {kind}" for kind in (CMYK, LAB) if traits[kind]]:
        notices.append(f"images converted to RGB, without profiles: {', '.join(colours)}")
    if number := traits[PROFILE]:
        notices.append(f"{_images(number)} with a profile other than sRGB: colours stay as stored")
    return notices


def _odd_sizes(splits: list[ImageFiles]) -> list[str]:
    """Return a notice on tiny or thin images, unless all are so."""
    sizes = np.concatenate([np.empty((0, 2), np.int32), *(split.sizes for split in splits)])
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)
    found = []
    for odd, what in (
        (shorter < TINY_SIDE, f"less than {TINY_SIDE} pixels wide or high"),
        (longer >= THIN * shorter, f"longer than {THIN}:1"),
    ):
        if 0 < odd.sum() < len(odd):
            found.append(f"{odd.sum():,} {what}")
    return [f"tiny or thin images, enlarged for the network: {', '.join(found)}"] if found else []


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number:,} images"


def _read_split(
    listing: SplitListing,
    source: str,
    skipped: list[tuple[str, str]],
    notices: list[str],
    traits: Counter[str],
    max_pixels: int,
) -> ImageFiles:
    """Return the readable files of a split; add the others to `skipped`."""
    files, stamps = listing.files, listing.files.stamps()
    large = len(stamps) >= REMEMBERED_FROM
    begin = time.time_ns()
    # Width, height, channels (0 where unreadable), the place of the depth in KINDS, a bit a trait.
    headers = np.zeros((len(stamps), 5), np.int32)
    if large:
        _recall(source, files.names, stamps, headers)
        large_images = headers[:, 0].astype(np.int64) * headers[:, 1] > max_pixels
        headers[large_images] = 0  # the limit may have been another
    missing = np.flatnonzero(headers[:, 2] == 0)
    reasons = _read(files, missing, headers, max_pixels)
    skipped += [(files.names[index], reason) for index, reason in sorted(reasons.items())]
    if large and len(missing) > len(reasons):  # else there is nothing new
        settled = stamps[:, 1:].max(axis=1) < begin - SETTLED
        try:
            _remember(source, files.names, stamps, headers * settled[:, None])
        except (OSError, UserError) as error:
            notices.append(
                f"the headers of {source} could not be cached ({error}): "
                "the next start reads them again"
            )
    good = np.flatnonzero(headers[:, 2])
    for bit, trait in enumerate(TRAITS):
        traits[trait] += int(np.count_nonzero(headers[good, 4] & 1 << bit))
    return ImageFiles(
        files=files.subset(good),
        targets=listing.targets[good],
        sizes=headers[good, :2],
        num_bytes=stamps[good, 0],
        channels=int(headers[good, 2].max(initial=0)) or 3,
        depths=headers[good, 3].astype(np.uint8) if headers[good, 3].any() else None,
        max_pixels=max_pixels,
    )


def _read(files: ImageStore, indices: Array, headers: Array, max_pixels: int) -> dict[int, str]:
    """Fill `headers` at `indices`; return the reasons of those that cannot be read."""
    reasons: dict[int, str] = {}

    def read(start: int) -> None:
        for index in indices[start : start + _CHUNK].tolist():
            try:
                header = inspect(files[index], max_pixels=max_pixels)
                bits = sum(1 << TRAITS.index(trait) for trait in header.traits)
                headers[index] = *header[:3], KINDS.index(header.depth), bits
            except DecodeError as error:
                reasons[index] = error.reason

    with ThreadPoolExecutor(files.num_readers) as pool:
        list(pool.map(read, range(0, len(indices), _CHUNK)))
    return reasons


def _place(source: str) -> Path:
    return cache_dir("indexes", f"{sha256(os.fsencode(source))}.npz")


def _recall(source: str, names: PackedStrings, stamps: Array, headers: Array) -> None:
    """Fill the headers of files that have not changed since they were cached.

    The name `headers_3` is that of the third format, which has the traits of the images; caches of
    earlier ones are not used.
    """
    try:
        with _place(source).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            known = PackedStrings(file["names"].tobytes(), file["starts"], file["ends"])
            old_stamps, old_headers = file["stamps"], file["headers_3"]
    # Absent, damaged (the zip has checksums), of an earlier version, or there is no cache at all.
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error):
        return
    if np.array_equal(names.ends, known.ends) and names.buffer == known.buffer:
        before = np.arange(len(names))
    else:
        places = {name: place for place, name in enumerate(known.raws())}
        before = np.array([places.get(name, -1) for name in names.raws()], np.int64)
    now = np.flatnonzero(before >= 0)
    same = now[(stamps[now] == old_stamps[before[now]]).all(axis=1)]
    headers[same] = old_headers[before[same]]


def _remember(source: str, names: PackedStrings, stamps: Array, headers: Array) -> None:
    """Write the cache; a concurrent reader finds the old one or the new one."""
    place = _place(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    buffer = np.frombuffer(names.buffer, np.uint8)
    with atomic_writer(place) as file:
        np.savez(
            file,
            names=buffer,
            starts=names.starts,
            ends=names.ends,
            stamps=stamps,
            headers_3=headers,
        )
