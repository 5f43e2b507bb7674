"""The report: offline, complete, exact, safe with any names, with charts and without."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pages import HOSTILE, Page, assert_a_browser_draws, assert_nothing_foreign, with_browser
from resnets.evaluation.metrics import wilson
from resnets.inference.predictor import Prediction
from resnets.report.chart_data import Finding, confusions, score_findings, training_findings
from resnets.report.html import chart_library
from resnets.report.page import (
    Mistake,
    ReportRecord,
    TrainingRecord,
    cautions_of,
    missing_charts,
    write_report,
)

LEARNING = ("loss", "accuracy", "learning_rate")
QUALITY = ("confusion", "per_class", "reliability")
MEGABYTE = 1e6
# The most frequent confusion of `scores_of` ten classes.
PAIR = (2, 3)


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


TRAINING = TrainingRecord(
    split_sizes={"train": 900, "val": 100, "test": 300},
    steps=40,
    batch_size=128,
    best_step=24,
    optimizer="muon",
    schedule="one_cycle",
    learning_rate=0.05,
    weight_decay=5e-4,
)


def record(**changes: Any) -> ReportRecord:
    values: dict[str, Any] = {
        "model": "resnet20",
        "image_size": 32,
        "data": "photos",
        "split": "test",
        "scores": scores_of(["cat", "dog", "owl"]),
        "training": TRAINING,
    }
    return ReportRecord(**values | changes)


def write(folder: Path, **changes: Any) -> Path:
    return write_report(folder, record(**changes))


def full_record() -> ReportRecord:
    """What a report of ten classes says at most."""
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (28, 28, 1), np.uint8)
    photo = rng.integers(0, 256, (300, 400, 3), np.uint8)
    scores = scores_of([f"class {k}" for k in range(10)])
    [((true, predicted), _), *_] = confusions(scores)
    assert (true, predicted) == PAIR
    mistake = Mistake(image=grey, true=true, predicted=predicted, confidence=0.987, id="a/b.png")
    return record(
        model_file="model.safetensors",
        history=history_of(5),
        scores=scores,
        samples=[(grey, "class 0"), (photo, "class 1")],
        mistakes=[mistake],
        notices=["two files were skipped"],
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full report of ten classes."""
    return write_report(tmp_path_factory.mktemp("run"), full_record())


def findings_of(path_or_scores: Any, history: Any = ()) -> dict[str, Finding]:
    found = [*training_findings(history), *score_findings(path_or_scores, set())]
    return {finding.name: finding for finding in found}


def test_of_equal_validations_the_one_whose_weights_are_kept_is_marked() -> None:
    records = [
        {"kind": "validation", "epoch": float(epoch), "loss": 1.0, "top1": top1}
        for epoch, top1 in ((1, 0.5), (2, 0.75), (3, 0.75), (4, 0.5))
    ]
    accuracy = {finding.name: finding for finding in training_findings(records)}["accuracy"]
    assert accuracy.title == "Validation accuracy is highest in epoch 3"
    assert accuracy.data["best"] == [{"epoch": 3.0, "value": 0.75, "label": "best: epoch 3"}]


@pytest.mark.parametrize(("epoch", "number"), [(2.005, 2), (24.63, 25), (3.0, 3), (0.04, 1)])
def test_an_epoch_is_a_whole_number_and_one_point_is_no_schedule(epoch: float, number: int) -> None:
    records = [
        {"kind": "train", "epoch": epoch, "loss": 1.0, "accuracy": 0.5, "learning_rate": 0.1},
        {"kind": "validation", "epoch": epoch, "loss": 1.0, "top1": 0.5},
    ]
    loss, accuracy = training_findings(records)
    assert loss.title == f"Validation loss is lowest in epoch {number}"
    assert accuracy.title == f"Validation accuracy is highest in epoch {number}"


