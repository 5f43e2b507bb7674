"""Images that are read wrongly in silence: wide pixels, negatives, rare formats, huge ones."""

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fault_harness import TINY_RUN, Fault, finished_run, photos, slow
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from image_files import chunk, jpeg, png, stripes, tiff

TRAIN = ["train", "data", "--out", "run", *TINY_RUN]
# A training as in the report of these faults, which any set with contrast learns.
LEARN = [
    *("train", "data", "--out", "run", "--epochs", "8", "--model", "resnet20", "--size", "24"),
    *("--flip", "none", "--crop", "none", "--auto-augment", "none", "--tune", "off", "--quiet"),
]


def _set(folder: Path, kind: str, each: int = 4) -> None:
    for name in ("across", "along"):
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture, suffix = stripes(kind, name == "across", number)
            picture.save(folder / "data" / name / f"{number:03d}{suffix}")


def _train(kind: str, *words: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        _set(folder, kind)
        return [*TRAIN, *words]

    return make


def _learn(kind: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        _set(folder, kind, each=60)
        return LEARN

    return make


def _learned(folder: Path) -> None:
    assert json.loads((folder / "run" / "scores.json").read_text())["top1"] >= 0.95


def _grey(pixels: Callable[[np.random.Generator], np.ndarray]) -> Callable[[Path], list[str]]:
    """Train on grey PNGs of these pixels."""

    def make(folder: Path) -> list[str]:
        random = np.random.default_rng(0)
        for name in ("a", "b"):
            (folder / "data" / name).mkdir(parents=True)
            for number in range(6):
                picture = Image.fromarray(pixels(random).astype(np.uint8))
                picture.save(folder / "data" / name / f"{number}.png")
        return TRAIN

    return make


def _predict(content: Callable[[], bytes]) -> Callable[[Path], list[str]]:
    """Predict with a network of 8-bit images."""

    def make(folder: Path) -> list[str]:
        (folder / "x.tif").write_bytes(content())
        return ["predict", str(finished_run(folder)), "x.tif"]

    return make


def _decodes(
    content: Callable[[], bytes], expected: list[Any], **options: Any
) -> Callable[[Path], Callable[[], None]]:
    """Decode to exactly these colours or grey levels of the first row."""

    def make(folder: Path) -> Callable[[], None]:
        (folder / "x.img").write_bytes(content())

        def check() -> None:
            from resnets.data.decode import decode

            channels = 1 if isinstance(expected[0], int) else 3
            row = decode(folder / "x.img", channels=channels, **options)[0]
            found = row[:, 0].tolist() if channels == 1 else row.tolist()
            print("right" if found == expected else f"wrong: {found}")

        return check

    return make


def _mixed(folder: Path) -> list[str]:
    _set(folder, "x-ray")
    Image.new("L", (24, 24), 9).save(folder / "data" / "across" / "narrow.png")
    return TRAIN


def _two_kinds(folder: Path) -> list[str]:
    _set(folder, "float")
    _set(folder, "x-ray")
    return TRAIN


def _wide_colour(folder: Path) -> list[str]:
    """Twelve bits in a PNG of 16-bit colours, of which Pillow keeps the high byte."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(6):
            rows = [random.integers(0, 4096, 48).astype(">u2").tobytes() for _ in range(16)]
            (folder / "data" / name / f"{number}.png").write_bytes(png(16, 16, 2, rows))
    return TRAIN


def _spoiled_floats(folder: Path) -> list[str]:
    """Floats with NaN, infinity and one pixel far above all others in each."""
    _set(folder, "float")
    for path in (folder / "data").rglob("*.tif"):
        pixels = np.array(Image.open(path))
        pixels[0, :3] = np.nan, np.inf, -np.inf
        Image.fromarray(pixels).save(path)
    return TRAIN


def _hot_pixel(folder: Path) -> list[str]:
    _set(folder, "counts")
    path = folder / "data" / "along" / "000.tif"
    pixels = np.array(Image.open(path))
    pixels[3, 3] = 2**31 - 1
    Image.fromarray(pixels).save(path)
    return TRAIN


def _evaluate_floats(folder: Path) -> list[str]:
    for name in ("cat", "dog"):
        (folder / "data" / name).mkdir(parents=True)
        stripes("float", name == "cat", 0)[0].save(folder / "data" / name / "0.tif")
    return ["evaluate", str(finished_run(folder)), "data"]


def _evaluate_other_range(folder: Path) -> Callable[[], None]:
    """Open the X-rays of another device by the range of a model."""
    _set(folder, "x-ray")

    def check() -> None:
        from resnets.data import open_data
        from resnets.data.transforms import Preprocess

        preprocess = Preprocess(size=16, pixel_range=(29000, 29200))
        data = open_data(folder / "data", classes=("across", "along"), preprocess=preprocess)
        print(*data.notices)

    return check


def _no_data(folder: Path) -> list[str]:
    """Floats of which a corner has no data, marked as maps do."""
    _set(folder, "float")
    for path in (folder / "data").rglob("*.tif"):
        pixels = np.array(Image.open(path))
        pixels[:4, :4] = -9999
        Image.fromarray(pixels).save(path)
    return TRAIN


def _large(kind: str, *words: str) -> Callable[[Path], list[str]]:
    """Train where each class has an image of more pixels than allowed."""

    def make(folder: Path) -> list[str]:
        for name in photos(folder / "data").iterdir():
            noise = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
            Image.fromarray(noise).save(name / f"large.{kind}")
        return [*TRAIN, "--max-pixels", "2000", *words]

    return make


def _thin(folder: Path) -> list[str]:
    for name in photos(folder / "data").iterdir():
        Image.new("RGB", (1, 1), "red").save(name / "dot.png")
        Image.new("RGB", (3000, 2), "red").save(name / "line.png")
    return TRAIN


def _pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "x.png")
    return ["predict", str(finished_run(folder)), "x.png"]


def _alike(folder: Path) -> Callable[[], None]:
    """Predict from a path, bytes, a picture and an array: all the same."""
    _set(folder, "x-ray")

    def check() -> None:
        from resnets import api
        from resnets.inference.predictor import Predictor

        options = {"model": "resnet20", "size": 16, "epochs": 1, "batch_size": 4, "tune": "off"}
        model = api.train(folder / "data", out=folder / "run", **options).model
        path = folder / "data" / "along" / "000.png"
        sources = [path, path.read_bytes(), Image.open(path), np.asarray(Image.open(path))]
        answers = {answer.probabilities for answer in Predictor(model).predict(sources)}
        print("right" if len(answers) == 1 else f"wrong: {answers}")

    return check


def _grey_tiff(depth: str, values: list[Any], **options: Any) -> Callable[[], bytes]:
    return lambda: tiff(np.array([values], depth), **options)


WHITE, RED = [255] * 3, [255, 0, 0]
NOT_KNOWN, RIGHT = "what is black and white in them is not known", "^right"
UNSUPPORTED = "which is not supported; save it as 8- or 16-bit PNG"
RIGHT_ONES = {
    "white-is-zero-8": _decodes(_grey_tiff("u1", [0, 255], photometric=0), [255, 0]),
    "white-is-zero-16": _decodes(_grey_tiff("u2", [0, 65535], photometric=0), [255, 0]),
    "white-is-zero-float": _decodes(
        _grey_tiff("f4", [0, 1], photometric=0), [255, 0], pixel_range=(0, 1)
    ),
    "no-photometric-8": _decodes(_grey_tiff("u1", [0, 255], photometric=None), [0, 255]),
    "signed-8": _decodes(_grey_tiff("i1", [-128, 0, 127]), [0, 128, 255]),
    "signed-16-big-endian-packed": _decodes(
        _grey_tiff("i2", [-15, 15], big_endian=True, packed=True), [0, 255], pixel_range=(-15, 15)
    ),
    "signed-32-big-endian-packed": _decodes(
        _grey_tiff("i4", [-15, 15], big_endian=True, packed=True), [0, 255], pixel_range=(-15, 15)
    ),
    "float-big-endian-packed": _decodes(
        _grey_tiff("f4", [0, 0.5], big_endian=True, packed=True), [0, 255], pixel_range=(0, 0.5)
    ),
    "unsigned-32": _decodes(_grey_tiff("u4", [0, 2**32 - 1]), [0, 255], pixel_range=(0, 2**32 - 1)),
    "nan-and-infinity": _decodes(
        _grey_tiff("f4", [np.nan, np.inf, 0.5]), [0, 255, 128], pixel_range=(0, 1)
    ),
    "cmyk-16": _decodes(
        lambda: tiff(np.array([[[0] * 4, [65535, 0, 0, 0]]], np.uint16), photometric=5),
        [WHITE, [0, 255, 255]],
    ),
    "premultiplied-grey": _decodes(
        lambda: tiff(np.array([[[0, 0], [255, 255]]], np.uint8), tags={338: (3, [1])}), [255, 255]
    ),
    "palette-of-8-bits": _decodes(
        lambda: tiff(
            np.array([[1]], np.uint8),
            photometric=3,
            tags={320: (3, [0, 255, *[0] * 766])},
        ),
        [RED],
    ),
    "png-4-bit-transparent": _decodes(
        lambda: png(2, 4, 0, [b"\x2c"], chunk(b"tRNS", b"\0\2")), [255, 204]
    ),
    "png-16-bit-transparent": _decodes(
        lambda: png(2, 16, 0, [struct.pack(">2H", 9, 65535)], chunk(b"tRNS", b"\0\x09")), [255, 255]
    ),
    "png-16-bit-colour-transparent": _decodes(
        lambda: png(1, 16, 2, [b"\1\2\3\4\5\6"], chunk(b"tRNS", b"\1\2\3\4\5\6")), [WHITE]
    ),
    "png-16-bit-grey-alpha": _decodes(lambda: png(1, 16, 4, [struct.pack(">2H", 0, 0)]), [255]),
}
REFUSED = {
    "planar-lab": (
        lambda: tiff(np.zeros((2, 2, 3), np.uint8), photometric=8, planar=True),
        "a plane for each channel, of a kind not supported",
    ),
    "planar-16": (
        lambda: tiff(np.zeros((2, 2, 3), np.uint16), photometric=2, planar=True),
        "a plane for each channel, of a kind not supported",
    ),
    "ycbcr-of-fewer-colours": (
        lambda: tiff(np.zeros((2, 2, 3), np.uint8), photometric=6),
        "fewer colours than pixels",
    ),
    "float-16": (_grey_tiff("f2", [0, 1]), UNSUPPORTED),
    "float-64": (_grey_tiff("f8", [0, 1]), UNSUPPORTED),
    "int-64": (_grey_tiff("i8", [0, 1]), UNSUPPORTED),
    "unsigned-32-big-endian": (_grey_tiff("u4", [0, 1], big_endian=True), UNSUPPORTED),
    "float-colour": (lambda: tiff(np.zeros((2, 2, 3), np.float32), photometric=2), UNSUPPORTED),
    "int32-for-8-bit-model": (_grey_tiff("i4", [0, 70000]), NOT_KNOWN),
    "float-for-8-bit-model": (_grey_tiff("f4", [0, 1]), NOT_KNOWN),
}
FAULTS = [
    *(
        Fault(
            f"pixels/learned-{kind}",
            _learn(kind),
            "top-1",
            code=0,
            check=_learned,
            cpu_seconds=300,
            slow=True,
            catalogue="D9",
        )
        for kind in ("8-bit", "counts", "x-ray", "ct", "float")
    ),
    Fault(
        "pixels/counts", _train("counts"), r"5,000\.\.75,000 -> 0\.\.255", code=0, catalogue="D9"
    ),
    Fault("pixels/x-ray", _train("x-ray"), r"16-bit: 2,000\.\.2,014 -> 0\.\.255", code=0),
    Fault("pixels/ct", _train("ct"), r"signed 32-bit: -15\.\.15 -> 0\.\.255", code=0),
    Fault("pixels/float", _train("float"), r"float: 0\.\.1\.1 -> 0\.\.255", code=0),
    Fault(
        "pixels/range-full",
        _train("x-ray", "--pixel-range", "full"),
        r"0\.\.65,535 -> 0\.\.255\n(.*\n)*.*contrast is nearly gone",
        code=0,
    ),
    Fault(
        "pixels/range-given",
        _train("ct", "--pixel-range=-100,100"),
        r"-100\.\.100 -> 0\.\.255",
        code=0,
    ),
    Fault(
        "pixels/range-wrong", _train("ct", "--pixel-range", "9,1"), r"--pixel-range '9,1': expec"
    ),
    Fault(
        "pixels/range-infinite", _train("ct", "--pixel-range", "0,inf"), r"--pixel-range '0,inf'"
    ),
    Fault("pixels/mixed-depths", _mixed, r"in 8 of 9 images; the others have 8 bits", code=0),
    Fault("pixels/two-kinds", _two_kinds, "one scale for all, so check that they mean", code=0),
    Fault("pixels/spoiled-floats", _spoiled_floats, r"float: 0\.\.1\.1 -> 0\.\.255", code=0),
    Fault("pixels/hot-pixel", _hot_pixel, r"signed 32-bit: 5,000\.\.7\d,\d+ -> 0", code=0),
    Fault(
        "pixels/nearly-black",
        _grey(lambda random: random.integers(0, 5, (16, 16))),
        "contrast is nearly gone: the training images use the levels 0 to 4",
        code=0,
    ),
    Fault(
        "pixels/constant",
        _grey(lambda random: np.full((16, 16), random.integers(0, 256))),
        "contrast is nearly gone: 12 of 12 training images",
        code=0,
        catalogue="D12",
    ),
    Fault("pixels/wide-colour", _wide_colour, "contrast is nearly gone", code=0),
    Fault("pixels/same-from-all-sources", _alike, RIGHT, code=0),
    Fault("pixels/no-data", _no_data, r"float: 0\.\.1\.1 -> 0\.\.255", code=0),
    Fault(
        "pixels/other-range",
        _evaluate_other_range,
        "contrast is nearly gone: the images use the levels 0 to 0",
        code=0,
    ),
    Fault("pixels/evaluate-floats", _evaluate_floats, "float pixels, and the model was trained on"),
    *(
        Fault(f"pixels/{name}", make, RIGHT, code=0, catalogue="D9 D10 D11")
        for name, make in RIGHT_ONES.items()
    ),
    *(
        Fault(f"pixels/{name}", _predict(content), message, catalogue="D9")
        for name, (content, message) in REFUSED.items()
    ),
    Fault(
        "pixels/too-many",
        _large("png"),
        r"80 pixels are more than the 0\.002 million allowed; raise --max-pixels",
        catalogue="D5",
    ),
    Fault("pixels/too-many-in-a-jpeg", _large("jpg"), "top-1", code=0, catalogue="D5"),
    Fault("pixels/max-pixels-wrong", _large("jpg", "--max-pixels", "-1"), "--max-pixels -1"),
    Fault(
        "pixels/far-too-many",
        _predict(lambda: png(2, 8, 0, [b"ab"]).replace(b"\0\0\0\2\0\0\0\1", b"\0\0\x90\0" * 2)),
        r"36864 x 36864 pixels are more than the 67\.1 million allowed|CRC|checksum|incomplete",
        catalogue="D6",
    ),
    Fault(
        "pixels/tiny-and-thin",
        _thin,
        "4 less than 8 pixels wide or high, 2 longer than 20:1(?s:.*)top-1",
        code=0,
        catalogue="D14 D15",
    ),
    Fault("pixels/pipe", _pipe, "it is a pipe, not a file"),
    Fault("pixels/empty-file", _predict(lambda: b""), "the file is empty", catalogue="D1"),
    Fault("pixels/text", _predict(lambda: b"no image"), "not a JPEG, PNG, WebP", catalogue="D2"),
    Fault("pixels/cut-jpeg", _predict(lambda: jpeg()[:-40]), "incomplete", catalogue="D3"),
]

FAULTS = slow(
    FAULTS,
    "pixels/constant",
    "pixels/counts",
    "pixels/ct",
    "pixels/two-kinds",
    "pixels/x-ray",
)
