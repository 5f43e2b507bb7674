"""Figures of trained networks beside each other: what they draw, and that they say what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from resnets.study.report.evidence import Evidence
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.inside import inside_figures
from resnets.study.report.reordering import Harm
from resnets.study.report.surface import contour
from resnets.study.tables import probe_path
from tiny_evidence import exchange_networks, write_across, write_probes


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


def test_the_sentence_on_orders_follows_the_numbers(tmp_path: Path) -> None:
    write_probes(tmp_path)
    told = drawn(tmp_path, "reordering").sentence
    assert "plain-56 breaks at the first exchanges (error 20.0% in the trained order, 85.0%" in told
    assert "residual-56 errs more step by step (error 20.0% in the trained order, 24.0% " in told
    assert told.endswith(": with shortcuts a little disorder does less harm.")
    exchange_networks(tmp_path)
    told = drawn(tmp_path, "reordering").sentence
    assert told.endswith(": shortcuts do not make a little disorder less harmful here.")


def test_orders_are_drawn_from_the_trained_one_on(tmp_path: Path) -> None:
    write_probes(tmp_path)
    for panel in drawn(tmp_path, "reordering").panels:
        line = [row for row in panel.data["lines"] if row["series"] == "residual-56"]
        assert [row["tau"] for row in line] == [1.0, 0.98, 0.9, 0.8, 0.7]
        assert [row["error"] for row in line] == pytest.approx([0.2, 0.24, 0.4, 0.6, 0.8])
        assert len(panel.data["rows"]) == 2 * 6


def test_a_network_that_bears_every_order_is_said_to() -> None:
    assert Harm(whole=0.2, near=0.2, far=0.24).words == "hardly errs more"


def test_the_sentence_on_surfaces_follows_the_numbers(tmp_path: Path) -> None:
    write_probes(tmp_path)
    told = drawn(tmp_path, "surface").sentence
    assert "on 40 of 40 steps outwards in residual-56 (from 0.5 to at most 2.5 nats)" in told
    assert told.endswith(": the residual network lies in more of a bowl, as in Li 2018.")
    exchange_networks(tmp_path)
    told = drawn(tmp_path, "surface").sentence
    assert told.endswith(
        ": the residual network does not lie in more of a bowl, unlike in Li 2018."
    )


def test_surfaces_share_their_colours_and_fill_the_plane(tmp_path: Path) -> None:
    write_probes(tmp_path)
    panels = drawn(tmp_path, "surface").panels
    scales = [panel.chart.to_dict()["layer"][0]["encoding"]["color"]["scale"] for panel in panels]
    assert scales[0] == scales[1] and scales[0]["domain"] == [0.5, 2.5]
    cells = panels[1].data["rows"]
    assert sum((c["right"] - c["left"]) * (c["high"] - c["low"]) for c in cells) == 2.5**2


def test_contours_lie_where_the_loss_has_the_level() -> None:
    """On a slope they are straight and whole; round a missing point there is none."""
    slope = {(float(a), float(b)): a + 2.0 * b for a in range(4) for b in range(4)}
    segments = contour(slope, 4.5)
    assert all(a + 2 * b == pytest.approx(4.5) for segment in segments for a, b in segment)
    assert sum(abs(a2 - a) for (a, _), (a2, _) in segments) == pytest.approx(3)
    del slope[1.0, 2.0]
    assert len(contour(slope, 4.5)) < len(segments)
