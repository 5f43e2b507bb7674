"""Provide `open_data`, which detects the kind of a source and opens it as a `DataSet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnets.data.dataset import DataSet, Split
from resnets.data.sources.builtin import NAMES, read_named
from resnets.data.sources.image_folder import read_folder, scan, shortened
from resnets.data.sources.indexing import SourceListing, read_all_headers
from resnets.data.sources.manifest import read_manifest
from resnets.data.sources.npz import read_npz
from resnets.data.sources.parquet import read_parquet
from resnets.errors import UserError, unknown

_KINDS = "a folder, a .csv or .jsonl manifest, an .npz or a .parquet file"


def open_data(
    data: str | Path, *, max_corrupt: float = 0.01, classes: Sequence[str] | None = None
) -> DataSet:
    """Open a data set and read the headers of its images.

    Args:
        data: The name of a set, or the path of a folder, a .csv or .jsonl manifest, an .npz or a
            .parquet file.
        max_corrupt: Largest fraction of files whose headers cannot be read. They are left out and
            listed in `skipped`.
        classes: Classes of a model, for evaluation: targets are indices into these, and the set
            may lack some but has no others. None is for training: targets are indices into the
            set's own classes, at least two, each with images in the training split.

    Returns:
        The data set.

    Raises:
        UserError: The source is missing or unknown, its classes do not fit, or more than
            `max_corrupt` of its files are unreadable.
    """
    if not 0 <= max_corrupt <= 1:
        raise UserError(f"max_corrupt is {max_corrupt}; it must be between 0 and 1")
    found = _find(data)
    if classes is None:
        names, notices = _own_classes(found)
    else:
        names, notices = _model_classes(found, classes)
    indexed, skipped, unread = read_all_headers(found, max_corrupt=max_corrupt)
    splits = {name: _renumbered(split, found.classes, names) for name, split in indexed.items()}
    if classes is None:
        _check_none_lost(splits, names, found.name)
    for name in [name for name, split in splits.items() if not len(split)]:
        notices += (f"the split {name} has no images: ignored",)
        del splits[name]
    if not splits:
        raise UserError(f"no images in {data}")
    return DataSet(
        name=found.name,
        classes=names,
        splits=splits,
        notices=found.notices + notices + unread,
        skipped=skipped,
    )


def _find(data: str | Path) -> SourceListing:
    """List the images of a source."""
    if not str(data):
        raise UserError(f"DATA is empty; expected {_KINDS}, or a name: {', '.join(NAMES)}")
    path = Path(data).expanduser()
    if isinstance(data, str) and data in NAMES:
        found = read_named(data)
        if path.exists():
            notice = f"{data} is the named set; for the folder of that name write ./{data}"
            return replace(found, notices=(*found.notices, notice))
        return found
    if path.is_dir():
        tree = scan(path)
        tables = [other for other in tree.all_others() if other.endswith(".parquet")]
        if tables and not tree.has_images():
            return read_parquet(path, [path / table for table in tables])
        return read_folder(path, tree)
    if not path.exists():
        raise _missing(data)
    match path.suffix.lower():
        case ".csv" | ".jsonl":
            return read_manifest(path)
        case ".npz":
            return read_npz(path)
        case ".parquet":
            return read_parquet(path.parent, [path])
        case ".zip" | ".tar" | ".gz" | ".tgz" | ".xz":
            raise UserError(f"{path} is an archive; unpack it and give the folder")
    raise UserError(f"{path} is not a data set; expected {_KINDS}, or a name: {', '.join(NAMES)}")


def _missing(data: str | Path) -> UserError:
    if isinstance(data, Path) or "/" in data or "." in data:
        return UserError(
            f"{data} does not exist; expected {_KINDS}, or a named set: {', '.join(NAMES)}"
        )
    error = unknown("data set", data, NAMES)
    return UserError(f"{error}; there is no file or folder of that name")


def _own_classes(found: SourceListing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of the training split, in the source's order, and notices on them."""
    training = "train" if "train" in found.splits else "all"
    if training not in found.splits:
        raise UserError(
            f"{found.name} has no training split, only {', '.join(found.splits)}; "
            "it can be evaluated, not trained on"
        )
    if found.empty:
        raise UserError(
            f"class folders without images: {shortened(list(found.empty))}; "
            "add images, or move the empty folders out of the data"
        )
    known = found.labels(training)
    notices: list[str] = []
    for split in found.splits:
        strange = sorted(found.labels(split) - known)
        if strange:
            raise UserError(
                f"classes in {split} that {training} does not have: {shortened(strange)}; "
                f"{training} has {shortened(sorted(known))}"
            )
        lacking = sorted(known - found.labels(split))
        if lacking:
            notices.append(f"the split {split} has no images of: {shortened(lacking)}")
    names = tuple(name for name in found.classes if name in known)
    unused = [name for name in found.classes if name not in known]
    if unused:
        notices.append(f"classes without any image, left out: {shortened(unused)}")
    if len(names) == 1:
        raise UserError(
            f"{found.name} has a single class, {names[0]!r}; a classifier needs at least two. "
            "If the classes are folders inside it, give that folder"
        )
    return names, tuple(notices)


def _model_classes(
    found: SourceListing, classes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the model's classes; refuse data that have others."""
    for split in found.splits:
        strange = sorted(found.labels(split) - set(classes))
        if strange:
            where = found.name if split == "all" else f"{split} of {found.name}"
            raise UserError(
                f"classes in {where} that the model does not know: "
                f"{shortened(strange)}; it knows {shortened(list(classes))}"
            )
    return tuple(classes), ()


def _renumbered(split: Split, old: tuple[str, ...], new: tuple[str, ...]) -> Split:
    """Return the split with targets in `new` instead of `old`; used labels are in both."""
    position = {name: index for index, name in enumerate(new)}
    table = np.array([position.get(name, -1) for name in old], np.int64)
    targets = table[split.targets] if len(split) else split.targets
    return replace(split, targets=targets)


def _check_none_lost(splits: dict[str, Split], names: tuple[str, ...], source: str) -> None:
    training = splits["train" if "train" in splits else "all"]
    lost = [name for index, name in enumerate(names) if not np.any(training.targets == index)]
    if lost:
        raise UserError(f"no image of the class {lost[0]!r} in {source} can be read")
