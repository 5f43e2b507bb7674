"""The report: offline, complete, exact, safe with any names, and really drawn by a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnets.report import write_report

LEARNING = ("loss", "accuracy", "learning_rate")
QUALITY = ("confusion", "per_class", "reliability")
MEGABYTE = 1e6


def scores_of(names: list[str], num_images: int = 300) -> dict[str, Any]:
    """Scores of a fair classifier, counted here with numpy alone."""
    rng, num_classes = np.random.default_rng(0), len(names)
    true = np.arange(num_images) % num_classes
    wrong = rng.random(num_images) < 0.2
    predicted = np.where(wrong, rng.integers(0, num_classes, num_images), true)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (true, predicted), 1)
    answered, images, right = confusion.sum(0), confusion.sum(1), confusion.diagonal()
    per_class = [
        {
            "name": name,
            "precision": float(right[k] / answered[k]) if answered[k] else None,
            "recall": float(right[k] / images[k]) if images[k] else None,
            "num_images": int(images[k]),
        }
        for k, name in enumerate(names)
    ]
    bins = [{"count": 0, "confidence": None, "accuracy": None} for _ in range(15)]
    bins[14] = {"count": num_images, "confidence": 0.97, "accuracy": 0.8}
    return {
        "num_images": num_images,
        "top1": float(right.sum() / num_images),
        "top1_interval": [0.7, 0.9],
        "top5": None,
        "top5_interval": None,
        "loss": None,
        "balanced_accuracy": 0.8,
        "calibration_error": 0.17,
        "classes": names,
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "reliability": bins,
    }


def history_of(num_epochs: int, per_epoch: int = 5) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for epoch in range(num_epochs):
        for i in range(per_epoch):
            at = epoch + (i + 1) / per_epoch
            train = {"loss": 2 / (1 + at), "accuracy": at / (1 + at), "learning_rate": 0.1 / at}
            records.append({"kind": "train", "epoch": at, **train})
        top1 = 0.9 - 0.01 * (epoch - 2) ** 2  # best at the end of the third epoch
        records.append({"kind": "validation", "epoch": epoch + 1.0, "loss": 1.0, "top1": top1})
    return records


def write(folder: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "title": "a run",
        "facts": [("model", "resnet20")],
        "history": [],
        "scores": scores_of(["cat", "dog", "owl"]),
        "samples": [],
        "mistakes": [],
        "notices": [],
        "part": "test",
    }
    return write_report(folder, **arguments | changes)


class Page(HTMLParser):
    """What a browser would see: elements with attributes, the text, the charts' JSON."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.charts, self.script = "", {}, False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.script = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.script = False

    def handle_data(self, data: str) -> None:
        if not self.script:
            self.text += data
        elif self.elements[-1][1].get("type") == "application/json":
            name = (self.elements[-1][1]["id"] or "").removesuffix("-chart")
            self.charts[name] = json.loads(data, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full report of ten classes."""
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (28, 28, 1), np.uint8)
    photo = rng.integers(0, 256, (300, 400, 3), np.uint8)
    mistake = {"true": "class 1", "predicted": "class 2", "confidence": 0.987, "id": "a/b.png"}
    return write(
        tmp_path_factory.mktemp("run"),
        history=history_of(5),
        scores=scores_of([f"class {k}" for k in range(10)]),
        samples=[(grey, "class 0"), (photo, "class 1")],
        mistakes=[{"image": grey, **mistake}],
        notices=["two files were skipped"],
    )


def test_of_equal_validations_the_one_whose_weights_are_kept_is_marked(tmp_path: Path) -> None:
    records = [
        {"kind": "validation", "epoch": float(epoch), "loss": 1.0, "top1": top1}
        for epoch, top1 in ((1, 0.5), (2, 0.75), (3, 0.75), (4, 0.5))
    ]
    assert "best at epoch 3: 75.0%" in write(tmp_path, history=records).read_text(encoding="utf-8")


def test_an_epoch_has_two_decimals_and_one_point_is_no_schedule(tmp_path: Path) -> None:
    records = [
        {"kind": "train", "epoch": 2.005, "loss": 1.0, "accuracy": 0.5, "learning_rate": 0.1},
        {"kind": "validation", "epoch": 2.005, "loss": 1.0, "top1": 0.5},
    ]
    html = write(tmp_path, history=records).read_text(encoding="utf-8")
    assert "best at epoch 2: 50.0%" in html and 'best: epoch 2"' in html
    assert not (tmp_path / "figures" / "learning_rate.png").exists()


def test_page_needs_nothing_but_itself(run: Path) -> None:
    page, html = Page(run), run.read_text(encoding="utf-8")
    assert run.stat().st_size < 1.5 * MEGABYTE
    assert html.count("window.vegaEmbed") == 1  # the library, once for all charts
    links = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href")]
    assert links  # the pictures
    assert all((link or "").startswith("data:image/") for link in links)
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for config in page.charts.values():
        assert "url" not in json.dumps(config)


def test_each_chart_is_in_the_page_and_in_the_figures(run: Path) -> None:
    assert tuple(Page(run).charts) == LEARNING + QUALITY
    for name in LEARNING + QUALITY:
        svg = ET.parse(run.parent / "figures" / f"{name}.svg").getroot()
        assert svg.tag.endswith("svg")
        with Image.open(run.parent / "figures" / f"{name}.png") as image:
            assert min(image.size) > 300
            assert len(np.unique(np.asarray(image.convert("L")))) > 8  # not a blank sheet


def test_page_says_the_words(run: Path) -> None:
    text = Page(run).text
    for words in ("a run", "resnet20", "two files were skipped", "class 2", "98.7%", "a/b.png"):
        assert words in text
    assert "also chose the best epoch" not in text


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, history=history_of(2))
    ones = [path for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(ones) == 1 + 2 * 6
    for path in ones:
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_confusion_and_bars_are_the_scores(run: Path) -> None:
    charts, scores = Page(run).charts, scores_of([f"class {k}" for k in range(10)])
    confusion = np.array(scores["confusion"])
    shown, shares = np.zeros_like(confusion), np.zeros(confusion.shape)
    for cell in charts["confusion"]["datasets"]["cells"]:
        shown[cell["true"], cell["predicted"]] = cell["images"]
        shares[cell["true"], cell["predicted"]] = cell["share"]
    np.testing.assert_array_equal(shown, confusion)
    np.testing.assert_allclose(shares, confusion / confusion.sum(1, keepdims=True), rtol=1e-5)
    bars = charts["per_class"]["datasets"]["classes"]
    assert [bar["recall"] for bar in bars] == sorted(bar["recall"] for bar in bars)
    recalls = {row["name"]: row["recall"] for row in scores["per_class"]}
    assert {bar["name"]: bar["recall"] for bar in bars} == pytest.approx(recalls, rel=1e-5)
    [filled] = charts["reliability"]["datasets"]["bins"]
    assert (filled["images"], filled["accuracy"]) == (300, 0.8)
    assert (filled["low"], filled["high"]) == pytest.approx((14 / 15, 1), rel=1e-5)


def test_curves_are_the_records_and_the_best_epoch_is_marked(run: Path) -> None:
    charts = Page(run).charts
    rows = charts["accuracy"]["datasets"]["curves"]
    validation = [row["value"] for row in rows if row["series"] == "validation"]
    expected = [r["top1"] for r in history_of(5) if r["kind"] == "validation"]
    assert validation == pytest.approx(expected, rel=1e-5)
    for name in ("loss", "accuracy"):
        assert [best["epoch"] for best in charts[name]["datasets"]["best"]] == [3.0]


def test_long_histories_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    charts = Page(write(tmp_path, history=history_of(8, per_epoch=900))).charts
    for name in ("loss", "learning_rate"):
        curve = [r for r in charts[name]["datasets"]["curves"] if r["series"] == "training"]
        assert 400 <= len(curve) <= 500
        assert (curve[0]["epoch"], curve[-1]["epoch"]) == pytest.approx((1 / 900, 8.0), rel=1e-5)


def test_values_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    history = history_of(2)
    history[2]["loss"], history[3]["loss"] = float("nan"), float("inf")
    for record in history:
        record["accuracy"] = None  # as with mixed images
    page = Page(write(tmp_path, history=history))
    losses = [row["value"] for row in page.charts["loss"]["datasets"]["curves"]]
    assert losses.count(None) == 2
    assert "2 recorded losses are not finite" in page.text
    assert {r["series"] for r in page.charts["accuracy"]["datasets"]["curves"]} == {"validation"}


def test_one_validation_record_alone(tmp_path: Path) -> None:
    page = Page(write(tmp_path, history=history_of(1)[-1:], part="validation"))
    assert tuple(page.charts) == ("loss", "accuracy", *QUALITY)
    assert "also chose the best epoch" in page.text


def test_a_model_only_evaluated_has_no_learning_section(tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    assert tuple(page.charts) == QUALITY
    assert "Learning" not in page.text
    assert not (tmp_path / "figures" / "loss.svg").exists()


def test_names_are_shown_never_run(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    names = [evil, "x" * 300, "猫 & кошка", "same", "same", "a\x00b\udcff", ""]
    mistake = {"true": evil, "predicted": names[1], "confidence": 1.0, "id": f"\udcff{evil}"}
    image = np.zeros((8, 8, 3), np.uint8)
    page = Page(
        write(
            tmp_path,
            title=evil,
            facts=[(evil, evil)],
            notices=[evil],
            scores=scores_of(names),
            samples=[(image, evil)],
            mistakes=[{"image": image, **mistake}],
        )
    )
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == len(QUALITY) + 2  # the charts, the library, the start
    assert tags.count("img") == 2
    assert not any("onerror" in attributes for _, attributes in page.elements)
    shown = next(p["value"] for p in page.charts["confusion"]["params"] if p["name"] == "names")
    assert shown == [*names[:5], "a\ufffdb\ufffd", ""]


@pytest.mark.parametrize("num_classes", [2, 200])
def test_few_and_many_classes(tmp_path: Path, num_classes: int) -> None:
    scores = scores_of([f"class {k}" for k in range(num_classes)], num_images=3 * num_classes)
    scores["per_class"][1] |= {"precision": None, "recall": None, "num_images": 0}
    path = write(tmp_path, scores=scores)
    assert path.stat().st_size < 1.5 * MEGABYTE
    classes = Page(path).charts["per_class"]["datasets"]["classes"]
    assert len(classes) == min(num_classes, 100)
    assert all(row["name"] != "class 1" for row in classes[:-1])  # without images: at the end


def test_small_images_keep_every_pixel_and_photos_shrink(run: Path) -> None:
    sources = [a["src"] or "" for tag, a in Page(run).elements if tag == "img"]
    small, photo, _ = (
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources
    )
    grey = np.random.default_rng(1).integers(0, 256, (28, 28, 1), np.uint8)
    np.testing.assert_array_equal(np.asarray(small), grey[:, :, 0])
    assert photo.size == (208, 156)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_draws_every_chart(run: Path, tmp_path: Path) -> None:
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += f" --disable-sync --user-data-dir={tmp_path} --virtual-time-budget=8000 --dump-dom"
    dom = subprocess.run(
        ["chromium", *flags.split(), "--disable-component-update", run.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    for name in LEARNING + QUALITY:
        drawn = re.search(rf'<div class="chart[^"]*" id="{name}"[^>]*>(.*?)</div>', dom, re.DOTALL)
        assert drawn is not None, name
        assert re.search(r"<svg|<canvas", drawn[1]), f"{name}: {drawn[1][:200]}"