def test_page_needs_nothing_but_itself(run: Path) -> None:
    page, html = Page(run), run.read_text(encoding="utf-8")
    assert run.stat().st_size < 1.5 * MEGABYTE
    assert html.count("window.vegaEmbed") == 1  # the library, once for all charts
    links = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href")]
    assert all((link or "").startswith(("data:image/", "#")) for link in links)
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert {(link or "")[1:] for link in links if (link or "")[0] == "#"} <= ids
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for config in page.charts.values():
        assert "url" not in json.dumps(config)


def test_each_chart_is_in_the_page_and_in_the_figures(run: Path) -> None:
    assert set(Page(run).charts) == {*LEARNING, *QUALITY}
    for name in LEARNING + QUALITY:
        svg = ET.parse(run.parent / "figures" / f"{name}.svg").getroot()
        assert svg.tag.endswith("svg")
        assert not any("href" in key for element in svg.iter() for key in element.attrib)
        with Image.open(run.parent / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 8  # not a blank sheet


def test_page_says_the_words(run: Path) -> None:
    text = Page(run).text
    for words in (
        "resnet20 on photos",
        "900 training, 100 validation, 300 test",
        "weights of step 24 are kept",
        "two files were skipped",
        "class 2 taken for class 3",
        "98.7%",
        "a/b.png",
        "resnets predict model.safetensors photos",
        'Predictor("model.safetensors")',
    ):
        assert words in text, words
    assert "which also chose the weights" not in text
    assert len(re.findall(r"\baccuracy\d", text.replace("\n", ""))) <= 3  # test, top-5, balanced


@pytest.mark.usefixtures("no_charts")
def test_the_lines_of_python_work(tmp_path: Path) -> None:
    """What the page says about using the model names what the package has."""
    page = Page(write(tmp_path, model_file="model.safetensors"))
    code = page.text[page.text.index("from resnets import") :].partition("Facts")[0]
    names: dict[str, Any] = {}
    compile(code.strip(), "page", "exec")
    exec(code.strip().splitlines()[0], names)
    assert callable(names["Predictor"])
    fields = {field.name for field in dataclasses.fields(Prediction)}
    assert set(re.findall(r"prediction\.(\w+)", code)) <= fields


def test_every_chart_has_an_alt_text_and_a_table(run: Path) -> None:
    page, html = Page(run), run.read_text(encoding="utf-8")
    for name in LEARNING + QUALITY:
        config = page.charts[name]
        assert len(config["description"]) > 40
        article = html[html.rindex("<article>", 0, html.index(f'id="{name}"')) :]
        article = article[: article.index("</article>")]
        pictures = [a for tag, a in Page(article).elements if a.get("class") == "static"]
        assert [picture["alt"] for picture in pictures] == [config["description"]]
        assert "<table" in article or name == "per_class"
        assert ("<details>" in article) == (name != "per_class")
        title = re.search(r"<h3>(.*?)</h3>", article)
        assert title is not None and len(title[1].split()) <= 12
    assert "Scores of each class" in html
    pictures = [a for tag, a in page.elements if tag == "img"]
    assert all(picture.get("alt") for picture in pictures)
    assert all("scope" in a for tag, a in page.elements if tag == "th")
    assert all(a.get("tabindex") == "0" for _, a in page.elements if a.get("class") == "scroll")


def test_the_page_has_rules_for_print_dark_screens_and_no_script(run: Path) -> None:
    html = run.read_text(encoding="utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    dark, paper = (
        style.index(f"@media {kind}") for kind in ("(prefers-color-scheme: dark)", "print")
    )
    names = set(re.findall(r"(--[a-z-]+):", style[:dark]))
    assert names == set(re.findall(r"(--[a-z-]+):", style[dark : style.index("}", dark)]))
    assert names == set(re.findall(r"(--[a-z-]+):", style[paper:]))
    assert ":focus-visible" in style
    for rule in (".static { display: block", ".chart { display: none", "break-inside: avoid"):
        assert rule in style[paper:]
    assert re.search(r"<noscript><style>.*\.static { display: block", html)
    for param in Page(run).charts["loss"]["params"][:4]:
        assert f"--{param['name']}" in names


@pytest.mark.usefixtures("no_charts")
def test_without_the_chart_library_the_page_keeps_numbers_and_tables(tmp_path: Path) -> None:
    assert missing_charts() != []
    scores = scores_of([f"class {k}" for k in range(10)])
    page = Page(write(tmp_path, history=history_of(5), scores=scores))
    assert page.charts == {} and not (tmp_path / "figures").exists()
    assert page.text.count("pip install 'resnets[report]'") == 1
    assert (tmp_path / "report.html").stat().st_size < 60_000
    for finding in findings_of(scores, history_of(5)).values():
        assert finding.title in page.text
        for row in finding.rows:
            assert all(cell in page.text for cell in row)
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None and "unsafe-eval" not in policy


def test_tables_are_the_scores() -> None:
    names = [f"class {k}" for k in range(10)]
    scores = scores_of(names)
    found = findings_of(scores)
    matrix = [[int(str(cell)) for cell in row[1:]] for row in found["confusion"].rows]
    np.testing.assert_array_equal(matrix, scores["confusion"])
    by_name = {row["name"]: row for row in scores["per_class"]}
    for name, images, recall, interval, precision, taken_for in found["per_class"].rows:
        row = by_name[name]
        hits = round(row["recall"] * row["num_images"])
        low, high = wilson(hits, row["num_images"])
        assert images == str(row["num_images"])
        assert (recall, precision) == (f"{row['recall']:.1%}", f"{row['precision']:.1%}")
        assert interval == f"{low:.1%} to {high:.1%}"
        others = [count for k, count in enumerate(scores["confusion"][names.index(name)])]
        others[names.index(name)] = 0
        assert others[names.index(str(taken_for))] == max(others)
    [bin_row] = found["reliability"].rows
    low, high = wilson(240, 300)
    assert bin_row[1:] == ("300", "97.0%", "80.0%", f"{low:.1%} to {high:.1%}")
    assert found["reliability"].title == "The model is overconfident by 17.0 points"


def test_tables_of_curves_hold_both_curves() -> None:
    history = history_of(5)
    loss, accuracy, rate = training_findings(history)
    train = [row for row in history if row["kind"] == "train"]
    validation = [row for row in history if row["kind"] == "validation"]
    assert [row[1] for row in loss.rows] == [f"{row['loss']:.3g}" for row in train]
    assert [row[2] for row in accuracy.rows if row[2]] == [f"{v['top1']:.1%}" for v in validation]
    assert [row[0] for row in accuracy.rows if row[2]] == [f"{v['epoch']:.2f}" for v in validation]
    assert len(rate.rows) == 12 and rate.rows[-1][1] == f"{train[-1]['learning_rate']:.4g}"


def test_a_confused_pair_leads_to_its_pictures(run: Path) -> None:
    html, page = run.read_text(encoding="utf-8"), Page(run)
    assert '<h3 id="pair-2-3">class 2 taken for class 3: 3 images' in html
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert links.count("#pair-2-3") == 3  # the matrix, the class, the frequent confusions
    cells = page.charts["confusion"]["datasets"]["cells"]
    linked = [(c["true"], c["predicted"], c["target"]) for c in cells if "target" in c]
    assert linked == [(*PAIR, "pair-2-3")]
    drawn = (run.parent / "figures" / "confusion.svg").read_text(encoding="utf-8")
    assert "true: class 2; predicted: class 3; images: 3" in drawn


def scores_with(confusion: list[list[int]]) -> dict[str, Any]:
    counts = np.array(confusion)
    total, hits = int(counts.sum()), int(counts.trace())
    scores = scores_of([f"class {k}" for k in range(len(counts))])
    recalls = counts.diagonal() / np.maximum(counts.sum(1), 1)
    answers = counts.sum(0)
    per_class = [
        {
            "name": f"class {k}",
            "recall": float(recalls[k]) if row.any() else None,
            "precision": float(counts[k, k] / answers[k]) if answers[k] else None,
            "num_images": int(row.sum()),
        }
        for k, row in enumerate(counts)
    ]
    return scores | {
        "num_images": total,
        "top1": hits / total,
        "top1_interval": wilson(hits, total),
        "balanced_accuracy": float(recalls[counts.sum(1) > 0].mean()),
        "per_class": per_class,
        "confusion": confusion,
    }


@pytest.mark.parametrize(
    ("confusion", "validation", "expected"),
    [
        ([[90, 10], [10, 90]], 100, []),
        ([[50, 0, 0], [2, 0, 0], [1, 0, 0]], 100, ["no better than always", "answers class 0 for"]),
        ([[100, 100], [98, 102]], 100, ["not clearly better than guessing among 2"]),
        ([[99, 101], [102, 98]], 100, ["no better than guessing among 2"]),
        ([[3, 0], [0, 3]], 100, ["few test images (6): each moves test accuracy by 16.7 points"]),
        ([[100, 0], [0, 0]], 100, []),  # one class alone: there is nothing to compare with
        ([[90, 10], [10, 90]], 6, ["few validation images (6)"]),
    ],
)
@pytest.mark.usefixtures("no_charts")
def test_a_number_that_means_little_is_qualified_in_words(
    tmp_path: Path, confusion: list[list[int]], validation: int, expected: list[str]
) -> None:
    scores = scores_with(confusion)
    said = cautions_of(scores, "test", validation_images=validation)
    assert len(said) == len(expected), said
    for words, sentence in zip(expected, said, strict=True):
        assert words in sentence
    if len(expected) == 2:
        html = write(tmp_path, scores=scores).read_text(encoding="utf-8")
        assert html.index(said[0]) < html.index("<h2")
        assert '<div class="warn">' in html and "94.3% of the test images" in html


def test_same_input_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    write_report(tmp_path, full_record())
    ones = [path for path in sorted(run.parent.rglob("*")) if path.is_file()]
    assert len(ones) == 1 + 2 * 6
    for path in ones:
        twin = tmp_path / path.relative_to(run.parent)
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_the_chart_library_is_bundled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vl_convert

    bundles = iter(["'</script>'", "again", "other"])
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda code: next(bundles))
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path))
    assert [chart_library() for _ in range(2)] == [r"'<\/script>'"] * 2
    [cached] = tmp_path.rglob("vega-*.js")
    cached.write_bytes(cached.read_bytes()[:-1])  # damaged: made again, not shown
    assert [chart_library() for _ in range(2)] == ["again"] * 2
    monkeypatch.setenv("RESNETS_DATA", os.devnull)  # a cache that cannot be written
    with pytest.warns(match="the chart library is not cached"):
        assert chart_library() == "other"


