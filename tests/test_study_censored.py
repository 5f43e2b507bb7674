"""Runs that diverged: counted everywhere, averaged nowhere, never in favour of who lost them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnets.cli.main import main
from resnets.study.account import summary_lines
from resnets.study.report.claims import STORED, read_claims
from resnets.study.report.evidence import Evidence
from resnets.study.report.judging import Judged, judge_all
from resnets.study.report.study_page import study_page
from resnets.study.summary import summarise
from resnets.study.tables import read_table, write_table
from tiny_evidence import degrading, figure_of, plan, training_rows, write_training

Errors = Callable[[str, int, int], float | None]
ALL = range(6)


def losing(family: str, depth: int, seeds: Any = ALL) -> Errors:
    """The paper's findings, but for some runs of a cell that diverged."""
    return lambda f, d, s: None if (f, d) == (family, depth) and s in seeds else degrading(f, d, s)


def judged(folder: Path) -> dict[str, Judged]:
    found = judge_all(read_claims(STORED), Evidence.read(folder))
    return {one.claim.name: one for one in found}


def from_summary(folder: Path) -> dict[str, str]:
    """The verdicts of summary.csv, by the names of the page."""
    rows = read_table(folder / "data" / "summary.csv")
    start = "verdict_"
    found = {row["metric"]: row["status"] for row in rows if row["metric"].startswith(start)}
    return {name.removeprefix(start).replace("_", "-"): word for name, word in found.items()}


@pytest.mark.parametrize(
    ("errors", "shortcuts", "degrades", "gains"),
    [
        (degrading, "supported", "supported", "supported"),
        (losing("residual", 56, [0]), "inconclusive", "supported", "inconclusive"),
        (losing("residual", 56, [0, 1, 2]), "inconclusive", "supported", "inconclusive"),
        (losing("residual", 56), "contradicted", "supported", "contradicted"),
        (losing("plain", 56, [0]), "supported", "supported", "supported"),
        (losing("plain", 56), "supported", "supported", "supported"),
        (losing("plain", 8), "supported", "contradicted", "supported"),
    ],
)
def test_summary_and_page_give_one_verdict(
    tmp_path: Path, errors: Errors, shortcuts: str, degrades: str, gains: str
) -> None:
    write_training(tmp_path, errors)
    wanted = {"shortcuts": shortcuts, "plain-degrades": degrades, "residual-gains": gains}
    assert from_summary(tmp_path) == wanted
    found = judged(tmp_path)
    assert {name: found[name].verdict for name in wanted} == wanted


def test_what_diverged_stands_beside_every_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = losing("residual", 56, [1, 2])
    write_training(tmp_path, errors)
    words = "; 2 of 6 runs of residual-56 diverged"
    assert main(["study", "check", str(tmp_path)]) == 1
    told = capsys.readouterr().out.splitlines()
    for name in ("shortcuts", "residual-gains"):
        assert any(f"  {name}  " in line and words in line for line in told), name
    assert not any("plain-degrades" in line and "diverged" in line for line in told)
    page = study_page({}, [*judged(tmp_path).values()], {})
    assert page.count("<small>2 of 6 runs of residual-56 diverged</small>") == 2
    lines = [*summary_lines(summarise(plan(), training_rows(errors)))]
    assert sum(words in line for line in lines) == 2


def test_the_strongest_degradation_leaves_a_row(tmp_path: Path) -> None:
    write_training(tmp_path, losing("plain", 56))
    found = judged(tmp_path)["shortcuts"]
    assert (found.effect, found.p, found.verdict) == (None, 1 / 64, "supported")
    page = study_page({}, [found], {})
    assert "no two runs to compare, p = 0.0156<small>6 of 6 runs of plain-56 diverged" in page
    assert "1 supported" in page


def test_means_are_of_what_did_not_diverge(tmp_path: Path) -> None:
    write_training(tmp_path, losing("plain", 56, [0, 1]))
    found = judged(tmp_path)["shortcuts"]
    assert found.effect is not None and found.effect.value == pytest.approx(0.45)
    assert found.p == 1 / 64


def test_a_claim_on_another_number_counts_them_too(tmp_path: Path) -> None:
    write_training(tmp_path, losing("plain", 56, [0]))
    text = """
        [[claim]]
        name = "first"
        sentence = "a number is positive"
        table = "train"
        where = { study = "train", family = "plain", depth = 56 }
        metric = "METRIC"
        below = 9.0
        expected = "supported"
    """
    path = tmp_path / "claims.toml"
    for metric in ("test_error", "train_loss", "loss"):
        path.write_text(text.replace("METRIC", metric), encoding="utf-8")
        (found,) = judge_all(read_claims(path), Evidence.read(tmp_path))
        assert found.effect is not None and found.verdict == "inconclusive"
        assert found.notes == ("1 of 6 runs of plain-56 diverged",)


def test_runs_that_diverged_are_marked_and_counted(tmp_path: Path) -> None:
    write_training(tmp_path, losing("plain", 56, [0, 1]))
    found = figure_of(tmp_path, "degradation")
    told = found.caption["subtitle"]
    assert "60.4% (2 diverged) at 56 layers" in told
    assert "(95 %: 45.0 to 45.0; p = 0.016) in pairs of runs that did not diverge." in told
    assert len(found.panels[0].data["lost"]) == 2
    assert len(found.panels[0].data["dots"]) == 34


