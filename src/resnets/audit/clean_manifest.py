"""Write a manifest without unreadable images, copies, leaks and contradicting labels.

Nothing is deleted or changed: the manifest lists the images that stay.
"""

import csv
import io
import os
from pathlib import Path

import numpy as np

from resnets.audit.copies import Copies
from resnets.audit.image_scan import ScannedImages
from resnets.data.dataset import DataSet, ImageFiles
from resnets.data.file_store import Array, FileStore
from resnets.errors import UserError, shortened
from resnets.fileio import write_atomic


def check_target(path: Path, data: DataSet) -> None:
    """Refuse, before anything is read, a manifest that cannot be written."""
    name = f"--write-clean {path}"
    if path.suffix.lower() != ".csv":
        raise UserError(f"{name}: give a name that ends in .csv")
    if os.path.lexists(path):
        raise UserError(f"{name}: exists already; give another name")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{name}: there is no folder {path.parent}")
    if not all(_is_files(split) for split in data.splits.values()):
        raise UserError(
            f"{name}: a manifest lists files, but the images of {data.name} are in one file; "
            "unpack them into a folder first"
        )


def _is_files(split: object) -> bool:
    return isinstance(split, ImageFiles) and isinstance(split.files, FileStore)


def leaves_its_folder(path: Path, data: DataSet) -> bool:
    """Return whether images lie outside the manifest's folder, which its readers must allow."""
    base = path.absolute().parent
    roots = {split.files.root for split in data.splits.values() if _is_files(split)}  # type: ignore[union-attr]
    return any(os.path.relpath(root, base).startswith("..") for root in roots)


def kept_rows(scan: ScannedImages, copies: list[Copies]) -> Array:
    """Return whether each image stays, N bool.

    Of copies with one label one stays: that of the test split, else of validation, else of
    training, so that scores stay comparable. Of copies with several labels none stays.
    """
    kept = scan.readable
    rank = {name: place for place, name in enumerate(("test", "val", "train", "all"))}
    for group in copies:
        rows = [row for row in group.rows if kept[row]]
        kept[rows] = False
        if rows and len({int(scan.targets[row]) for row in rows}) == 1:
            kept[min(rows, key=lambda row: (rank[scan.split_of(row)], row))] = True
    return kept


def write_clean(path: Path, data: DataSet, scan: ScannedImages, kept: Array) -> None:
    """Write the manifest of the images that stay, with paths relative to its folder.

    Raises:
        UserError: A class would lose all training images, or a name cannot stand in a manifest.
    """
    training = "train" if "train" in data.splits else "all"
    rows = np.flatnonzero(kept)
    of_training = rows[scan.which[rows] == scan.splits.index(training)]
    present = set(scan.targets[of_training].tolist())
    if lost := [name for index, name in enumerate(data.classes) if index not in present]:
        raise UserError(
            f"--write-clean {path}: no clean training image of {shortened(lost)} would be left"
        )
    base = path.absolute().parent
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["path", "label", "split"] if "all" not in data.splits else ["path", "label"])
    for row in rows.tolist():
        split = scan.split_of(row)
        file = str(data.splits[split].files[int(scan.index[row])])  # type: ignore[union-attr]
        place = Path(os.path.relpath(file, base)).as_posix()
        values = [place, data.classes[int(scan.targets[row])]]
        table.writerow(values if split == "all" else [*values, split])
    try:
        write_atomic(path, buffer.getvalue())
    except UnicodeEncodeError:
        raise UserError(f"--write-clean {path}: a file's name is not UTF-8") from None
