"""A folder of class folders, with or without parts -> `Found`.

    DATA/cat/**/1.jpg              one part, `all`; images at any depth below a class
    DATA/train/cat/1.jpg           parts: train, val (valid, validation), test; recognised only if
    DATA/test/cat/2.jpg            train/ itself holds folders, so that a class may be named train

Classes are sorted as strings ('10' before '2'), the order of torchvision's ImageFolder, so that
networks trained there keep their meaning. The walk is our own: sorted, following links but not in
circles, blind to hidden files, leftovers of systems and our own run folders. Nothing is written.
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
from resnets.data.file_store import Paths
from resnets.data.packed_strings import Names
from resnets.data.sources.indexing import Found, Listing, numbered
from resnets.errors import UserError

PARTS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
PART_ORDER = ("train", "val", "test", "all")
_LEFTOVERS = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")
)
# Pictures that are not read: worth a word, unlike notes and archives.
_FOREIGN = frozenset(
    (".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".svg", ".psd", ".ico", ".tga")
)


@dataclass
class Tree:
    """The visible content of a folder; paths are posix and relative to DATA."""

    path: str
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: dict[str, Tree] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)

    def walk(self) -> Iterator[Tree]:
        """The folder itself and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def all_images(self) -> list[str]:
        """Paths of the images at any depth, sorted."""
        return sorted(image for tree in self.walk() for image in tree.images)

    def has_images(self) -> bool:
        """Whether there is an image at any depth."""
        return any(tree.images for tree in self.walk())

    def has_runs(self) -> bool:
        """Whether there is a run folder at any depth."""
        return any(tree.runs for tree in self.walk())

    def all_others(self) -> list[str]:
        """Paths of the files at any depth that are not images, sorted."""
        return sorted(other for tree in self.walk() for other in tree.others)


def scan(root: Path) -> Tree:
    """The tree of `root`. Raises UserError if a folder cannot be listed."""
    if is_run(os.fspath(root)):
        raise UserError(f"{root} is the folder of a run, not of data")
    return _scan(os.path.abspath(root), "", (os.path.realpath(root),))


def is_run(folder: str) -> bool:
    """Whether `folder` is what a training run wrote."""
    return all(
        os.path.isfile(os.path.join(folder, name)) for name in ("config.json", "metrics.jsonl")
    )


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
        elif (real := os.path.realpath(entry.path)) not in ancestors:  # else a link in a circle
            tree.folders[entry.name] = _scan(entry.path, child, (*ancestors, real))
    return tree


def read_folder(root: Path, tree: Tree) -> Found:
    """What the folder holds. Raises UserError if its layout is none of the known ones."""
    named = _named_parts(root, tree)
    folders: dict[str, dict[str, Tree]] = {}  # part -> class -> folder
    empty: list[str] = []
    notices = [*_ignored(tree, named), *_foreign(tree), *_runs(tree)]
    for name, part in (named or {"all": tree}).items():
        classes, without = _class_folders(part)
        empty += without
        if part.images and classes:
            notices.append(
                f"{len(part.images)} images lie in {part.path or root} itself, in no class "
                "folder: ignored"
            )
        if classes:
            folders[name] = classes
            notices += _alike(classes)
        elif name != "all" and not without:
            notices.append(f"{part.path} has no class folders with images: ignored")
    if not folders:
        raise UserError(_no_images(root, tree))
    labels = sorted({class_name(name) for classes in folders.values() for name in classes})
    return Found(
        name=root.resolve().name,
        classes=tuple(labels),
        splits={name: _listing(root, classes, labels) for name, classes in folders.items()},
        notices=tuple(notices),
        empty=tuple(empty),
        source=os.path.abspath(root),
    )


def _named_parts(root: Path, tree: Tree) -> dict[str, Tree]:
    """Split -> folder, in the order train, val, test; empty if DATA has no parts."""
    parts: dict[str, Tree] = {}
    for name, folder in tree.folders.items():
        part = PARTS.get(name.lower())
        if part in parts:
            raise UserError(f"{root} has two folders for one part: {parts[part].path} and {name}")
        if part:
            parts[part] = folder
    train = parts.get("train")
    if train is None or not any(folder.has_images() for folder in train.folders.values()):
        return {}
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _class_folders(part: Tree) -> tuple[dict[str, Tree], list[str]]:
    """Name -> folder of the classes with images, and the paths of those without."""
    classes = {name: folder for name, folder in part.folders.items() if folder.has_images()}
    empty = [
        folder.path
        for name, folder in part.folders.items()
        if name not in classes and not folder.has_runs()  # a `runs` folder is no empty class
    ]
    return classes, empty


def _alike(classes: dict[str, Tree]) -> list[str]:
    """A word on `Training` and `Testing`: classes that hold the same folders may be parts."""
    inner = {frozenset(folder.folders) for folder in classes.values()}
    if len(classes) < 2 or len(inner) > 1 or len(next(iter(inner))) < 2:
        return []
    return [
        f"the classes {shortened(sorted(classes))} hold the same folders, "
        f"{shortened(sorted(next(iter(inner))))}: if they are parts of one set, name them "
        "train, val and test"
    ]


def _listing(root: Path, classes: dict[str, Tree], labels: list[str]) -> Listing:
    """The images of all classes, sorted by class and path."""
    images = {name: folder.all_images() for name, folder in sorted(classes.items())}
    names = Names.of(chain.from_iterable(images.values()))
    targets = numbered([class_name(name) for name in images], labels)
    counts = [len(content) for content in images.values()]
    return Listing(Paths(os.path.abspath(root), names), np.repeat(targets, counts))


def printable(path: str) -> str:
    """The path with bytes that are not UTF-8 replaced, so that it can be written anywhere."""
    return os.fsencode(path).decode("utf-8", "replace")


def class_name(name: str) -> str:
    """The name with accents composed: file systems differ in how they spell the same letter."""
    return normalize("NFC", printable(name))


def _ignored(tree: Tree, parts: dict[str, Tree]) -> list[str]:
    if not parts:
        return []
    used = {part.path for part in parts.values()}
    names = sorted([name for name in tree.folders if name not in used] + tree.images + tree.others)
    if not names:
        return []
    return [f"ignored beside the parts {', '.join(sorted(used))}: {shortened(names)}"]


def _foreign(tree: Tree) -> list[str]:
    suffixes = Counter(os.path.splitext(other)[1].lower() for other in tree.all_others())
    found = [
        f"{count} {suffix}" for suffix, count in sorted(suffixes.items()) if suffix in _FOREIGN
    ]
    if not found:
        return []
    return [f"pictures of formats that are not read, ignored: {', '.join(found)}; convert them"]


def _runs(tree: Tree) -> list[str]:
    runs = sorted(run for folder in tree.walk() for run in folder.runs)
    return [f"folders of training runs, ignored: {shortened(runs)}"] if runs else []


def shortened(names: list[str], limit: int = 5) -> str:
    """The first few names and how many follow."""
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
