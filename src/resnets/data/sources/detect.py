"""DATA, whatever it is -> `DataSet`: the front door of this wing.

Chooses the reader, has the headers checked, and settles the classes: those of the training part,
or, for evaluation, those of a model, matched by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnets.data.dataset import DataSet, Split
from resnets.data.sources.builtin import NAMES, read_named
from resnets.data.sources.image_folder import read_folder, scan, shortened
from resnets.data.sources.indexing import Found, index_parts
from resnets.data.sources.manifest import read_manifest
from resnets.data.sources.npz import read_npz
from resnets.data.sources.parquet import read_parquet
from resnets.errors import UserError, unknown

_KINDS = "a folder, a .csv or .jsonl manifest, an .npz or a .parquet file"


def open_data(
    data: str | Path, *, max_corrupt: float = 0.01, classes: Sequence[str] | None = None
) -> DataSet:
    """The images of `data`: a named set, a folder, a manifest, an .npz or parquet files.

    Without `classes` the set is for training: targets index its own classes, at least two, each
    with images in the training part. With `classes` (a model's) targets index those, matched by
    name; the set may lack some but has no others. Files whose headers cannot be read are left out
    and listed in `skipped`. Raises UserError for what cannot be meant, and if more than the
    fraction `max_corrupt` of the files is unreadable.
    """
    if not 0 <= max_corrupt <= 1:
        raise UserError(f"max_corrupt is {max_corrupt}; it must lie between 0 and 1")
    found = _find(data)
    if classes is None:
        names, notices = _own_classes(found)
    else:
        names, notices = _model_classes(found, classes)
    indexed, skipped, told = index_parts(found, max_corrupt=max_corrupt)
    parts = {name: _renumbered(part, found.classes, names) for name, part in indexed.items()}
    if classes is None:
        _check_none_lost(parts, names, found.name)
    for name in [name for name, part in parts.items() if not len(part)]:
        notices += (f"the part {name} has no images: ignored",)
        del parts[name]
    if not parts:
        raise UserError(f"no images in {data}")
    return DataSet(
        name=found.name,
        classes=names,
        splits=parts,
        notices=found.notices + notices + told,
        skipped=skipped,
    )


def _find(data: str | Path) -> Found:
    """What the reader for `data` finds."""
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
    raise UserError(f"{path} is no data set; expected {_KINDS}, or a name: {', '.join(NAMES)}")


def _missing(data: str | Path) -> UserError:
    if isinstance(data, Path) or "/" in data or "." in data:
        return UserError(
            f"{data} does not exist; expected {_KINDS}, or a named set: {', '.join(NAMES)}"
        )
    error = unknown("data set", data, NAMES)
    return UserError(f"{error}; nor is there a file or folder of that name")


def _own_classes(found: Found) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of the training part, in the source's order, and what to say about them."""
    training = "train" if "train" in found.splits else "all"
    if training not in found.splits:
        raise UserError(
            f"{found.name} has no training part, only {', '.join(found.splits)}; "
            "it can be evaluated"
        )
    if found.empty:
        raise UserError(
            f"class folders without images: {shortened(list(found.empty))}; "
            "add images, or move the empty folders out of the data"
        )
    known = found.labels(training)
    notices: list[str] = []
    for part in found.splits:
        strange = sorted(found.labels(part) - known)
        if strange:
            raise UserError(
                f"classes in {part} that {training} does not have: {shortened(strange)}; "
                f"{training} has {shortened(sorted(known))}"
            )
        lacking = sorted(known - found.labels(part))
        if lacking:
            notices.append(f"the part {part} has no images of: {shortened(lacking)}")
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


def _model_classes(found: Found, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The model's classes, after checking that the data have no others."""
    for part in found.splits:
        strange = sorted(found.labels(part) - set(classes))
        if strange:
            where = found.name if part == "all" else f"{part} of {found.name}"
            raise UserError(
                f"classes in {where} that the model does not know: "
                f"{shortened(strange)}; it knows {shortened(list(classes))}"
            )
    return tuple(classes), ()


def _renumbered(part: Split, old: tuple[str, ...], new: tuple[str, ...]) -> Split:
    """The part with targets in `new` instead of `old`; every label in use is in both."""
    position = {name: index for index, name in enumerate(new)}
    table = np.array([position.get(name, -1) for name in old], np.int64)
    targets = table[part.targets] if len(part) else part.targets
    return replace(part, targets=targets)


def _check_none_lost(parts: dict[str, Split], names: tuple[str, ...], source: str) -> None:
    training = parts["train" if "train" in parts else "all"]
    lost = [name for index, name in enumerate(names) if not np.any(training.targets == index)]
    if lost:
        raise UserError(f"no image of the class {lost[0]!r} in {source} can be read")
