"""Write image files of every depth and layout by hand, and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

_TYPES = {1: "B", 3: "H", 4: "I"}


def tiff(
    pixels: np.ndarray,
    *,
    photometric: int | None = 1,
    big_endian: bool = False,
    packed: bool = False,
    planar: bool = False,
    tags: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """A TIFF of an array H W or H W C, of one strip a plane; `tags` are tag -> type and values."""
    order = ">" if big_endian else "<"
    height, width, *rest = pixels.shape
    samples, bits = (rest or [1])[0], pixels.dtype.itemsize * 8
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    planes = [stored[..., k] for k in range(samples)] if planar else [stored]
    strips = [np.ascontiguousarray(plane).tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    starts = 8 + np.cumsum([0, *map(len, strips)])
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples),
        259: (3, [8 if packed else 1]),
        273: (4, starts[:-1].tolist()),
        277: (3, [samples]),
        278: (4, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if planar else 1]),
        339: (3, [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * samples),
    }
    entries |= {} if photometric is None else {262: (3, [photometric])}
    entries |= tags or {}
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    after = int(starts[-1]) + 2 + 12 * len(entries) + 4
    for tag, (kind, numbers) in sorted(entries.items()):
        raw = struct.pack(f"{order}{len(numbers)}{_TYPES[kind]}", *numbers)
        if len(raw) > 4:
            place, values = after + len(values), values + raw
            raw = struct.pack(f"{order}I", place)
        directory += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + raw.ljust(4, b"\0")
    start = b"MM\0*" if big_endian else b"II*\0"
    body = b"".join(strips) + directory + b"\0" * 4 + values
    return start + struct.pack(f"{order}I", int(starts[-1])) + body


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int, bits: int, colour: int, rows: Sequence[bytes], *before: bytes, after: bytes = b""
) -> bytes:
    """A PNG of unfiltered rows, with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", pixels), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(width: int = 32, height: int = 32, **options: Any) -> bytes:
    """A JPEG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 90)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(content: bytes) -> bytes:
    """A JPEG with bytes between its start and its first segment."""
    whole = jpeg()
    return whole[:2] + content + whole[2:]


def jpeg_of_scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = jpeg(width, height, progressive=True)
    last = whole.rfind(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def shared_tags(count: int, size: int) -> bytes:
    """A TIFF directory of `count` entries that all have the same `size` bytes."""
    place = 8 + 2 + 12 * count + 4
    entries = b"".join(struct.pack("<HHII", 300 + k, 1, size, place) for k in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + b"\0" * (4 + size)


def stripes(kind: str, across: bool, number: int, side: int = 24) -> tuple[Image.Image, str]:
    """A picture of stripes across or along, at a depth, with the suffix of its file.

    Kinds: "8-bit"; "counts", int32 of 5,000 to 75,000; "x-ray", 14 levels of 12 bits in 16;
    "ct", int32 of -15 to 15; "float", 0 to 1.1.
    """
    random = np.random.default_rng((across, number))
    period = int(random.integers(4, 8))
    line = (np.arange(side) + random.integers(0, period)) // (period // 2) % 2
    light = np.broadcast_to(line[None] if across else line[:, None], (side, side))
    light = np.clip(0.15 + 0.7 * light + random.normal(0, 0.08, light.shape), 0, 1)
    pixels = {
        "8-bit": lambda: (light * 255).astype(np.uint8),
        "counts": lambda: (5000 + 70000 * light).astype(np.int32),
        "x-ray": lambda: (2000 + np.rint(14 * light)).astype(np.uint16),
        "ct": lambda: np.rint(30 * light - 15).astype(np.int32),
        "float": lambda: (1.1 * light).astype(np.float32),
    }[kind]()
    return Image.fromarray(pixels), ".png" if kind in ("8-bit", "x-ray") else ".tif"
