"""Provide image folders: one folder a class, with or without folders for the splits above them.

    DATA/cat/**/1.jpg              one split, `all`; images at any depth below a class
    DATA/train/cat/1.jpg           splits: train, val (valid, validation), test; recognised only
    DATA/test/cat/2.jpg            if train/ has folders itself, so a class may be named train

Classes are sorted as strings ('10' before '2'), as in torchvision's ImageFolder. The walk is
sorted, follows links once, and skips hidden files, leftovers of systems and our run folders.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from resnets.data.decode import SUFFIXES
from resnets.data.file_store import FileStore, PackedStrings
from resnets.data.sources.listing import (
    SPLIT_NAMES,
    SPLIT_ORDER,
    SourceListing,
    SplitListing,
    class_name,
    numbered,
    shortened,
)
from resnets.errors import UserError

_LEFTOVERS = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")
)
# Image formats that are not read: reported, unlike notes and archives.
_FOREIGN = frozenset(
    (".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".svg", ".psd", ".ico", ".tga")
)


@dataclass
class Tree:
    """Describe the visible content of a folder; paths are posix and relative to DATA."""

    path: str
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    folders: "dict[str, Tree]" = field(default_factory=dict)

    def walk(self) -> "Iterator[Tree]":
        """Yield the folder itself and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def below(self, kind: Literal["images", "others", "runs"]) -> list[str]:
        """Return the paths of this kind at any depth, sorted."""
        return sorted(chain.from_iterable(getattr(tree, kind) for tree in self.walk()))

    def has_images(self) -> bool:
        """Return whether there is an image at any depth."""
        return any(tree.images for tree in self.walk())

    def classes(self) -> "dict[str, Tree]":
        """Return the folders that have images."""
        return {name: inner for name, inner in self.folders.items() if inner.has_images()}

    def empty(self) -> list[str]:
        """Return the paths of folders that have none; a folder of runs is no empty class."""
        inside = self.folders.values()
        return [x.path for x in inside if not x.has_images() and not x.below("runs")]


def scan(folder: str, path: str = "", above: tuple[str, ...] = ()) -> Tree:
    """List a folder and all below it; raise UserError if a folder cannot be listed."""
    tree, above = Tree(path), above or (os.path.realpath(folder),)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _LEFTOVERS:
            continue
        child = f"{path}/{entry.name}" if path else entry.name
        if not entry.is_dir():
            suffix = os.path.splitext(entry.name)[1].lower()
            (tree.images if suffix in SUFFIXES else tree.others).append(child)
        elif is_run(entry.path):
            tree.runs.append(child)
        elif (real := os.path.realpath(entry.path)) not in above:  # else a circular link
            tree.folders[entry.name] = scan(entry.path, child, (*above, real))
    return tree


def is_run(folder: str | Path) -> bool:
    """Return whether a folder was written by a training run."""
    files = (os.path.join(folder, name) for name in ("config.json", "metrics.jsonl"))
    return all(map(os.path.isfile, files))


def read_folder(root: Path, tree: Tree) -> SourceListing:
    """List the images of a folder; raise UserError for an unknown layout."""
    splits = _named_splits(root, tree) or {"all": tree}
    folders = {name: classes for name, split in splits.items() if (classes := split.classes())}
    if not folders:
        raise UserError(_no_images(root, tree))
    labels = sorted({class_name(name) for classes in folders.values() for name in classes})
    return SourceListing(
        name=root.resolve().name,
        classes=tuple(labels),
        splits={name: _listing(root, classes, labels) for name, classes in folders.items()},
        notices=tuple(_notices(root, tree, splits)),
        empty=tuple(path for split in splits.values() for path in split.empty()),
        source=os.path.abspath(root),
    )


def _named_splits(root: Path, tree: Tree) -> dict[str, Tree]:
    """Return the folder of each split, in the order train, val, test; empty if DATA has none."""
    splits: dict[str, Tree] = {}
    for name, folder in tree.folders.items():
        split = SPLIT_NAMES.get(name.lower())
        if split in splits:
            raise UserError(
                f"{root} has two folders for one split: {splits[split].path} and {name}"
            )
        if split:
            splits[split] = folder
    inside = splits["train"].folders.values() if "train" in splits else ()
    if not any(folder.has_images() for folder in inside):
        return {}
    return {split: splits[split] for split in SPLIT_ORDER if split in splits}


def _notices(root: Path, tree: Tree, splits: dict[str, Tree]) -> Iterator[str]:
    """Yield what is left out, and what may be a mistake."""
    if "all" not in splits:
        used = sorted(split.path for split in splits.values())
        folders = [name for name in tree.folders if name not in used]
        if names := sorted([*folders, *tree.images, *tree.others]):
            yield f"ignored beside the splits {', '.join(used)}: {shortened(names)}"
    suffixes = Counter(os.path.splitext(other)[1].lower() for other in tree.below("others"))
    foreign = [f"{suffixes[suffix]} {suffix}" for suffix in sorted(_FOREIGN & suffixes.keys())]
    if foreign:
        yield f"images of formats that are not read, ignored: {', '.join(foreign)}; convert them"
    if runs := tree.below("runs"):
        yield f"folders of training runs, ignored: {shortened(runs)}"
    for name, split in splits.items():
        classes = split.classes()
        if name != "all" and not classes and not split.empty():
            yield f"{split.path} has no class folders with images: ignored"
        if split.images and classes:
            yield (
                f"{len(split.images)} images are in {split.path or root} itself, outside the class "
                "folders: ignored"
            )
        inner = {frozenset(folder.folders) for folder in classes.values()}
        same = sorted(inner.pop()) if len(inner) == 1 else []
        if len(classes) > 1 and len(same) > 1:  # such as Training and Testing
            yield (
                f"the classes {shortened(sorted(classes))} have the same folders, "
                f"{shortened(same)}: if they are splits of one set, name them train, val and test"
            )


def _listing(root: Path, classes: dict[str, Tree], labels: list[str]) -> SplitListing:
    """Return the images of all classes, sorted by class and path."""
    images = {name: folder.below("images") for name, folder in sorted(classes.items())}
    names = PackedStrings.of(chain.from_iterable(images.values()))
    targets = numbered([class_name(name) for name in images], labels)
    counts = list(map(len, images.values()))
    return SplitListing(FileStore(os.path.abspath(root), names), np.repeat(targets, counts))


def _no_images(root: Path, tree: Tree) -> str:
    if tree.images:
        tables = [other for other in tree.others if other.endswith((".csv", ".jsonl"))]
        hint = f", or give the manifest {root / tables[0]} itself" if tables else ""
        return (
            f"the {len(tree.images)} images in {root} have no classes: "
            f"put them into one folder per class{hint}"
        )
    seen = sorted({os.path.splitext(other)[1].lower() or other for other in tree.below("others")})
    found = f" (found: {shortened(seen)})" if seen else ""
    return (
        f"no images in {root}{found}; expected one folder per class with "
        "JPEG, PNG, WebP, GIF, BMP or TIFF files"
    )
