"""The page of a study: alone in the world, complete, and saying what its numbers say."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from pages import HOSTILE, Page, assert_a_browser_draws, assert_nothing_foreign, with_browser
from resnets.cli.main import main
from resnets.study.claims import STORED, read_claims
from resnets.study.report.figure_data import words_of
from resnets.study.report.study_page import draw_all, write_study_report
from resnets.study.tables import Tables, probe_path, read_table, write_table
from tiny_evidence import (
    degrading,
    figure_of,
    write_budget,
    write_init,
    write_initial_gradients,
    write_probes,
    write_training,
)

MOST_BYTES = 5e6
SECTIONS = {
    "training": ("degradation", "curves", "rates"),
    "initialisation": ("verdicts", "atlas"),
    "trained": ("paths", "ablation", "blocks", "similarity", "landscape"),
}
FIGURES = [name for names in SECTIONS.values() for name in names]
WRITE = {
    "training": lambda folder: write_training(folder, degrading),
    "initialisation": write_init,
    "trained": write_probes,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all tables, and its page."""
    folder = tmp_path_factory.mktemp("study")
    write_training(folder, degrading)
    write_init(folder)
    write_probes(folder)
    write_study_report(folder)
    return folder


def test_page_needs_nothing_but_itself(study: Path) -> None:
    path = study / "study.html"
    assert path.stat().st_size < MOST_BYTES
    page, html = Page(path), path.read_text(encoding="utf-8")
    policy = next(at["content"] for _, at in page.elements if "http-equiv" in at) or ""
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert html.count("<script>") == 2  # the library, once, and what starts the charts
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object")
        assert tag != "img" or (attributes["src"] or "").startswith("data:image/")
        assert not (tag == "script" and "src" in attributes)
        assert not (attributes.get("href") or "").startswith(("http", "//"))


def test_every_link_leads_somewhere(study: Path) -> None:
    page = Page(study / "study.html")
    places = {attributes.get("id") for _, attributes in page.elements}
    links = [at["href"] for tag, at in page.elements if tag == "a" and at.get("href")]
    assert len(links) > 3 * len(FIGURES)
    for href in filter(None, links):
        assert href[1:] in places if href.startswith("#") else (study / href).is_file(), href


def test_page_holds_every_figure_with_its_words_data_and_command(study: Path) -> None:
    html = (study / "study.html").read_text(encoding="utf-8")
    for name in FIGURES:
        found = re.search(rf'<article class="figure" id="figure-{name}">.*?</article>', html, re.S)
        assert found, name
        title = re.search(r"<h3>([A-Z0-9].{10,})</h3>", found[0])
        assert title and len(title[1].split()) <= 12, name
        assert f'<img class="static" alt="{title[1]}. ' in found[0], name
        assert f'<a href="#figure-{name}">{title[1]}</a>' in html, "the contents list"
        assert "<code>resnets study " in found[0] and "Data of this figure" in found[0]
        for suffix in ("svg", "png"):
            assert (study / "figures" / f"{name}.{suffix}").stat().st_size > 1000


def test_every_chart_has_an_alternative_text_and_one_legend(study: Path) -> None:
    page = Page(study / "study.html")
    html = (study / "study.html").read_text(encoding="utf-8")
    titles = dict(re.findall(r'<article class="figure" id="figure-(.*?)">\n<h3>(.*?)</h3>', html))
    for name, config in page.charts.items():
        assert config["description"].endswith(unescape(titles[name.rpartition("-")[0]]))
    assert html.count('aria-label="legend"') == 7  # not for the maps


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_without_tables_is_left_out(tmp_path: Path, section: str) -> None:
    WRITE[section](tmp_path)
    drawn = draw_all(Tables.read(tmp_path), [])
    assert tuple(figure.name for figure in drawn[section]) == SECTIONS[section]
    assert [drawn[other] for other in SECTIONS if other != section] == [[], []]