def test_chart_data_are_the_scores(run: Path) -> None:
    charts, scores = Page(run).charts, scores_of([f"class {k}" for k in range(10)])
    confusion = np.array(scores["confusion"])
    shown, shares = np.zeros_like(confusion), np.zeros(confusion.shape)
    for cell in charts["confusion"]["datasets"]["cells"]:
        shown[cell["true"], cell["predicted"]] = cell["images"]
        shares[cell["true"], cell["predicted"]] = cell["share"]
    np.testing.assert_array_equal(shown, confusion)
    np.testing.assert_allclose(shares, confusion / confusion.sum(1, keepdims=True), rtol=1e-5)
    for series in ("recall", "precision"):
        dots = [row for row in charts["per_class"]["datasets"]["rows"] if row["series"] == series]
        values = {row["name"]: row[series] for row in scores["per_class"]}
        assert {dot["name"]: dot["value"] for dot in dots} == pytest.approx(values, rel=1e-5)
        if series == "recall":
            assert [dot["value"] for dot in dots] == sorted(dot["value"] for dot in dots)
            intervals = charts["per_class"]["datasets"]["intervals"]
            for dot, ends in zip(dots, intervals, strict=True):
                hits = round(dot["value"] * dot["images"])
                low, high = wilson(hits, dot["images"])
                assert (ends["low"], ends["high"]) == pytest.approx((low, high), rel=1e-5)
    [filled] = charts["reliability"]["datasets"]["rows"]
    assert (filled["images"], filled["accuracy"]) == (300, 0.8)
    assert (filled["from"], filled["to"]) == pytest.approx((14 / 15, 1), rel=1e-5)
    assert (filled["low"], filled["high"]) == pytest.approx(wilson(240, 300), rel=1e-5)


