"""What cannot be read is counted once, by split and class, and refused above its limits."""

import numpy as np
import pytest

from resnets.data import DataSet, Images
from resnets.data.corrupt import CorruptImages, source_splits
from resnets.data.dataset import make_splits
from resnets.errors import UserError

REASON = "damaged"


def images(name: str, *counts: int) -> Images:
    """Images with so many of each class."""
    targets = np.repeat(np.arange(len(counts)), counts)
    ids = tuple(f"{name}/{index}" for index in range(len(targets)))
    return Images(np.zeros((len(targets), 4, 4, 3), np.uint8), targets, ids)


def data(**splits: Images) -> DataSet:
    return DataSet("some", ("ant", "bee"), splits)


def corrupt(found: DataSet, split: str, *indices: int, limit: float = 0.5) -> CorruptImages:
    """A count of images of a split that cannot be read."""
    ledger = CorruptImages(found, max_corrupt=limit)
    ledger.add(ledger.unknown(split, found.splits[split], dict.fromkeys(indices, REASON)))
    return ledger


def test_an_image_is_counted_once() -> None:
    found = data(all=images("all", 4, 4))
    ledger = corrupt(found, "all", 1, 2)
    assert not ledger.unknown("all", found.splits["all"], {1: REASON})
    ledger.add(corrupt(found, "all", 1).unknown("all", found.splits["all"], {2: REASON}))
    assert ledger.reasons == {"all/1": REASON, "all/2": REASON}
    assert ledger.share == 2 / 8


@pytest.mark.parametrize(("limit", "refused"), [(0.24, True), (0.25, False)])
def test_the_limit_is_a_share_of_all_splits(limit: float, refused: bool) -> None:
    found = data(train=images("train", 2, 2), test=images("test", 2, 2))
    ledger = corrupt(found, "train", 0, 2, limit=limit)
    assert (ledger.refusal() is not None) == refused
    if refused:
        with pytest.raises(UserError, match=r"2 of 8 images \(25.0%\) .*train/0 \(damaged\)"):
            ledger.check()


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(("lost", "refused"), [(2, False), (3, True), (4, True)])
def test_no_class_loses_more_than_half(split: str, lost: int, refused: bool) -> None:
    found = data(**{name: images(name, 4, 4) for name in ("train", "val", "test")})
    refusal = corrupt(found, split, *range(4, 4 + lost), limit=1.0).refusal()
    assert (refusal is not None) == refused
    if refusal is not None:
        assert refusal[0].startswith(f"{lost} of the 4 images of the class 'bee' in {split} ")


def test_headers_count_as_well() -> None:
    """Of five bees two have no header, and one of the others no pixels."""
    found = DataSet(
        "some",
        ("ant", "bee"),
        {"train": images("train", 5, 3), "test": images("test", 5, 5)},
        skipped=(("train/x", "empty"), ("train/y", "empty"), ("test/z", "empty")),
        listed={"train": np.array([5, 5]), "test": np.array([6, 5])},
    )
    ledger = CorruptImages(found, max_corrupt=0.5)
    assert ledger.headers == {"train": dict(found.skipped[:2]), "test": dict(found.skipped[2:])}
    assert ledger.refusal() is None
    ledger.add(ledger.unknown("train", found.splits["train"], {5: REASON}))
    refusal = ledger.refusal()
    assert refusal is not None and "3 of the 5 images of the class 'bee' in train" in refusal[0]
    assert list(ledger.reasons) == ["train/5", "train/x", "train/y", "test/z"]
    scored = CorruptImages(found, max_corrupt=0.05, splits=["test"])
    assert scored.share == 1 / 11 and list(scored.reasons) == ["test/z"]
    assert scored.refusal() is not None


def test_a_split_that_is_lost_as_a_whole_counts() -> None:
    found = DataSet(
        "some",
        ("ant", "bee"),
        {"train": images("train", 9, 9)},
        skipped=(("test/0", "empty"), ("test/1", "empty")),
        listed={"train": np.array([9, 9]), "test": np.array([1, 1])},
    )
    refusal = CorruptImages(found, max_corrupt=0.2).refusal()
    assert refusal is not None and "1 of the 1 images of the class 'ant' in test" in refusal[0]


def test_ten_are_named() -> None:
    refusal = corrupt(data(all=images("all", 40, 40)), "all", *range(12), limit=0.1).refusal()
    assert refusal is not None and refusal[0].count(REASON) == 10
    assert refusal[0].endswith("; and 2 more")


def test_splits_of_a_run_are_counted_where_they_come_from() -> None:
    held_out = data(all=images("all", 20, 20), test=images("test", 4, 4))
    given = data(train=images("train", 4, 4), val=images("val", 4, 4), test=images("test", 4, 4))
    names = source_splits(held_out, make_splits(held_out))
    assert names == {"train": "all", "val": "all", "test": "test"}
    assert source_splits(given, make_splits(given))["val"] == "val"
    assert source_splits(given, make_splits(given, validate_on="test"))["val"] == "test"