def test_new_tables_have_figures(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    write_budget(tmp_path, 0.1, 0.2)
    write_initial_gradients(tmp_path, 0.5, 0.5)
    drawn = draw_all(Tables.read(tmp_path), [])
    names = [figure.name for figures in drawn.values() for figure in figures]
    assert names == ["degradation", "budget", "curves", "rates", "verdicts", "measure"]
    assert figure_of(tmp_path, "budget").command.startswith("resnets study train")


def test_page_has_the_answer_the_claims_and_what_they_do_not_show(study: Path) -> None:
    words = " ".join(Page(study / "study.html").text.split())
    assert "train worse with more layers? Yes. 40.0 points, p = 0.0156" in words
    assert words.count("? Yes.") == 5
    for name in (
        "In training",
        "At initialisation",
        "Inside trained networks",
        "Contents",
        "Terms",
    ):
        assert name in words or name == "Contents"
    assert "What this does not show" in words
    for source in ("1806.05393", "2203.08120", "1706.00388", "ResNet-110 barely changes"):
        assert source in words
    shortcuts = words.split("training error of plain is higher than that of residual")[1]
    assert "45.0 points, p = 0.0156 supported" in shortcuts


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    write_probes(tmp_path)
    path = probe_path(tmp_path, "paths", "residual-56")
    path.rename(path.with_name("probe_paths_<b>&evil.csv"))
    for other in ("plain-56", "residual-56", "-against-"):  # one figure is enough
        for file in (tmp_path / "data").glob(f"*{other}*"):
            file.unlink()
    html = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert "<b>&evil" not in html and "&lt;b&gt;&amp;evil" in html
    assert [section for section in SECTIONS if f'id="{section}"' in html] == ["trained"]


def write_hostile(folder: Path) -> None:
    """Write a study whose networks, families and plan have names that want to run a script."""
    write_training(folder, degrading, *HOSTILE[:3])
    write_init(folder)
    write_probes(folder)
    names = [name.replace("/", "|").replace("\x00", "") for name in HOSTILE]
    for number, path in enumerate(sorted((folder / "data").glob("probe_*_residual-56.csv"))):
        table = path.stem.removesuffix("_residual-56")
        for name in (names[number % len(names)], names[(number + 3) % len(names)]):
            content = path.read_text(encoding="utf-8").replace("residual", "'\"<b>\u2028\x1b")
            path.with_name(f"{table}_{name}.csv").write_text(content, encoding="utf-8")
    plan = json.loads((folder / "data" / "plan.json").read_text(encoding="utf-8"))
    plan["name"], plan["setup"]["data"] = HOSTILE[1], HOSTILE[4]
    (folder / "data" / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


@with_browser
def test_hostile_names_run_nothing_and_the_charts_are_drawn(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE[0]
    write_hostile(folder)
    path = write_study_report(folder)
    assert_nothing_foreign(path)
    assert_a_browser_draws(list(Page(path).charts), path, profile=tmp_path / "profile")
    places = [at["href"] for tag, at in Page(path).elements if tag == "a" and at.get("href")]
    assert all(
        (folder / unquote(href, errors="surrogateescape")).is_file()
        for href in filter(None, places)
        if href[0] != "#"
    )


def test_tables_without_summary_leave_the_rates_out(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    (tmp_path / "data" / "summary.csv").unlink()
    drawn = draw_all(Tables.read(tmp_path), [])
    assert "rates" not in {shown.name for shown in drawn["training"]}


def test_a_network_of_which_nothing_is_finite_has_no_figure(tmp_path: Path) -> None:
    for table, metric in (
        ("use", "probe_error"),
        ("responses", "response_std"),
        ("similarity", "cka"),
    ):
        row = {"study": "probe", "family": "residual", "depth": 8, "metric": metric, "unit": 1}
        write_table(probe_path(tmp_path, table, "net"), [row | {"x": 1.0, "status": "not finite"}])
    assert draw_all(Tables.read(tmp_path), []) == {section: [] for section in SECTIONS}


def test_the_words_of_the_page_name_claims_that_exist() -> None:
    claims = {claim.name for claim in read_claims(STORED)}
    assert {question["claim"] for question in words_of("page")["question"]} <= claims


def test_the_same_tables_give_the_same_bytes(tmp_path: Path, study: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    figure_of(study, "curves").save(again)
    for name in ("curves.svg", "curves.png"):
        assert (again / name).read_bytes() == (study / "figures" / name).read_bytes()


def test_the_manifest_says_how_it_was_made(study: Path) -> None:
    manifest = json.loads((study / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seeds"] == list(range(6))
    assert manifest["plan"]["name"] == "minutes"
    assert {"resnets", "torch", "vl-convert-python"} <= set(manifest["versions"])
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


@with_browser
def test_a_browser_draws_every_chart(study: Path, tmp_path: Path) -> None:
    page = study / "study.html"
    names = list(Page(page).charts)
    assert len(names) > 20
    assert_a_browser_draws(names, page, profile=tmp_path)


def test_figures_in_print_are_drawn_where_they_are_comparable(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    first = figure_of(tmp_path, "degradation")
    assert not any(panel.data["print"] for panel in first.panels)
    table = tmp_path / "data" / "summary.csv"
    printed = {"study": "train", "family": "plain", "depth": 20, "metric": "published_test_error"}
    write_table(table, [*read_table(table), printed | {"value": 0.0978, "status": "a paper"}])
    second = figure_of(tmp_path, "degradation")
    training, test = (panel.data["print"] for panel in second.panels)
    assert training == [] and test == [
        {"family": "plain", "depth": 20, "value": 0.0978, "status": "a paper"}
    ]
    notes = [found.caption["note"] for found in (first, second)]
    assert ["published errors" in note for note in notes] == [False, True]
    second.save(tmp_path)


def test_help_of_the_group_says_what_it_does_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    out = capsys.readouterr().out
    assert "run the whole study" in out and "study report" in out
    assert main(["study", "reprot"]) == 2
    assert "did you mean 'study report'" in capsys.readouterr().err
