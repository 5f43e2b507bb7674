"""Provide .npz files with x_train, y_train, x_test, y_test and, optionally, x_val, y_val, classes.

Images are uint8, N H W or N H W C with 1 or 3 channels. Labels are strings or whole numbers:
indices into `classes`, or names where there are no `classes`. Nothing is unpickled.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile, is_zipfile

import numpy as np

from resnets.data.dataset import Images
from resnets.data.file_store import Array
from resnets.data.sources.listing import SourceListing, numbered
from resnets.errors import UserError


def read_npz(path: Path) -> SourceListing:
    """Read an .npz; raise UserError if it is damaged or its arrays do not fit together."""
    try:
        with path.open("rb") as stream:
            if not is_zipfile(stream):
                raise BadZipFile("it was not written by numpy.savez")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                arrays = dict(file)
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {path} as .npz: {error}") from error
    return list_arrays(arrays, name=path.stem, source=str(path))


def list_arrays(arrays: Mapping[str, Array], *, name: str, source: str) -> SourceListing:
    """Make a listing of arrays in memory; `source` names them in messages."""
    present = [split for split in ("train", "val", "test") if f"x_{split}" in arrays]
    if not present:
        keys = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(f"{source} has {keys}; expected x_train, y_train, x_test, y_test")
    pixels = {split: _pixels(arrays[f"x_{split}"], f"x_{split} of {source}") for split in present}
    labels = {split: _labels(arrays, split, len(pixels[split]), source) for split in present}
    given = arrays.get("classes")
    named = np.unique(np.concatenate(list(labels.values()))) if given is None else given.ravel()
    classes = tuple(str(label) for label in named)
    if len(set(classes)) < len(classes):
        raise UserError(f"classes of {source} names a class twice")
    splits = {
        split: Images(
            pixels=pixels[split],
            targets=_targets(labels[split], classes, given is not None, f"y_{split} of {source}"),
            ids=tuple(f"{split}/{index}" for index in range(len(pixels[split]))),
        )
        for split in present
    }
    return SourceListing(name=name, classes=classes, splits=splits)


def _pixels(images: Array, source: str) -> Array:
    if images.dtype != np.uint8:
        raise UserError(f"{source} is {images.dtype}; save images as uint8 (0 to 255)")
    if 0 in images.shape[1:]:
        raise UserError(f"{source} has shape {images.shape}: images without pixels")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{source} has shape {images.shape}; expected N H W, or N H W C with 1 or 3 channels"
        )
    return images


def _labels(arrays: Mapping[str, Array], split: str, length: int, source: str) -> Array:
    labels = arrays.get(f"y_{split}")
    if labels is None:
        raise UserError(f"{source} has x_{split} but no y_{split}")
    if labels.shape == (length, 1):  # as Keras keeps CIFAR's
        labels = labels[:, 0]
    if labels.shape != (length,):
        raise UserError(
            f"y_{split} of {source} has shape {labels.shape} for {length} images; "
            "expected one label per image"
        )
    if labels.dtype.kind not in "iuU":
        raise UserError(
            f"y_{split} of {source} is {labels.dtype}; labels are whole numbers or strings"
        )
    return labels


def _targets(labels: Array, classes: tuple[str, ...], indexed: bool, source: str) -> Array:
    """Return indices into `classes`: the labels themselves, or the places of their names."""
    if labels.dtype.kind != "U" and indexed:
        wrong = labels[(labels < 0) | (labels >= len(classes))]
        if len(wrong):
            raise UserError(
                f"{source} has the label {wrong[0]}, but there are {len(classes)} classes"
            )
        return labels.astype(np.int64)
    names = labels.astype(str).tolist()
    if missing := sorted(set(names) - set(classes)):
        raise UserError(f"{source} has the label {missing[0]!r}, which is not among its classes")
    return numbered(names, classes)
