"""Provide manifests: CSV or JSONL tables with a path, a label and, optionally, a split a row.

Columns are found by their usual names (`columns`). Paths are relative to the manifest. Every row
has a split (train, val, test) or none has. Hugging Face's `metadata.csv` and `metadata.jsonl` in a
folder of images are such manifests.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnets.data.file_store import FileStore, PackedStrings
from resnets.data.sources.columns import UNUSED, MissingColumnsError
from resnets.data.sources.file_tree import Tree
from resnets.data.sources.image_paths import ImagePaths
from resnets.data.sources.listing import (
    MISSING,
    SPLIT_NAMES,
    SPLIT_ORDER,
    SourceListing,
    SplitListing,
    class_name,
    named_splits,
    numbered,
    printable,
)
from resnets.data.sources.source_config import SourceConfig
from resnets.data.sources.table_rows import MAX_LABEL, Row, open_table
from resnets.errors import UserError, nearest, shortened

METADATA = ("metadata.csv", "metadata.jsonl")
# Rows after which a manifest is refused unless one of a hundred files exists.
NUM_TRIED = 10_000
# Folders and characters of a path.
MAX_DEPTH, MAX_PATH = 32, 4096


def read_manifest(path: Path, config: SourceConfig | None = None) -> SourceListing:
    """List the images of a manifest; raise UserError naming the line that is wrong."""
    config = config or SourceConfig()
    content = _Content(str(path.absolute().parent), config)
    content.add(path)
    return content.listing(path.stem, path)


def read_metadata(root: Path, tree: Tree, config: SourceConfig) -> SourceListing | None:
    """List the images of a folder by the `metadata.csv` or `metadata.jsonl` in it.

    The file lies beside the images, or one lies in the folder of each split. Class folders, where
    there are at least two, are preferred to it: then, and without such a file, this returns None.
    """
    splits = named_splits(tree.folders)
    places = [tree, *(tree.folders[name] for name in splits)]
    classes = {
        name for place in places for name, inner in place.folders.items() if inner.has_images
    }
    files = {name: path for name in splits if (path := metadata_in(root / name))}
    if (beside := metadata_in(root)) is not None:
        files = {"": beside}
    if not files or len(classes - splits.keys()) > 1:
        return None
    content = _Content(os.path.abspath(root), config)
    try:
        for name, path in files.items():
            content.add(path, folder=name, split=splits.get(name, ""))
    except MissingColumnsError:  # metadata of another kind
        return None
    return content.listing(root.resolve().name, root)


def metadata_in(folder: Path) -> Path | None:
    """Return the metadata file of Hugging Face in a folder, if it has one."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


