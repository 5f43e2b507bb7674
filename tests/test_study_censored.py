"""Runs that diverged: counted everywhere, averaged nowhere, never in favour of who lost them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnets.cli import main
from resnets.study.account import summary_lines
from resnets.study.report.claims import STORED, Judged, judge_all, read_claims
from resnets.study.report.evidence import Evidence
from resnets.study.report.page import study_page
from resnets.study.summary import summarise
from resnets.study.tables import read_table
from tiny_evidence import degrading, plan, training_rows, write_training

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
    page = study_page(facts=[], judged=[*judged(tmp_path).values()], sections=[])
    assert page.count("<small>2 of 6 runs of residual-56 diverged</small>") == 2
    lines = [*summary_lines(summarise(plan(), training_rows(errors)))]
    assert sum(words in line for line in lines) == 2


def test_the_strongest_degradation_leaves_a_row(tmp_path: Path) -> None:
    write_training(tmp_path, losing("plain", 56))
    found = judged(tmp_path)["shortcuts"]
    assert (found.effect, found.p, found.verdict) == (None, 1 / 64, "supported")
    page = study_page(facts=[], judged=[found], sections=[])
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
