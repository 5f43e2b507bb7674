"""Provide `decode`, the only function that opens images: a file or its bytes -> uint8 H W C.

Training, evaluation and prediction see the same pixels: rotated by EXIF, 16-bit and float pictures
scaled by the range of their data set, CMYK and palettes converted, transparency on white, the first
frame of animations. Only six formats are read; size and structure are checked before decoding.
H W C: height, width, channels.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    ImagePalette,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from resnets.data.file_limits import (
    HEAD,
    MAX_PIXELS,
    LimitError,
    check_exif,
    check_scans,
    check_structure,
)
from resnets.data.wide_pixels import DEPTHS, SCALED_BY_DEPTH, WORDS, PixelRange, light, to_uint8
from resnets.errors import UserError
from resnets.fileio import open_file

Array = np.ndarray[Any, np.dtype[np.uint8]]

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
)
# What decoding leaves out or converts.
TRAITS = ANIMATED, CMYK, LAB, PROFILE = ("animated", "CMYK", "LAB", "profile")
# Profiles of the colours that all programs expect: sRGB, in both encodings, and its small ones.
_STANDARD_PROFILES = (b"sRGB", b"uRGB", *(name.encode("utf-16-be") for name in ("sRGB", "c2")))
REDUCTIONS = (8, 4, 2)  # what the sides of a JPEG can be divided by while it is decoded
# Pixels that are converted at a time, so that a large picture is in memory once, not five times.
STRIP = 2**22
# Rows and columns of which values are measured.
SAMPLED_SIDE = 256
# Memory for the coefficients of a JPEG of many scans, which are kept for all its pixels.
MAX_COEFFICIENTS = 2**30

# What is met in place of an image: where it begins with what, and what it is.
_MISTAKEN: tuple[tuple[int, tuple[bytes, ...], str], ...] = (
    (0, (b"version https://git-lfs",), "a pointer of Git LFS, not the image: run git lfs pull"),
    (0, (b"<!doctype", b"<html", b"<?xml"), "a web page or XML, not an image: download it again"),
    (4, (b"ftypheic", b"ftypheix", b"ftypmif1"), "a HEIC image: convert it to JPEG or PNG"),
    (4, (b"ftypavif", b"ftypavis"), "an AVIF image: convert it to JPEG or PNG"),
    (128, (b"dicm",), "a DICOM file: convert it to 16-bit PNG"),
)
# Pillow also logs what it raises, on stderr where nobody set up logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ON_SIDE = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F"))
_UNKNOWN_PIXELS = ("unknown pixel mode", "Invalid value for samples per pixel")
_NOT_AN_IMAGE = "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"
# The plugins by the first bytes of a file. Image.open would refuse large pictures by itself.
_PLUGINS: tuple[tuple[bytes, str, Any], ...] = (
    (b"\xff\xd8\xff", "JPEG", JpegImagePlugin.jpeg_factory),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"RIFF", "WEBP", WebPImagePlugin.WebPImageFile),
    (b"GIF8", "GIF", GifImagePlugin.GifImageFile),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    *((start, "TIFF", TiffImagePlugin.TiffImageFile) for start in TiffImagePlugin.PREFIXES),
)
# Compressed TIFFs come in the order of this machine, which Pillow forgets for these.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_PHOTOMETRIC, _BITS, _COMPRESSION, _PLANAR, _SUBSAMPLING, _SAMPLE_FORMAT, _COLORMAP = (
    *(262, 258, 259, 284, 530, 339, 320),
)
_SUBFILE, _SAMPLES = 254, 277
_CCITT = (2, 3, 4)


class DecodeError(UserError):
    """Report an image that cannot be read: `reason`, and `source` (a path, or empty)."""

    def __init__(self, reason: str, source: str = "") -> None:
        super().__init__(reason, source)  # both, so that it can be pickled between workers
        self.reason = reason
        self.source = source

    def __str__(self) -> str:
        return f"cannot read {self.source}: {self.reason}" if self.source else self.reason


class Header(NamedTuple):
    """Describe a file: the size after the EXIF rotation, 1 (grey) or 3 channels, and the depth.

    The depth is a key of `wide_pixels.DEPTHS`. The traits, some of `TRAITS`, are what decoding
    leaves out or converts.
    """

    width: int
    height: int
    channels: int
    depth: str = "uint8"
    traits: tuple[str, ...] = ()


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


def inspect(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header without decoding pixels; raise DecodeError if it cannot be read."""
    with _open(source, max_pixels, whole=False) as picture:
        return _header(picture)


