"""Provide `DataSet` and its splits, `Images` in memory and `ImageFiles` on disk.

N H W C: images, height, width, channels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
from PIL import Image

from resnets.data.decode import DecodeError, Piece, decode
from resnets.data.file_limits import MAX_PIXELS
from resnets.data.file_store import Array, ImageStore, PackedStrings
from resnets.data.wide_pixels import PixelRange
from resnets.errors import UserError, shortened
from resnets.fileio import sha256

# Unreadable images that a message names.
NAMED = 10


def _check_index(targets: Array, ids: tuple[str, ...] | PackedStrings, length: int) -> None:
    if targets.dtype != np.int64 or targets.shape != (length,) or len(ids) != length:
        raise ValueError(
            f"{length} images need as many int64 targets and ids, "
            f"got {targets.dtype} {targets.shape} and {len(ids)}"
        )


@dataclass(frozen=True, eq=False)
class Images:
    """Hold the images of a split in memory, all of one size.

    Args:
        pixels: uint8 N H W C, with 1 (grey) or 3 (colour) channels.
        targets: int64 N, indices into the classes.
        ids: A name for each image.

    Raises:
        ValueError: The arrays do not fit together.
    """

    pixels: Array
    targets: Array
    ids: tuple[str, ...]
    pixel_range: ClassVar[PixelRange | None] = None  # they have 8 bits

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.channels not in (1, 3):
            raise ValueError(
                f"pixels must be uint8 N H W C with 1 or 3 channels, "
                f"got {self.pixels.dtype} of shape {self.pixels.shape}"
            )
        _check_index(self.targets, self.ids, len(self.pixels))

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        """Number of channels: 1 (grey) or 3 (colour)."""
        return int(self.pixels.shape[3])

    @property
    def sizes(self) -> Array:
        """Width and height of each image, N 2 int32."""
        _, height, width, _ = self.pixels.shape
        return np.broadcast_to(np.array([width, height], np.int32), (len(self), 2))

    def subset(self, indices: Array | Sequence[int]) -> "Images":
        """Return the images at these indices, in that order."""
        ids = tuple(self.ids[index] for index in indices)
        return Images(self.pixels[indices], self.targets[indices], ids)

    def read(self, index: int, channels: int, piece: Piece | None = None) -> Array:
        """Return an image, or a piece of it, as uint8 H W C with 1 or 3 channels."""
        pixels: Array = self.pixels[index]
        if piece is not None:
            left, top, right, bottom = piece.corners(*pixels.shape[:2])
            pixels = pixels[top:bottom, left:right]
        if channels == self.channels:
            return pixels
        if channels == 3:
            return np.repeat(pixels, 3, axis=2)
        return np.array(Image.fromarray(pixels).convert("L"))[..., None]

    def fingerprint(self) -> str:
        """Return the SHA-256 of ids, targets and pixels."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        digest.update(str(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.targets).astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()

    content_digest = fingerprint  # which covers every pixel


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Hold the image files of a split; headers are known, pixels are decoded on demand.

    Args:
        files: Where the files are.
        targets: int64 N, indices into the classes.
        sizes: int32 N 2, width and height from the headers.
        num_bytes: int64 N, size of each file when it was listed.
        channels: 1 if every file is grey, else 3.
        depths: uint8 N, the depth of each file's pixels as its place in `wide_pixels.KINDS`; None
            where all have 8 bits.
        pixel_range: The values of wide pixels that become 0 and 255, as `decode` takes them.
        max_pixels: Most pixels of an image, as `decode` takes them.

    Raises:
        ValueError: The arrays do not fit together.
    """

    files: ImageStore
    targets: Array
    sizes: Array
    num_bytes: Array
    channels: int
    depths: Array | None = None
    pixel_range: PixelRange | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        _check_index(self.targets, self.ids, len(self.num_bytes))
        if self.sizes.shape != (len(self), 2) or self.channels not in (1, 3):
            raise ValueError("sizes must be N 2, channels 1 or 3")

    def __len__(self) -> int:
        return len(self.num_bytes)

    @property
    def ids(self) -> PackedStrings:
        """Name of each image in its source."""
        return self.files.names

    def subset(self, indices: Array | Sequence[int]) -> "ImageFiles":
        """Return the files at these indices, in that order."""
        return replace(
            self,
            files=self.files.subset(indices),
            targets=self.targets[indices],
            sizes=self.sizes[indices],
            num_bytes=self.num_bytes[indices],
            depths=None if self.depths is None else self.depths[indices],
        )

    def read(self, index: int, channels: int, piece: Piece | None = None) -> Array:
        """Decode an image as uint8 H W C with 1 or 3 channels; raise DecodeError if damaged."""
        try:
            return decode(
                self.files[index],
                channels=channels,
                piece=piece,
                pixel_range=self.pixel_range,
                max_pixels=self.max_pixels,
            )
        except DecodeError as error:
            raise DecodeError(error.reason, self.ids[index]) from error

    def fingerprint(self) -> str:
        """Return the SHA-256 of each file's id, target, width, height and size.

        It does not cover the contents: reading a large set takes longer than an epoch.
        """
        digest = hashlib.sha256(b"\n".join(self.ids.raws()))
        for numbers in (self.targets, self.sizes, self.num_bytes):
            digest.update(np.ascontiguousarray(numbers).astype("<i8").tobytes())
        return digest.hexdigest()

    def content_digest(self) -> str:
        """Return the SHA-256 of each file's id and content; this reads every file."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            file, name = self.files[index], self.ids[index]
            content = sha256(file if isinstance(file, bytes) else Path(file))
            digest.update(f"{name} {content}\n".encode())
        return digest.hexdigest()