@pytest.mark.parametrize("depth", [8, 56])
def test_the_subtitle_names_the_cell_that_was_lost(tmp_path: Path, depth: int) -> None:
    write_training(tmp_path, losing("plain", depth))
    told = figure_of(tmp_path, "degradation").caption["subtitle"]
    assert f"diverged at {depth} layers" in told.split("of residual ones")[0]
    assert ("points above residual" in told) == (depth == 8)


def test_no_difference_is_called_none(tmp_path: Path) -> None:
    write_training(tmp_path, lambda f, d, s: 0.2 + 0.01 * (s % 2) * (1 if f == "plain" else -1))
    title = figure_of(tmp_path, "degradation").caption["title"]
    assert title == ("Within 400 steps depth clearly changes neither plain nor residual networks")
    write_training(tmp_path, lambda f, d, s: 0.2 + 0.01 * (-1) ** s * (f == "plain"))
    told = figure_of(tmp_path, "degradation").caption["subtitle"]
    assert "At 56 layers there is no clear difference: 0.0 points (95 %: -" in told


OTHERS = ("dirac", "strength-0.25", "strength-0.75")


def further(errors: dict[str, float | None]) -> Errors:
    """Errors of the further families, beside the paper's findings."""
    return lambda f, d, s: errors[f] if f in errors else degrading(f, d, s)


def test_further_families_and_strengths_have_figures(tmp_path: Path) -> None:
    errors = further({"dirac": 0.1, "strength-0.25": 0.7, "strength-0.75": 0.3})
    write_training(tmp_path, errors, *OTHERS)
    words = figure_of(tmp_path, "families").caption
    assert words["title"] == "At 56 layers Dirac (plain) trains best, plain worst"
    told = words["subtitle"]
    assert told == (
        "At 56 layers the mean training error goes from 10.0% (Dirac (plain)) to 60.2% (plain)."
    )
    words = figure_of(tmp_path, "strength").caption
    assert words["title"] == "A stronger shortcut lowers the training error at 56 layers"
    told = words["subtitle"]
    assert "from 60.2% to 15.2%, with the largest step between 0.25 and 0.75." in told


def test_order_in_noise_is_no_order(tmp_path: Path) -> None:
    noise = lambda f, d, s: 0.2 + 0.01 * ((7 * s + 3 * len(f)) % 6)  # noqa: E731
    write_training(tmp_path, noise, *OTHERS)
    words = figure_of(tmp_path, "families").caption
    assert words["title"] == "At 56 layers the families are not clearly different"
    assert "a difference that the exact test does not confirm" in words["subtitle"]
    title = figure_of(tmp_path, "strength").caption["title"]
    assert title == "The shortcut's strength does not clearly change the training error"


def test_a_family_that_diverged_wholly_is_drawn_and_named(tmp_path: Path) -> None:
    errors = further({"dirac": None, "strength-0.25": None, "strength-0.75": 0.3})
    write_training(tmp_path, errors, *OTHERS)
    families, strength = figure_of(tmp_path, "families"), figure_of(tmp_path, "strength")
    assert families.caption["subtitle"].endswith("runs that diverged: Dirac (plain) (6 of 6).")
    assert {row["family"]: row["lost"] for row in families.panels[0].data["lost"]} == {
        "dirac": "6 of 6"
    }
    assert strength.caption["subtitle"].endswith(
        "between 0 and 0.75; runs that diverged, by strength: 0.25 (6 of 6)."
    )
    assert [row["strength"] for row in strength.panels[0].data["lost"]] == [0.25]
    for found in (families, strength):
        found.save(tmp_path)


def test_one_learning_rate_for_all_is_said_so(tmp_path: Path) -> None:
    write_training(tmp_path, further({"dirac": 0.2}), "dirac")
    path = tmp_path / "data" / "train.csv"
    for name in ("degradation", "families"):
        assert "ach cell has its own learning rate" in figure_of(tmp_path, name).caption["note"]
    write_table(path, [row for row in read_table(path) if row["study"] == "train"])
    for name in ("degradation", "families"):
        note = figure_of(tmp_path, name).caption["note"]
        assert "ll cells have the same learning rate, 0.1, which was not tuned" in note
        assert "own learning rate" not in note


def test_curves_that_were_cut_off_are_left_out(tmp_path: Path) -> None:
    write_training(tmp_path, losing("plain", 56, [0, 1]))
    path = tmp_path / "data" / "train.csv"
    start = {"study": "train", "family": "plain", "depth": 56, "lr": 0.1}
    cut = [{**start, "metric": "loss", "seed": s, "step": 20, "value": 99.0} for s in (0, 1)]
    write_table(path, [*read_table(path), *cut])
    found = figure_of(tmp_path, "curves")
    assert "without the runs that diverged (2 of plain-56)" in found.caption["note"]
    assert {row["loss"] for panel in found.panels for row in panel.data["rows"]} == {1.0, 2.0}