def test_curves_are_the_records_and_the_best_epoch_is_marked(run: Path) -> None:
    charts = Page(run).charts
    rows = charts["accuracy"]["datasets"]["rows"]
    validation = [row["value"] for row in rows if row["series"] == "validation"]
    expected = [r["top1"] for r in history_of(5) if r["kind"] == "validation"]
    assert validation == pytest.approx(expected, rel=1e-5)
    for name in ("loss", "accuracy"):
        assert [best["epoch"] for best in charts[name]["datasets"]["best"]] == [3.0]


def test_long_histories_are_thinned_and_keep_their_ends() -> None:
    for finding in training_findings(history_of(8, per_epoch=900)):
        curve = [row for row in finding.data["rows"] if row["series"] == "training"]
        assert 400 <= len(curve) <= 500
        assert (curve[0]["epoch"], curve[-1]["epoch"]) == pytest.approx((1 / 900, 8.0), rel=1e-5)


@pytest.mark.usefixtures("no_charts")
def test_values_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    history = history_of(2)
    history[2]["loss"], history[3]["loss"] = float("nan"), float("inf")
    for row in history:
        row["accuracy"] = None  # as with mixed images
    loss, accuracy, _ = training_findings(history)
    assert [row["value"] for row in loss.data["rows"]].count(None) == 2
    assert {row["series"] for row in accuracy.data["rows"]} == {"validation"}
    assert "2 recorded losses are not finite" in Page(write(tmp_path, history=history)).text


