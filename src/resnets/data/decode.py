"""Provide `decode`, the only function that opens images: a file or its bytes -> uint8 H W C.

Training, evaluation and prediction see the same pixels: rotated by EXIF, 16-bit and float pictures
scaled by their depth, CMYK and palettes converted, transparency on white, the first frame of
animations. Only six formats are read, and the number of pixels is checked before decoding.
H W C: height, width, channels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resnets.errors import UserError

Array = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
)
MAX_PIXELS = 2**26  # 67 million: a 64-megapixel photo, 200 MB as colours
REDUCTIONS = (8, 4, 2)  # what the sides of a JPEG can be divided by while it is decoded

_ON_SIDE = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F"))
# The largest value of the depths in which pictures of one wide number per pixel are saved.
_INTEGER_RANGES = (65535, 2**31 - 1)
_FLOAT_RANGES = (1, 255, 65535, 2**32 - 1)


class DecodeError(UserError):
    """Report an image that cannot be read: `reason`, and `source` (a path, or empty)."""

    def __init__(self, reason: str, source: str = "") -> None:
        super().__init__(reason, source)  # both, so that it can be pickled between workers
        self.reason = reason
        self.source = source

    def __str__(self) -> str:
        return f"cannot read {self.source}: {self.reason}" if self.source else self.reason


class Header(NamedTuple):
    """Describe a file: the size after the EXIF rotation, and 1 (grey) or 3 channels."""

    width: int
    height: int
    channels: int


@dataclass(frozen=True)
class Piece:
    """Describe a rectangle, in shares of the image's sides, needed `side` pixels wide and high.

    It is decoded with at least `side` pixels a side where the image has as many.
    """

    top: float
    left: float
    height: float
    width: float
    side: int

    def corners(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom in an image of this size; at least one pixel."""
        top, left = round(self.top * height), round(self.left * width)
        down, across = max(1, round(self.height * height)), max(1, round(self.width * width))
        return left, top, left + across, top + down

    def reduction(self, header: Header) -> int:
        """Return by how much the image may shrink so that this piece keeps its `side` pixels."""
        factor = min(self.height * header.height, self.width * header.width) / self.side
        return next((reduction for reduction in REDUCTIONS if reduction <= factor), 1)


def inspect(source: Path | str | bytes) -> Header:
    """Read the header without decoding pixels; raise DecodeError if it cannot be read."""
    with _open(source) as picture:
        return _header(picture)


def decode(source: Path | str | bytes, *, channels: int = 3, piece: Piece | None = None) -> Array:
    """Decode an image, or a piece of it, as uint8 H W C with 1 (grey) or 3 (colour) channels.

    A JPEG of which a piece needs less than half of its pixels a side is decoded at 1/2, 1/4 or 1/8
    of its size, by a smaller cosine transform: cheaper, free of aliasing, and for training only.
    Raises DecodeError for what is not a complete image of at most `MAX_PIXELS`.
    """
    with _open(source) as picture:
        return _pixels(picture, channels, piece)


def from_picture(picture: Image.Image, *, channels: int) -> Array:
    """Convert a picture that is open already as `decode` does; raise DecodeError if damaged."""
    try:
        with _QUIET:
            return _pixels(picture, channels, None)
    except (OSError, ValueError, SyntaxError) as error:  # opened, but never read to its end
        raise DecodeError(f"damaged or incomplete ({error})") from error


@contextmanager
def _open(source: Path | str | bytes) -> Iterator[Image.Image]:
    """Open an image, and turn every failure inside the block into one DecodeError."""
    name = "" if isinstance(source, bytes) else str(source)
    file = BytesIO(source) if isinstance(source, bytes) else source
    try:
        with _QUIET, Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                limit = f"{MAX_PIXELS / 1e6:.3g} million allowed"
                raise DecodeError(f"{width} x {height} pixels are more than the {limit}", name)
            yield picture
    except DecodeError:
        raise
    # Parsers fail with far more than OSError: ValueError, SyntaxError, struct.error, MemoryError.
    except Exception as error:
        raise DecodeError(_reason(error, source), name) from error


class _Quiet:
    """Silence Pillow's warnings on metadata and on sizes, which are checked here.

    Warning filters belong to the process, not to a thread: the first thread that needs them sets
    them, and the last one restores them.
    """

    def __init__(self) -> None:
        self._lock, self._num_inside = Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._num_inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._num_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()


def _reason(error: Exception, source: Path | str | bytes) -> str:
    """Return in one line why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        if not (len(source) if isinstance(source, bytes) else Path(source).stat().st_size):
            return "the file is empty"
        return "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"
    if isinstance(error, Image.DecompressionBombError):
        return "far more pixels than allowed"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:  # from the system: permission, a folder
        return error.strerror.lower()
    detail = (str(error) or type(error).__name__).splitlines()[0]
    return f"damaged or incomplete ({detail})"


def _header(picture: Image.Image) -> Header:
    width, height = picture.size
    # A TIFF has no such entry: Pillow reports its size as rotated already.
    if "exif" in picture.info and picture.getexif().get(ExifTags.Base.Orientation, 1) in _ON_SIDE:
        width, height = height, width
    grey = picture.mode in _GREY_MODES or picture.mode.startswith("I;16")
    return Header(width=width, height=height, channels=1 if grey else 3)


def _pixels(picture: Image.Image, channels: int, piece: Piece | None) -> Array:
    if piece is not None and (factor := piece.reduction(_header(picture))) > 1:
        picture.draft(None, (picture.width // factor, picture.height // factor))
    converted = _converted(picture, {1: "L", 3: "RGB"}[channels])
    if piece is not None:
        converted = converted.crop(piece.corners(converted.height, converted.width))
    return np.array(converted).reshape(converted.height, converted.width, channels)


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    """Return the picture upright, with eight bits a channel, opaque, in `mode` (L or RGB)."""
    picture.load()
    # Pillow's function copies pictures that are upright.
    upright = picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
    turned = picture if upright else ImageOps.exif_transpose(picture)
    if turned.mode in ("I", "F") or turned.mode.startswith("I;16"):
        turned = _eight_bits(turned)
    if turned.has_transparency_data:
        coloured = turned.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        turned = Image.alpha_composite(white, coloured)
    # CMYK and palettes have no direct way to grey that agrees with their colours.
    if mode == "L" and turned.mode not in ("1", "L", "RGB"):
        turned = turned.convert("RGB")
    return turned if turned.mode == mode else turned.convert(mode)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale a picture of one wide number per pixel so that its depth's largest value is white.

    A file does not tell how many of its 32 bits are used: the smallest usual range that contains
    the largest value is taken (16 or 31 bits; 0..1, 8, 16 or 32 bits for floats).
    """
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    if picture.mode.startswith("I;16"):
        top = 65535
    else:
        ranges = _FLOAT_RANGES if picture.mode == "F" else _INTEGER_RANGES
        top = next((limit for limit in ranges if values.max() <= limit), ranges[-1])
    scaled = np.rint(np.clip(values / top, 0, 1) * 255)
    return Image.fromarray(scaled.astype(np.uint8))
