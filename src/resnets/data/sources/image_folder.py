"""Provide image folders: one folder a class, with or without folders for the splits above them.

    DATA/cat/**/1.jpg              one split, `all`; images at any depth below a class
    DATA/train/cat/1.jpg           splits: train, val, test, in the spellings that are in use
    DATA/test/cat/2.jpg

`folder_layout` finds out which folders these are. Classes are sorted as strings ('10' before '2'),
as in torchvision's ImageFolder, and images by their paths.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

import numpy as np

from resnets.data.file_store import FileStore, PackedStrings
from resnets.data.sources.file_tree import RAW, FolderScan, Tree, counted, joined, suffix_of
from resnets.data.sources.folder_layout import Folder, Layout, find_layout
from resnets.data.sources.listing import (
    SourceListing,
    SplitListing,
    class_name,
    numbered,
    printable,
)
from resnets.errors import UserError, shortened

# Image formats that are not read: reported, unlike notes and tables.
_FOREIGN = frozenset(
    (
        *(".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".svg", ".psd", ".ico"),
        *(".tga", ".exr", ".dcm", ".npy", ".mat", ".pdf", *RAW),
    )
)
ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"))
_TRAINING = ("train", "all")
_MASK = re.compile(r"(.+)[\W_]+(?:mask|masks|segmentation|seg|gt)(?:_?\d+)?\.\w+$", re.IGNORECASE)
# Names, in lower case, of folders that need not have images.
_BESIDE_IMAGES = frozenset(
    (
        *("annotation", "annotations", "bboxes", "csv", "doc", "docs", "label", "labels", "mask"),
        *("masks", "meta", "metadata", "notebooks", "scripts", "src", "xml", "xmls"),
    )
)


def read_folder(
    scan: FolderScan, *, level: int | None = None, known: Collection[str] | None = None
) -> SourceListing:
    """List the images of a folder; raise UserError for a layout that is unknown or unclear.

    `level` says how many folders below it the classes are; `known` are the classes of a model.
    """
    name = os.path.basename(os.path.realpath(scan.root))
    if not scan.tree.has_images:
        raise UserError(_no_images(scan.root, scan.tree))
    layout = find_layout(Folder("", scan.tree), data=printable(scan.root), level=level, known=known)
    folders = {split: classes for split in layout.splits if (classes := layout.classes(split))}
    if not folders:
        if level is not None:
            raise UserError(
                f"--class-level {level}: no folders with images are so deep in {scan.root}"
            )
        raise UserError(_no_images(scan.root, next(iter(layout.splits.values()))[0].tree))
    merged = _merged_names(chain.from_iterable(folders.values()))
    labels = sorted({class_name(f.name) for classes in folders.values() for f in classes})
    others, masks = Counter[str](), list[str]()
    splits = {
        split: _listing(scan.root, classes, labels, others, masks)
        for split, classes in folders.items()
    }
    without = {split: _without_images(layout, split) for split in layout.splits}
    return SourceListing(
        name=name,
        classes=tuple(labels),
        splits=splits,
        notices=(
            *layout.notices,
            *merged,
            *_folder_notices(scan, layout, without),
            *_mask_notice(masks),
            *_file_notices(scan, layout, others),
            *scan.notices(),
        ),
        empty=tuple(path for split in _TRAINING if split in without for path in without[split][0]),
        source=scan.root,
    )


def _listing(
    root: str,
    classes: list[Folder],
    labels: list[str],
    others: Counter[str],
    masks: list[str],
) -> SplitListing:
    """Return the images of all classes, sorted by class and path; note masks and other files."""
    names, folders, counts = list[str](), list[str](), list[int]()
    for folder in sorted(classes, key=lambda folder: (folder.name, folder.path)):
        images = list[str]()
        for path, tree in folder.tree.walk(folder.path):
            images += [f"{path}/{name}" for name in tree.images]
            masks += [f"{path}/{name}" for name in _masks(tree.images)]
            if tree.others:
                others.update(map(suffix_of, tree.others))
        names += sorted(images)
        folders.append(class_name(folder.name))
        counts.append(len(images))
    targets = np.repeat(numbered(folders, labels), counts)
    return SplitListing(FileStore(root, PackedStrings.of(names)), targets)


def _masks(names: list[str]) -> list[str]:
    """Return the images that are named as the mask of another one: 1_mask.png beside 1.png."""
    found = [(name, match[1]) for name in names if (match := _MASK.match(name))]
    stems = {os.path.splitext(name)[0] for name in names} if found else set()
    return [name for name, stem in found if stem in stems]


def _mask_notice(masks: list[str]) -> list[str]:
    if not masks:
        return []
    return [
        f"{len(masks):,} images are named as masks of others, and used as images: "
        f"{shortened(sorted(map(printable, masks)), shown=2)}; move them out if they are none"
    ]


def _merged_names(folders: Iterable[Folder]) -> list[str]:
    """Return a notice on folders that become one class; refuse those that are not UTF-8."""
    spelt: dict[str, set[str]] = {}
    for folder in folders:
        spelt.setdefault(class_name(folder.name), set()).add(folder.name)
    several = {name: names for name, names in spelt.items() if len(names) > 1}
    for name, names in several.items():
        if any(printable(one) != one for one in names):
            raise UserError(
                f"{len(names)} class folders have names that are not UTF-8 and look alike, "
                f"{name}: rename them"
            )
    if not several:
        return []
    return [
        "class folders whose names differ only in their Unicode form are one class: "
        + shortened([f"{name} ({len(several[name])} folders)" for name in sorted(several)])
    ]


def _without_images(layout: Layout, split: str) -> tuple[list[str], list[str]]:
    """Return the paths of class folders that lack images, and of folders that are no classes."""
    empty, beside = list[str](), list[str]()
    labels = {folder.name for folder in layout.classes(split)}
    for parent in layout.splits[split]:
        for name, tree in parent.tree.folders.items():
            if name in labels:
                continue
            inside = [inner for _, inner in tree.walk()]
            suffixes = {suffix_of(other) for inner in inside for other in inner.others}
            path = printable(joined(parent.path, name))
            is_data = suffixes and not suffixes & (_FOREIGN | ARCHIVES)
            if is_data or name.lower() in _BESIDE_IMAGES:
                beside.append(path)
            elif suffixes or not any(inner.runs for inner in inside):
                empty.append(path)
    return empty, beside


def _folder_notices(
    scan: FolderScan, layout: Layout, without: Mapping[str, tuple[list[str], list[str]]]
) -> Iterator[str]:
    """Yield which folders, and images outside of class folders, are left out."""
    runs = [joined(path, name) for path, tree in scan.tree.walk() for name in tree.runs]
    if runs:
        yield f"folders of training runs, ignored: {shortened(sorted(map(printable, runs)))}"
    if beside := sorted(chain.from_iterable(paths for _, paths in without.values())):
        yield f"folders without images, ignored: {shortened(beside)}"
    for split, parents in layout.splits.items():
        empty, _ = without[split]
        if empty and split not in _TRAINING:
            yield f"class folders without images: {shortened(empty)}"
        for parent in parents:
            path = printable(parent.path) or scan.root
            if not parent.inner() and not empty:
                yield f"{path} has no class folders with images: ignored"
            elif parent.inner() and (count := len(parent.tree.images)):
                yield f"{count:,} images are in {path} itself, outside the class folders: ignored"


def _file_notices(scan: FolderScan, layout: Layout, others: Counter[str]) -> Iterator[str]:
    """Yield which files are left out; `others` are those in class folders, by suffix."""
    beside = Counter[str]()
    for tree in {
        scan.tree,
        *(parent.tree for parent in chain.from_iterable(layout.splits.values())),
    }:
        beside.update(map(suffix_of, tree.others))
    ignored = others + Counter({suffix: beside[suffix] for suffix in _FOREIGN & beside.keys()})
    if ignored:
        foreign = sorted(_FOREIGN & ignored.keys())
        advice = f"; convert {', '.join(foreign)}, which are not read" if foreign else ""
        unopened = scan.unopened.total()
        unknown = f"; {unopened:,} files of these suffixes were not opened" if unopened else ""
        yield (f"files that are no images, ignored: {counted(ignored)}{advice}{unknown}")
    if archives := sorted(ARCHIVES & beside.keys()):
        names = ", ".join(archives)
        yield f"archives are not read: {names}; unpack them if their images belong to the data"


def _no_images(root: str, tree: Tree) -> str:
    """Say why a folder has no classes."""
    if tree.images:
        tables = [other for other in tree.others if other.endswith((".csv", ".jsonl"))]
        hint = f", or give the manifest {os.path.join(root, tables[0])} itself" if tables else ""
        return (
            f"the {len(tree.images)} images in {root} have no classes: "
            f"put them into one folder per class{hint}"
        )
    names = [name for _, inner in tree.walk() for name in inner.others]
    seen = sorted({os.path.splitext(name)[1].lower() or name for name in names})
    found = f" (found: {shortened(seen)})" if seen else ""
    return (
        f"no images in {root}{found}; expected one folder per class with "
        "JPEG, PNG, WebP, GIF, BMP or TIFF files"
    )
