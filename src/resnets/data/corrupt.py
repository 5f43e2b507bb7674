"""Provide `CorruptImages`: which images of a data set cannot be read, and whether that is too many.

A file can be damaged in its header, which is read at the start, or behind it, which shows when its
pixels are decoded. Both count against `--max-corrupt`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from resnets.data.dataset import DataSet, Split, Splits, listed_reasons
from resnets.data.file_store import Array
from resnets.errors import UserError


class CorruptImage(NamedTuple):
    """An image whose header can be read and whose pixels cannot; `split` is that of its source."""

    split: str
    target: int
    id: str
    reason: str


class CorruptImages:
    """Collect what cannot be read of the given splits of a data set, by default of all.

    Args:
        data: The data set; files without a readable header are known to it.
        max_corrupt: Largest share of unreadable images.
        splits: Names of the splits that count.
    """

    def __init__(
        self, data: DataSet, *, max_corrupt: float, splits: Sequence[str] | None = None
    ) -> None:
        self.classes, self.max_corrupt = data.classes, max_corrupt
        self.listed: dict[str, Array] = {}  # by split: number of images of each class
        self.lost: dict[str, Array] = {}
        # By split: id and reason of the files without a readable header, and of the others.
        self.headers: dict[str, dict[str, str]] = {}
        self.decoded: dict[str, dict[str, str]] = {}
        skipped = iter(data.skipped)  # split by split
        for name in {**data.listed, **data.splits}:
            found = np.zeros(len(data.classes), np.int64)
            if name in data.splits:
                found = np.bincount(data.splits[name].targets, minlength=len(found))
            listed = data.listed.get(name, found)
            headers = dict(islice(skipped, int((listed - found).sum())))
            if splits is None or name in splits:
                self.listed[name], self.lost[name] = listed, listed - found
                self.headers[name], self.decoded[name] = headers, {}

    def unknown(self, name: str, images: Split, failures: Mapping[int, str]) -> list[CorruptImage]:
        """Return those of the failures, by index in `images`, that are not known yet."""
        known, found = self.decoded[name], []
        for index, reason in sorted(failures.items()):
            if images.ids[index] not in known:
                target = int(images.targets[index])
                found.append(CorruptImage(name, target, images.ids[index], reason))
        return found

    def add(self, images: Iterable[CorruptImage]) -> None:
        """Count images, each once."""
        for image in images:
            if image.id not in self.decoded[image.split]:
                self.decoded[image.split][image.id] = image.reason
                self.lost[image.split][image.target] += 1

    @property
    def damaged(self) -> dict[str, str]:
        """Id and reason of each image whose header can be read and whose pixels cannot."""
        return {id: reason for some in self.decoded.values() for id, reason in some.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """Id and reason of each image that cannot be read; what was found last comes first."""
        headers = {id: reason for some in self.headers.values() for id, reason in some.items()}
        return self.damaged | headers

    @property
    def share(self) -> float:
        """Share of the images that cannot be read."""
        total, lost = (
            sum(int(n.sum()) for n in some.values()) for some in (self.listed, self.lost)
        )
        return lost / max(total, 1)

    def refusal(self) -> tuple[str, str] | None:
        """Return why these are too many, naming them, and what to do before a run; or None.

        Beyond the limit, no class may lose more than half of its images in any split: the rest
        would neither teach it nor measure it.
        """
        total, lost = (
            sum(int(n.sum()) for n in some.values()) for some in (self.listed, self.lost)
        )
        if lost > self.max_corrupt * total:
            return (
                f"{lost} of {total} images ({lost / total:.1%}) cannot be read, more than "
                f"--max-corrupt {self.max_corrupt:g} allows: {listed_reasons(self.reasons)}",
                "Repair or remove them, or raise --max-corrupt",
            )
        for split, counts in self.lost.items():
            for target in np.flatnonzero(2 * counts > self.listed[split]).tolist():
                where = "" if split == "all" else f" in {split}"
                names = listed_reasons(self.decoded[split] | self.headers[split])
                return (
                    f"{counts[target]} of the {self.listed[split][target]} images of the class "
                    f"{self.classes[target]!r}{where} cannot be read: {names}",
                    "Repair or remove them",
                )
        return None

    def check(self) -> None:
        """Raise UserError where too many images cannot be read."""
        if refusal := self.refusal():
            raise UserError(". ".join(refusal))

    def notice(self) -> list[str]:
        """Return a notice of the images that are damaged behind their header, or nothing."""
        count = len(self.damaged)
        if not count:
            return []
        images = "image is" if count == 1 else "images are"
        return [
            f"{count} {images} damaged; training takes the next one instead, scores leave them "
            f"out: {listed_reasons(self.damaged)}"
        ]


def source_splits(data: DataSet, splits: Splits) -> dict[str, str]:
    """Return the split of the source that each split of a run was taken from."""
    whole = "train" if "train" in data.splits else "all"
    val = "val" if "val" in data.splits else whole
    val = "test" if splits.val is splits.test else val
    return {"train": whole, "val": val, "test": "test"}
