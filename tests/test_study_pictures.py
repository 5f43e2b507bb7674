"""Figures of trained networks beside each other: what they draw, and that they say what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from resnets.study.report.evidence import Evidence

from resnets.study.report.exhibit import Exhibit
from resnets.study.report.inside import inside_figures
from resnets.study.tables import probe_path
from tiny_evidence import write_across


def drawn(folder: Path, name: str) -> Exhibit:
    figures = inside_figures(Evidence.read(folder))
    return next(figure for figure in figures if figure.name == name)


@pytest.mark.parametrize(
    ("plain", "residual", "words"),
    [
        (0.4, 0.9, "changes a residual network's layers less than a plain network's."),
        (0.9, 0.4, "changes a plain network's layers less than a residual network's."),
        (0.8, 0.85, "changes what layers compute as much with shortcuts as without."),
    ],
)
def test_the_sentence_on_pairs_follows_the_numbers(
    tmp_path: Path, plain: float, residual: float, words: str
) -> None:
    write_across(tmp_path, plain=plain, residual=residual)
    told = drawn(tmp_path, "across").sentence
    assert f"{plain:.2f} for plain-56 with plain-8 and {residual:.2f} for residual" in told
    assert told.endswith(words)


def test_twins_stand_first_and_decide_nothing(tmp_path: Path) -> None:
    write_across(tmp_path, plain=0.8, residual=0.85)
    pair = probe_path(tmp_path, "across", "residual-56-against-residual-8")
    shutil.copy(pair, probe_path(tmp_path, "across", "residual-56-against-plain-56"))
    figure = drawn(tmp_path, "across")
    assert [panel.title for panel in figure.panels] == [
        "residual-56 with plain-56", "plain-56 with plain-8", "residual-56 with residual-8",
    ]  # fmt: skip
    assert figure.sentence.endswith("as much with shortcuts as without.")


def test_pairs_are_compared_at_equal_shares_of_depth(tmp_path: Path) -> None:
    write_across(tmp_path, residual=0.9)
    figure = drawn(tmp_path, "across")
    (panel,) = figure.panels
    assert {row["cka"] for row in panel.data["matched"]} == {0.9}
    assert [row["other"] for row in panel.data["matched"]] == [0, 1, 1, 2, 2, 3, 3]
    assert len(panel.data["rows"]) == 7 * 4
    assert figure.sentence.endswith("0.90 for residual-56 with residual-8.")  # no conclusion of one
    assert figure.command == f"resnets study probe MODEL --against MODEL --out {tmp_path}"
    assert figure.tables == ("probe_across_residual-56-against-residual-8",)
