"""Provide `open_data`, which detects the kind of a source and opens it as a `DataSet`."""

import re
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np

from resnets.data.corrupt import CorruptImages
from resnets.data.dataset import DataSet
from resnets.data.sources.builtin import NAMES, read_named
from resnets.data.sources.file_tree import FolderScan, is_run, joined
from resnets.data.sources.header_cache import read_splits
from resnets.data.sources.image_folder import ARCHIVES, read_folder
from resnets.data.sources.listing import DOUBTFUL, SourceListing, printable
from resnets.data.sources.manifest import metadata_in, read_manifest, read_metadata
from resnets.data.sources.npz import read_npz
from resnets.data.sources.parquet import read_parquet
from resnets.data.sources.pixel_range import with_known_range, with_pixel_range
from resnets.data.sources.source_config import SourceConfig
from resnets.data.sources.table_rows import SUFFIXES as TABLE_SUFFIXES
from resnets.errors import UserError, public_name, shortened, unknown
from resnets.fileio import SPECIAL_FILES, expanded

if TYPE_CHECKING:
    from resnets.data.transforms import Preprocess

# What systems add to the name of a copy: "cat - Copy", "cat copy 2", "cat (1)".
_COPY = re.compile(r"([\W_]+(copy|kopie|copie|copia)([\W_]*\d+[\W_]*)?|\s*\(\d+\))$")


def open_data(
    data: str | Path,
    config: SourceConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocess: "Preprocess | None" = None,
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
        preprocess: That of a model or of an earlier run, whose scale of wide pixels (16-bit,
            32-bit, float) holds. None without `classes` takes that of `config`.

    Returns:
        The data set.

    Raises:
        UserError: The source is missing or unknown, its classes do not fit, or more than
            `config.max_corrupt` of its files are unreadable.
    """
    config = config or SourceConfig()
    found = _find(data, config, classes)
    if classes is None:
        names, notices = _own_classes(found)
    else:
        _check_known(found, classes)
        names, notices = tuple(classes), []
    read, skipped, unread = read_splits(
        found, max_corrupt=config.max_corrupt, max_pixels=config.max_pixels
    )
    position = {name: index for index, name in enumerate(names)}
    # A class that is left out has no image.
    table = np.array([position.get(name, -1) for name in found.classes], np.int64)
    splits = {name: replace(split, targets=table[split.targets]) for name, split in read.items()}
    listed = {
        name: np.bincount(table[split.targets], minlength=len(names))
        for name, split in found.splits.items()
    }
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
    dataset = DataSet(
        name=found.name,
        classes=names,
        splits=splits,
        notices=(*found.notices, *notices, *unread),
        skipped=skipped,
        listed=listed,
    )
    if classes is None:
        CorruptImages(dataset, max_corrupt=config.max_corrupt).check()
    if preprocess is None and classes is None:
        return with_pixel_range(dataset, config)
    return with_known_range(dataset, None if preprocess is None else preprocess.pixel_range)


def _find(data: str | Path, config: SourceConfig, classes: Sequence[str] | None) -> SourceListing:
    """List the images of a source."""
    kinds = "a folder, a .csv or .jsonl manifest, an .npz or a .parquet file"
    allowed = f"expected {kinds}, or a name: {', '.join(NAMES)}"
    if not str(data):
        raise UserError(f"DATA is empty; {allowed}")
    path = expanded(data)
    kind = _kind_of(path)
    is_name = isinstance(data, str) and data in NAMES
    if kind == stat.S_IFDIR and not is_name:
        return _read_tree(path, config, classes)
    if config.class_level is not None and (kind is not None or is_name):
        raise UserError(f"--class-level is for folders of images, and {data} is none")
    if is_name:
        _refuse_columns(config, data)
        found = read_named(str(data))
        if kind is not None:
            notice = f"{data} is the named set; for the folder of that name write ./{data}"
            return replace(found, notices=(*found.notices, notice))
        return found
    if kind is None:
        if isinstance(data, Path) or "/" in data or "." in data:
            shown = public_name(str(data))
            raise UserError(f"{shown} does not exist; {allowed.replace('a name', 'a named set')}")
        error = unknown("data set", data, NAMES)
        raise UserError(f"{error}; there is no file or folder of that name")
    if kind != stat.S_IFREG:
        raise UserError(f"{path} is {SPECIAL_FILES.get(kind, 'a special file')}; {allowed}")
    match path.suffix.lower():
        case suffix if suffix in TABLE_SUFFIXES:
            return read_manifest(path, config)
        case ".npz":
            _refuse_columns(config, data)
            return read_npz(path)
        case ".parquet":
            return read_parquet(path.parent, [path], config)
        case suffix if suffix in ARCHIVES:
            raise UserError(f"{path} is an archive; unpack it and give the folder")
    raise UserError(f"{path} is not a data set; {allowed}")


def _refuse_columns(config: SourceConfig, data: str | Path) -> None:
    if config.columns is not None:
        raise UserError(f"--columns {config.columns}: {data} is no table; leave the option out")


def _kind_of(path: Path) -> int | None:
    """Return the kind of a file, as in `stat`, or None where there is none."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a circle of links, too long a name, a NUL, no access
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"DATA {printable(str(path))[:200]!r}: {reason}") from None


