"""Copies, leaks, contradicting labels and images that stand out: `check` names them, exits 1."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fault_harness import TINY_RUN, Fault
from PIL import ExifTags, Image, ImageOps

CHECK = ["check", "data", "--no-labels", "--out", "page"]


def pattern(seed: int, side: int = 48) -> Image.Image:
    """Return a picture with detail that survives compression, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side - 8), Image.Resampling.BICUBIC)


def dataset(folder: Path) -> Path:
    """Write a clean set, data/SPLIT/CLASS/N.png; return the folder of the data."""
    root = folder / "data"
    for split, count in (("train", 12), ("test", 3)):
        for place, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed = number + 100 * place + 1000 * (split == "test")
                pattern(seed).save(root / split / name / f"{number}.png")
    return root


def case(
    change: Callable[[Path], Any], *words: str, command: list[str] = CHECK
) -> Callable[[Path], list[str]]:
    """Return what makes the clean set, changes it, and gives the command line."""

    def make(folder: Path) -> list[str]:
        change(dataset(folder))
        return [*command, *words]

    return make


def copy(source: str, target: str) -> Callable[[Path], Any]:
    """Return what copies a file of the set."""

    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, root / target)

    return change


def near(
    source: str, target: str, how: Callable[[Image.Image], Image.Image], **options: Any
) -> Callable[[Path], Any]:
    """Return what writes a changed copy of a file of the set."""

    def change(root: Path) -> None:
        how(Image.open(root / source)).save(root / target, **options)

    return change


def _same(picture: Image.Image) -> Image.Image:
    return picture


