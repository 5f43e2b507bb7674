"""Folders that are no classes: splits in other spellings, versions, parts, wrappers, leftovers."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from fault_harness import TINY_RUN, Fault, finished_run, photos, picture
from PIL import TiffImagePlugin

sys.path.insert(0, str(Path(__file__).parent.parent))

from image_files import tiff
from resnets.data import open_data
from resnets.data.sources.source_config import SourceConfig


def plant(folder: Path, *patterns: str) -> Path:
    """Write images below folder/data at names such as "train|test/a|b/1.png"; return that folder.

    A name that ends with "/" is an empty folder, one without .png a text.
    """
    root = folder / "data"
    number = 0
    for pattern in patterns:
        for parts in product(*(part.split("|") for part in pattern.split("/"))):
            path = root.joinpath(*parts)
            if parts[-1] == "":
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            number += 1
            if parts[-1].endswith(".png"):
                picture(len(parts), number, side=8).save(path)
            else:
                path.write_text("x")
    return root


def _train(folder: Path, *, patterns: tuple[str, ...], options: tuple[str, ...]) -> list[str]:
    plant(folder, *patterns)
    return ["train", "data", *TINY_RUN, *options]


def refused(name: str, message: str, *patterns: str, ids: str = "", options: Any = ()) -> Fault:
    """Return the fault of a tree on which `resnets train` must not train."""
    make = partial(_train, patterns=patterns, options=tuple(options))
    return Fault(f"folders/{name}", make, message, catalogue=ids, cpu_seconds=2)


def show(root: Path, level: int | None = None) -> None:
    """Print what a tree is read as."""
    data = open_data(root, SourceConfig(class_level=level))
    sizes = {split: len(images) for split, images in data.splits.items()}
    print("classes:", *data.classes, "splits:", sizes, *data.notices, sep="\n")


def _read(folder: Path, *, patterns: tuple[str, ...], level: int | None) -> Callable[[], None]:
    return partial(show, plant(folder, *patterns), level)


def read(name: str, message: str, *patterns: str, level: int | None = None, ids: str = "") -> Fault:
    """Return the fault of a tree that must be read, with classes and splits as in `message`."""
    make = partial(_read, patterns=patterns, level=level)
    return Fault(f"folders/{name}", make, message, code=0, catalogue=ids, cpu_seconds=2)


def found(classes: str, splits: str, *notices: str) -> str:
    """Return the pattern of what `show` prints."""
    return rf"classes:\n{classes}\nsplits:\n\{{{splits}\}}(?s:.*{'.*'.join(notices)})"


TWO = found("a\nb", "'train': 4, 'test': 2", "taken as splits")
THREE = found("a\nb", "'train': 2, 'val': 2, 'test': 2", "taken as splits")


def _kaggle(folder: Path) -> list[str]:
    for split, each in (("training_set", 6), ("test_set", 2)):
        photos(folder / "archive" / split / split, each=each)
    return ["train", "archive", *TINY_RUN]


def _classes_printed(folder: Path) -> list[str]:
    photos(folder / "data", classes=[f"class{number:02d}" for number in range(14)], each=2)
    photos(folder / "data", classes=["class03"], each=5)
    return ["train", "data", *TINY_RUN]


def _evaluate(folder: Path, *patterns: str) -> list[str]:
    plant(folder, *patterns)
    return ["evaluate", str(finished_run(folder)), "data"]


def _odd_files(folder: Path) -> Callable[[], None]:
    """Write animations, pages, CMYK and a profile, among files of usual kinds."""
    root = plant(folder, "a|b/1.png")
    pages = [picture(0, number) for number in range(3)]
    for name in ("a/1.gif", "a/2.webp", "b/3.tif", "b/4.png"):
        pages[0].save(root / name, save_all=True, append_images=pages[1:])
    pages[0].save(root / "b" / "5.jpg", "MPO", save_all=True, append_images=pages[1:])
    pages[0].save(root / "b" / "2.gif")
    pages[0].convert("CMYK").save(root / "a" / "6.jpg")
    for number, name in enumerate(("sRGB", "Display P3")):
        profile = bytes(16) + b"RGB XYZ " + bytes(100) + name.encode("utf-16-be")
        pages[0].save(root / "b" / f"profile{number}.jpg", icc_profile=profile)
    return partial(show, root)


def _raw_files(folder: Path) -> Callable[[], None]:
    """Write raw images of cameras, which are TIFFs by their first bytes, beside their copies."""
    root = plant(folder, "a|b/1.png|2.png")
    for path in list(root.rglob("*.png")):
        picture(0, 0).save(path.with_suffix(".NEF"), "TIFF")
    return partial(show, root)


def _thumbnail(folder: Path) -> list[str]:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254], tags[330], tags.tagtype[330] = 1, (8,), 4
    picture(0, 0).save(folder / "x.dng", "TIFF", tiffinfo=tags)
    return ["predict", str(finished_run(folder)), "x.dng"]


def _mistaken(folder: Path, content: bytes) -> Callable[[], None]:
    root = plant(folder, "a|b/1.png|2.png")
    (root / "a" / "x.jpg").write_bytes(content)
    return partial(show, root)


def _channels(folder: Path) -> list[str]:
    (folder / "x.tif").write_bytes(tiff(np.zeros((4, 4, 13), np.uint16)))
    return ["predict", str(finished_run(folder)), "x.tif"]


def _unicode_forms(folder: Path) -> Callable[[], None]:
    return partial(show, plant(folder, "cafe\u0301|caf\u00e9|tea/1.png"))


def _not_utf8(folder: Path) -> Callable[[], None]:
    root = plant(folder, "tea/1.png")
    for name in (b"caf\xe9", b"caf\xe8"):
        os.mkdir(os.path.join(os.fsencode(root), name))
        picture(0, 0).save(
            os.path.join(os.fsencode(root), name, b"1.png").decode(errors="surrogateescape")
        )
    return partial(show, root)


def _no_suffix(folder: Path) -> Callable[[], None]:
    root = plant(folder, "a|b/1.png")
    for number, (suffix, kind) in enumerate(
        {
            "": "PNG",
            ".jpg?w=300": "JPEG",
            ".JPG_large": "JPEG",
            ".jpg.1": "JPEG",
            ".x": "WEBP",
        }.items()
    ):
        with (root / "a" / f"photo{suffix}").open("wb") as file:
            picture(0, number).save(file, kind)
    for kind in ("BMP", "TIFF", "GIF"):
        with (root / "b" / kind).open("wb") as file:
            picture(1, 0).save(file, kind)
    (root / "b" / "BMW prices").write_text("BMW prices of this year, in a long table of text")
    (root / "b" / "photo.jpg.part").write_bytes((root / "a" / "photo.jpg.1").read_bytes())
    return partial(show, root)


def _check(folder: Path) -> list[str]:
    plant(folder, "a|b/1.png|2.png|3.png", "a/4.heic")
    return ["check", "data", "--out", "page"]


def _many_texts(folder: Path) -> Callable[[], None]:
    root = plant(folder, "a|b/1.png")
    for number in range(3000):
        (root / "a" / f"{number}.txt").touch()
        (root / "b" / f"x.{number}").touch()
    return partial(show, root)


def _archive(folder: Path, name: str) -> list[str]:
    photos(folder / "data")
    subprocess.run(["tar", "cf", name, "data"], check=True, cwd=folder)
    return ["train", name, *TINY_RUN]


def _config_with_code(folder: Path) -> list[str]:
    photos(folder / "data")
    (folder / "data.yaml").write_text("download: import os; os.mkdir('ran')\n")
    return ["train", "data.yaml", *TINY_RUN]


def _did_not_run(folder: Path) -> None:
    assert not (folder / "ran").exists()


def _unmakeable_out(folder: Path, out: str) -> list[str]:
    photos(folder / "data")
    (folder / "file").write_text("x")
    (folder / "full").mkdir()
    (folder / "full" / "x").write_text("x")
    (folder / "dead").symlink_to("nowhere/x")
    return ["train", "data", *TINY_RUN, "--out", out]


def _unmakeable_out_from_python(folder: Path, out: Any) -> Callable[[], Any]:
    from resnets import api

    return partial(api.train, folder / "no data either", out=out)


def _unmakeable_report(folder: Path, report: str) -> list[str]:
    (folder / "file").write_text("x")
    return ["evaluate", str(finished_run(folder)), "no-data", "--report", report]


def _nothing_made(folder: Path) -> None:
    assert not (folder / "runs").exists() and not (folder / "new").exists()


FAULTS = [
    # Splits in other spellings
    Fault(
        "folders/kaggle-doubled-trains",
        _kaggle,
        r"training_set/training_set = train(?s:.*)10 training.*2 classes \(cat, dog\)",
        code=0,
        catalogue="D17",
    ),
    read(
        "doubled", TWO, "training_set/training_set/a|b/1.png|2.png", "test_set/test_set/a|b/1.png"
    ),
    read(
        "intel-unlabelled",
        found("a\nb", "'train': 2, 'test': 2", "ignored beside .*seg_pred", "taken as splits"),
        *("seg_train/seg_train/a|b/1.png", "seg_test/seg_test/a|b/1.png"),
        "seg_pred/seg_pred/1.png|2.png",
    ),
    read("train-train", TWO, "train/train/a|b/1.png|2.png", "test/test/a|b/1.png"),
    read("training-testing", TWO, "Training/a|b/1.png|2.png", "Testing/a|b/1.png"),
    read("evaluation", THREE, "training|validation|evaluation/a|b/1.png"),
    read("eval-beside-test", THREE, "train|eval|test/a|b/1.png"),
    read("dev-holdout", THREE, "train|dev|hold-out/a|b/1.png"),
    read("images-train", TWO, "images/train/a|b/1.png|2.png", "images/test/a|b/1.png"),
    read("three-wrappers", THREE, "data/images/x/train|val|test/a|b/1.png"),
    read("years", THREE, "train2017|val2017|test2015/a|b/1.png"),
    read("camel-case", THREE, "TrainImages|ValImages|TestImages/a|b/1.png"),
    read("prefix", THREE, "cells_train|cells_valid|cells_test/a|b/1.png"),
    read(
        "flat-test",
        found("a\nb", "'train': 2", "test_images has no class folders"),
        *("train_images/a|b/1.png", "test_images/1.png|2.png"),
    ),
    read(
        "wrapper", found("a\nb", "'all': 2", "the classes are the folders in x/y"), "x/y/a|b/1.png"
    ),
    read(
        "wrapper-beside-junk",
        found("a\nb", "'all': 2", "in photos"),
        *("photos/a|b/1.png", "__MACOSX/photos/a/1.png", "README", "Annotations/1.xml"),
    ),
    refused(
        "two-for-one-split", "two folders for one split: val and valid", "train|val|valid/a|b/1.png"
    ),
    refused(
        "numbered-splits", "two folders for one split: train1 and train2", "train1|train2/a|b/1.png"
    ),
    refused("only-test", "no training split, only test", "test/a|b/1.png"),
    # No classes at all
    refused(
        "splits-without-classes", "test, train look like splits, but", "train|test/1.png|2.png"
    ),
    refused("split-without-classes", "train looks like a split, but", "train/1.png|2.png"),
    refused(
        "wrapped-flat-splits",
        "look like splits",
        "images/train|val/1.png",
        "labels/train|val/1.txt",
    ),
    refused("flat-splits-and-samples", "look like splits", "train|test|sample/1.png"),
    refused("flat", "images in .* have no classes", "1.png|2.png|3.png"),
    refused("flat-with-table", r"give the manifest .*labels\.csv", "1.png|2.png", "labels.csv"),
    refused("single-class", "single class, 'a'", "a/1.png|2.png", ids="D19"),
    refused("nothing", r"no images in .*found: \.txt", "a|b/1.txt", ids="D27"),
    refused("empty", "no images in .*; expected one folder per class", "a|b/", ids="D27"),
    # Versions, parts and levels
    refused(
        "versions",
        "color, grayscale, segmented hold the same.*--class-level 2",
        "color|grayscale|segmented/a|b/1.png",
    ),
    refused(
        "versions-in-splits", "color, gray hold the same folders", "train|test/color|gray/a|b/1.png"
    ),
    refused(
        "flat-versions", "color, grayscale look like parts or versions", "color|grayscale/1.png"
    ),
    refused("masks", "images, masks look like parts or versions", "images|masks/1.png"),
    refused("sizes", "128x128, 64x64 look like parts", "64x64|128x128/1.png"),
    refused(
        "folds", "fold1, fold2, fold3 hold the same folders, a, b", "fold1|fold2|fold3/a|b/1.png"
    ),
    refused("flat-folds", "fold_1, fold_2 look like parts", "fold_1|fold_2/1.png"),
    refused("other-language", "hold the same folders, a, b, c", "treino|teste/a|b|c/1.png"),
    refused(
        "other-language-uneven",
        "hold the same folders, a",
        "entrenamiento/a|b/1.png",
        "prueba/a/1.png",
    ),
    refused("numbered-parts", "look like parts or versions", "ham_part_1|ham_part_2/1.png"),
    refused("numbered-images", "look like parts", "images_001|images_002/images/1.png"),
    refused("named-versions", "look like parts", "lung_original|lung_mask/1.png"),
    refused("domains", "amazon, dslr hold the.*--class-level 3", "amazon|dslr/images/a|b|c/1.png"),
    refused("sets-of-splits", "set1, set2 hold the splits", "set1|set2/train|test/a|b/1.png"),
    read("numbered-classes", found("class_1\nclass_2", "'all': 2"), "class_1|class_2/1.png"),
    read(
        "flat-validation-of-tiny-imagenet",
        found("a\nb", "'train': 2", "val/images has no class folders"),
        *("train/a|b/images/1.png", "val|test/images/1.png|2.png"),
    ),
    read(
        "unlabelled",
        found(
            "cat\ndog\nimages\nunlabeled", "'all': 4", "in spite of their names: images, unlabeled"
        ),
        "cat|dog|images|unlabeled/1.png",
    ),
    read(
        "copies",
        found("cat\ncat - Copy\ndog", "'all': 3", "marks of a copy: 'cat' and 'cat - Copy'"),
        "cat|cat - Copy|dog/1.png",
    ),
    refused(
        "copy-inside",
        "flowers holds the folders daisy, rose, which also lie beside",
        "flowers/daisy|rose/1.png",
        "flowers/flowers/daisy|rose/1.png",
    ),
    refused("copy-beside", "brain holds the folders no, yes", "yes|no/1.png", "brain/yes|no/1.png"),
    refused(
        "test-beside-classes", "is test a split or a class", "cat|dog/1.png", "test/cat|dog/1.png"
    ),
    refused(
        "classes-of-splits", "cat, dog hold the splits test, train", "cat|dog/train|test/1.png"
    ),
    refused(
        "two-levels",
        "are the classes animals, plants, or the folders in them, cat",
        "animals/cat|dog/1.png",
        "plants/rose|tulip/1.png",
    ),
    read(
        "level-1",
        found("animals\nplants", "'all': 4"),
        "animals/cat|dog/1.png",
        "plants/rose|tulip/1.png",
        level=1,
    ),
    read(
        "level-2",
        found("cat\ndog\nrose\ntulip", "'all': 4"),
        "animals/cat|dog/1.png",
        "plants/rose|tulip/1.png",
        level=2,
    ),
    read("level-2-merges", found("a\nb", "'all': 6"), "fold1|fold2|fold3/a|b/1.png", level=2),
    read("level-2-splits", found("a\nb", "'train': 2, 'test': 2"), "train|test/a|b/1.png", level=2),
    refused(
        "level-too-deep",
        "--class-level 5: no folders with images",
        "a|b/1.png",
        options=["--class-level", "5"],
    ),
    refused(
        "level-zero",
        "--class-level 0: must be between 1 and 9",
        "a|b/1.png",
        options=["--class-level", "0"],
    ),
    Fault(
        "folders/level-of-a-named-set",
        lambda folder: ["train", "fashion-mini", "--class-level", "2"],
        "--class-level is for folders of images, and fashion-mini is none",
    ),
    read(
        "deeper-images",
        found("cat\ndog", "'all': 3", r"images in folders below a class.*cat/b \(1\)"),
        "cat/1.png",
        "cat/b/1.png",
        "dog/1.png",
    ),
    # Real classes with such names
    read(
        "class-train",
        found("bus\ncar\ntrain", "'all': 6", "train: named like a split"),
        "bus|car|train/1.png|2.png",
    ),
    refused(
        "class-train-deep",
        "is train a split or a class",
        "train/steam|diesel/1.png",
        "bus|car/1.png",
    ),
    read(
        "class-train-level",
        found("bus\ncar\ntrain", "'all': 4"),
        "train/steam|diesel/1.png",
        "bus|car/1.png",
        level=1,
    ),
    read(
        "test-tube", found("test_tube\ntrain_station", "'all': 2"), "test_tube|train_station/1.png"
    ),
    # What lies beside
    read(
        "leftovers",
        found("a\nb", "'all': 2", r"left by systems and programs: .*lost\+found"),
        "a|b/1.png",
        "lost+found|__pycache__|#recycle|@recycle|@eaDir|System Volume Information/1.png",
        "$RECYCLE.BIN|.Trash-1000|.ipynb_checkpoints|__MACOSX/1.png",
        "a/Thumbs.db",
        ids="D16",
    ),
    read(
        "empty-leftovers",
        found("a\nb", "'all': 2", "__pycache__, lost.found"),
        "a|b/1.png",
        "lost+found|__pycache__/",
        ids="D16",
    ),
    read(
        "annotations",
        found("a\nb", "'all': 2", "folders without images, ignored: Annotations, labels"),
        "a|b/1.png",
        "Annotations/1.xml",
        "labels/",
    ),
    read(
        "archive-beside",
        found("a\nb", "'all': 2", r"archives are not read: \.zip"),
        "a|b/1.png",
        "c.zip",
    ),
    read("images-beside", found("a\nb", "'all': 2", "1 images are in"), "a|b/1.png", "cover.png"),
    read(
        "empty-class-in-val",
        found("a\nb", "'train': 2, 'val': 1", "class folders without images: val/b"),
        "train/a|b/1.png",
        "val/a/1.png",
        "val/b/",
        ids="D18",
    ),
    refused(
        "empty-class", "class folders without images: c; add images", "a|b/1.png", "c/", ids="D18"
    ),
    refused(
        "empty-class-in-train",
        "class folders without images: train/c",
        "train/a|b/1.png",
        "test/a|b|c/1.png",
        "train/c/",
        ids="D18",
    ),
    refused("class-of-heic", "class folders without images: c", "a|b/1.png", "c/1.heic|2.heic"),
    refused("class-in-archive", "class folders without images: c", "a|b/1.png", "c/c.zip"),
    refused(
        "class-missing-in-train",
        "classes in val that train does not have: c",
        "train/a|b/1.png",
        "val/a|b|c/1.png",
        ids="D17",
    ),
    # Names
    read(
        "case",
        found("Cat\ncat\ndog", "'all': 3", "differ only in case.*'Cat' and 'cat'"),
        "Cat|cat|dog/1.png",
        ids="D20",
    ),
    read(
        "signs",
        found("(?s:.*)", "'all': 2", "differ only in case, spaces, signs"),
        "sea lion|sea_lion/1.png",
        ids="D20",
    ),
    Fault(
        "folders/unicode-forms",
        _unicode_forms,
        r"Unicode form are one class: caf\S+ \(2 folders\)",
        code=0,
        catalogue="D20",
    ),
    Fault("folders/not-utf8-alike", _not_utf8, "not UTF-8 and look alike", catalogue="D20"),
    read("numeric", found("1\n10\n2", "'all': 3"), "1|2|10/1.png", ids="D20"),
    # Files
    Fault(
        "folders/unknown-suffixes",
        _no_suffix,
        found(
            "a\nb",
            "'all': 10",
            r"no images, ignored: \.part, no suffix",
            "8 files are images by their first bytes",
        ),
        code=0,
    ),
    Fault(
        "folders/texts-are-not-all-opened",
        _many_texts,
        r"5,0\d\d files of these suffixes were not opened",
        code=0,
        cpu_seconds=2,
    ),
    Fault(
        "folders/odd-files",
        _odd_files,
        "4 images with several frames or pages(?s:.*)without profiles: 1 CMYK(?s:.*)1 image with a "
        "profile other than sRGB",
        code=0,
        catalogue="D10 D13",
    ),
    Fault(
        "folders/raw-files", _raw_files, r"'all': 4(?s:.*)ignored: \.nef 4; convert \.nef", code=0
    ),
    Fault("folders/check-names-the-ignored", _check, r"ignored: \.heic", code=0),
    Fault("folders/raw-thumbnail", _thumbnail, "first page is a thumbnail"),
    Fault("folders/many-channels", _channels, r"a TIFF of 13 channels, and at most 4 are read"),
    *(
        Fault(f"folders/{name}-for-an-image", partial(_mistaken, content=content), message)
        for name, (content, message) in {
            "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
            "web-page": (b"\n<!DOCTYPE html><html>", "a web page or XML, not an image"),
            "heic": (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC image: convert it"),
            "dicom": (bytes(128) + b"DICM" + bytes(50), "a DICOM file: convert it"),
        }.items()
    ),
    read(
        "masks-beside-images",
        found("a\nb", "'all': 7", r"2 images are named as masks of others.*a/1_mask\.png"),
        "a/1.png|1_mask.png|1_mask_2.png",
        "b/1.png|2.png|face_mask.png|masks.png",
    ),
    read("class-nan", found("a\nnan", "'all': 2", "missing values are: nan"), "a|nan/1.png"),
    read("class-numbers", found("01\n1\n2", "'all': 3", "'01' and '1'"), "01|1|2/1.png"),
    read(
        "other-formats",
        found("a\nb", "'all': 2", r"\.heic 2, \.avif, \.txt; convert \.avif, \.heic"),
        "a|b/1.png",
        "a/1.heic|2.heic|1.avif|1.txt",
    ),
    # Archives and configurations
    *(
        Fault(
            f"folders/archive{suffix}",
            partial(_archive, name=f"x{suffix}"),
            "is an archive; unpack it",
            catalogue="D24",
        )
        for suffix in (".tar", ".zip", ".7z", ".rar", ".tgz")
    ),
    Fault(
        "folders/config-with-code",
        _config_with_code,
        "is not a data set",
        check=_did_not_run,
        catalogue="D25",
    ),
    # The classes are printed
    Fault(
        "folders/classes-printed",
        _classes_printed,
        r"14 classes \(class00, .*, class11 and 2 more\) of 1 \(class00\) to 4 \(class03\) images",
        code=0,
    ),
    Fault(
        "folders/evaluate-finds-the-level",
        lambda folder: _evaluate(folder, "x|y/cat|dog/1.png"),
        r"scored: all of data, 4 images; 2 classes \(cat, dog\) of 2 images",
        code=0,
    ),
    Fault(
        "folders/evaluate-other-classes",
        lambda folder: _evaluate(folder, "cat|owl/1.png"),
        "the model does not know: owl; it knows cat, dog",
    ),
    # Where the run folder cannot be made
    *(
        Fault(
            f"folders/out-{name}",
            partial(_unmakeable_out, out=out),
            message,
            check=_nothing_made,
            catalogue="T13",
            cpu_seconds=3,
        )
        for name, out, message in (
            ("below-a-file", "file/run", "--out file/run: cannot be written"),
            ("a-file", "file", "--out file: cannot be written"),
            ("in-proc", "/proc/x", "--out /proc/x: cannot be written"),
            ("a-device", "/dev/null", "--out /dev/null: cannot be written"),
            ("not-empty", "full", "--out full: the folder is not empty"),
            ("dead-link", "dead", "--out dead: cannot be written"),
            ("long-name", "n" * 300, "--out nnn.*cannot be written"),
            ("nul", "a\0b", "--out.*cannot be written|embedded null"),
        )
    ),
    Fault(
        "folders/out-in-proc-from-python",
        partial(_unmakeable_out_from_python, out="/proc/x"),
        "--out /proc/x: cannot be written",
        catalogue="T13",
    ),
    Fault(
        "folders/report-in-proc",
        partial(_unmakeable_report, report="/proc/x"),
        "--report /proc/x: cannot be written",
    ),
    Fault(
        "folders/report-below-a-file",
        partial(_unmakeable_report, report="file/x"),
        "--report file/x: cannot be written",
    ),
]
