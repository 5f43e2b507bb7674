"""Image files that would cost seconds or gigabytes before they are refused."""

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fault_harness import TINY_RUN, Fault, finished_run, photos
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from image_files import (
    chunk,
    jpeg,
    jpeg_of_scans,
    jpeg_with,
    png,
    segment,
    shared_tags,
    tiff,
)

STRUCTURE = "its structure is not that of an image"
# A picture of 67 million pixels, 268 MB in memory as colours with transparency.
SIDE = 8192


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _gif(blocks: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + blocks + b","


def _rle(count: int) -> bytes:
    """A BMP of so many runs without a pixel."""
    body = b"\0\0" * count
    header = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + header + bytes(1024) + body


def _split_exif(content: bytes) -> bytes:
    pieces = (content[at : at + 60_000] for at in range(0, len(content), 60_000))
    return jpeg_with(b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces))


GREY = [b"ab"] * 2
BAD: dict[str, Callable[[], bytes]] = {
    "jpeg-exif-segments": lambda: jpeg_with(segment(0xE1, b"Exif\0\0MM") * 500_000),
    "jpeg-exif-segments-of-kilobytes": lambda: jpeg_with(
        segment(0xE1, b"Exif\0\0" + b"M" * 2400) * 4000
    ),
    "jpeg-app-segments": lambda: jpeg_with(segment(0xE5, b"x" * 10) * 500_000),
    "jpeg-comments": lambda: jpeg_with(segment(0xFE, b"x") * 1_500_000),
    "jpeg-tables": lambda: jpeg_with(segment(0xDB, b"\0" + b"\1" * 64) * 140_000),
    "jpeg-filled-with-ff": lambda: jpeg_with(b"\xff" * 10_000_000),
    "jpeg-filled-with-zeros": lambda: jpeg_with(segment(0xE5, b"x") + bytes(10_000_000)),
    "jpeg-filled-with-escapes": lambda: jpeg_with(segment(0xE5, b"x") + b"\xff\0" * 5_000_000),
    "jpeg-starts": lambda: jpeg_with(b"\xff\xd8" * 5_000_000),
    "jpeg-shared-exif": lambda: _split_exif(shared_tags(40_000, 600_000)),
    "jpeg-shared-exif-small": lambda: _split_exif(shared_tags(20_000, 240_000)),
    "png-text-chunks": lambda: png(2, 8, 0, GREY, chunk(b"tEXt", b"a\0b") * 600_000),
    "png-shared-exif": lambda: png(2, 8, 0, GREY, chunk(b"eXIf", shared_tags(60_000, 8_000_000))),
    "tiff-shared-tags": lambda: shared_tags(60_000, 8_000_000),
    "tiff-shared-tags-small": lambda: shared_tags(20_000, 250_000),
    "tiff-strips": lambda: tiff(np.zeros((9, 9), np.uint8), tags={273: (4, [8] * 2_000_000)}),
    "gif-blocks": lambda: _gif(b"!\xfe" + b"\1x" * 4_000_000 + b"\0"),
    "gif-extensions": lambda: _gif(b"!\xfe\1x\0" * 2_000_000),
    "bmp-runs": lambda: _rle(4_900_000),
}
# Known only when they are decoded.
BAD_INSIDE: dict[str, Callable[[], bytes]] = {
    "jpeg-scans": lambda: jpeg_of_scans(4000, 4000, 3000),
    "jpeg-scans-of-a-large-picture": lambda: jpeg_of_scans(8000, 8000, 90),
    "jpeg-scans-of-a-small-picture": lambda: jpeg_of_scans(16, 16, 600_000),
    "png-empty-pixel-chunks": lambda: png(2, 8, 0, GREY, chunk(b"IDAT", b"") * 800_000),
    "png-chunks-after-the-pixels": lambda: png(2, 8, 0, GREY, after=chunk(b"prVt", b"") * 800_000),
}
LARGE: dict[str, Callable[[], bytes]] = {
    "png-16-bit": lambda: _saved(Image.new("I;16", (SIDE, SIDE)), "PNG", compress_level=1),
    "tiff-float": lambda: _saved(Image.new("F", (SIDE, SIDE)), "TIFF", compression="tiff_deflate"),
    "tiff-int32": lambda: _saved(Image.new("I", (SIDE, SIDE)), "TIFF", compression="tiff_deflate"),
    "png-transparent": lambda: _saved(Image.new("RGBA", (SIDE, SIDE)), "PNG", compress_level=1),
    "tiff-lzw": lambda: _saved(Image.new("RGBA", (SIDE, SIDE)), "TIFF", compression="tiff_lzw"),
    "jpeg-108-megapixels": lambda: jpeg(12_000, 9000),
    "jpeg-108-megapixels-progressive": lambda: jpeg(12_000, 9000, progressive=True),
}


def _predicted(content: Callable[[], bytes]) -> Callable[[Path], list[str]]:
    """Predict from a file of this content with a trained network."""

    def make(folder: Path) -> list[str]:
        (folder / "x.img").write_bytes(content())
        return ["predict", str(finished_run(folder)), "x.img"]

    return make


def _trained(content: Callable[[], bytes]) -> Callable[[Path], list[str]]:
    """Train on a folder that has a file of this content."""

    def make(folder: Path) -> list[str]:
        (photos(folder / "data") / "cat" / "x.jpg").write_bytes(content())
        return ["train", "data", "--out", "run", *TINY_RUN]

    return make


def _decoded(content: Callable[[], bytes]) -> Callable[[Path], Callable[[], None]]:
    """Decode a large picture, which is right, in little memory."""

    def make(folder: Path) -> Callable[[], None]:
        (folder / "x.img").write_bytes(content())

        def decode_it() -> None:
            from resnets.data.decode import decode

            print(decode(folder / "x.img", pixel_range=(0, 1)).shape)

        return decode_it

    return make


FAULTS = [
    *(
        Fault(f"image-cost/{name}", _predicted(make), STRUCTURE, cpu_seconds=2, catalogue="D7")
        for name, make in {**BAD, **BAD_INSIDE}.items()
    ),
    *(
        Fault(f"image-cost/train-{name}", _trained(BAD[name]), STRUCTURE, cpu_seconds=2)
        for name in ("jpeg-exif-segments", "jpeg-filled-with-ff", "png-text-chunks")
    ),
    *(
        Fault(
            f"image-cost/{name}",
            _decoded(make),
            r"\(\d+, \d+, 3\)",
            code=0,
            megabytes=1024,
            slow=True,
            catalogue="D5",
        )
        for name, make in LARGE.items()
    ),
]
