"""Test the scale of wide pixels: measured, stored, and used by every reader of a model."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import stripes
from resnets import api
from resnets.data import ImageFiles, open_data
from resnets.data.sources import header_cache
from resnets.data.sources.pixel_range import measured
from resnets.data.sources.source_config import SourceConfig
from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.inference.model_file import read_model
from resnets.inference.predictor import Predictor

TINY = {"model": "resnet20", "size": 16, "epochs": 1, "batch_size": 4, "tune": "off"}


def write(folder: Path, kind: str, each: int = 4, side: int = 24) -> Path:
    """A folder of stripes across and along at a depth."""
    for name in ("across", "along"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture, suffix = stripes(kind, name == "across", number, side)
            picture.save(folder / name / f"{number:03d}{suffix}")
    return folder


@pytest.mark.parametrize(
    ("kind", "low", "high", "word"),
    [
        ("counts", 5000, 75000, "signed 32-bit: 5,000..75,000 -> 0..255"),
        ("x-ray", 2000, 2014, "16-bit: 2,000..2,014 -> 0..255"),
        ("ct", -15, 15, "signed 32-bit: -15..15 -> 0..255"),
        ("float", 0, 1.1, "float: 0..1.1 -> 0..255"),
    ],
)
def test_the_range_is_measured(
    kind: str, low: float, high: float, word: str, tmp_path: Path
) -> None:
    data = open_data(write(tmp_path / "set", kind))
    (split,) = data.splits.values()
    assert split.pixel_range == pytest.approx((low, high), rel=1e-6)
    assert data.notices == (word,)
    images = np.stack([split.read(index, 1) for index in range(len(split))])
    assert (images.min(), images.max()) == (0, 255)
    assert open_data(tmp_path / "set").splits["all"].pixel_range == split.pixel_range


def test_images_of_eight_bits_have_no_range(tmp_path: Path) -> None:
    data = open_data(write(tmp_path / "set", "8-bit"))
    assert data.splits["all"].pixel_range is None
    assert data.notices == ()
    given = open_data(tmp_path / "set", SourceConfig(pixel_range="0,9"))
    assert given.notices == ("--pixel-range 0,9: all images have 8 bits and stay as they are",)


def test_a_mixed_set_keeps_its_eight_bits(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "x-ray")
    narrow = np.full((24, 24), 77, np.uint8)
    Image.fromarray(narrow).save(folder / "across" / "narrow.png")
    data = open_data(folder)
    assert data.notices == (
        "16-bit: 2,000..2,014 -> 0..255 in 8 of 9 images; the others have 8 bits and stay as they "
        "are",
    )
    split = data.splits["all"]
    place = list(split.ids).index("across/narrow.png")
    np.testing.assert_array_equal(split.read(place, 1)[..., 0], narrow)


def test_two_kinds_of_wide_pixels_are_said(tmp_path: Path) -> None:
    write(tmp_path / "set", "float")
    data = open_data(write(tmp_path / "set", "x-ray"))
    assert "check that they mean the same" in data.notices[0]
    with pytest.raises(UserError, match=r"16-bit and float images; give LOW,HIGH"):
        open_data(tmp_path / "set", SourceConfig(pixel_range="full"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [("full", (0, 65535)), ("0,4095", (0, 4095)), ("-1.5,2e3", (-1.5, 2000))],
)
def test_a_range_is_given(given: str, expected: tuple[float, float], tmp_path: Path) -> None:
    data = open_data(write(tmp_path / "set", "x-ray"), SourceConfig(pixel_range=given))
    assert data.splits["all"].pixel_range == expected


@pytest.mark.parametrize("given", ["", "5", "a,b", "2,1", "1,1", "0,nan", "0,1e400", "1,2,3"])
def test_ranges_that_are_none(given: str) -> None:
    with pytest.raises(UserError, match=r"--pixel-range .* expected auto, full, or two rising"):
        SourceConfig(pixel_range=given)


def test_outliers_do_not_matter() -> None:
    random = np.random.default_rng(0)
    values = random.integers(1000, 3000, 100_000).astype(float)
    values[::10_000] = 65535
    low, high = measured(values, whole=True)
    assert 1000 <= low <= 1010
    assert 2990 <= high <= 3000


def test_at_least_256_levels_stay() -> None:
    values = np.zeros(1_000_000)
    values[:500] = np.linspace(100, 4095, 500).round()  # 0.05 percent: stars on a dark sky
    low, high = measured(values, whole=True)
    assert low == 0
    assert np.count_nonzero(np.unique(values) <= high) >= 256
    assert measured(np.full(10, 7.0), whole=True) == (7, 14)


@pytest.mark.parametrize(("level", "spread"), [(0, 4), (250, 1), (128, 10)])
def test_contrast_that_is_nearly_gone_is_said(level: int, spread: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = level + random.integers(0, spread, (16, 16))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    (notice,) = open_data(tmp_path).notices
    assert notice.startswith("contrast is nearly gone: the training images use the levels")


def test_images_of_one_colour_are_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("L", (16, 16), 50 * number).save(tmp_path / name / f"{number}.png")
    (notice,) = open_data(tmp_path).notices
    assert "8 of 8 training images in a sample are nearly of one colour" in notice


def test_the_range_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    data = open_data(write(tmp_path / "set", "x-ray"))
    split = data.splits["all"]
    assert isinstance(split, ImageFiles)
    assert replace(split, pixel_range=None, depths=None).fingerprint() == split.fingerprint()


def test_cached_headers_know_the_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(header_cache, "REMEMBERED_FROM", 2)
    monkeypatch.setattr(header_cache, "SETTLED", 0)
    folder = write(tmp_path / "set", "x-ray")
    first = open_data(folder)
    monkeypatch.setattr(header_cache, "inspect", None)  # no header is read again
    second = open_data(folder)
    assert second.notices == first.notices
    assert second.splits["all"].pixel_range == first.splits["all"].pixel_range
    (index,) = (tmp_path / "home" / "indexes").iterdir()
    with np.load(index) as file:
        arrays = dict(file)
    arrays["headers"] = arrays.pop("headers_3")[:, :3]  # as the first format had them
    np.savez(index, **arrays)
    monkeypatch.undo()
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(header_cache, "REMEMBERED_FROM", 2)
    assert open_data(folder).notices == first.notices


def test_a_preprocessing_without_a_range_is_read() -> None:
    old = asdict(Preprocess(size=16))
    del old["pixel_range"]
    assert Preprocess(**old).pixel_range is None
    new = json.loads(json.dumps(asdict(Preprocess(size=16, pixel_range=(0.5, 7)))))
    assert Preprocess(**new).pixel_range == (0.5, 7.0)
    with pytest.raises(UserError, match=r"pixel range .* rising"):
        Preprocess(size=16, pixel_range=(7, 1))


@pytest.mark.parametrize("kind", ["x-ray", "counts", "float"])
def test_every_reader_of_a_model_sees_the_same(kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", kind)
    result = api.train(folder, out=tmp_path / "run", **TINY)
    file = read_model(result.model)
    stored = json.loads((tmp_path / "run" / "data.json").read_text())["preprocess"]["pixel_range"]
    assert tuple(stored) == file.preprocess.pixel_range
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count(" -&gt; 0..255") == 2  # among the facts and the notices
    path = next((folder / "along").iterdir())
    with Image.open(path) as picture:
        array = np.asarray(picture)
    sources = [path, path.read_bytes(), Image.open(io.BytesIO(path.read_bytes())), array]
    answers = {prediction.probabilities for prediction in Predictor(file).predict(sources)}
    assert len(answers) == 1
    notices = []
    scores = api.evaluate(result.model, folder, log=lambda record: notices.append(record["text"]))
    assert any(" -> 0..255" in text for text in notices)
    assert scores.num_images == 8


def test_a_model_of_eight_bits_refuses_other_scales(tmp_path: Path) -> None:
    result = api.train(write(tmp_path / "narrow", "8-bit"), out=tmp_path / "run", **TINY)
    floats = write(tmp_path / "floats", "float")
    with pytest.raises(UserError, match=r"float pixels, and the model was trained on 8-bit"):
        api.evaluate(result.model, floats)
    predictor = Predictor(result.model)
    prediction = predictor(next((floats / "along").iterdir()))
    assert "the model was not trained on such images" in str(prediction.error)
    wide = write(tmp_path / "wide", "x-ray")
    notices = []
    api.evaluate(result.model, wide, log=lambda record: notices.append(record["text"]))
    assert (
        "16-bit: the whole depth -> 0..255, since the model was trained on 8-bit images" in notices
    )


def test_a_resumed_run_keeps_its_range(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "x-ray")
    data = open_data(folder, preprocess=Preprocess(size=16, pixel_range=(0, 5000)))
    assert data.splits["all"].pixel_range == (0, 5000)
    first, *others = data.notices
    assert first == "16-bit: 0..5,000 -> 0..255"
    assert all("contrast" in notice for notice in others)


def test_large_jpegs_train_by_default(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "x.jpg")
        Image.fromarray(pixels).save(tmp_path / name / "y.png")
    config = SourceConfig(max_pixels=1024, max_corrupt=0.5)
    data = open_data(tmp_path, config)
    assert [name for name, _ in data.skipped] == ["a/y.png", "b/y.png"]
    split = data.splits["all"]
    assert split.sizes.tolist() == [[64, 64], [64, 64]]
    assert split.read(0, 3).shape == (32, 32, 3)
    with pytest.raises(UserError, match=r"64 x 64 pixels are more than .*; raise --max-pixels"):
        open_data(tmp_path, replace(config, max_corrupt=0.01))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["8-bit", "counts", "x-ray", "ct", "float"])
def test_every_depth_is_learned(kind: str, tmp_path: Path) -> None:
    result = api.train(
        write(tmp_path / "set", kind, each=60),
        out=tmp_path / "run",
        epochs=8,
        model="resnet20",
        size=24,
        tune="off",
        flip="none",
        crop="none",
        auto_augment="none",
    )
    assert result.scores is not None
    assert result.scores.top1 >= 0.95