@dataclass
class _Content:
    """Collect the rows of one manifest, or of one for each split, all below `base`."""

    base: str
    config: SourceConfig
    labels: dict[str, dict[str, str]] = field(default_factory=dict)  # split -> id -> class
    notices: list[str] = field(default_factory=list)
    unlabelled: int = 0
    _lines: dict[str, int] = field(default_factory=dict)  # id -> line
    _classes: dict[str, str] = field(default_factory=dict)  # label -> class
    _splits: dict[str, str] = field(default_factory=lambda: {"": "all"})  # text -> split

    def add(self, path: Path, *, folder: str = "", split: str = "") -> None:
        """Add the rows of a file, which may lie in the folder of a split."""
        try:
            self._add(path, folder, split)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error

    def _add(self, path: Path, folder: str, split: str) -> None:
        paths = ImagePaths(self.base, self.config.allow_outside)
        missing, tried, num_found = "", 0, 0
        with open_table(path, self.config.columns) as table:
            for row in table.rows:
                where = f"line {row.line} of {path}"
                written = _checked_path(row, where)
                label = self._label(row.label, where)
                if not label:
                    self.unlabelled += 1
                    continue
                if folder and not written.startswith("/"):
                    written = f"{folder}/{written}"
                name, exists = paths.find(written, where)
                tried, num_found = tried + 1, num_found + exists
                chosen = split or self._split(row.split, where)
                self._add_row(name, label, chosen, row.line, where)
                missing = missing or ("" if exists else written)
                if tried == NUM_TRIED and num_found < tried / 100:
                    raise self._missing(path, missing, tried, num_found)
        if tried and not num_found:
            raise self._missing(path, missing, tried, num_found)
        self.notices += table.notices
        if paths.changes:
            listed = ", ".join(f"{count} {change}" for change, count in paths.changes.items())
            self.notices.append(f"paths of {path.name} found by another spelling: {listed}")

    def _missing(self, path: Path, missing: str, tried: int, num_found: int) -> UserError:
        exist = f"only {num_found} images" if num_found else "no image"
        return UserError(
            f"{exist} that {path} names exist{'' if num_found else 's'} ({tried} tried): there is "
            f"no {printable(missing)!r} in {self.base}. Paths are relative to the folder of the "
            "manifest; a suffix such as .jpg may be left out. If another column has the paths, "
            "pass --columns path=COLUMN"
        )

    def _add_row(self, name: str, label: str, split: str, line: int, where: str) -> None:
        if name in self._lines:
            before = next(rows[name] for rows in self.labels.values() if name in rows)
            labels = f", as {label!r} and as {before!r}" if label != before else ""
            raise UserError(
                f"{where} names {printable(name)} again, after line {self._lines[name]}{labels}"
            )
        self._lines[name] = line
        self.labels.setdefault(split, {})[name] = label

    def _label(self, label: str, where: str) -> str:
        """Return the class of a label; empty for a row without one."""
        if label not in self._classes:
            if MISSING.fullmatch(label):
                raise UserError(
                    f"{where}: the label is {label!r}, a missing value of a table; leave the cell "
                    "empty where an image has no label"
                )
            if len(label) > MAX_LABEL:
                raise UserError(
                    f"{where}: the label has {len(label):,} characters; a class name has at most "
                    f"{MAX_LABEL}. If another column has the labels, pass --columns label=COLUMN"
                )
            self._classes[label] = class_name(label)
        return self._classes[label]

    def _split(self, given: str, where: str) -> str:
        """Return the split of a row: train, val, test, or all where it gives none."""
        if given not in self._splits:
            found = SPLIT_NAMES.get(given.lower()) or named_splits([given]).get(given)
            if not found or re.search(r"\d", given):
                near = nearest(given, SPLIT_NAMES)
                hint = f"; did you mean {near!r}?" if near else ";"
                raise UserError(
                    f"{where} has the split {given[:80]!r}{hint} allowed: "
                    f"{', '.join(SPLIT_NAMES)}; to ignore the column, pass --columns split={UNUSED}"
                )
            self._splits[given] = found
        return self._splits[given]

    def listing(self, name: str, source: Path) -> SourceListing:
        """Return the listing of all rows."""
        if not self.labels:
            what = "gives no label" if self.unlabelled else "lists no images"
            raise UserError(f"{source} {what}")
        if "all" in self.labels and len(self.labels) > 1:
            first = printable(next(iter(self.labels["all"])))
            raise UserError(f"{source} gives a split for some rows but none for {first}")
        classes = tuple(sorted({label for rows in self.labels.values() for label in rows.values()}))
        splits = {
            split: SplitListing(
                FileStore(self.base, PackedStrings.of(self.labels[split])),
                numbered(list(self.labels[split].values()), classes),
            )
            for split in SPLIT_ORDER
            if split in self.labels
        }
        notices = (*self.notices, *self._notices())
        return SourceListing(name, classes, splits, notices, source=str(source.absolute()))

    def _notices(self) -> Iterator[str]:
        if self.unlabelled:
            yield f"rows without a label, ignored: {self.unlabelled}"
        both = {name for label, name in self._classes.items() if label != name}
        if both := both & self._classes.keys():
            listed = shortened(sorted(both))
            yield f"labels that differ only in how accents are encoded are one class: {listed}"
        if "all" in self.labels:
            folders = {name.partition("/")[0] for name in self.labels["all"] if "/" in name}
            parts = sorted(named_splits(folders))
            if len(parts) > 1:
                yield (
                    f"no column gives the split: the images in {', '.join(parts)} are one set; "
                    "add a column named split"
                )


def _checked_path(row: Row, where: str) -> str:
    """Return the path of a row; refuse what no file can be named."""
    if not row.path:
        raise UserError(f"{where} has no path")
    try:
        possible = b"\0" not in os.fsencode(row.path)
    except UnicodeEncodeError:
        possible = False
    if not possible or row.path.count("/") > MAX_DEPTH or len(row.path) > MAX_PATH:
        shown = row.path if len(row.path) < 200 else f"{row.path[:200]}..."
        raise UserError(f"{where} has a path that no file can have: {shown!r}")
    return row.path
