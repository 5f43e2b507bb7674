"""Test how data is opened: folders in every layout, damaged files, classes, and user errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from pictures import fill, labels, paint, snapshot
from resnets.data import ImageFiles, open_data
from resnets.data.dataset import describe_classes
from resnets.data.decode import DecodeError
from resnets.data.sources.listing import are_parts, named_splits
from resnets.data.sources.source_config import SourceConfig
from resnets.errors import UserError


def test_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1.png", "cat/b/2.PNG", "cat/b/c/3.jpeg", "cat/10.gif", "cat/9.bmp")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    before = snapshot(tmp_path)
    data = open_data(tmp_path)
    assert data.name == tmp_path.name
    assert data.classes == ("cat", "dog")
    assert list(data.splits) == ["all"]
    # Sorted by class, then path, whatever the file system's order.
    assert tuple(data.splits["all"].ids) == (
        *("cat/10.gif", "cat/9.bmp", "cat/b/2.PNG", "cat/b/c/3.jpeg"),
        "dog/1.png",
    )
    assert data.splits["all"].targets.tolist() == [0, 0, 0, 0, 1]
    assert data.notices == (
        "images in folders below a class belong to it: cat/b (2)",
        "files that are no images, ignored: .txt",
    )
    assert data.skipped == ()
    assert snapshot(tmp_path) == before


def test_agrees_with_torchvision(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{name}/{k}.png" for name in ("10", "2", "b", "B", "é") for k in range(3)))
    theirs = torchvision.datasets.ImageFolder(tmp_path)
    data = open_data(str(tmp_path))
    assert list(data.classes) == theirs.classes
    assert dict(zip(data.splits["all"].ids, data.splits["all"].targets.tolist(), strict=True)) == {
        Path(path).relative_to(tmp_path).as_posix(): target for path, target in theirs.samples
    }


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_splits(tmp_path: Path, validation: str) -> None:
    names = [f"{part}/{c}/x.png" for part in ("train", validation, "test") for c in ("a", "b")]
    data = open_data(fill(tmp_path, *names))
    assert list(data.splits) == ["train", "val", "test"]
    assert labels(data, "val") == {f"{validation}/a/x.png": "a", f"{validation}/b/x.png": "b"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = open_data(fill(tmp_path, "train/1.png", "bus/1.png", "car/1.png"))
    assert data.classes == ("bus", "car", "train")
    assert list(data.splits) == ["all"]
    assert data.notices == (
        "train: named like a split, but taken as a class, since the folders beside it have images "
        "as well: bus, car",
    )


def test_what_is_beside_the_splits_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "extra/a/1.png", "cover.png", "train/0.png")
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / "test").mkdir()
    data = open_data(tmp_path)
    assert list(data.splits) == ["train"]
    assert data.notices == (
        "ignored beside the splits test, train: cover.png, extra, labels.csv",
        "1 images are in train itself, outside the class folders: ignored",
        "test has no class folders with images: ignored",
    )


def test_hidden_things_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png", ".ipynb_checkpoints/1.png", "__MACOSX/a/1.png")
    fill(tmp_path, "a/.hidden.png", "a/.thumbs/1.png", "b/@eaDir/1.png")
    (tmp_path / "a" / "Thumbs.db").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    data = open_data(tmp_path)
    assert tuple(data.splits["all"].ids) == ("a/1.png", "b/1.png")
    assert data.notices == (
        "ignored, left by systems and programs: .DS_Store, .hidden.png, .ipynb_checkpoints, "
        ".thumbs, @eaDir, Thumbs.db, __MACOSX",
    )


def test_run_folders_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png", "runs/001/figures/curve.png", "mine/figures/curve.png")
    for run in ("runs/001", "mine"):
        for name in ("config.json", "metrics.jsonl"):
            (tmp_path / run / name).write_text("{}")
    data = open_data(tmp_path)
    assert data.classes == ("a", "b")
    assert data.notices == ("folders of training runs, ignored: mine, runs/001",)
    with pytest.raises(UserError, match="folder of a run"):
        open_data(tmp_path / "mine")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "1.png")
    fill(tmp_path / "data", "a/1.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    assert tuple(open_data(tmp_path / "data").splits["all"].ids) == ("a/1.png", "b/1.png")


def test_accents_are_composed(tmp_path: Path) -> None:
    data = open_data(fill(tmp_path, "cafe\u0301/1.png", "tea/1.png"))
    assert data.classes == ("caf\u00e9", "tea")
    assert data.splits["all"].read(0, 3).shape == (4, 6, 3)


def test_files_of_other_formats_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png")
    for number in range(3):
        (tmp_path / "a" / f"{number}.heic").write_bytes(b"x")
    (tmp_path / "b" / "2.txt").write_text("x")
    (tmp_path / "c.zip").write_bytes(b"x")
    assert open_data(tmp_path).notices == (
        "files that are no images, ignored: .heic 3, .txt; convert .heic, which are not read",
        "archives are not read: .zip; unpack them if their images belong to the data",
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train val test", "train val test"),
        ("Training Validation TESTING", "train val test"),
        ("training_set dev-set hold_out", "train val test"),
        ("seg_train seg_test seg_pred", "train test -"),
        ("trainImages2 validImgs testdata", "train val test"),
        ("training validation evaluation", "train val test"),
        ("train eval test", "train val test"),
        ("cats_train cats_test dogs_train", "train test -"),
        ("train_station test_tube valley", "- - -"),
        ("trainer vale contest testament", "- - - -"),
        ("train_val test", "train test"),
    ],
)
def test_names_of_splits(names: str, expected: str) -> None:
    words = names.split()
    found = named_splits(words)
    assert [found.get(word, "-") for word in words] == expected.split()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("fold1 fold2", True),
        ("X_part_1 X_part_2", True),
        ("images_001 images_002", True),
        ("color grayscale segmented", True),
        ("lung_raw lung_mask", True),
        ("64x64 128x128", True),
        ("class_1 class_2", False),
        ("1 2 10", False),
        ("img_cats img_dogs", False),
        ("color red", False),
        ("mask no_mask", False),
        ("with_mask without_mask", False),
        ("images", False),
    ],
)
def test_names_of_parts(names: str, expected: bool) -> None:
    assert are_parts(names.split()) == expected


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.png", "b/1.png", "lost+found/1.png")
    listed = os.scandir
    errors = {"lost+found": PermissionError(13, "Permission denied")}

    def scandir(path: str) -> object:
        if error := errors.get(Path(path).name):
            raise error
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert open_data(tmp_path).classes == ("a", "b")
    errors["b"] = PermissionError(13, "Permission denied")
    with pytest.raises(UserError, match=r"cannot list the folder .*/b: Permission denied; permit"):
        open_data(tmp_path)
    errors["b"] = FileNotFoundError(2, "No such file")
    with pytest.raises(UserError, match=r"/b vanished while the data were listed"):
        open_data(tmp_path)


def test_files_are_images_by_their_first_bytes(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "photo.png?w=300")
    (tmp_path / "b" / "notes").write_text("x")
    data = open_data(tmp_path)
    assert labels(data, "all") == {"a/photo.png?w=300": "a", "b/1.png": "b"}
    assert data.splits["all"].read(0, 3).shape == (4, 6, 3)
    assert data.notices == (
        "files that are no images, ignored: no suffix",
        "1 files are images by their first bytes and are used; their suffixes: .png?w=300",
    )


def test_a_model_tells_at_which_level_its_classes_are(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{outer}/{inner}/1.png" for outer in ("x", "y") for inner in ("a", "b")))
    for classes in (("a", "b"), ("x", "y", "z")):
        data = open_data(tmp_path, classes=classes)
        assert np.unique(data.splits["all"].targets).tolist() == [0, 1]
    with pytest.raises(UserError, match="the model does not know: b; it knows a, c"):
        open_data(tmp_path, classes=("a", "c"))
    with pytest.raises(UserError, match="hold the same folders, a, b"):
        open_data(tmp_path)


def test_the_level_of_the_classes(tmp_path: Path) -> None:
    fill(tmp_path, "train/x/a/1.png", "train/y/b/1.png", "test/x/a/2.png", "more/x/c/1.png")
    data = open_data(tmp_path, SourceConfig(class_level=3))
    assert labels(data, "train") == {"train/x/a/1.png": "a", "train/y/b/1.png": "b"}
    assert labels(data, "test") == {"test/x/a/2.png": "a"}
    assert data.notices[0] == "ignored beside the splits: more/x"
    assert open_data(tmp_path, SourceConfig(class_level=2)).classes == ("x", "y")
    assert open_data(tmp_path, SourceConfig(class_level=1)).classes == ("more", "test", "train")


def test_each_folder_is_listed_once_below_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "a/x/2.png", "b/3.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a" / "x")
    (tmp_path / "b" / "x").symlink_to(tmp_path / "a" / "x")
    data = open_data(tmp_path)
    # Sorted names decide which of two paths of one length is taken.
    assert labels(data, "all") == {
        **{"a/1.png": "a", "a/again/2.png": "a"},
        **{"b/3.png": "b", "b/x/2.png": "b"},
    }
    assert any("second path" in notice for notice in data.notices)


def test_classes_are_described() -> None:
    assert (
        describe_classes("ab", np.array([0, 1, 1])) == "2 classes (a, b) of 1 (a) to 2 (b) images"
    )
    assert describe_classes("ab", np.array([1, 0])) == "2 classes (a, b) of 1 images"
    many = describe_classes([f"c{n}" for n in range(14)], np.arange(14))
    assert many == f"14 classes ({', '.join(f'c{n}' for n in range(12))} and 2 more) of 1 images"


def test_index_of_files(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png", 7, (30, 20))
    paint(tmp_path / "b" / "1.png", 9, (5, 40))
    part = open_data(tmp_path).splits["all"]
    assert isinstance(part, ImageFiles)
    assert part.channels == 1
    assert part.sizes.tolist() == [[30, 20], [5, 40]]
    assert part.read(0, 1).shape == (20, 30, 1)
    assert part.read(1, 3)[0, 0].tolist() == [9, 9, 9]
    paint(tmp_path / "a" / "2.png", "blue")
    assert open_data(tmp_path).splits["all"].channels == 3


def test_unreadable_files_are_skipped_and_listed(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{name}/{k:02}.png" for name in "ab" for k in range(10)))
    (tmp_path / "a" / "03.png").write_bytes(b"")
    (tmp_path / "b" / "07.png").write_text("no picture")
    data = open_data(tmp_path, SourceConfig(max_corrupt=0.1))
    assert len(data.splits["all"]) == 18
    assert data.skipped == (
        ("a/03.png", "the file is empty"),
        ("b/07.png", "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
    )
    with pytest.raises(
        UserError, match=r"2 of 20 images \(10.0%\) .* --max-corrupt 0.09 allows: a/03"
    ):
        open_data(tmp_path, SourceConfig(max_corrupt=0.09))


def test_a_long_list_is_cut_after_ten(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png")
    for k in range(13):
        (tmp_path / "a" / f"x{k:02}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"x09\.png \(the file is empty\); and 3 more\. Repair"):
        open_data(tmp_path)


def test_a_file_damaged_further_in_fails_when_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    fill(tmp_path, "a/1.png", "b/1.png")
    Image.fromarray(noise).save(tmp_path / "a" / "0.jpg")
    path = tmp_path / "a" / "0.jpg"
    path.write_bytes(path.read_bytes()[:800])
    part = open_data(tmp_path).splits["all"]
    with pytest.raises(DecodeError, match=r"cannot read a/0\.jpg: damaged or incomplete"):
        part.read(0, 3)


def test_a_class_whose_images_are_all_unreadable(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image of the class 'c' .* can be read"):
        open_data(tmp_path, SourceConfig(max_corrupt=0.5))


@pytest.mark.parametrize(
    ("names", "folders", "message"),
    [
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], [], "train does not have: c"),
        (["a/1.png", "b/1.png"], ["c"], "without images: c; add images"),
        (["train/a/1.png", "val/a/1.png"], ["train/b"], "without images: train/b"),
        (["a/1.png"], [], "single class, 'a'; a classifier needs at least two"),
        (["1.png", "2.png"], [], "the 2 images in .* have no classes: put them into one folder"),
        (["val/a/1.png", "valid/a/1.png", "train/a/1.png"], [], "two folders for one split: val"),
        ([], [], "no images in "),
        ([], ["a", "b"], "no images in "),
    ],
)
def test_wrong_layouts(tmp_path: Path, names: list[str], folders: list[str], message: str) -> None:
    fill(tmp_path, *names)
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=message) as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_class_missing_from_a_later_split_is_a_notice(tmp_path: Path) -> None:
    data = open_data(fill(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/1.png"))
    assert data.classes == ("a", "b")
    assert data.splits["test"].targets.tolist() == [1]
    assert data.notices == ("the split test has no images of: a",)


def test_classes_of_a_model(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "ant").mkdir()
    data = open_data(tmp_path, classes=["dog", "ant", "cat"])
    assert data.classes == ("dog", "ant", "cat")
    assert data.splits["all"].targets.tolist() == [2, 0]
    with pytest.raises(UserError, match="that the model does not know: cat; it knows dog, cow"):
        open_data(tmp_path, classes=("dog", "cow"))
    single = open_data(tmp_path / ".." / tmp_path.name, classes=("cat", "dog"))
    assert single.name == tmp_path.name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cifar", "unknown data set 'cifar'; did you mean 'cifar1.*fashion-mini, mnist"),
        ("./nowhere", r"\./nowhere does not exist; expected a folder.*named set: fashion-mini"),
        (Path("mnist"), "mnist does not exist"),
        ("", "DATA is empty"),
    ],
)
def test_missing(
    data: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_data(data)


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.zip", "is an archive"), ("a.png", "is not a data set"), ("a.txt", "is not a data set")],
)
def test_other_files(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=message):
        open_data(tmp_path / name)


@pytest.mark.parametrize("max_corrupt", [-0.1, 1.1, float("nan")])
def test_max_bad_is_checked(max_corrupt: float) -> None:
    with pytest.raises(UserError, match="--max-corrupt"):
        open_data("fashion-mini", SourceConfig(max_corrupt=max_corrupt))


def test_the_package_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, resnets.data as s; "
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules); "
        "s.open_data; assert 'numpy' in sys.modules; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_of_the_package() -> None:
    import resnets.data as sources

    with pytest.raises(AttributeError, match="no attribute 'opendata'"):
        _: Callable[..., object] = sources.opendata
