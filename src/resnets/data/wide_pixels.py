"""Provide the scale of wide pixels: what 16-bit, 32-bit and float images mean in 8 bits.

A file declares a depth, not how much of it is used: a 12-bit X-ray in 16 bits would be nearly
black. So one linear scale LOW..HIGH -> 0..255 holds for all wide images of a data set. It is
measured when the set is opened, and stored in `Preprocess`. Images of 1 to 8 bits keep their
values.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.file_limits import LARGEST_VALUE
from resnets.errors import UserError

PixelRange = tuple[float, float]

# What the depth of a kind of pixels can hold. Floats hold 0 to 1 by convention.
DEPTHS: dict[str, PixelRange] = {
    "uint8": (0, 255),
    "uint12": (0, 4095),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint32": (0, 2**32 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "float32": (0, 1),
}
KINDS = tuple(DEPTHS)
WORDS = {
    "uint8": "8-bit",
    "uint12": "12-bit",
    "uint16": "16-bit",
    "int16": "signed 16-bit",
    "uint32": "32-bit",
    "int32": "signed 32-bit",
    "float32": "float",
}
# The least extent of a range, in shares of its ends.
LEAST_EXTENT = 1e-12
# Kinds whose depth is a scale of its own: 65,535 is white, unless a range says otherwise.
SCALED_BY_DEPTH = frozenset(("uint12", "uint16"))

# Kinds for which a table of all values is small.
_TABLED = frozenset(("uint12", "uint16", "int16"))


def checked_range(given: object) -> PixelRange:
    """Return LOW and HIGH as floats; raise UserError unless they are two rising numbers."""
    if isinstance(given, list | tuple) and len(given) == 2:
        numbers = [n for n in given if isinstance(n, int | float) and not isinstance(n, bool)]
        if len(numbers) == 2 and all(abs(number) <= LARGEST_VALUE for number in numbers):
            low, high = map(float, numbers)
            if high - low >= LEAST_EXTENT * max(1, abs(low), abs(high)):
                return low, high
    raise UserError(f"pixel range {given!r}: must be two rising numbers, LOW and HIGH")


def described(pixel_range: PixelRange | None) -> str:
    """Return a range for people, as "312..3,480 -> 0..255"; without one, nothing."""
    if pixel_range is None:
        return ""
    low, high = (f"{v:,.0f}" if v == int(v) else f"{v:.4g}" for v in pixel_range)
    return f"{low}..{high} -> 0..255"


def to_uint8(
    values: NDArray[Any], kind: str, pixel_range: PixelRange, *, white_is_zero: bool = False
) -> NDArray[np.uint8]:
    """Scale values linearly so that LOW becomes 0 and HIGH 255; NaN becomes 0."""
    if kind in _TABLED:
        low, high = (-32768, 32767) if kind == "int16" else (0, 65535)
        table = _table(low, high, kind, pixel_range, white_is_zero)
        return table[np.asarray(values, np.int32) - low]
    return _scaled(_upright(values, kind, white_is_zero), pixel_range)


@lru_cache(maxsize=8)
def _table(
    low: int, high: int, kind: str, pixel_range: PixelRange, white_is_zero: bool
) -> NDArray[np.uint8]:
    return _scaled(_upright(np.arange(low, high + 1), kind, white_is_zero), pixel_range)


def light(values: NDArray[Any], kind: str, *, white_is_zero: bool) -> NDArray[np.float64]:
    """Return the finite values, N, more where it is lighter."""
    upright = _upright(values, kind, white_is_zero).ravel()
    return upright[np.isfinite(upright)]


def _upright(values: NDArray[Any], kind: str, white_is_zero: bool) -> NDArray[np.float64]:
    wide = np.array(values, dtype=np.float64)
    if white_is_zero:
        np.subtract(sum(DEPTHS[kind]), wide, out=wide)
    return wide


def _scaled(values: NDArray[np.float64], pixel_range: PixelRange) -> NDArray[np.uint8]:
    """Scale in place; the values are a copy."""
    low, high = pixel_range
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(values, low, out=values)
        np.multiply(values, 255, out=values)
        np.divide(values, high - low, out=values)
    np.clip(values, 0, 255, out=values)
    np.nan_to_num(values, copy=False, nan=0.0)
    return np.rint(values, out=values).astype(np.uint8)
