"""Provide image folders: one folder a class, with or without folders for the splits above them.

    DATA/cat/**/1.jpg              one split, `all`; images at any depth below a class
    DATA/train/cat/1.jpg           splits: train, val (valid, validation), test; recognised only
    DATA/test/cat/2.jpg            if train/ has folders itself, so a class may be named train

Classes are sorted as strings ('10' before '2'), as in torchvision's ImageFolder. The walk is
sorted, follows links once, and skips hidden files, leftovers of systems and our run folders.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from unicodedata import normalize

import numpy as np

from resnets.data.decode import SUFFIXES
from resnets.data.file_store import FileStore, PackedStrings
from resnets.data.sources.indexing import SourceListing, SplitListing, numbered
from resnets.errors import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_ORDER = ("train", "val", "test", "all")
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
    folders: dict[str, Tree] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)

    def walk(self) -> Iterator[Tree]:
        """Yield the folder itself and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def all_images(self) -> list[str]:
        """Return the paths of the images at any depth, sorted."""
        return sorted(image for tree in self.walk() for image in tree.images)

    def has_images(self) -> bool:
        """Return whether there is an image at any depth."""
        return any(tree.images for tree in self.walk())

    def has_runs(self) -> bool:
        """Return whether there is a run folder at any depth."""
        return any(tree.runs for tree in self.walk())

    def all_others(self) -> list[str]:
        """Return the paths of the files at any depth that are not images, sorted."""
        return sorted(other for tree in self.walk() for other in tree.others)


def scan(root: Path) -> Tree:
    """List a folder and all below it; raise UserError if a folder cannot be listed."""
    if is_run(os.fspath(root)):
        raise UserError(f"{root} is the folder of a run, not of data")
    return _scan(os.path.abspath(root), "", (os.path.realpath(root),))


def is_run(folder: str) -> bool:
    """Return whether a folder was written by a training run."""
    files = (os.path.join(folder, name) for name in ("config.json", "metrics.jsonl"))
    return all(map(os.path.isfile, files))


def _scan(folder: str, path: str, ancestors: tuple[str, ...]) -> Tree:
    tree = Tree(path)
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
        elif (real := os.path.realpath(entry.path)) not in ancestors:  # else a circular link
            tree.folders[entry.name] = _scan(entry.path, child, (*ancestors, real))
    return tree


def read_folder(root: Path, tree: Tree) -> SourceListing:
    """List the images of a folder; raise UserError for an unknown layout."""
    named = _named_splits(root, tree)
    folders: dict[str, dict[str, Tree]] = {}  # split -> class -> folder
    empty: list[str] = []
    notices = [*_ignored(tree, named), *_foreign(tree), *_runs(tree)]
    for name, split in (named or {"all": tree}).items():
        classes, without = _class_folders(split)
        empty += without
        if split.images and classes:
            notices.append(
                f"{len(split.images)} images are in {split.path or root} itself, outside the class "
                "folders: ignored"
            )
        if classes:
            folders[name] = classes
            notices += _alike(classes)
        elif name != "all" and not without:
            notices.append(f"{split.path} has no class folders with images: ignored")
    if not folders:
        raise UserError(_no_images(root, tree))
    labels = sorted({class_name(name) for classes in folders.values() for name in classes})
    return SourceListing(
        name=root.resolve().name,
        classes=tuple(labels),
        splits={name: _listing(root, classes, labels) for name, classes in folders.items()},
        notices=tuple(notices),
        empty=tuple(empty),
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
    train = splits.get("train")
    if train is None or not any(folder.has_images() for folder in train.folders.values()):
        return {}
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _class_folders(split: Tree) -> tuple[dict[str, Tree], list[str]]:
    """Return the folders of the classes with images, and the paths of those without."""
    classes = {name: folder for name, folder in split.folders.items() if folder.has_images()}
    empty = [
        folder.path
        for name, folder in split.folders.items()
        if name not in classes and not folder.has_runs()  # a `runs` folder is no empty class
    ]
    return classes, empty


def _alike(classes: dict[str, Tree]) -> list[str]:
    """Warn of classes such as `Training` and `Testing`, which may be splits."""
    inner = {frozenset(folder.folders) for folder in classes.values()}
    if len(classes) < 2 or len(inner) > 1 or len(next(iter(inner))) < 2:
        return []
    return [
        f"the classes {shortened(sorted(classes))} have the same folders, "
        f"{shortened(sorted(next(iter(inner))))}: if they are splits of one set, name them "
        "train, val and test"
    ]


def _listing(root: Path, classes: dict[str, Tree], labels: list[str]) -> SplitListing:
    """Return the images of all classes, sorted by class and path."""
    images = {name: folder.all_images() for name, folder in sorted(classes.items())}
    names = PackedStrings.of(chain.from_iterable(images.values()))
    targets = numbered([class_name(name) for name in images], labels)
    counts = [len(content) for content in images.values()]
    return SplitListing(FileStore(os.path.abspath(root), names), np.repeat(targets, counts))


def printable(path: str) -> str:
    """Replace the bytes of a path that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def class_name(name: str) -> str:
    """Compose the accents of a name, which file systems encode in different ways."""
    return normalize("NFC", printable(name))


def _ignored(tree: Tree, splits: dict[str, Tree]) -> list[str]:
    if not splits:
        return []
    used = {split.path for split in splits.values()}
    names = sorted([name for name in tree.folders if name not in used] + tree.images + tree.others)
    if not names:
        return []
    return [f"ignored beside the splits {', '.join(sorted(used))}: {shortened(names)}"]


def _foreign(tree: Tree) -> list[str]:
    suffixes = Counter(os.path.splitext(other)[1].lower() for other in tree.all_others())
    found = [
        f"{count} {suffix}" for suffix, count in sorted(suffixes.items()) if suffix in _FOREIGN
    ]
    if not found:
        return []
    return [f"images of formats that are not read, ignored: {', '.join(found)}; convert them"]


def _runs(tree: Tree) -> list[str]:
    runs = sorted(run for folder in tree.walk() for run in folder.runs)
    return [f"folders of training runs, ignored: {shortened(runs)}"] if runs else []


def shortened(names: list[str], limit: int = 5) -> str:
    """Return the first names and how many follow."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _no_images(root: Path, tree: Tree) -> str:
    others = [other for other in tree.others if other.endswith((".csv", ".jsonl"))]
    if tree.images:
        hint = f", or give the manifest {root / others[0]} itself" if others else ""
        return (
            f"the {len(tree.images)} images in {root} have no classes: "
            f"put them into one folder per class{hint}"
        )
    seen = sorted({os.path.splitext(other)[1].lower() or other for other in tree.all_others()})
    found = f" (found: {shortened(seen)})" if seen else ""
    return (
        f"no images in {root}{found}; expected one folder per class with "
        "JPEG, PNG, WebP, GIF, BMP or TIFF files"
    )