Split: TypeAlias = Images | ImageFiles


@dataclass(frozen=True, eq=False)
class DataSet:
    """Hold images and their classes, in the splits of their source.

    Args:
        name: Name of the set.
        classes: Names of the classes, in the order of the targets.
        splits: `train`, `val` and `test` as far as they exist, or only `all`.
        notices: What the user should know, one sentence each.
        skipped: Id and reason of each unreadable file.
        listed: For each split the number of files of each class, unreadable ones included; a split
            that is absent lost none.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    notices: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    listed: Mapping[str, Array] = field(default_factory=dict)


def stratified_split(targets: Array, *, fraction: float, seed: int) -> tuple[Array, Array]:
    """Hold out a fraction of the images of each class.

    Shares are rounded by the largest remainder. No class is emptied, and a class of at least two
    images gives at least one. The result depends on the arguments only.

    Args:
        targets: int64 N, the class of each image.
        fraction: Fraction to hold out, between 0 and 1.
        seed: Seed of the draw.

    Returns:
        Sorted indices of the images that stay, and of those held out.

    Raises:
        UserError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the held-out fraction is {fraction}; it must be between 0 and 1")
    # Raw draws: numpy promises their stream for all versions, but not how it shuffles with them.
    draws = np.random.PCG64(seed).random_raw(len(targets))
    labels, counts = np.unique(targets, return_counts=True)
    exact = counts * fraction
    shares = np.floor(exact).astype(np.int64)
    missing = round(float(exact.sum())) - int(shares.sum())
    order = np.argsort(shares - exact, kind="stable")  # the largest remainder first
    shares[order[: max(missing, 0)]] += 1
    shares = np.clip(shares, np.minimum(counts - 1, 1), counts - 1)
    held_out = np.zeros(len(targets), np.bool_)
    for label, share in zip(labels, shares, strict=True):
        members = np.flatnonzero(targets == label)
        held_out[members[np.argsort(draws[members], kind="stable")[:share]]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a run."""

    train: Split
    val: Split
    test: Split | None
    held_out: tuple[str, ...] = ()  # ids of the training images that became `val`

    def sizes(self) -> dict[str, int]:
        """Return the number of images in each split."""
        sizes = {"train": len(self.train), "val": len(self.val)}
        return sizes if self.test is None else sizes | {"test": len(self.test)}

    @property
    def scored(self) -> tuple[str, Split]:
        """The split of the final scores, with its name."""
        return ("validation", self.val) if self.test is None else ("test", self.test)


def make_splits(
    data: DataSet,
    *,
    validate_on: str = "val",
    val_fraction: float = 0.1,
    seed: int = 0,
    held_out: Sequence[str] | None = None,
) -> Splits:
    """Find the splits of a data set; without a validation split, hold out training images.

    `held_out` repeats an earlier choice. Validation on "test" needs a test split.
    """
    test = data.splits.get("test")
    whole = data.splits["train" if "train" in data.splits else "all"]
    if validate_on == "test":
        if test is None:
            raise UserError(f"--validate-on test: {data.name} has no test split")
        return Splits(whole, test, test)
    if "val" in data.splits:
        return Splits(whole, data.splits["val"], test)
    if held_out is None:
        train, val = stratified_split(whole.targets, fraction=val_fraction, seed=seed)
    else:
        names = frozenset(held_out)
        chosen = np.fromiter((name in names for name in whole.ids), np.bool_, len(whole))
        train, val = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    return Splits(whole.subset(train), whole.subset(val), test, tuple(whole.ids[i] for i in val))


def fingerprint(data: DataSet) -> str:
    """Return one SHA-256 over the class names and the fingerprints of all splits."""
    digest = hashlib.sha256("\n".join(data.classes).encode())
    for name in sorted(data.splits):
        digest.update(f"\n{name} {data.splits[name].fingerprint()}".encode())
    return digest.hexdigest()


def content_digest(data: DataSet) -> str:
    """Return one SHA-256 over every byte of the images. It reads all files."""
    digest = hashlib.sha256()
    for name in sorted(data.splits):
        digest.update(f"{name} {data.splits[name].content_digest()}\n".encode())
    return digest.hexdigest()


def listed_reasons(reasons: Mapping[str, str], *, shown: int = NAMED) -> str:
    """Return the first unreadable images, each with its reason, and how many follow."""
    names = [f"{name} ({reason})" for name, reason in islice(reasons.items(), shown)]
    return shortened(names, shown=shown, separator="; ", total=len(reasons))


def notices_of(data: DataSet) -> list[str]:
    """Return what the user should know about the data, and the first unreadable files."""
    count = len(data.skipped)
    if not count:
        return list(data.notices)
    tail = ", listed in data.json" if count > NAMED else ""
    images = "image" if count == 1 else "images"
    text = f"{count} unreadable {images} left out: {listed_reasons(dict(data.skipped))}{tail}"
    return [*data.notices, text]


def describe_classes(classes: Sequence[str], targets: Array, *, shown: int = 12) -> str:
    """Return the first classes, their number, and the sizes of the smallest and the largest."""
    counts = np.bincount(targets, minlength=len(classes))
    low, high = int(counts.argmin()), int(counts.argmax())
    sizes = f"{counts[low]:,}"
    if counts[low] < counts[high]:
        sizes = f"{counts[low]:,} ({classes[low]}) to {counts[high]:,} ({classes[high]})"
    return f"{len(classes):,} classes ({shortened(classes, shown=shown)}) of {sizes} images"
