"""The page of a study: alone in the world, complete, and saying what its numbers say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resnets.cli.main import main
from resnets.report.style import POLICY
from resnets.study import everything
from resnets.study.report import layers
from resnets.study.report.atlas import init_figures
from resnets.study.report.correlation import correlation_sentence
from resnets.study.report.curves import rates_sentence
from resnets.study.report.degradation import degradation_sentence, training_figures
from resnets.study.report.evidence import Evidence
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.inside import inside_figures
from resnets.study.report.writing import write_study_report
from resnets.study.tables import probe_path, read_table, write_table
from tiny_evidence import (
    GROWTH,
    degrading,
    exchange_networks,
    plan,
    turned_round,
    write_init,
    write_probes,
    write_training,
)

MOST_BYTES = 5e6
SECTIONS = {
    "In training": ("degradation", "curves", "rates"),
    "At initialisation": ("atlas", "slopes", "correlation", "verdicts"),
    "Inside trained networks": (
        "paths", "lesions", "reordering", "use", "responses", "similarity", "across", "landscape",
        "surface",
    ),
}  # fmt: skip
EXHIBITS = [name for names in SECTIONS.values() for name in names]


class Page(HTMLParser):
    """Elements with attributes, the words between them, the charts' JSON."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words, self.charts, self.kind = "", {}, ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.kind = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.kind = ""

    def handle_data(self, data: str) -> None:
        if not self.kind:
            self.words += data
        elif self.elements[-1][1].get("type") == "application/json":
            name = (self.elements[-1][1]["id"] or "").removesuffix("-chart")
            self.charts[name] = json.loads(data, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all tables, and its page."""
    folder = tmp_path_factory.mktemp("study")
    write_training(folder, degrading)
    write_init(folder)
    write_probes(folder)
    write_study_report(folder)
    return folder


def exhibit(figures: list[Exhibit], name: str) -> Exhibit:
    return next(figure for figure in figures if figure.name == name)


def test_page_needs_nothing_but_itself(study: Path) -> None:
    path = study / "study.html"
    assert path.stat().st_size < MOST_BYTES
    page, html = Page(path), path.read_text(encoding="utf-8")
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in html
    assert html.count("<script>") == 2  # the library, once, and what starts the charts
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert not (tag == "script" and "src" in attributes)
        assert not (attributes.get("href") or "").startswith(("http", "//"))


def test_every_link_leads_somewhere(study: Path) -> None:
    page = Page(study / "study.html")
    places = {attributes.get("id") for _, attributes in page.elements}
    links = [href for tag, at in page.elements if tag == "a" and (href := at["href"])]
    assert len(links) > 3 * len(EXHIBITS)
    for href in links:
        assert href[1:] in places if href.startswith("#") else (study / href).is_file(), href


def test_page_holds_every_figure_with_its_sentence_data_and_command(study: Path) -> None:
    html = (study / "study.html").read_text(encoding="utf-8")
    for name in EXHIBITS:
        found = re.search(rf'<article class="exhibit" id="figure-{name}">.*?</article>', html, re.S)
        assert found, name
        assert re.search(r"<h3>[A-Z].{20,}\.</h3>", found[0]), name
        assert "<code>resnets study " in found[0] and "data of this figure" in found[0]
        for suffix in ("svg", "png"):
            assert (study / "figures" / f"{name}.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_without_tables_is_left_out(tmp_path: Path, section: str) -> None:
    if section == "In training":
        write_training(tmp_path, degrading)
        made = training_figures(Evidence.read(tmp_path))
        others = [init_figures, inside_figures]
    elif section == "At initialisation":
        write_init(tmp_path)
        made = init_figures(Evidence.read(tmp_path))
        others = [training_figures, inside_figures]
    else:
        write_probes(tmp_path)
        made = inside_figures(Evidence.read(tmp_path))
        others = [training_figures, init_figures]
    assert tuple(figure.name for figure in made) == SECTIONS[section]
    assert [make(Evidence.read(tmp_path)) for make in others] == [[], []]


def test_page_has_the_claims_and_what_they_do_not_show(study: Path) -> None:
    words = " ".join(Page(study / "study.html").words.split())
    for name in SECTIONS:
        assert name in words
    assert "What this does not show" in words
    for source in ("1806.05393", "2203.08120", "1706.00388", "ResNet-110 barely changes"):
        assert source in words
    shortcuts = words.split("training error of plain is higher than that of residual")[1]
    assert "45.0 [45.0, 45.0] points, p = 0.0156 ✓" not in shortcuts  # the mark is style, not text
    assert "45.0 [45.0, 45.0] points, p = 0.0156 supported" in shortcuts or (
        "45.0 points, p = 0.0156supported" in shortcuts
    )


def test_the_sentence_on_degradation_follows_the_numbers(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    first = exhibit(training_figures(Evidence.read(tmp_path)), "degradation").sentence
    assert first.startswith("Plain networks get worse with depth (20.2% training error at 8 layers")
    assert "while residual networks get better with depth" in first
    assert "plain is 45.0 points above residual" in first
    write_training(tmp_path, turned_round)
    second = exhibit(training_figures(Evidence.read(tmp_path)), "degradation").sentence
    assert second.startswith("Plain networks get better with depth")
    assert "while residual networks get worse with depth" in second
    assert "plain is 45.0 points below residual (95 %: 45.0 to 45.0)" in second


@pytest.mark.parametrize(("lost", "word"), [(6.0, "diverged"), (0.0, "were not measured")])
def test_what_was_not_measured_did_not_diverge(lost: float, word: str) -> None:
    ends = [
        {"metric": "train_error", "family": family, "depth": depth, "value": 0.1}
        for family, depth in (("plain", 8), ("residual", 8), ("residual", 56))
    ]
    ends.append({"metric": "diverged", "family": "plain", "depth": 56, "value": lost})
    told = degradation_sentence(ends, (8, 56))
    assert f"Plain networks of 56 layers {word}" in told


def test_tables_without_summary_leave_the_rates_out(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    (tmp_path / "data" / "summary.csv").unlink()
    assert "rates" not in {shown.name for shown in training_figures(Evidence.read(tmp_path))}


def test_rows_without_values_leave_their_words_out() -> None:
    """Of a probe in which nothing is finite, and of an atlas without plain networks."""
    rows: dict[str, list[dict[str, Any]]] = {
        "net": [
            {"metric": metric, "family": "residual", "unit": 1, "x": 1.0, "status": "not finite"}
            for metric in ("probe_error", "response_std", "cka")
        ]
    }
    assert layers.use_sentence(rows) == "Nothing could be measured in these networks."
    assert layers.responses(rows, (), "") is None
    assert layers.similarity_sentence(rows) == "The layers' similarity is not defined here."
    assert layers.similarity({"net": rows["net"][:1]}, (), "") is None
    assert "nothing to compare" in correlation_sentence([], [])


def test_a_rate_lost_to_divergence_is_not_at_the_edge() -> None:
    chosen = [
        {"metric": "lr", "family": "plain", "depth": depth, "value": 0.1, "status": status}
        for depth, status in ((8, "edge"), (56, "diverged"))
    ]
    told = rates_sentence(chosen, ["plain"])
    assert "At the edge of what was tried: plain 8. Diverged at every rate: plain 56." in told


def test_the_sentences_at_initialisation_follow_the_numbers(tmp_path: Path) -> None:
    write_init(tmp_path)
    figures = init_figures(Evidence.read(tmp_path))
    told = exhibit(figures, "atlas").sentence
    assert "grows on its way back in plain + BN (10²⁰) and residual, no norm (10³⁰)" in told
    assert "gradients of plain networks with batch norm grow" in exhibit(figures, "slopes").sentence
    assert "look the same" in exhibit(figures, "correlation").sentence
    assert "plain networks with batch norm explode" in exhibit(figures, "verdicts").sentence
    write_init(tmp_path, GROWTH | {"plain-bn": -0.2})
    figures = init_figures(Evidence.read(tmp_path))
    assert "dies in plain + BN (10⁻²⁰)" in exhibit(figures, "atlas").sentence
    assert "batch norm shrink" in exhibit(figures, "slopes").sentence
    assert "plain networks with batch norm" not in exhibit(figures, "verdicts").sentence


def test_the_sentences_on_networks_follow_the_numbers(tmp_path: Path) -> None:
    write_probes(tmp_path)
    figures = inside_figures(Evidence.read(tmp_path))
    assert "along short paths: 1.7 of 6 branches" in exhibit(figures, "paths").sentence
    assert "the network survives better" in exhibit(figures, "lesions").sentence
    assert "6 of 6 units step against the gradient" in exhibit(figures, "use").sentence
    assert "answer more weakly, as He 2015" in exhibit(figures, "responses").sentence
    assert "lies in the flatter place" in exhibit(figures, "landscape").sentence
    exchange_networks(tmp_path)
    figures = inside_figures(Evidence.read(tmp_path))
    assert "do not make the network survive better" in exhibit(figures, "lesions").sentence
    assert "do not answer more weakly" in exhibit(figures, "responses").sentence
    assert "does not lie in the flatter place" in exhibit(figures, "landscape").sentence


def test_the_same_tables_give_the_same_bytes(tmp_path: Path, study: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    exhibit(training_figures(Evidence.read(study)), "curves").save(again)
    for name in ("curves.svg", "curves.png"):
        assert (again / name).read_bytes() == (study / "figures" / name).read_bytes()


def test_the_manifest_says_how_it_was_made(study: Path) -> None:
    manifest = json.loads((study / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seeds"] == list(range(6))
    assert manifest["plan"]["name"] == "minutes"
    assert {"resnets", "torch", "altair"} <= set(manifest["versions"])
    assert f"resnets study train --preset minutes --out {study}" in manifest["commands"]
    assert len(manifest["tables"]["train.csv"]["sha256"]) == 64
    assert manifest["timings"] == {}


@pytest.mark.parametrize("make", ["nothing", "file", "empty"])
def test_a_bad_out_is_one_line(
    tmp_path: Path, make: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    if make == "file":
        out.write_text("x")
    elif make == "empty":
        out.mkdir()
    assert main(["study", "report", "--quiet", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert str(out) in err and err.count("\n") == 1


def test_a_table_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("depth,value\nmany,1\n")
    assert main(["study", "report", "--quiet", "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "is not a table of a study" in err and err.count("\n") == 1


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_draws_every_chart(study: Path, tmp_path: Path) -> None:
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += f" --disable-sync --user-data-dir={tmp_path} --virtual-time-budget=15000 --dump-dom"
    page = study / "study.html"
    dom = subprocess.run(
        ["chromium", *flags.split(), "--disable-component-update", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    names = list(Page(page).charts)
    assert len(names) > 20
    for name in names:
        drawn = re.search(rf'<div class="chart[^"]*" id="{name}"[^>]*>(.*?)</div>', dom, re.DOTALL)
        assert drawn is not None, name
        assert re.search(r"<svg|<canvas", drawn[1]), f"{name}: {drawn[1][:200]}"
    assert "vega-bindings" in dom  # the switch between linear and logarithmic


def test_study_alone_does_what_is_missing_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def train(*arguments: Any, **named: Any) -> None:
        done.append("train")
        write_training(tmp_path, degrading)
        (tmp_path / "models").mkdir(exist_ok=True)
        for name in ("residual-56", "residual-8", "plain-8"):
            (tmp_path / "models" / f"{name}.safetensors").touch()

    def probe(model: Path, **named: Any) -> None:
        done.append(model.stem)
        write_probes(named["out"])

    def compare(model: Path, against: Path, **named: Any) -> None:
        done.append(f"{model.stem} against {against.stem}")
        write_table(probe_path(named["out"], "across", done[-1].replace(" ", "-")), [])

    def init(out: Path, **named: Any) -> None:
        done.append("init")
        (out / "data").mkdir(parents=True)
        (out / "data" / "init_theory.csv").touch()

    kept = SimpleNamespace(recipe={"learning_rate": 0.1})
    monkeypatch.setattr(everything, "read_model", lambda path: kept)
    monkeypatch.setattr(everything, "measure_init", init)
    monkeypatch.setattr(everything, "study_training", train)
    monkeypatch.setattr(everything, "summary_lines", lambda summary: [])
    monkeypatch.setattr(everything, "probe_model", probe)
    monkeypatch.setattr(everything, "compare_models", compare)
    monkeypatch.setattr(everything, "write_study_report", lambda folder: folder / "study.html")
    told: list[str] = []
    for _ in range(2):
        page = everything.study_everything(
            plan(), tmp_path, executor=pytest.fail, device="cpu", tell=told.append
        )
    assert page == tmp_path / "study.html"
    measured = ["residual-56", "residual-8 against plain-8"]
    assert done == ["init", "train", *measured, "train"]  # nothing is measured twice
    assert "plain-56.safetensors was not kept" in " ".join(told)


def test_figures_in_print_are_drawn_where_they_are_comparable(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    (first,) = [e for e in training_figures(Evidence.read(tmp_path)) if e.name == "degradation"]
    assert not any(panel.data["print"] for panel in first.panels)
    table = tmp_path / "data" / "summary.csv"
    printed = {"study": "train", "family": "plain", "depth": 20, "metric": "published_test_error"}
    write_table(table, [*read_table(table), printed | {"value": 0.0978, "status": "a paper"}])
    (second,) = [e for e in training_figures(Evidence.read(tmp_path)) if e.name == "degradation"]
    training, test = (panel.data["print"] for panel in second.panels)
    assert training == [] and test == [
        {"series": "plain", "depth": 20, "value": 0.0978, "source": "a paper"}
    ]
    assert "in print" in second.note and "in print" not in first.note
    second.save(tmp_path)


def test_help_of_the_group_says_what_it_does_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    out = capsys.readouterr().out
    assert "without a verb does all of it" in out and "study report" in out
    assert main(["study", "reprot"]) == 2
    assert "did you mean 'study report'" in capsys.readouterr().err