def decode(
    source: Path | str | bytes,
    *,
    channels: int = 3,
    piece: Piece | None = None,
    pixel_range: PixelRange | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Array:
    """Decode an image, or a piece of it, as uint8 H W C with 1 (grey) or 3 (colour) channels.

    A JPEG of which a piece needs less than half of its pixels a side is decoded at 1/2, 1/4 or 1/8
    of its size, by a smaller cosine transform: cheaper, free of aliasing, and for training only.
    So is a whole JPEG of more than `MAX_PIXELS` or `max_pixels`.

    `pixel_range` becomes 0..255 in images of wide pixels. Without one, those of 16 bits take their
    depth, and others are refused. Raises DecodeError for what is not a complete image of at most
    `max_pixels`, or cannot be decoded rightly.
    """
    with _open(source, max_pixels, whole=True) as picture:
        return _pixels(picture, channels, piece, pixel_range, max_pixels)


def sample_values(
    source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return finite values of an image of wide pixels, N, at most 2**16, to measure their range.

    They are of evenly spaced rows and columns, and larger where it is lighter.
    """
    with _open(source, max_pixels, whole=True) as picture:
        storage = _storage(picture)
        _prepare(picture)
        picture.load()
        height, width = picture.height, picture.width
        rows = np.unique(np.linspace(0, height - 1, min(height, SAMPLED_SIDE)).round().astype(int))
        lines = [picture.crop((0, row, width, row + 1)) for row in rows.tolist()]
        columns = np.linspace(0, width - 1, min(width, SAMPLED_SIDE)).round().astype(int)
        values = np.concatenate([_values(line, storage)[:, columns] for line in lines])
        return light(values, storage.depth, white_is_zero=storage.white_is_zero)


def from_picture(
    picture: Image.Image, *, channels: int, pixel_range: PixelRange | None = None
) -> Array:
    """Convert a picture that is open already as `decode` does; raise DecodeError if damaged."""
    try:
        with _QUIET:
            return _pixels(picture, channels, None, pixel_range, MAX_PIXELS)
    except DecodeError:
        raise
    except Exception as error:  # opened, but never read to its end
        raise DecodeError(_reason(error)) from error


def from_array(
    values: np.ndarray[Any, np.dtype[Any]], *, channels: int, pixel_range: PixelRange
) -> Array:
    """Convert an array of wide pixels, H W or H W C with 1 or 3 channels, by their range.

    Raises UserError for an array of another kind.
    """
    shape = values.shape
    if (
        values.dtype.kind not in "iuf"
        or len(shape) not in (2, 3)
        or shape[2:] not in ((), (1,), (3,))
    ):
        raise UserError(
            f"an array of {values.dtype} and shape {shape} is no image: give numbers H W or H W C "
            "with 1 or 3 channels"
        )
    if not values.size:
        raise UserError(f"an array of shape {shape} has no pixels")
    integers = values.dtype.kind in "iu" and values.dtype.itemsize == 2
    kind = ("uint16" if values.dtype.kind == "u" else "int16") if integers else "float32"
    pixels = to_uint8(values, kind, pixel_range)
    grey = pixels.ndim == 2 or pixels.shape[2] == 1
    picture = Image.fromarray(pixels.reshape(pixels.shape[:2]) if grey else pixels)
    return from_picture(picture, channels=channels)


@contextmanager
def _open(
    source: Path | str | bytes, max_pixels: int, *, whole: bool
) -> Iterator[ImageFile.ImageFile]:
    """Open an image, and turn every failure inside the block into one DecodeError.

    `whole` is for decoding: the structure behind the header is checked too.
    """
    name = "" if isinstance(source, bytes) else str(source)
    try:
        with _QUIET, _file(source) as file:
            picture = _parsed(file, whole=whole)
            width, height = picture.size
            if _reduction(picture, max_pixels) == 0:
                limit = f"{max_pixels / 1e6:.3g} million allowed"
                raise DecodeError(
                    f"{width} x {height} pixels are more than the {limit}; raise --max-pixels", name
                )
            if whole and isinstance(picture, JpegImagePlugin.JpegImageFile):
                position = file.tell()
                check_scans(file, width * height)
                file.seek(position)
            yield picture
    except DecodeError as error:
        raise error if error.source or not name else DecodeError(error.reason, name) from None
    # Parsers fail with far more than OSError: ValueError, SyntaxError, struct.error, MemoryError.
    except Exception as error:
        raise DecodeError(_reason(error), name) from error


def _file(source: Path | str | bytes) -> BinaryIO:
    return BytesIO(source) if isinstance(source, bytes) else open_file(source)


def _parsed(file: BinaryIO, *, whole: bool) -> ImageFile.ImageFile:
    """Return the picture of a file, with only its header read."""
    # peek: the parser finds these bytes in the buffer, and the file is read once.
    start = file.peek()[:HEAD] if isinstance(file, BufferedReader) else file.read(HEAD)
    if not start:
        raise DecodeError("the file is empty")
    for prefix, kind, plugin in _PLUGINS:
        if start.startswith(prefix) and (kind != "WEBP" or start[8:12] == b"WEBP"):
            check_structure(file, kind, start, whole=whole)
            file.seek(0)
            try:
                picture: ImageFile.ImageFile = plugin(file)
            except SyntaxError as error:
                if kind == "TIFF" and str(error) in _UNKNOWN_PIXELS:
                    raise DecodeError(_unknown_pixels(file)) from None
                raise
            return picture
    for place, beginnings, what in _MISTAKEN:
        if start[place:].lstrip().lower().startswith(beginnings):
            raise DecodeError(what)
    raise DecodeError(_NOT_AN_IMAGE)


def _reduction(picture: Image.Image, max_pixels: int) -> int:
    """Return by how much the sides must shrink for the limit: 1 where they fit, 0 if they cannot.

    A higher limit does not change how a JPEG is decoded, so that a model sees the same everywhere.
    """
    width, height = picture.size
    limit = min(max_pixels, MAX_PIXELS)
    if width * height <= limit:
        return 1
    if not isinstance(picture, JpegImagePlugin.JpegImageFile):
        return int(width * height <= max_pixels)
    factor = next((f for f in (2, 4, 8) if -(-width // f) * -(-height // f) <= limit), 0)
    size = 2 * width * height * max(1, picture.layers)
    return 0 if "progressive" in picture.info and size > MAX_COEFFICIENTS else factor


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


def _reason(error: Exception) -> str:
    """Return in one line why an image cannot be read."""
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow allows in this format"
    if isinstance(error, LimitError):
        return f"its structure is not that of an image ({error})"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:  # from the system: permission, a folder
        return error.strerror.lower()
    detail = (str(error) or type(error).__name__).splitlines()[0]
    return f"damaged or incomplete ({detail})"


def _unknown_pixels(file: BinaryIO) -> str:
    """Return in one line which kind of TIFF Pillow cannot read."""
    file.seek(0)
    header = file.read(8)
    header += file.read(8) if header[2:3] == b"+" or header[3:4] == b"+" else b""
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    formats, bits = tags.get(_SAMPLE_FORMAT, (1,)), tags.get(_BITS, (1,))
    number = {1: "unsigned", 2: "signed", 3: "float"}.get(formats[0], "other")
    if (channels := tags.get(_SAMPLES, 1)) > 4:
        return (
            f"a TIFF of {channels} channels, and at most 4 are read; choose three of them, and "
            "save these as 8-bit RGB"
        )
    return (
        f"a TIFF of {'/'.join(map(str, bits[:8]))}-bit {number} pixels (photometric "
        f"interpretation {tags.get(_PHOTOMETRIC)}), which is not supported; "
        "save it as 8- or 16-bit PNG, or as 32-bit float TIFF"
    )


def _header(picture: Image.Image) -> Header:
    width, height = picture.size
    # A TIFF has no such entry: Pillow reports its size as rotated already.
    if "exif" in picture.info and _orientation(picture) in _ON_SIDE:
        width, height = height, width
    storage = _storage(picture)
    grey = picture.mode in _GREY_MODES or picture.mode.startswith("I;16")
    return Header(width, height, 1 if grey else 3, storage.depth, _traits(picture))


def _traits(picture: Image.Image) -> tuple[str, ...]:
    """Return which of `TRAITS` a picture has, whose header only is read."""
    # A JPEG of several pictures has a preview or a depth map for its second.
    several = picture.format in ("GIF", "PNG", "TIFF", "WEBP")
    profile = picture.info.get("icc_profile") or b""
    usual = profile[16:20] != b"RGB " or any(name in profile for name in _STANDARD_PROFILES)
    found = {
        ANIMATED: several and getattr(picture, "is_animated", False),
        CMYK: picture.mode == "CMYK",
        LAB: picture.mode == "LAB",
        PROFILE: not usual,
    }
    return tuple(trait for trait in TRAITS if found[trait])


def _orientation(picture: Image.Image) -> int:
    exif = picture.info.get("exif")
    if picture.format == "WEBP" and exif:  # those of JPEG and PNG are checked before
        check_exif(exif)
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) else 1


@dataclass(frozen=True)
class _Storage:
    """How the pixels of a picture are stored: depth, and what to do before they are colours.

    `flip` is combined by XOR with pixels of 8 bits: 128 for signed ones, 255 for a negative.
    """

    depth: str = "uint8"
    white_is_zero: bool = False
    flip: int = 0

    def range(self, given: PixelRange | None) -> PixelRange:
        """Return the range of a data set or else of the depth; raise DecodeError without both."""
        if given is not None:
            return given
        if self.depth in SCALED_BY_DEPTH:
            return DEPTHS[self.depth]
        raise DecodeError(
            f"its pixels are {WORDS[self.depth]}, and what is black and white in them is not "
            "known: the model was not trained on such images; save it with 8 or 16 bits"
        )


_PLAIN = _Storage()
_STORAGES = {
    "I": _Storage("int32"),
    "F": _Storage("float32"),
    **{mode: _Storage("uint16") for mode in ("I;16", "I;16L", "I;16B", "I;16N")},
}


def _storage(picture: Image.Image) -> _Storage:
    """Return how the pixels are stored; raise DecodeError where Pillow would read them wrongly."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return _tiff_storage(picture)
    if picture.mode == "I" and picture.format == "PNG":
        return _Storage("uint16")
    return _STORAGES.get(picture.mode, _PLAIN)


def _tiff_storage(picture: TiffImagePlugin.TiffImageFile) -> _Storage:
    tags, mode = picture.tag_v2, picture.mode
    if tags.get(_SUBFILE, 0) == 1 and tags.get(330):
        raise DecodeError("its first page is a thumbnail, as in raw files of cameras: convert it")
    bits, photometric = max(tags.get(_BITS, (1,))), tags.get(_PHOTOMETRIC)
    signed = 2 in tags.get(_SAMPLE_FORMAT, (1,))
    packed = tags.get(_COMPRESSION, 1) != 1
    planes = tags.get(_PLANAR, 1) == 2 and len(picture.getbands()) > 1
    if planes and (mode not in ("RGB", "RGBA", "CMYK") or (bits > 8 and not packed)):
        raise DecodeError("a TIFF with a plane for each channel, of a kind not supported")
    if photometric == 6 and not packed and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
        raise DecodeError("a TIFF of YCbCr pixels with fewer colours than pixels, not compressed")
    if mode.startswith("I;16"):
        return _Storage("uint12" if bits == 12 else "uint16", white_is_zero=photometric == 0)
    if mode == "I":
        return _Storage("int16" if bits == 16 else "int32" if signed else "uint32")
    if mode == "F":
        return _Storage("float32", white_is_zero=photometric == 0)
    if mode == "L" and signed:
        return _Storage(flip=0x80)
    # Without this tag black is zero, as libtiff has it, but for fax pages; Pillow inverts.
    absent = photometric is None and mode in ("1", "L")
    fax = tags.get(_COMPRESSION, 1) in _CCITT
    return _Storage(flip=0xFF if absent and not fax else 0)


def _prepare(picture: Image.Image) -> None:
    """Set right what Pillow has wrong of a picture that is not loaded yet."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        picture.tile = [
            tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
            if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
            else tile
            for tile in picture.tile
        ]
        colours = picture.tag_v2.get(_COLORMAP, (256,))
        if picture.mode == "P" and max(colours) < 256:  # of 8 bits, against the standard
            picture.palette = ImagePalette.raw("RGB;L", bytes(colours))
    found = picture.info.get("transparency")
    if isinstance(picture, PngImagePlugin.PngImageFile) and picture.tile and found is not None:
        # The transparent colour is stored in the depth of the file, the pixels are not.
        raw = picture.tile[0].args
        if raw == "RGB;16B" and isinstance(found, tuple):
            picture.info["transparency"] = tuple(value >> 8 for value in found)
        elif raw in ("L;2", "L;4") and isinstance(found, int):
            picture.info["transparency"] = found * (85 if raw == "L;2" else 17)


def _pixels(
    picture: Image.Image,
    channels: int,
    piece: Piece | None,
    pixel_range: PixelRange | None,
    max_pixels: int,
) -> Array:
    factor = max(1, _reduction(picture, max_pixels))
    if piece is not None:
        factor = max(factor, piece.reduction(_header(picture)))
    if factor > 1:
        picture.draft(None, (picture.width // factor, picture.height // factor))
    storage = _storage(picture)
    _prepare(picture)
    picture.load()
    # Pillow's function copies pictures that are upright.
    upright = _orientation(picture) == 1
    turned = picture if upright else ImageOps.exif_transpose(picture)
    box = (0, 0, *turned.size)
    if piece is not None:
        box = piece.corners(turned.height, turned.width)
    left, top, right, bottom = box
    mode, rows = {1: "L", 3: "RGB"}[channels], max(1, STRIP // (right - left))
    strips = []
    for row in range(top, bottom, rows):
        part = (left, row, right, min(row + rows, bottom))
        strip = turned if part == (0, 0, *turned.size) else turned.crop(part)
        converted = _converted(strip, mode, storage, pixel_range)
        strips.append(np.array(converted).reshape(converted.height, converted.width, channels))
    return strips[0] if len(strips) == 1 else _joined(strips)


def _joined(strips: list[Array]) -> Array:
    """Stack strips, each of which is freed when it is copied."""
    first = strips[0]
    whole = np.empty((sum(map(len, strips)), *first.shape[1:]), np.uint8)
    bottom = len(whole)
    while strips:
        strip = strips.pop()
        whole[bottom - len(strip) : bottom] = strip
        bottom -= len(strip)
    return whole


def _converted(
    picture: Image.Image, mode: str, storage: _Storage, pixel_range: PixelRange | None
) -> Image.Image:
    """Return a loaded picture with eight bits a channel, opaque, in `mode` (L or RGB)."""
    if storage.depth != "uint8":
        picture = _eight_bits(picture, storage, pixel_range)
    elif storage.flip:
        picture = Image.fromarray(np.asarray(picture.convert("L")) ^ storage.flip)
    if picture.has_transparency_data:
        # Of premultiplied colours there is one way only.
        picture = picture.convert("LA") if picture.mode == "La" else picture
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        picture = Image.alpha_composite(white, coloured)
    # CMYK and palettes have no direct way to grey that agrees with their colours.
    if mode == "L" and picture.mode not in ("1", "L", "RGB"):
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def _values(picture: Image.Image, storage: _Storage) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the stored values, H W."""
    values = np.asarray(picture)
    # Pillow has no mode for unsigned ones.
    return values.view(np.uint32) if storage.depth == "uint32" else values


def _eight_bits(
    picture: Image.Image, storage: _Storage, pixel_range: PixelRange | None
) -> Image.Image:
    """Scale a picture of one wide number per pixel, on white where it is transparent."""
    values = _values(picture, storage)
    scaled = to_uint8(
        values, storage.depth, storage.range(pixel_range), white_is_zero=storage.white_is_zero
    )
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return Image.fromarray(scaled)