def test_one_validation_record_alone(tmp_path: Path) -> None:
    page = Page(write(tmp_path, history=history_of(1)[-1:], split="validation"))
    assert tuple(page.charts) == ("loss", "accuracy", *QUALITY)
    assert "which also chose the weights" in page.text


def test_a_model_only_evaluated_has_no_learning_section(tmp_path: Path) -> None:
    page = Page(write(tmp_path, training=None, source="the whole of photos", trained_on="others"))
    assert tuple(page.charts) == QUALITY
    assert "resnet20 on photos: evaluation" in page.text
    assert "the whole of photos" in page.text and "others" in page.text
    assert "Training" not in page.text and "steps" not in page.text
    assert not (tmp_path / "figures" / "loss.svg").exists()


def test_names_are_shown_never_run(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    names = [evil, "x" * 300, "猫 & кошка", "same", "same", "a\x00b\udcff", ""]
    image = np.zeros((8, 8, 3), np.uint8)
    scores = scores_of(names)
    true, predicted = next(
        pair
        for pair in np.ndindex(7, 7)
        if pair[0] != pair[1] and scores["confusion"][pair[0]][pair[1]]
    )
    mistake = Mistake(
        image=image, true=true, predicted=predicted, confidence=1.0, id=f"\udcff{evil}"
    )
    page = Page(
        write(
            tmp_path,
            model=evil,
            data=evil,
            model_file=f"{evil}'\"",
            source=evil,
            trained_on=evil,
            history=[*history_of(1), {"kind": "shares", "text": evil}],
            notices=[evil],
            cautions=[evil],
            scores=scores,
            samples=[(image, evil)],
            mistakes=[mistake],
        )
    )
    tags = [tag for tag, _ in page.elements]
    charts = len(LEARNING) + len(QUALITY)
    assert tags.count("script") == charts + 2  # the charts, the library, the start
    assert tags.count("img") == charts + 2  # static charts and two pictures
    assert true == 0 and page.text.count(evil) >= 8
    assert not any("onerror" in attributes for _, attributes in page.elements)
    shown = next(p["value"] for p in page.charts["confusion"]["params"] if p["name"] == "names")
    assert shown == [*names[:5], "a\ufffdb\ufffd", ""]


def hostile_record() -> ReportRecord:
    """Return a record whose every text wants to run a script."""
    image, names = np.zeros((8, 8, 3), np.uint8), list(HOSTILE)
    scores = scores_of(names)
    pairs = [(true, guess) for true, guess in np.ndindex(9, 9) if true != guess]
    mistakes = [
        Mistake(image=image, true=true, predicted=predicted, confidence=1.0, id=names[predicted])
        for true, predicted in pairs
        if scores["confusion"][true][predicted]
    ]
    split_sizes = dict.fromkeys(("train", "val", "test", *HOSTILE), 9)
    return record(
        **dict.fromkeys(("model", "data", "source", "trained_on"), HOSTILE[0]),
        model_file=f"{HOSTILE[1]}'\"",
        training=dataclasses.replace(
            TRAINING, split_sizes=split_sizes, optimizer=HOSTILE[2], schedule=HOSTILE[3]
        ),
        history=[*history_of(3), {"kind": "shares", "text": HOSTILE[4]}],
        notices=HOSTILE,
        cautions=HOSTILE,
        scores=scores,
        samples=[(image, name) for name in HOSTILE],
        mistakes=mistakes,
    )


@with_browser
def test_hostile_names_run_nothing_and_the_charts_are_drawn(tmp_path: Path) -> None:
    page = write_report(tmp_path / HOSTILE[3], hostile_record())
    assert_nothing_foreign(page)
    assert_a_browser_draws(LEARNING + QUALITY, page, profile=tmp_path / "profile")
    drawings = list((page.parent / "figures").glob("*.svg"))
    assert len(drawings) == len(LEARNING + QUALITY)
    for drawing in drawings:
        tags = {element.tag.rpartition("}")[2] for element in ET.parse(drawing).iter()}
        assert tags <= {
            "svg",
            "g",
            "path",
            "text",
            "rect",
            "line",
            "defs",
            "clipPath",
            "title",
            "tspan",
        }


@pytest.mark.parametrize("num_classes", [2, 101, pytest.param(200, marks=pytest.mark.slow)])
def test_few_and_many_classes(tmp_path: Path, num_classes: int) -> None:
    scores = scores_of([f"class {k}" for k in range(num_classes)], num_images=3 * num_classes)
    scores["per_class"][1] |= {"precision": None, "recall": None, "num_images": 0}
    path = write(tmp_path, scores=scores)
    assert path.stat().st_size < 1.5 * MEGABYTE
    chart = Page(path).charts["per_class"]
    labels = next(p["value"] for p in chart["params"] if p["name"] == "labels")
    assert len(labels) == min(num_classes, 100)
    assert "class 1 (0)" not in labels[:-1]  # without images: at the end
    names = [row[0] for row in findings_of(scores)["per_class"].rows]
    assert len(names) == num_classes and names[-1] == "class 1"


def test_small_images_keep_every_pixel_and_photos_shrink(run: Path) -> None:
    sources = [
        a["src"] or ""
        for tag, a in Page(run).elements
        if tag == "img" and a["class"] in ("pixels", "photo")
    ]
    _, small, photo = (
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources
    )
    grey = np.random.default_rng(1).integers(0, 256, (28, 28, 1), np.uint8)
    np.testing.assert_array_equal(np.asarray(small), grey[:, :, 0])
    assert photo.size == (208, 156)


@with_browser
def test_a_browser_draws_every_chart(run: Path, tmp_path: Path) -> None:
    assert_a_browser_draws(LEARNING + QUALITY, run, profile=tmp_path)
