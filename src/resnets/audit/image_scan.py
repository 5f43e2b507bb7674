"""Read every image of a data set once and keep what the checks need: digests, a thumbnail, facts.

N H W C: images, height, width, channels.
"""

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from resnets.data.dataset import DataSet, Images, Split
from resnets.data.decode import DecodeError
from resnets.data.duplicates import content_digest, file_content
from resnets.data.file_store import Array
from resnets.data.workers import usable_cpus

# Side of the thumbnails, to which every image is squashed.
SIDE = 32
# Images that a thread reads at a time.
_CHUNK = 64
# Formats of which `decode` reads the pixels.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_UPRIGHT = 1
# First bytes of a JPEG, and the value of pixels that its decoder fills in, in so many last rows.
_JPEG, _FILLED, _LAST = b"\xff\xd8\xff", 128, 4


@dataclass(frozen=True, eq=False)
class ScannedImages:
    """Facts on N images, those of all splits in their order.

    Args:
        splits: Names of the splits.
        which: Index of the split of each image, N.
        index: Index of each image in its split, N.
        targets: Class of each image, N.
        sizes: Width and height, N 2.
        contents: Digest of the file's bytes (of the pixels, in memory), N; empty if unreadable.
        pixels: Digest of the decoded pixels, N; empty if unreadable.
        thumbnails: The images squashed to SIDE pixels, uint8 N SIDE SIDE 3.
        modes: Pillow's mode of each file, N ("L", "RGB", "RGBA", "CMYK", ...).
        orientations: EXIF orientation of each file, N; 1 is upright.
        cut: Whether the end of each file is missing although it could be decoded, N.
        reasons: Why an image could not be decoded, by its row.
    """

    splits: tuple[str, ...]
    which: Array
    index: Array
    targets: Array
    sizes: Array
    contents: Array
    pixels: Array
    thumbnails: Array
    modes: Array
    orientations: Array
    cut: Array
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.which)

    @property
    def readable(self) -> Array:
        """Whether each image could be decoded, N bool."""
        found = np.ones(len(self), np.bool_)
        found[list(self.reasons)] = False
        return found

    def split_of(self, row: int) -> str:
        """Return the name of the split of an image."""
        return self.splits[int(self.which[row])]


def scan_images(data: DataSet, *, progress: Callable[[int, int], None]) -> ScannedImages:
    """Read all images; `progress` is called with the number of images read and of all."""
    splits = list(data.splits.values())
    lengths = [len(split) for split in splits]
    total = sum(lengths)
    found = ScannedImages(
        splits=tuple(data.splits),
        which=np.repeat(np.arange(len(splits)), lengths),
        index=np.concatenate([np.arange(length) for length in lengths]),
        targets=np.concatenate([split.targets for split in splits]),
        sizes=np.concatenate([split.sizes for split in splits]),
        contents=np.zeros(total, "S32"),
        pixels=np.zeros(total, "S32"),
        thumbnails=np.zeros((total, SIDE, SIDE, 3), np.uint8),
        modes=np.full(total, "RGB", "U8"),
        orientations=np.full(total, _UPRIGHT, np.uint8),
        cut=np.zeros(total, np.bool_),
        reasons={},
    )

    def read(start: int) -> int:
        rows = range(start, min(start + _CHUNK, total))
        for row in rows:
            _scan(splits[found.which[row]], row, found)
        return len(rows)

    done = 0
    with ThreadPoolExecutor(usable_cpus()) as pool:
        try:
            for count in pool.map(read, range(0, total, _CHUNK)):
                done += count
                progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
            raise
    return found


def _scan(split: Split, row: int, found: ScannedImages) -> None:
    """Fill the row of one image."""
    index = int(found.index[row])
    try:
        image = split.read(index, channels=split.channels if isinstance(split, Images) else 3)
    except DecodeError as error:
        found.reasons[row] = error.reason
        return
    if isinstance(split, Images):
        found.contents[row] = content_digest(split, index).hex()
        found.modes[row] = {1: "L", 3: "RGB"}[split.channels]
    else:
        content = file_content(split, index)
        found.contents[row] = hashlib.blake2b(content, digest_size=16).hexdigest()
        found.modes[row], found.orientations[row] = _header(content)
        if content.startswith(_JPEG):
            found.cut[row] = _ends_in_grey(image, int(found.orientations[row]))
    colours = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    shape = b"%d %d " % colours.shape[:2]
    found.pixels[row] = hashlib.blake2b(shape + colours.tobytes(), digest_size=16).hexdigest()
    found.thumbnails[row] = thumbnail(colours)


def thumbnail(image: Array) -> Array:
    """Squash an image H W 3 to SIDE pixels a side."""
    resized = Image.fromarray(image).resize(
        (SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0
    )
    return np.asarray(resized)


def _ends_in_grey(image: Array, orientation: int) -> bool:
    """Return whether the last rows of a JPEG are those by which a decoder fills what is missing.

    Coefficients that are missing are zero, which is the grey of 128. An image with a margin of this
    grey on both sides is whole.
    """
    if orientation > 4:  # stored rows are columns of the upright image
        image = np.moveaxis(image, 1, 0)
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    rows = image[-_LAST:], image[:_LAST]
    last, first = (bool((part == _FILLED).all()) for part in rows)
    return last and not first


def _header(content: bytes) -> tuple[str, int]:
    """Return the mode and the EXIF orientation of a file that could be decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
            valid = orientation if orientation in range(1, 9) else _UPRIGHT
            return picture.mode, valid
    except Exception:  # Pillow's own limit of pixels, or metadata that only this reads
        return "RGB", _UPRIGHT
