"""Check the structure of an image file before it is parsed, so that no file costs more than others.

A file of a few megabytes can hold a million segments, scans or chunks, each of which costs the
parser microseconds or a copy of all before it. They are counted here, without reading pixels, up to
limits that no camera and no program comes near.
"""

import re
import struct
from io import BytesIO
from typing import BinaryIO

# Pixels of an image, unless --max-pixels says otherwise: a 64-megapixel photo, 200 MB as colours.
MAX_PIXELS = 2**26
# The largest magnitude of a pixel's value in a range, beyond all 32-bit integers.
LARGEST_VALUE = 1e12
# Files up to this size, in bytes, have too few blocks and scans to matter.
SMALL_FILE = 2**19
# Segments of a JPEG before its first scan: a colour profile takes up to 255, an extended XMP 100.
MAX_SEGMENTS = 4096
# Of these, Exif segments: the parser copies all earlier ones for each.
MAX_EXIF_SEGMENTS = 64
# Exif data up to this size, in bytes, cannot fill the memory; most are in one segment.
SMALL_EXIF = 2**16
# Bytes between the segments of a JPEG, which the parser reads one by one.
MAX_PADDING = 2**16
# Scans of a JPEG, and pixels times scans: each scan visits every pixel. Usual are 1 to 12.
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 2**31
# The shortest scan, in bytes: its header, and that of the segment.
_LEAST_SCAN = 10
# Chunks of a PNG: 67 million pixels in the usual pieces of 8 KB are 25,000.
MAX_CHUNKS = 2**16
# Blocks of a GIF before its first frame.
MAX_GIF_BLOCKS = 2**16
# Strips or tiles of a TIFF.
MAX_STRIPS = 2**17
# A run-length encoded BMP is decoded in Python, at a microsecond a run.
MAX_RLE_BYTES = 2**22

# Bytes at the start of a file that are looked at first.
HEAD = 4096
_CHUNK = 2**20
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))  # JPEG markers without a segment
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_MARKER = re.compile(rb"\xff[^\xff\x00]")
# Bytes of a value of each TIFF type.
_TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_STRIP_TAGS = frozenset((273, 324))


class LimitError(Exception):
    """A file whose structure is beyond the limits; the text says which."""


def check_structure(file: BinaryIO, kind: str, head: bytes, *, whole: bool) -> None:
    """Raise LimitError if a file is not worth parsing; `whole` counts what decoding reads too.

    `head` is what the file begins with, `HEAD` bytes. Its position is then anywhere.
    """
    if kind == "JPEG":
        if not _scan_is_near(head):
            _check_jpeg(file, head)
        return
    size = file.seek(0, 2)
    file.seek(0)
    if kind == "TIFF":
        check_directory(file, size)
    elif kind == "PNG":
        _check_png(file, size, whole=whole)
    elif kind == "GIF" and size > SMALL_FILE:
        _check_gif(file)
    elif kind == "BMP" and size > MAX_RLE_BYTES and file.read(34)[30:31] in (b"\1", b"\2"):
        raise LimitError(f"run-length encoded, with more than {MAX_RLE_BYTES:,} bytes")


