"""Provide random numbers as a pure function of (seed, epoch, sample index), without a generator.

SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) is a counter
passed through a bijective mixer, so any draw can be computed alone, in any order, by any process.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15  # step of the counter: 2^64 / golden ratio
MASK = 0xFFFFFFFFFFFFFFFF


class Draw(IntEnum):
    """Number the draws of a sample; a new purpose gets a new number."""

    ORDER = 0
    FLIP = 1
    SHIFT_ROW = 2
    SHIFT_COLUMN = 3
    POLICY = 4
    ERASE = 5
    MIX_CHOICE = 6
    MIX_STRENGTH = 7
    MIX_ROW = 8
    MIX_COLUMN = 9
    CROP_BOX = 32  # four for each of ten attempts
    ERASE_BOX = 96


def mix(state: Keys) -> Keys:
    """Apply the finaliser of SplitMix64, a bijection in which every input bit affects all bits."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def keys(seed: int, epoch: int | NDArray[Any], index: NDArray[Any]) -> Keys:
    """Return a key for every sample; `epoch` and `index` are broadcast against each other."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is intended
        state = mix(np.asarray((seed + GOLDEN) & MASK, dtype=np.uint64))
        state = mix(state + np.asarray(epoch).astype(np.uint64) + np.uint64(GOLDEN))
        return mix(state + np.asarray(index).astype(np.uint64) + np.uint64(GOLDEN))


def hashes(keys: Keys, draw: int | NDArray[Any]) -> Keys:
    """Return output number `draw` (from 0) of the SplitMix64 generator that starts at each key."""
    with np.errstate(over="ignore"):
        counter = (np.asarray(draw).astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        return mix(keys + counter)


def uniforms(keys: Keys, draw: int | NDArray[Any]) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1) from the upper 53 bits."""
    return (hashes(keys, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """Return the order of one epoch: the indices sorted by a hash of each."""
    return np.argsort(hashes(keys(seed, epoch, np.arange(length)), Draw.ORDER), kind="stable")
