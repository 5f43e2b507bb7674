"""Find near duplicates: images that are the same up to compression, size, brightness or rotation.

Perceptual hashes (pHash, the bits of imagehash.phash) propose pairs. Of those whose spectra agree,
a pair counts if the edges of both thumbnails agree too, where the sharper one may be blurred first:
a resized copy is a blurred one, a look-alike is not. Each image is compared in eight orientations.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnets.data.workers import usable_cpus

Bytes = NDArray[np.uint8]  # N S S 3
Floats = NDArray[np.float32]
Pairs = NDArray[np.int64]  # P 2

# Bits of 64 in which the hashes of a copy differ at most. Measured on 1,000 images of CIFAR-10 and
# of Fashion-MNIST, recompressed at quality 70, resized to 0.9 and back, 5 % brighter, and all three
# at once: at most 10.
MAX_BITS = 10
# Cosine of the spectra from which a pair may be a copy. Copies as above: 0.972 and more. Of the
# 38,000 pairs of 5,000 images of clothes with like hashes, 166 have as much.
MIN_SPECTRUM = 0.97
# Correlation of the edges from which two thumbnails show one picture. Copies as above: 0.93 and
# more; of 3 million pairs of clothes that are no copies, a handful.
MIN_EDGES = 0.93
# Orientations in which a copy is looked for: as it is, three turns, and the same mirrored.
ORIENTATIONS = (
    "",
    "rotated by 90 degrees",
    "rotated by 180 degrees",
    "rotated by 270 degrees",
    "mirrored",
    "mirrored and rotated by 90 degrees",
    "mirrored upside down",
    "mirrored and rotated by 270 degrees",
)
# Frequencies a side of the hash, and of the spectrum.
_HASHED, _COMPARED = 8, 12
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
# Pairs whose hashes are compared at a time.
_BLOCK = 2**21
_BITS = np.array([bin(value).count("1") for value in range(2**16)], np.uint8)


@dataclass(frozen=True, eq=False)
class Prints:
    """What N thumbnails are compared by."""

    hashes: NDArray[np.uint64]  # N
    spectra: Floats  # N D, of unit length
    grey: Floats  # N S S

    @classmethod
    def of(cls, images: Bytes) -> "Prints":
        """Compute the prints of thumbnails N S S 3."""
        grey = np.rint(images.astype(np.float32) @ _GREY)
        side = images.shape[1]
        steps = np.arange(side)
        waves = np.cos(np.pi * np.outer(steps[:_COMPARED], 2 * steps + 1) / (2 * side))
        frequencies = waves.astype(np.float32) @ grey @ waves.T.astype(np.float32)  # N F F
        lowest = frequencies[:, :_HASHED, :_HASHED].reshape(len(images), -1)
        bits = lowest > np.median(lowest, axis=1, keepdims=True)
        # Weights as of a derivative: brightness and slow gradients count less than edges.
        weights = np.hypot(*np.meshgrid(steps[:_COMPARED], steps[:_COMPARED])).astype(np.float32)
        spectra = (frequencies * weights).reshape(len(images), -1)
        return cls(np.packbits(bits, axis=1).view(np.uint64)[:, 0], _unit(spectra), grey)


def near_duplicates(
    images: Bytes, *, progress: Callable[[int, int], None]
) -> tuple[Pairs, NDArray[np.int64]]:
    """Find the pairs of thumbnails that show one picture.

    Args:
        images: uint8 N S S 3.
        progress: Called with the number of orientations done and of all.

    Returns:
        Pairs of indices P 2, the smaller one first, each pair once; and the index into
        ORIENTATIONS in which the second image agrees with the first, P.
    """
    if len(images) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    upright = Prints.of(images)
    found: dict[tuple[int, int], int] = {}
    for orientation in range(len(ORIENTATIONS)):
        turned = Prints.of(oriented(images, orientation)) if orientation else upright
        for pairs in _agreeing(upright, turned):
            for first, second in pairs.tolist():
                found.setdefault((first, second), orientation)
        progress(orientation + 1, len(ORIENTATIONS))
    ordered = sorted(found)
    pairs = np.array(ordered, np.int64).reshape(-1, 2)
    return pairs, np.array([found[pair] for pair in ordered], np.int64)


def oriented(images: Bytes, orientation: int) -> Bytes:
    """Return the images N S S 3 in one of ORIENTATIONS."""
    mirrored = images[:, :, ::-1] if orientation >= 4 else images
    return np.rot90(mirrored, -(orientation % 4), axes=(1, 2))


def _agreeing(one: Prints, other: Prints) -> Iterator[Pairs]:
    """Yield the pairs i < j in which image i of `one` agrees with image j of `other`."""
    total = len(one.hashes)
    rows = max(1, _BLOCK // max(total, 1))

    def search(start: int) -> Pairs:
        differing = one.hashes[start : start + rows, None] ^ other.hashes[None, start + 1 :]
        pairs = np.argwhere(count_bits(differing) <= MAX_BITS) + np.array([start, start + 1])
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        left, right = pairs.T
        pairs = pairs[(one.spectra[left] * other.spectra[right]).sum(1) >= MIN_SPECTRUM]
        left, right = pairs.T
        agreeing: Pairs = pairs[same_edges(one.grey[left], other.grey[right])]
        return agreeing

    with ThreadPoolExecutor(usable_cpus()) as pool:
        yield from pool.map(search, range(0, max(total - 1, 0), rows))


def count_bits(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the number of bits of each value that are set."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        counts: NDArray[np.uint8] = np.bitwise_count(values)
        return counts
    counts = _BITS[np.ascontiguousarray(values)[..., None].view(np.uint16)].sum(-1, dtype=np.uint8)
    return counts


def same_edges(one: Floats, other: Floats) -> NDArray[np.bool_]:
    """Return whether the edges of the pairs P S S agree, one of the two being blurred or not.

    Differences do not depend on brightness, and unit length not on contrast.
    """
    best = np.full(len(one), -1.0, np.float32)
    for sharp, soft in ((one, other), (other, one)):
        edges = _edges(sharp)
        for _ in range(3):  # as it is, blurred, blurred twice
            np.maximum(best, (edges * _edges(soft)).sum(1), out=best)
            soft = _blur(soft)
    agree: NDArray[np.bool_] = best >= MIN_EDGES
    return agree


def _blur(grey: Floats) -> Floats:
    """Blur by 1 2 1 in both directions."""
    wide = np.pad(grey, ((0, 0), (1, 1), (1, 1)), "edge")
    rows = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / 4
    blurred = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    return np.asarray(blurred, np.float32)


def _edges(grey: Floats) -> Floats:
    """Return the differences to the right and downwards, N D, of mean 0 and unit length."""
    across, down = np.diff(grey, axis=2), np.diff(grey, axis=1)
    shape = len(grey), grey.shape[1] * (grey.shape[1] - 1)
    flat = np.concatenate([across.reshape(shape), down.reshape(shape)], axis=1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit
