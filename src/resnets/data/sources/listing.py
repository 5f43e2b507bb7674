"""Provide `SourceListing`, what a source lists, and how all sources name splits and classes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

import numpy as np

from resnets.data.dataset import Images
from resnets.data.file_store import Array, ImageStore

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_ORDER = ("train", "val", "test", "all")


@dataclass(frozen=True, eq=False)
class SplitListing:
    """Hold the files of one split; their headers are not read yet."""

    files: ImageStore
    targets: Array  # N int64, indices into the classes of `SourceListing`


@dataclass(frozen=True, eq=False)
class SourceListing:
    """Hold what a source lists, with the classes in the order of the source."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Images | SplitListing]
    notices: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()  # class folders without images
    source: str = ""  # absolute path of the source

    def labels(self, split: str) -> set[str]:
        """Return the classes of which a split has an image."""
        return {self.classes[target] for target in np.unique(self.splits[split].targets)}


def numbered(labels: Sequence[str], classes: Sequence[str]) -> Array:
    """Return the index of each label among the classes, N int64."""
    position = {name: index for index, name in enumerate(classes)}
    return np.fromiter((position[label] for label in labels), np.int64, len(labels))


def printable(path: str) -> str:
    """Replace the bytes of a path that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def class_name(name: str) -> str:
    """Compose the accents of a name, which file systems encode in different ways."""
    return normalize("NFC", printable(name))


def shortened(names: Sequence[str]) -> str:
    """Return the first five names and how many follow."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
