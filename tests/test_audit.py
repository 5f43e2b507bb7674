"""Checks of a data set: copies, hashes, wrong labels, the clean manifest, the page."""

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pages import FLAGS, with_browser
from resnets import check_data
from resnets.audit import checker, patch_kernel, wrong_labels
from resnets.audit import near_duplicates as near
from resnets.audit.findings import CheckReport
from resnets.audit.image_scan import SIDE, thumbnail
from resnets.audit.wrong_labels import (
    LabelIssues,
    find_wrong_labels,
    probabilities_of,
    share_of_wrong_labels,
)
from resnets.cli.main import main
from resnets.data import Images, open_data
from resnets.data.dataset import Splits
from resnets.data.duplicates import copy_warnings, exact_copies
from resnets.errors import UserError


def picture(seed: int, side: int = 48) -> Image.Image:
    """A picture with detail that survives compression."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return Image.open(buffer)


def in_memory(pixels: Any) -> Images:
    count = len(pixels)
    return Images(pixels, np.arange(count) % 2, tuple(map(str, range(count))))


def photos(root: Path, *, splits: tuple[str, ...] = ("train", "test")) -> Path:
    for place, split in enumerate(splits):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(6):
                seed = 1000 * place + 100 * label + number
                picture(seed).save(root / split / name / f"{number}.png")
    return root


# Exact copies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3, 1), (28, 28, 1), (7, 5, 3)])
def test_equal_pixels_are_found_across_splits(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, *shape), np.uint8)
    train, test = pixels[:500].copy(), pixels[500:].copy()
    train[400], test[3], test[4] = train[7], train[7], train[8]
    found = exact_copies({"train": in_memory(train), "test": in_memory(test)})
    assert found == [(("train", 7), ("train", 400), ("test", 3)), (("train", 8), ("test", 4))]


def test_equal_sums_of_other_pixels_are_no_copies() -> None:
    pixels = np.zeros((2, 4, 4, 1), np.uint8)  # two words of 64 bits each
    pixels[0, 1, 3], pixels[1, 3, 3] = 128, 128  # odd weights: both add 2**63
    assert exact_copies({"train": in_memory(pixels)}) == []


def test_equal_files_are_found(tmp_path: Path) -> None:
    root = photos(tmp_path / "data")
    shutil.copy(root / "train/cat/0.png", root / "test/dog/copy.png")
    splits = open_data(root).splits
    (group,) = exact_copies(splits)
    assert [splits[name].ids[index] for name, index in group] == [
        "train/cat/0.png",
        "test/dog/copy.png",
    ]


def test_warnings_count_each_pair_of_splits() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), np.uint8)
    train, val, test = pixels[:10].copy(), pixels[10:20].copy(), pixels[20:].copy()
    train[1], val[0], val[1], test[0] = train[0], train[0], train[2], val[5]
    notices, cautions = copy_warnings(Splits(*map(in_memory, (train, val, test))))
    assert len(notices) == 1 and notices[0].startswith("1 of 10 training images")
    assert [text.partition(":")[0] for text in cautions] == [
        "2 of 10 validation images are also training images",
        "1 of 10 test images are also validation images",
    ]
    split = in_memory(pixels)
    assert copy_warnings(Splits(in_memory(train[1:]), split, split)) != ([], [])


# Near copies -------------------------------------------------------------------------------------


def test_the_hash_is_that_of_imagehash() -> None:
    imagehash = pytest.importorskip("imagehash")
    images = [picture(seed, side=40 + seed) for seed in range(20)]
    thumbs = np.stack([thumbnail(np.asarray(image)) for image in images])
    ours = near.Prints.of(thumbs).hashes
    small = [Image.fromarray(thumb) for thumb in thumbs]
    theirs = [
        np.packbits(imagehash.phash(image).hash.ravel()).view(np.uint64)[0] for image in small
    ]
    assert near.count_bits(ours ^ np.array(theirs)).max() <= 2  # rounding at the median


def test_bits_are_counted_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 2**63, (5, 7), np.uint64)
    expected = np.array([[bin(value).count("1") for value in row] for row in values.tolist()])
    assert (near.count_bits(values) == expected).all()
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert (near.count_bits(values) == expected).all()


def test_every_kind_of_copy_is_found_and_named_and_nothing_else() -> None:
    originals = [picture(seed) for seed in range(40)]
    changed = [
        recompressed(originals[0]),
        originals[1].resize((43, 43)).resize((48, 48)),
        originals[2].point(lambda value: min(255, round(1.05 * value))),
        originals[3].resize((30, 30)),
        originals[4].convert("L").convert("RGB"),
        originals[5].rotate(90),
        originals[6].rotate(180),
        originals[7].rotate(270),
        originals[8].transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        originals[9].transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        recompressed(originals[10].rotate(90)),
    ]
    images = [np.asarray(image.convert("RGB")) for image in (*originals, *changed)]
    thumbs = np.stack([thumbnail(image) for image in images])
    pairs, orientations = near.near_duplicates(thumbs, progress=lambda done, total: None)
    assert pairs.tolist() == [[index, 40 + index] for index in range(len(changed))]
    names = [near.ORIENTATIONS[orientation] for orientation in orientations]
    assert names[:5] == [""] * 5
    assert names[5:] == [
        *(f"rotated by {degrees} degrees" for degrees in (90, 180, 270)),
        *("mirrored", "mirrored upside down", "rotated by 90 degrees"),
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs_of_no_images(count: int) -> None:
    thumbs = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    pairs, _ = near.near_duplicates(thumbs, progress=lambda done, total: None)
    assert pairs.shape == (0, 2)


# Wrong labels ------------------------------------------------------------------------------------


def test_the_answer_without_a_group_is_that_of_a_fit_without_it() -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(12, 4)))
    products = features @ features.T / 4
    labels = torch.from_numpy(rng.normal(size=(12, 3)))
    groups = np.array([0, 1, 2, 1, 4, 5, 6, 7, 1, 9, 5, 11])
    answers = patch_kernel._leave_out(products.clone(), labels, groups)
    squares = products.diagonal()
    kernel = torch.exp(patch_kernel.GAMMA * (2 * products - squares[:, None] - squares))
    for row in range(12):
        others = np.flatnonzero(groups != groups[row])
        ridge = kernel[others][:, others] + patch_kernel.RIDGE * torch.eye(len(others))
        expected = kernel[row, others] @ torch.linalg.solve(ridge, labels[others])
        torch.testing.assert_close(answers[row], expected)


def test_images_are_answered_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.array([0, 0, 2, 3, 3, 3, 6, 7, 8, 9])
    assert [part.tolist() for part in patch_kernel._together(groups)] == [list(range(10))]
    monkeypatch.setattr(patch_kernel, "MOST_TOGETHER", 4)
    parts = [part.tolist() for part in patch_kernel._together(groups)]
    assert len(parts) == 3
    assert sorted(row for part in parts for row in part) == list(range(10))
    assert any({0, 1} <= set(part) for part in parts) and any({3, 4, 5} <= set(p) for p in parts)


@pytest.mark.parametrize("planted", [0, 0.02, 0.05, 0.1, 0.3])
def test_the_share_of_wrong_labels_is_estimated(planted: float) -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(5, 5000, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    scores = rng.normal(0, 1, (5000, 5)) + 4 * np.eye(5)[truth]
    labels = truth.copy()
    wrong = round(planted * 5000)
    labels[:wrong] = (truth[:wrong] + rng.integers(1, 5, wrong)) % 5
    share = share_of_wrong_labels(probabilities_of(scores, labels), labels)
    assert share == pytest.approx(planted, abs=0.01 + 0.1 * planted)


def test_labels_drawn_at_random_are_all_wrong() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 5, 3000), rng.normal(0, 1, (3000, 5))
    assert share_of_wrong_labels(probabilities_of(scores, labels), labels) > 0.9


def test_planted_wrong_labels_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cleanlab")
    for name, value in {"SMALL_SIDE": 16, "MOST_EPOCHS": 8, "usable_cpus": lambda: 1}.items():
        monkeypatch.setattr(wrong_labels, name, value)
    monkeypatch.setattr(patch_kernel, "FILTERS", 32)
    monkeypatch.setattr(patch_kernel, "PATCHES", 2000)
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    images = rng.integers(0, 60, (150, 16, 16, 3)).astype(np.uint8)
    images[np.arange(150), :, :, labels] += 120
    given = labels.copy()
    given[:9] = (labels[:9] + 1) % 3
    issues = find_wrong_labels(
        images, given, np.arange(150), device=torch.device("cpu"), progress=lambda text: None
    )
    assert issues is not None
    hits = set(issues.rows.tolist()) & set(range(9))
    assert len(hits) >= 7 and len(issues.rows) <= 2 * len(hits)
    assert all(issues.suggested[k] == labels[row] for k, row in enumerate(issues.rows) if row < 9)


def test_too_few_images_have_no_verdict() -> None:
    images = np.zeros((20, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(20) % 2
    arguments: Any = {"device": torch.device("cpu"), "progress": print}
    assert find_wrong_labels(images, labels, np.arange(20), **arguments) is None


def judged(monkeypatch: pytest.MonkeyPatch, root: Path, issues: LabelIssues) -> CheckReport:
    """The report on a folder for which the judges answer thus."""
    pytest.importorskip("cleanlab")
    monkeypatch.setattr(checker, "find_wrong_labels", lambda *_, **__: issues)
    return check_data(photos(root))


def test_a_list_of_wrong_labels_says_how_much_to_believe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issues = LabelIssues(np.array([3]), np.array([1]), share=0.04, accuracy=0.7)
    report = judged(monkeypatch, tmp_path / "data", issues)
    (found,) = (finding for finding in report.findings if finding.kind == "wrong-label")
    assert found.title == "1 image with a label that is probably wrong"
    assert "4.0% of all labels" in found.advice and "70% of all labels" in found.advice
    ((image,),) = found.groups
    assert image.id == "train/cat/3.png" and image.detail == "looks like dog"


def test_classes_that_cannot_be_told_apart_have_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issues = LabelIssues(np.array([3]), np.array([1]), share=0.9, accuracy=0.5)
    report = judged(monkeypatch, tmp_path / "data", issues)
    assert all(finding.kind != "wrong-label" for finding in report.findings)
    assert report.skipped == ("wrong labels: at 32 pixels the classes look too much alike",)


# The whole check ---------------------------------------------------------------------------------


def test_a_clean_manifest_has_no_problem(tmp_path: Path) -> None:
    root = photos(tmp_path / "data")
    shutil.copy(root / "train/cat/0.png", root / "test/cat/a.png")
    shutil.copy(root / "train/cat/1.png", root / "train/dog/b.png")
    recompressed(picture(2)).save(root / "train/cat/c,d.jpg")
    clean = tmp_path / "clean.csv"
    report = check_data(root, labels=False, write_clean=clean)
    kinds = {finding.kind for finding in report.problems}
    assert kinds == {"exact-leak", "exact-contradiction"}
    assert not report.ok and report.split_sizes == {"train": 14, "test": 13}
    again = check_data(clean, labels=False)
    assert again.ok and again.split_sizes == {"train": 10, "test": 7 + 6}
    assert {"exact-duplicate", "near-duplicate"}.isdisjoint(one.kind for one in again.findings)


def test_the_document_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path / "data")
    words = ["check", str(root), "--no-labels", "--format", "json", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is True and printed["classes"] == ["cat", "dog"]
    assert json.loads((tmp_path / "out" / "check.json").read_text()) == printed
    assert main(words) == 0  # a check replaces an older one


def test_an_unknown_option_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_corupt.*did you mean 'max_corrupt'"):
        check_data(tmp_path, max_corupt=0.1)


@with_browser
def test_no_name_becomes_part_of_the_page(tmp_path: Path) -> None:
    root, hostile = photos(tmp_path / "data"), "<img src=x onerror=document.title=1>"
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / hostile)
    shutil.copy(root / "train" / hostile / "0.png", root / "test" / hostile / "'\"><script>.png")
    check_data(root, labels=False, out=tmp_path / "out")
    page = tmp_path / "out" / "check.html"
    command = ["chromium", *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>Check of data</title>" in done.stdout
    assert '<img src="x"' not in done.stdout and "onerror=document" in done.stdout