def check_scans(file: BinaryIO, num_pixels: int) -> None:
    """Raise LimitError if a JPEG of so many pixels has too many scans for its size."""
    limit = min(MAX_SCANS, max(1, MAX_SCANNED_PIXELS // num_pixels))
    size = file.seek(0, 2)
    if size <= _LEAST_SCAN * limit:
        return
    # Most files have too few bytes for scans that matter.
    if size < SMALL_FILE and size // _LEAST_SCAN * num_pixels <= MAX_SCANNED_PIXELS:
        return
    file.seek(0)
    scans, last = 0, b""
    while chunk := file.read(_CHUNK):
        scans += chunk.count(b"\xff\xda") + (last == b"\xff" and chunk[0] == _START_OF_SCAN)
        last = chunk[-1:]
        if scans > limit:
            raise LimitError(f"more than {limit} scans of {num_pixels:,} pixels")


def check_exif(exif: bytes) -> None:
    """Raise LimitError for Exif data whose entries share their bytes to fill the memory."""
    content = exif.removeprefix(b"Exif\0\0")
    if len(content) > SMALL_EXIF:
        check_directory(BytesIO(content), len(content))


def check_directory(file: BinaryIO, size: int) -> None:
    """Raise LimitError if the values of a TIFF's first directory are more than the file has.

    They are read at once; entries that point to the same bytes multiply them.
    """
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    pointer, counter, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    try:
        (position,) = struct.unpack_from(order + pointer, start, 8 if big else 4)
        file.seek(position)
        (count,) = struct.unpack(order + counter, file.read(struct.calcsize(order + counter)))
        length = struct.calcsize(order + entry)
        entries = file.read(min(count, size // length) * length)
    except (struct.error, OverflowError, ValueError):
        return  # cut: the parser says so
    total, whole = 0, len(entries) // length * length
    for tag, kind, values, _ in struct.iter_unpack(order + entry, entries[:whole]):
        total += values * (_TIFF_SIZES[kind] if kind < len(_TIFF_SIZES) else 0)
        if tag in _STRIP_TAGS and values > MAX_STRIPS:
            raise LimitError(f"{values:,} strips, more than {MAX_STRIPS:,}")
        if total > size + _CHUNK:
            raise LimitError("its directory claims more bytes than the file has")


def _scan_is_near(head: bytes) -> bool:
    """Return whether plain segments lead to a scan within these bytes, as in most files."""
    position, last, num_exif = 2, len(head) - 4, 0
    while position <= last and head[position] == 0xFF:
        marker = head[position + 1]
        if marker == _START_OF_SCAN:
            return num_exif < 2
        if marker < 0xC0 or marker == 0xFF or marker in _NO_LENGTH:
            return False
        num_exif += marker == _APP1
        position += 2 + (head[position + 2] << 8 | head[position + 3])
    return False


def _check_jpeg(file: BinaryIO, head: bytes) -> None:
    """Walk the segments before the first scan as the parser does, and check long Exif data."""
    position, padding, exif = 2, 0, list[tuple[int, int]]()
    for _ in range(MAX_SEGMENTS):
        start = head[position : position + 4]
        if len(start) < 4:
            file.seek(position)
            start = file.read(4)
        if start[:1] != b"\xff" or start[1:2] in (b"\xff", b"\0"):
            skipped = _padding(file, position)
            position, padding = position + skipped, padding + skipped
            if padding > MAX_PADDING:
                raise LimitError(f"more than {MAX_PADDING:,} bytes between its segments")
            file.seek(position)
            start = file.read(4)
        if len(start) < 4 or start[1] == _START_OF_SCAN:
            break
        if start[1] in _NO_LENGTH:
            position += 2
            continue
        length = start[2] << 8 | start[3]
        if start[1] == _APP1:
            exif.append((position + 4, length - 2))
        position += 2 + max(2, length)
    else:
        raise LimitError(f"more than {MAX_SEGMENTS:,} segments")
    if len(exif) > 1:
        _check_exif_segments(file, exif)


def _check_exif_segments(file: BinaryIO, places: list[tuple[int, int]]) -> None:
    """Check the Exif data that the parser joins of several segments, among others of their kind."""
    contents = []
    for position, length in places:
        file.seek(position)
        if file.read(6) == b"Exif\0\0":
            contents.append(file.read(max(0, length - 6)))
        if len(contents) > MAX_EXIF_SEGMENTS:
            raise LimitError(f"more than {MAX_EXIF_SEGMENTS} Exif segments")
    check_exif(b"".join(contents))


def _padding(file: BinaryIO, position: int) -> int:
    """Return how many bytes from `position` on belong to no segment."""
    file.seek(position)
    content = file.read(MAX_PADDING + 2)
    marker = _MARKER.search(content)
    return marker.start() if marker else len(content)


def _check_png(file: BinaryIO, size: int, *, whole: bool) -> None:
    """Count chunks, up to the pixels or to the end, and check the Exif data."""
    position = 8
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        start = file.read(8)
        name = start[4:]
        if len(start) < 8 or name == b"IEND" or (name == b"IDAT" and not whole):
            return
        length = int.from_bytes(start[:4], "big")
        if name == b"eXIf":
            check_exif(file.read(min(length, size)))
        position += 12 + length
    raise LimitError(f"more than {MAX_CHUNKS:,} chunks")


def _check_gif(file: BinaryIO) -> None:
    """Count the blocks before the first frame."""
    start = file.read(13)
    if len(start) == 13 and start[10] & 0x80:
        file.seek(3 << ((start[10] & 7) + 1), 1)
    blocks, length = 0, b"\0"
    while length == b"\0" and file.read(1) == b"!":
        file.read(1)
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], 1)
            blocks += 1
            if blocks > MAX_GIF_BLOCKS:
                raise LimitError(f"more than {MAX_GIF_BLOCKS:,} blocks before its first frame")
