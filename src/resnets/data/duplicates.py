"""Find images of equal content: equal bytes of files, or equal pixels in memory.

A cheap number proposes what may be equal (size and shape of a file, a sum over the pixels); the
digest of the whole content decides.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from resnets.data.dataset import ImageFiles, Images, Split, Splits
from resnets.data.file_store import Array
from resnets.fileio import open_file

# An image: the name of its split and its index there.
Place = tuple[str, int]
# Images that are hashed at a time, so that no large temporary array is made.
_CHUNK = 256


def exact_copies(splits: Mapping[str, Split]) -> list[tuple[Place, ...]]:
    """Return the groups of images of equal content, in the order of their first image.

    Images in memory are equal by their pixels, files by their bytes; only files whose sizes and
    headers agree are read.
    """
    prints = np.concatenate([_fingerprints(split) for split in splits.values()])
    names, starts = list(splits), np.cumsum([0, *map(len, splits.values())])
    groups: dict[bytes, list[Place]] = defaultdict(list)
    for position in np.flatnonzero(_repeated(prints)).tolist():
        which = int(np.searchsorted(starts, position, side="right")) - 1
        name, index = names[which], position - int(starts[which])
        if digest := content_digest(splits[name], index):
            groups[digest].append((name, index))
    return [tuple(group) for group in groups.values() if len(group) > 1]


def copy_warnings(splits: Splits) -> tuple[list[str], list[str]]:
    """Return notices of copies among the training images, and cautions of images in two splits."""
    named: dict[str, Split] = {"training": splits.train, "validation": splits.val}
    if splits.test is not None and splits.test is not splits.val:
        named["test"] = splits.test
    copies = exact_copies(named)
    repeated = sum(max(0, sum(name == "training" for name, _ in group) - 1) for group in copies)
    notices, cautions = [], []
    if repeated:
        notices.append(
            f"{repeated:,} of {len(splits.train):,} training images are copies of others: "
            "`resnets check DATA` lists them"
        )
    for name in list(named)[1:]:
        before = list(named)[: list(named).index(name)]
        for other in before:
            leaked = sum(
                sum(place[0] == name for place in group)
                for group in copies
                if any(place[0] == other for place in group)
            )
            if leaked:
                cautions.append(
                    f"{leaked:,} of {len(named[name]):,} {name} images are also {other} images: "
                    "the score is optimistic; `resnets check DATA` lists them"
                )
    return notices, cautions


def content_digest(split: Split, index: int) -> bytes:
    """Return the digest of an image's pixels or of its file's bytes; empty where unreadable."""
    if isinstance(split, Images):
        pixels = np.ascontiguousarray(split.pixels[index])
        return hashlib.blake2b(pixels.data, digest_size=16, salt=_shape_salt(pixels)).digest()
    content = file_content(split, index)
    return hashlib.blake2b(content, digest_size=16).digest() if content else b""


def file_content(split: ImageFiles, index: int) -> bytes:
    """Return the bytes of an image's file; empty where it cannot be read."""
    file = split.files[index]
    if isinstance(file, bytes):
        return file
    try:
        with open_file(file) as opened:
            return opened.read()
    except OSError:
        return b""


def _shape_salt(pixels: Array) -> bytes:
    return b"%x,%x,%x" % pixels.shape[:3] if max(pixels.shape) < 2**16 else b""


def _fingerprints(split: Split) -> Array:
    """Return a number for each image, N uint64; images of equal content have equal numbers."""
    if isinstance(split, ImageFiles):
        parts = np.column_stack([split.num_bytes, split.sizes]).astype(np.uint64)
        return _weighted_sums(parts)
    rows = split.pixels.reshape(len(split), -1)
    even = rows.shape[1] // 8 * 8
    sums = [
        _weighted_sums(np.ascontiguousarray(rows[i : i + _CHUNK, :even]).view(np.uint64))
        + _weighted_sums(rows[i : i + _CHUNK, even:].astype(np.uint64), seed=1)
        for i in range(0, len(rows), _CHUNK)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *sums])


def _weighted_sums(words: Array, *, seed: int = 0) -> Array:
    """Return the sum of each row N W with odd weights, modulo 2**64."""
    weights = np.random.PCG64(seed).random_raw(words.shape[1]) | np.uint64(1)
    sums: Array = words @ weights
    return sums


def _repeated(values: Array) -> Array:
    """Return for each value whether it occurs more than once, N bool."""
    ordered = np.argsort(values, kind="stable")
    same = values[ordered[1:]] == values[ordered[:-1]]
    found = np.zeros(len(values), np.bool_)
    found[ordered[1:]] |= same
    found[ordered[:-1]] |= same
    return found
