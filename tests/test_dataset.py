"""Test splits in memory and on disk, fingerprints, and the stratified split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.data import ImageFiles, Images, open_data, stratified_split
from resnets.errors import UserError


def both_kinds(tmp_path: Path) -> list[Images | ImageFiles]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    for index, image in enumerate(pixels):
        path = tmp_path / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    files = open_data(tmp_path).splits["all"]
    stacked = np.stack([files.read(index, 3) for index in range(6)])
    return [files, Images(pixels=stacked, targets=files.targets, ids=tuple(files.ids))]


def test_both_kinds_of_split_agree(tmp_path: Path) -> None:
    files, images = both_kinds(tmp_path)
    for part in (files, images):
        assert len(part) == 6
        assert part.channels == 3
        assert part.sizes.tolist() == [[5, 4]] * 6
        assert tuple(part.ids) == ("a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png", "b/5.png")
        few = part.subset(np.array([4, 1]))
        assert type(few) is type(part)
        assert tuple(few.ids) == ("b/3.png", "a/2.png")
        assert few.targets.tolist() == [1, 0]
        np.testing.assert_array_equal(few.read(1, 3), part.read(1, 3))
    for channels in (1, 3):
        np.testing.assert_array_equal(files.read(2, channels), images.read(2, channels))
    grey = Images(pixels=images.read(0, 1)[None], targets=np.zeros(1, np.int64), ids=("x",))
    assert (grey.read(0, 3) == grey.read(0, 1)).all()


@pytest.mark.parametrize("kind", [0, 1])
def test_fingerprint(tmp_path: Path, kind: int) -> None:
    part = both_kinds(tmp_path)[kind]
    same = part.subset(np.arange(6))
    assert part.fingerprint() == same.fingerprint()
    assert len(part.fingerprint()) == 64
    assert part.subset([0, 1]).fingerprint() != part.subset([1, 0]).fingerprint()
    assert part.subset([0, 1]).fingerprint() != part.subset([0, 2]).fingerprint()


def test_fingerprint_sees_changes(tmp_path: Path) -> None:
    files, images = both_kinds(tmp_path)
    before = files.fingerprint(), images.fingerprint()
    with (tmp_path / "a" / "0.png").open("ab") as file:
        file.write(b"x")
    images.pixels[3, 2, 1, 0] ^= 1
    longer = open_data(tmp_path).splits["all"].fingerprint()
    (tmp_path / "a" / "0.png").unlink()
    fewer = open_data(tmp_path).splits["all"].fingerprint()
    assert files.fingerprint() == before[0]  # what was opened is what is meant
    assert len({*before, longer, fewer, images.fingerprint()}) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": np.zeros((2, 4, 4, 3), np.float32)},
        {"pixels": np.zeros((2, 4, 4), np.uint8)},
        {"pixels": np.zeros((2, 4, 4, 2), np.uint8)},
        {"targets": np.zeros(2, np.int32)},
        {"targets": np.zeros(3, np.int64)},
        {"ids": ("a",)},
    ],
)
def test_images_are_validated(wrong: dict[str, object]) -> None:
    right = {
        "pixels": np.zeros((2, 4, 4, 3), np.uint8),
        "targets": np.zeros(2, np.int64),
        "ids": ("a", "b"),
    }
    Images(**right)
    with pytest.raises(ValueError, match="got"):
        Images(**{**right, **wrong})


def test_split_is_stratified() -> None:
    targets = np.repeat([0, 1, 2], [100, 50, 10])
    np.random.default_rng(0).shuffle(targets)
    train, val = stratified_split(targets, fraction=0.1, seed=7)
    assert np.bincount(targets[val]).tolist() == [10, 5, 1]
    assert sorted([*train, *val]) == list(range(160))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()


@pytest.mark.parametrize("counts", [[3, 3, 3, 3], [7, 5, 2, 1], [1, 1, 40, 2], [25] * 40])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_split_empties_no_class(counts: list[int], fraction: float) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    train, val = stratified_split(targets, fraction=fraction, seed=0)
    kept = np.bincount(targets[train], minlength=len(counts))
    held = np.bincount(targets[val], minlength=len(counts))
    assert (kept >= 1).all()
    assert (held >= np.minimum(np.array(counts) - 1, 1)).all()
    assert (np.abs(held - np.array(counts) * fraction) <= 1).all()
    if min(counts) * min(fraction, 1 - fraction) >= 1:  # no class is at its limits
        assert len(val) == round(len(targets) * fraction)


def test_split_is_a_pure_function() -> None:
    targets = np.arange(1000) % 7
    first = stratified_split(targets, fraction=0.1, seed=1)
    np.random.seed(5)  # the global state must not matter
    second = stratified_split(targets.copy(), fraction=0.1, seed=1)
    other = stratified_split(targets, fraction=0.1, seed=2)
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[1], other[1])
    # Recorded: a split that changed would leak validation images when a run is resumed.
    assert first[1][:8].tolist() == [9, 31, 36, 55, 61, 75, 85, 93]


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 2])
def test_split_refuses_other_fractions(fraction: float) -> None:
    with pytest.raises(UserError, match="must be between 0 and 1"):
        stratified_split(np.arange(4) % 2, fraction=fraction, seed=0)