def _half(orientation: int) -> Callable[[Path], Any]:
    """Return what replaces an image by a JPEG without its second half, which ends as a whole one.

    It decodes without an error. The picture is turned so that EXIF turns it upright.
    """

    def change(root: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = root / "train" / "cat" / "0.png"
        Image.open(path).save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
        content = path.with_suffix(".jpg").read_bytes()
        start = content.index(b"\xff\xda")
        kept = content[: start + (len(content) - start) // 2]
        path.with_suffix(".jpg").write_bytes(kept + b"\xff\xd9")

    return change


def _grey_margins(root: Path) -> None:
    """Pad an image to a square with grey on both sides, as some programs do."""
    path = root / "train" / "cat" / "0.png"
    padded = ImageOps.pad(Image.open(path), (48, 96), color=(128, 128, 128))
    padded.save(path.with_suffix(".jpg"))
    path.unlink()


def _resized(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.resize((round(0.9 * width), round(0.9 * height))).resize(picture.size)


def _brighter(picture: Image.Image) -> Image.Image:
    return picture.point(lambda value: min(255, round(1.05 * value)))


def _new(name: str, size: tuple[int, int], colour: object = "red") -> Callable[[Path], Any]:
    def change(root: Path) -> None:
        Image.new("RGB", size, colour).save(root / name)  # type: ignore[arg-type]

    return change


def _cut(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _rename_class(root: Path, old: str, new: str) -> None:
    for split in ("train", "test"):
        for path in sorted((root / split / old).iterdir())[::2]:
            (root / split / new).mkdir(exist_ok=True)
            path.rename(root / split / new / path.name)


def _hostile(root: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / name)
    shutil.copy(root / "train" / name / "0.png", root / "test" / name / '"><script>1<!--.png')


def _page_is_escaped(folder: Path) -> None:
    page = (folder / "page" / "check.html").read_text()
    assert "&lt;img src=x onerror" in page
    assert "<img src=x" not in page and '"><script>1' not in page


def _unbalanced(root: Path) -> None:
    for number in range(130):
        pattern(5000 + number, side=24).save(root / "train" / "cat" / f"more{number}.png")


def _unchanged(folder: Path) -> None:
    assert (folder / "before.json").read_text() == _listing(folder / "data")


def _listing(root: Path) -> str:
    files = sorted(path for path in root.rglob("*"))
    return json.dumps([(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files])


def _listed(root: Path) -> None:
    copy("train/cat/0.png", "test/cat/x.png")(root)
    (root.parent / "before.json").write_text(_listing(root))


def _many_faults(root: Path) -> None:
    for change in (
        copy("train/cat/0.png", "test/cat/x.png"),
        copy("train/cat/1.png", "train/dog/x.png"),
        copy("train/cat/2.png", "train/cat/y.png"),
        near("train/dog/3.png", "train/dog/y.jpg", _same, quality=70),
    ):
        change(root)
    _cut(root, "train/dog/5.png")


def _clean_manifest(folder: Path) -> None:
    rows = (folder / "clean.csv").read_text().splitlines()
    listed = {row.split(",")[0].removeprefix("data/") for row in rows[1:]}
    gone = {"train/cat/0.png", "train/cat/1.png", "train/dog/x.png", "train/dog/5.png"}
    assert rows[0] == "path,label,split" and not listed & gone
    assert {"test/cat/x.png", "train/dog/0.png"} <= listed
    assert len(listed & {"train/cat/2.png", "train/cat/y.png"}) == 1
    assert len(listed & {"train/dog/3.png", "train/dog/y.jpg"}) == 1


def _without(module: str, make: Callable[[Path], list[str]]) -> Callable[[Path], Any]:
    """Return a case that runs where a module is not installed."""

    def made(folder: Path) -> list[str]:
        from resnets.audit import checker

        words, find = make(folder), checker.find_spec
        hidden = lambda name, *rest: None if name == module else find(name, *rest)  # noqa: E731
        checker.find_spec = hidden
        return [word for word in words if word != "--no-labels"]

    return made


def _train(folder: Path) -> list[str]:
    root = dataset(folder)
    for number in range(2):
        shutil.copy(root / f"train/cat/{number}.png", root / f"test/cat/x{number}.png")
    return ["train", "data", "--out", "run", *TINY_RUN]


def _caution_reaches_the_page(folder: Path) -> None:
    scores = json.loads((folder / "run" / "scores.json").read_text())
    assert any("are also training images" in text for text in scores["cautions"])
    assert "are also training images" in (folder / "run" / "report.html").read_text()


def _npz(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (40, 12, 12), np.uint8)
    test = np.concatenate([train[:4], rng.integers(0, 256, (6, 12, 12), np.uint8)])
    np.savez(
        folder / "set.npz",
        **{"x_train": train, "y_train": np.arange(40) % 2, "x_test": test},
        y_test=np.arange(10) % 2,
    )
    return ["check", "set.npz", "--no-labels"]


def _python_report(folder: Path) -> Callable[[], None]:
    copy("train/cat/0.png", "test/cat/x.png")(dataset(folder))

    def call() -> None:
        from resnets import check_data

        report = check_data("data", labels=False)
        leak = report.find("exact-leak")
        assert not report.ok and leak is not None and leak.num_images == 2
        print([image.id for image in leak.groups[0]])

    return call


PAIR = ("train/cat/0.png", "test/cat/x.png")

FAULTS = [
    Fault("duplicates/none", case(lambda root: None), "no problems", 0),
    Fault("duplicates/leak", case(copy(*PAIR)), r"problem: 1 picture in more", 1, catalogue="D21"),
    Fault("duplicates/leak-in-npz", _npz, r"problem: 4 pictures in more than one split", 1),
    Fault("duplicates/leak-python", _python_report, r"train/cat/0\.png.*test/cat/x\.png", 0),
    Fault(
        "duplicates/leak-renamed-format",
        case(near("train/cat/0.png", "test/cat/x.bmp", _same)),
        r"(?s)problem: 1 picture in more.*same pixels",
        1,
    ),
    Fault(
        "duplicates/near-leak-recompressed",
        case(near("train/cat/0.png", "test/cat/x.jpg", _same, quality=70)),
        "problem: 1 picture, nearly the same, in more than one split",
        1,
        catalogue="D21",
    ),
    Fault(
        "duplicates/near-leak-resized",
        case(near("train/cat/0.png", "test/cat/x.png", _resized)),
        "problem: 1 picture, nearly the same, in more than one split",
        1,
    ),
    Fault(
        "duplicates/near-leak-brighter",
        case(near("train/cat/0.png", "test/cat/x.png", _brighter)),
        "problem: 1 picture, nearly the same, in more than one split",
        1,
    ),
    Fault(
        "duplicates/near-leak-smaller-file",
        case(near("train/cat/0.png", "test/cat/x.png", lambda p: p.resize((36, 30)))),
        "problem: 1 picture, nearly the same, in more than one split",
        1,
    ),
    *(
        Fault(
            f"duplicates/rotated-{degrees}",
            case(
                near(
                    "train/cat/0.png",
                    "train/cat/x.png",
                    lambda p, d=degrees: p.rotate(d, expand=True),
                )
            ),
            f"notice: 1 picture more than once in one class, nearly(?s:.*)rotated by {degrees}",
            0,
        )
        for degrees in (90, 180, 270)
    ),
    Fault(
        "duplicates/mirrored-leak",
        case(
            near(
                "train/dog/0.png",
                "test/dog/x.png",
                lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            )
        ),
        "(?s)problem: 1 picture, nearly the same, in more than one split.*mirrored",
        1,
    ),
    Fault(
        "duplicates/two-labels",
        case(copy("train/cat/0.png", "train/dog/x.png")),
        "problem: 1 picture in more than one class",
        1,
        catalogue="D21",
    ),
    Fault(
        "duplicates/two-labels-near",
        case(near("train/cat/0.png", "train/dog/x.jpg", _brighter, quality=70)),
        "problem: 1 picture, nearly the same, in more than one class",
        1,
    ),
    Fault(
        "duplicates/two-labels-and-splits",
        case(copy("train/cat/0.png", "test/dog/x.png")),
        "(?s)in more than one split.*in more than one class",
        1,
    ),
    Fault(
        "duplicates/one-class",
        case(copy("train/cat/0.png", "train/cat/x.png")),
        "notice: 1 picture more than once in one class: 2 images",
        0,
    ),
    Fault(
        "duplicates/class-names-case",
        case(partial(_rename_class, old="cat", new="Cat")),
        "problem: class names that differ only.*'Cat' = 'cat'",
        1,
        catalogue="D20",
    ),
    Fault(
        "duplicates/class-names-width",
        case(partial(_rename_class, old="cat", new="\uff43at")),
        "problem: class names that differ only",
        1,
        catalogue="D20",
    ),
    Fault(
        "duplicates/class-names-spaces",
        case(partial(_rename_class, old="cat", new="c_at")),
        "problem: class names that differ only",
        1,
    ),
    Fault(
        "duplicates/split-without-a-class",
        case(lambda root: shutil.rmtree(root / "test" / "dog")),
        "problem: the split test has no images of: dog",
        1,
        catalogue="D17",
    ),
    Fault(
        "duplicates/unreadable-too-many",
        case(lambda root: _cut(root, "train/cat/0.png", "test/dog/1.png")),
        r"(?s)problem: 2 of 30 images cannot be read.*train/cat/0\.png",
        1,
        catalogue="D3",
    ),
    Fault(
        "duplicates/unreadable-allowed",
        case(lambda root: _cut(root, "train/cat/0.png"), "--max-corrupt", "0.1"),
        r"notice: 1 of 30 images cannot be read",
        0,
    ),
    Fault(
        "duplicates/unreadable-class-of-a-split",
        case(
            lambda root: _cut(root, *(f"test/dog/{number}.png" for number in range(3))),
            *("--max-corrupt", "0.5"),
        ),
        r"problem: 3 of 30 images cannot be read",
        1,
    ),
    Fault(
        "duplicates/unreadable-header",
        case(lambda root: (root / "train/cat/0.png").write_bytes(b"text"), "--max-corrupt", "0"),
        r"(?s)problem: 1 of 30 images cannot be read.*not a JPEG",
        1,
        catalogue="D2",
    ),
    Fault("duplicates/blank", case(_new("train/cat/x.png", (40, 40))), "1 image of nearly one", 0),
    Fault(
        "duplicates/tiny",
        case(_new("train/cat/x.png", (1, 1))),
        r"(?s)1 image tiny.*1 x 1 pixels",
        0,
        catalogue="D15",
    ),
    Fault(
        "duplicates/huge",
        case(near("train/cat/0.png", "train/cat/0.png", lambda p: p.resize((400, 340)))),
        r"(?s)1 image huge.*400 x 340",
        0,
    ),
    Fault(
        "duplicates/aspect",
        case(near("train/cat/0.png", "train/cat/0.png", lambda p: p.resize((190, 12)))),
        "1 image of an odd shape",
        0,
        catalogue="D15",
    ),
    *(
        Fault(
            f"duplicates/jpeg-half-orientation-{orientation}",
            case(_half(orientation)),
            "1 image grey from some row on: the end of the JPEG is missing",
            0,
            slow=orientation != 6,
            catalogue="D4",
        )
        for orientation in range(1, 9)
    ),
    Fault(
        "duplicates/jpeg-with-grey-margins",
        case(_grey_margins),
        r"(?s)\A(?!.*grey from some row)",
        0,
        catalogue="D4",
    ),
    Fault(
        "duplicates/exif-rotated",
        case(near("train/cat/0.png", "train/cat/9.tiff", _same, tiffinfo={274: 6})),
        "1 image with an EXIF orientation",
        0,
        catalogue="D8",
    ),
    Fault(
        "duplicates/grey-among-colour",
        case(near("train/cat/0.png", "train/cat/0.png", lambda p: p.convert("L"))),
        "1 image grey among colour images",
        0,
        catalogue="D12",
    ),
    Fault(
        "duplicates/cmyk",
        case(near("train/cat/0.png", "train/cat/9.tiff", lambda p: p.convert("CMYK"))),
        "1 image with CMYK",
        0,
        catalogue="D10",
    ),
    Fault(
        "duplicates/transparency",
        case(near("train/cat/0.png", "train/cat/0.png", lambda p: p.convert("RGBA"))),
        "1 image with transparency",
        0,
        catalogue="D11",
    ),
    Fault("duplicates/unbalanced", case(_unbalanced), "unbalanced: 142 training images of cat", 0),
    Fault(
        "duplicates/few-images",
        case(lambda root: [path.unlink() for path in (root / "train/dog").glob("1*.png")]),
        r"classes with fewer than 10 training images: dog \(9\)",
        0,
        catalogue="D27",
    ),
    Fault("duplicates/hostile-names", case(_hostile), "problem: 1 picture", 1, _page_is_escaped),
    Fault("duplicates/data-unchanged", case(_listed), "problem: 1 picture", 1, _unchanged),
    Fault(
        "duplicates/page-inside-the-data",
        case(_listed, "--out", "data/page", command=CHECK[:3]),
        "--out data/page: lies inside the data",
        check=_unchanged,
    ),
    Fault(
        "duplicates/page-over-other-files",
        case(lambda root: (root.parent / "page").mkdir() or (root.parent / "page/x").touch()),
        "--out page: holds other files",
    ),
    Fault(
        "duplicates/clean-manifest",
        case(_many_faults, "--write-clean", "clean.csv"),
        "problem",
        1,
        _clean_manifest,
    ),
    Fault(
        "duplicates/clean-manifest-exists",
        case(
            lambda root: (root.parent / "clean.csv").write_text("mine"),
            *("--write-clean", "clean.csv"),
        ),
        "--write-clean clean.csv: exists already",
    ),
    Fault(
        "duplicates/clean-manifest-of-npz",
        lambda folder: [*_npz(folder), "--write-clean", "clean.csv"],
        "--write-clean clean.csv: a manifest lists files",
    ),
    Fault(
        "duplicates/without-cleanlab",
        _without("cleanlab", case(copy(*PAIR))),
        r"(?s)problem: 1 picture.*not checked: wrong labels: needs cleanlab, pip install",
        1,
    ),
    Fault(
        "duplicates/control-characters",
        case(copy("train/cat/0.png", "test/cat/x\x1b[31m.png")),
        r"(?s)\A(?!.*\x1b).*test/cat/x\\x1b\[31m\.png",
        1,
    ),
    Fault(
        "duplicates/training-says-it",
        _train,
        r"2 of 8 test images are also training images",
        0,
        _caution_reaches_the_page,
        catalogue="D21",
    ),
]