def _read_tree(path: Path, config: SourceConfig, classes: Sequence[str] | None) -> SourceListing:
    """List the images of a folder: of image files, or of parquet files where it has no others."""
    if is_run(path):
        raise UserError(f"{path} is the folder of a run, not of data")
    scan = FolderScan(path)
    if config.class_level is None:
        tables = [
            path / joined(place, name)
            for place, tree in scan.tree.walk()
            for name in tree.others
            if name.endswith(".parquet") and not scan.tree.has_images
        ]
        if tables:
            return read_parquet(path, tables, config)
        if (listing := read_metadata(path, scan.tree, config)) is not None:
            return listing
    _refuse_columns(config, path)
    found = read_folder(scan, level=config.class_level, known=classes)
    if (beside := metadata_in(path)) is not None:
        notice = f"{beside.name} is not used beside class folders; give it as DATA for its labels"
        return replace(found, notices=(*found.notices, notice))
    return found


def _own_classes(found: SourceListing) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes of the training split, in the source's order, and notices on them."""
    training = "train" if "train" in found.splits else "all"
    if training not in found.splits:
        raise UserError(
            f"{found.name} has no training split, only {', '.join(found.splits)}; "
            f"it can be evaluated, not trained on{''.join(f'; {n}' for n in found.notices[:2])}"
        )
    if found.empty:
        raise UserError(
            f"class folders without images: {shortened(found.empty)}; add images, move the empty "
            "folders out of the data, or list the images in a manifest"
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
    notices += _alike_names(names)
    if doubtful := [name for name in names if DOUBTFUL.fullmatch(name.strip())]:
        notices.append(
            f"classes named as missing values are: {shortened(doubtful)}; are they meant?"
        )
    if unused := [name for name in found.classes if name not in known]:
        notices.append(f"classes without any image, left out: {shortened(unused)}")
    if len(names) == 1:
        raise UserError(
            f"{found.name} has a single class, {names[0]!r}; a classifier needs at least two. "
            "If the classes are folders inside it, give that folder"
        )
    return names, notices


def _alike_names(classes: Sequence[str]) -> list[str]:
    """Return a notice on classes whose names look alike."""
    spelt = defaultdict(list)
    for name in classes:
        folded = _COPY.sub("", normalize("NFKC", name).casefold())
        if number := re.fullmatch(r"0*(\d+)(\.0*)?", name):  # 1, 01, 1.0
            folded = number[1]
        spelt[re.sub(r"[\W_]+", "", folded) or folded].append(name)
    alike = [" and ".join(map(repr, names)) for names in spelt.values() if len(names) > 1]
    if not alike:
        return []
    names = shortened(alike)
    return [f"classes whose names differ only in case, spaces, signs or marks of a copy: {names}"]


def _check_known(found: SourceListing, classes: Sequence[str]) -> None:
    """Refuse data that have other classes than the model."""
    for split in found.splits:
        if strange := sorted(found.labels(split) - set(classes)):
            where = found.name if split == "all" else f"{split} of {found.name}"
            raise UserError(
                f"classes in {where} that the model does not know: "
                f"{shortened(strange)}; it knows {shortened(classes)}"
            )
