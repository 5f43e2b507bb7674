"""Provide `open_data`, which detects the kind of a source and opens it as a `DataSet`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnets.data.dataset import DataSet
from resnets.data.sources.builtin import NAMES, read_named
from resnets.data.sources.header_cache import read_splits
from resnets.data.sources.image_folder import is_run, read_folder, scan
from resnets.data.sources.listing import SourceListing, shortened
from resnets.data.sources.manifest import read_manifest
from resnets.data.sources.npz import read_npz
from resnets.data.sources.parquet import read_parquet
from resnets.data.sources.source_config import SourceConfig
from resnets.errors import UserError, unknown
from resnets.fileio import expanded


def open_data(
    data: str | Path,
    config: SourceConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> DataSet:
    """Open a data set and read the headers of its images.

    Args:
        data: The name of a set, or the path of a folder, a .csv or .jsonl manifest, an .npz or a
            .parquet file.
        config: How it is read; None takes the default. Files that cannot be read are left out and
            listed in `skipped`.
        classes: Classes of a model, for evaluation: targets are indices into these, and the set
            may lack some but has no others. None is for training: targets are indices into the
            set's own classes, at least two, each with images in the training split.

    Returns:
        The data set.

    Raises:
        UserError: The source is missing or unknown, its classes do not fit, or more than
            `config.max_corrupt` of its files are unreadable.
    """
    config = config or SourceConfig()
    found = _find(data)
    if classes is None:
        names, notices = _own_classes(found)
    else:
        _check_known(found, classes)
        names, notices = tuple(classes), []
    listed, skipped, unread = read_splits(found, max_corrupt=config.max_corrupt)
    position = {name: index for index, name in enumerate(names)}
    # A class that is left out has no image.
    table = np.array([position.get(name, -1) for name in found.classes], np.int64)
    splits = {name: replace(split, targets=table[split.targets]) for name, split in listed.items()}
    if classes is None:
        used = set(splits["train" if "train" in splits else "all"].targets.tolist())
        for index, name in enumerate(names):
            if index not in used:
                raise UserError(f"no image of the class {name!r} in {found.name} can be read")
    for name in [name for name, split in splits.items() if not len(split)]:
        notices.append(f"the split {name} has no images: ignored")
        del splits[name]
    if not splits:
        raise UserError(f"no images in {data}")
    return DataSet(
        name=found.name,
        classes=names,
        splits=splits,
        notices=(*found.notices, *notices, *unread),
        skipped=skipped,
    )


def _find(data: str | Path) -> SourceListing:
    """List the images of a source."""
    kinds = "a folder, a .csv or .jsonl manifest, an .npz or a .parquet file"
    allowed = f"expected {kinds}, or a name: {', '.join(NAMES)}"
    if not str(data):
        raise UserError(f"DATA is empty; {allowed}")
    path = expanded(data)
    if isinstance(data, str) and data in NAMES:
        found = read_named(data)
        if path.exists():
            notice = f"{data} is the named set; for the folder of that name write ./{data}"
            return replace(found, notices=(*found.notices, notice))
        return found
    if path.is_dir():
        if is_run(path):
            raise UserError(f"{path} is the folder of a run, not of data")
        tree = scan(os.path.abspath(path))
        tables = [path / other for other in tree.below("others") if other.endswith(".parquet")]
        if tables and not tree.has_images():
            return read_parquet(path, tables)
        return read_folder(path, tree)
    if not path.exists():
        if isinstance(data, Path) or "/" in data or "." in data:
            raise UserError(f"{data} does not exist; {allowed.replace('a name', 'a named set')}")
        error = unknown("data set", data, NAMES)
        raise UserError(f"{error}; there is no file or folder of that name")
    match path.suffix.lower():
        case ".csv" | ".jsonl":
            return read_manifest(path)
        case ".npz":
            return read_npz(path)
        case ".parquet":
            return read_parquet(path.parent, [path])
        case ".zip" | ".tar" | ".gz" | ".tgz" | ".xz":
            raise UserError(f"{path} is an archive; unpack it and give the folder")
    raise UserError(f"{path} is not a data set; {allowed}")


def _own_classes(found: SourceListing) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes of the training split, in the source's order, and notices on them."""
    training = "train" if "train" in found.splits else "all"
    if training not in found.splits:
        raise UserError(
            f"{found.name} has no training split, only {', '.join(found.splits)}; "
            "it can be evaluated, not trained on"
        )
    if found.empty:
        raise UserError(
            f"class folders without images: {shortened(found.empty)}; "
            "add images, or move the empty folders out of the data"
        )
    known = found.labels(training)
    notices: list[str] = []
    for split in found.splits:
        labels = found.labels(split)
        if strange := sorted(labels - known):
            raise UserError(
                f"classes in {split} that {training} does not have: {shortened(strange)}; "
                f"{training} has {shortened(sorted(known))}"
            )
        if lacking := sorted(known - labels):
            notices.append(f"the split {split} has no images of: {shortened(lacking)}")
    names = tuple(name for name in found.classes if name in known)
    if unused := [name for name in found.classes if name not in known]:
        notices.append(f"classes without any image, left out: {shortened(unused)}")
    if len(names) == 1:
        raise UserError(
            f"{found.name} has a single class, {names[0]!r}; a classifier needs at least two. "
            "If the classes are folders inside it, give that folder"
        )
    return names, notices


def _check_known(found: SourceListing, classes: Sequence[str]) -> None:
    """Refuse data that have other classes than the model."""
    for split in found.splits:
        if strange := sorted(found.labels(split) - set(classes)):
            where = found.name if split == "all" else f"{split} of {found.name}"
            raise UserError(
                f"classes in {where} that the model does not know: "
                f"{shortened(strange)}; it knows {shortened(classes)}"
            )
