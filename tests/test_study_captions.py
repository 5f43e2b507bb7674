"""Captions of the study: each says what its numbers say, in a title of at most twelve words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from resnets.study.report.figure_spec import caption, listed, times
from resnets.study.tables import write_table
from tiny_evidence import (
    GROWTH,
    Row,
    exchange_networks,
    figure_of,
    write_across,
    write_budget,
    write_init,
    write_initial_gradients,
    write_probes,
)

MOST_WORDS = 12


def title(name: str, facts: Mapping[str, Any], **verdicts: str) -> str:
    """The title, which is never too long."""
    found = caption_of(name, facts, verdicts)["title"]
    assert len(found.split()) <= MOST_WORDS, found
    return found


def caption_of(name: str, facts: Mapping[str, Any], verdicts: Mapping[str, str]) -> dict[str, str]:
    named = {claim.replace("_", "-"): word for claim, word in verdicts.items()}
    return caption(name, facts, named)


def no_summary(**wanted: Any) -> float | None:
    return None


DEGRADATION: dict[str, Any] = {
    "depths": [8, 56],
    "seeds": 6,
    "steps": 400,
    "summary": no_summary,
    "gap": None,
    "printed": False,
    "tuned": True,
    "rates": ["0.1"],
}


@pytest.mark.parametrize(
    ("plain", "residual", "words"),
    [
        ("supported", "supported", "harms plain networks, but helps residual ones"),
        ("supported", "inconclusive", "harms plain networks, not clearly residual ones"),
        ("supported", "contradicted", "harms plain networks and residual ones"),
        ("contradicted", "contradicted", "helps plain networks, but harms residual ones"),
        ("contradicted", "supported", "helps plain networks and residual ones"),
        ("inconclusive", "inconclusive", "clearly changes neither plain nor residual networks"),
        ("inconclusive", "supported", "helps residual networks, not clearly plain ones"),
    ],
)
def test_the_title_on_degradation_follows_the_verdicts(
    plain: str, residual: str, words: str
) -> None:
    told = title("degradation", DEGRADATION, plain_degrades=plain, residual_gains=residual)
    assert told in (
        f"Within 400 steps depth {words}",
        f"Within 400 steps depth {words}, but others",
    )


def test_every_pair_of_verdicts_has_a_short_title() -> None:
    found = ("supported", "contradicted", "inconclusive", "not measured")
    for plain, residual in product(found, found):
        title("degradation", DEGRADATION, plain_degrades=plain, residual_gains=residual)


@pytest.mark.parametrize(("lost", "word"), [(6.0, "diverged"), (0.0, "not measured")])
def test_what_was_not_measured_did_not_diverge(lost: float, word: str) -> None:
    def summary(metric: str, **cell: Any) -> float | None:
        return lost if metric == "diverged" else None

    told = caption_of("degradation", DEGRADATION | {"summary": summary}, {})["subtitle"]
    assert f"{word} at 56 layers" in told


def test_a_fact_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        caption("paths", {"short": True, "long": False}, {})


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ((0.1, 0.2, 0.3), "Longer training widens the gap at 56 layers"),
        ((0.1, 0.3, 0.2), "Longer training narrows the gap at 56 layers without closing it"),
        ((0.1, 0.3, 0.01), "Longer training closes the gap at 56 layers"),
    ],
)
def test_the_title_on_budgets_follows_the_gap(
    tmp_path: Path, gaps: tuple[float, ...], words: str
) -> None:
    write_budget(tmp_path, *gaps)
    found = figure_of(tmp_path, "budget")
    assert found.caption["title"] == words
    assert "10.0 points after 100 steps" in found.caption["subtitle"]
    assert [row["step"] for row in found.panels[1].data["means"]] == [100, 200, 400]


@pytest.mark.parametrize(
    ("deepest", "words"),
    [
        (["plain"], "highest among plain ones, not residual ones"),
        (["residual"], "highest among residual ones, not plain ones"),
        (["plain", "residual"], "deepest networks of both families"),
        ([], "No family's deepest network"),
    ],
)
def test_the_title_on_curves_follows_the_ends(deepest: list[str], words: str) -> None:
    row = {"family": "plain", "best": 8, "worst": 56, "ends": {8: 0.3, 56: 1.2}}
    assert words in title("curves", {"rows": [row], "lost": [], "deepest": deepest})
    told = caption("curves", {"rows": [row], "lost": [], "deepest": []}, {})["subtitle"]
    assert "with 8 layers ends lowest (loss 0.3), the one with 56 highest (1.2)" in told


def test_a_rate_lost_to_divergence_is_not_at_the_edge() -> None:
    row = {"family": "plain", "first": 0.1, "last": 0.03, "shallow": 8, "deep": 56}
    facts = {"rows": [row], "falling": ["plain"], "edge": ["plain 8"], "diverged": ["plain 56"]}
    assert title("rates", facts) == "The best learning rate falls with depth"
    told = caption("rates", facts, {})["subtitle"]
    assert "At the edge of the rates tried: plain 8. Diverged at every rate: plain 56." in told
    both = facts | {"rows": [row, row | {"family": "residual"}]}
    assert title("rates", both).endswith("only in plain networks")
    assert "does not fall" in title("rates", facts | {"falling": []})


def test_captions_at_initialisation_follow_the_numbers(tmp_path: Path) -> None:
    write_init(tmp_path)
    words = figure_of(tmp_path, "atlas").caption
    assert words["title"] == "At 100 layers gradients explode in 2 of 4 families"
    told = words["subtitle"]
    assert (
        "grows on its way back in plain with BN (10^20) and residual without norm (10^30)" in told
    )
    assert (
        "networks with batch norm explodes." in figure_of(tmp_path, "verdicts").caption["subtitle"]
    )
    write_init(tmp_path, GROWTH | {"plain-bn": -0.2})
    words = figure_of(tmp_path, "atlas").caption
    assert words["title"] == "At 100 layers gradients explode in 1 families, vanish in 1"
    assert "shrinks in plain with BN (10^-20)" in words["subtitle"]
    assert "batch norm" not in figure_of(tmp_path, "verdicts").caption["subtitle"]


@pytest.mark.parametrize(
    ("stable", "words"),
    [
        ([], "No family is stable in both directions at initialisation"),
        (["Fixup"], "Fixup alone is stable in both directions at initialisation"),
        (["Fixup", "SkipInit"], "2 families are stable in both directions at initialisation"),
    ],
)
def test_the_title_on_verdicts_counts_the_stable(stable: list[str], words: str) -> None:
    facts = {"depth": 100, "stable": stable, "plain": [], "own": [], "shattered": 0, "inputs": 16}
    assert title("verdicts", facts) == words


def test_networks_that_are_trained_are_judged_at_their_own_batch(tmp_path: Path) -> None:
    write_init(tmp_path)
    write_initial_gradients(tmp_path, 0.5, 0.5)
    found = figure_of(tmp_path, "verdicts")
    assert "Of the 8 networks that are trained" in found.caption["subtitle"]
    assert "at their own batch, 1 shatters." in found.caption["subtitle"]
    rows = found.panels[2].data["rows"]
    assert {row["verdict"] for row in rows if row["name"] == "Fixup"} == {"stable"}


@pytest.mark.parametrize(
    ("size", "apart", "words"),
    [
        (0.8, 0.1, "the gradient's size orders the trained errors well"),
        (0.1, 0.8, "shattering orders the trained errors well"),
        (0.1, 0.4, "shattering orders the trained errors only roughly"),
        (0.0, -0.5, "No measure before training orders"),
    ],
)
def test_the_title_says_how_well_the_measures_order(
    tmp_path: Path, size: float, apart: float, words: str
) -> None:
    write_initial_gradients(tmp_path, size, apart)
    found = figure_of(tmp_path, "measure")
    assert words in found.caption["title"] and len(found.caption["title"].split()) <= MOST_WORDS
    told = found.caption["subtitle"]
    assert f"over 8 families and depths: {size:.2f} ({size:.2f} at 56 layers)" in told
    panel, _ = found.panels
    guess = [row for row in panel.data["rows"] if row["lost"]]
    assert [(row["name"], row["value"]) for row in guess] == [("Fixup", 0.9)]


def table(metric: str, **by_depth: tuple[float, float]) -> list[Row]:
    """Three draws about each value; families are named with an underscore for the hyphen."""
    return [
        {
            "study": "init-dense",
            "family": family.replace("_", "-"),
            "width": 64,
            "seed": 0,
            "unit": 0,
            "x": 0.99,
            "depth": depth,
            "draw": draw,
            "metric": metric,
            "value": value + (draw - 1) / 100,
        }
        for family, values in by_depth.items()
        for depth, value in zip((10, 100), values, strict=True)
        for draw in range(3)
    ]


def cosines(folder: Path, theory: list[Row], **by_depth: tuple[float, float]) -> Any:
    write_table(folder / "data" / "init_backward.csv", table("gradient_cosine", **by_depth))
    write_table(folder / "data" / "init_theory.csv", theory)
    return figure_of(folder, "cosines")


def test_the_caption_on_cosines_says_whether_a_shortcut_delays(tmp_path: Path) -> None:
    words = cosines(tmp_path, [], plain=(0.3, 0.1), residual=(0.8, 0.2)).caption
    assert words["title"] == "A shortcut keeps gradients of near inputs alike through more layers"
    assert "unlike from 10 layers on in plain networks and from 100 layers on" in words["subtitle"]
    words = cosines(tmp_path, [], plain=(0.8, 0.7), residual=(0.8, 0.2)).caption
    assert words["title"] == "A shortcut does not keep gradients of near inputs alike for longer"
    assert "at no depth in plain networks and from 100 layers on" in words["subtitle"]


def test_only_the_condition_that_is_delayed_is_named(tmp_path: Path) -> None:
    same = (0.3, 0.1)
    words = cosines(
        tmp_path, [], plain=same, residual=same, plain_bn=same, residual_bn=(0.8, 0.9)
    ).caption
    assert words["title"].endswith("alike for longer with batch norm")
    assert "With batch norm the gradients are unlike from 10 layers on" in words["subtitle"]


def test_one_that_recovers_is_not_called_unlike_before(tmp_path: Path) -> None:
    """Alike, unlike, alike again: it is unlike only from where it stays so."""
    told = cosines(tmp_path, [], plain=(0.3, 0.1), residual=(0.2, 0.9)).caption["subtitle"]
    assert "at no depth in residual ones" in told


def test_theory_is_drawn_where_it_has_a_closed_form(tmp_path: Path) -> None:
    theory = table("theory_gradient_cosine", plain=(0.35, 0.0))
    found = cosines(tmp_path, theory, plain=(0.3, 0.1), residual=(0.8, 0.2))
    assert found.caption["subtitle"].endswith("Theory is off by at most 0.10.")
    rows = {(r["series"], r["depth"]): r["theory"] for r in found.panels[0].data["rows"]}
    assert rows["plain without norm", 10] == pytest.approx(0.35)
    assert rows["residual without norm", 10] is None


def write_profiles(folder: Path, network: str, *stems: float) -> None:
    """Gradients of a network whose stem has so many times the last block's, step after step."""
    rows = [
        {
            "study": "probe",
            "family": network.partition("-")[0],
            "depth": 56,
            "unit": unit,
            "metric": "gradient_x",
            "step": step,
            "value": factor ** (1 - unit / 4),
        }
        for step, factor in zip((0, 1, 400), stems, strict=False)
        for unit in range(5)
    ]
    write_table(folder / "data" / f"probe_gradients_{network}.csv", rows)


@pytest.mark.parametrize(
    ("plain", "residual", "words"),
    [
        (0.5, 30.0, "the plain network's gradient, hardly the residual network's"),
        (900.0, 2.0, "the residual network's gradient, hardly the plain network's"),
        (2.0, 2.0, "evens out the gradient in both networks"),
        (900.0, 40.0, "hardly evens out the gradient in either network"),
    ],
)
def test_gradients_are_compared_before_and_after_training(
    tmp_path: Path, plain: float, residual: float, words: str
) -> None:
    write_profiles(tmp_path, "plain-56", 1000, 30, plain)
    write_profiles(tmp_path, "residual-56", 43, 30, residual)
    found = figure_of(tmp_path, "gradients")
    assert words in found.caption["title"]
    told = found.caption["subtitle"]
    assert "is 1,000 times that at the last block before training" in told
    assert f"{plain:g} times after step 400" in told
    series = [row["series"] for row in found.panels[0].data["rows"][::5]]
    assert series == ["step 0", "step 1", "step 400"]


def test_captions_on_networks_follow_the_numbers(tmp_path: Path) -> None:
    write_probes(tmp_path)
    told = {
        name: figure_of(tmp_path, name).caption
        for name in (
            "paths",
            "ablation",
            "blocks",
            "landscape",
        )
    }
    assert told["paths"]["title"] == "The gradient comes along short paths"
    assert "along 1.7 of 6 branches on average" in told["paths"]["subtitle"]
    assert told["ablation"]["title"].endswith("survives the loss of one block better")
    assert "6 of 6 blocks step against the gradient" in told["blocks"]["subtitle"]
    assert "weaker with shortcuts, as in He 2015" in told["blocks"]["subtitle"]
    assert told["landscape"]["title"] == "The residual network lies in a flatter region"
    exchange_networks(tmp_path)
    told = {name: figure_of(tmp_path, name).caption for name in ("ablation", "blocks", "landscape")}
    assert "does not survive the loss" in told["ablation"]["title"]
    assert "no weaker with shortcuts" in told["blocks"]["subtitle"]
    assert "does not lie in a flatter region" in told["landscape"]["title"]


def test_titles_on_networks_are_short_in_every_case() -> None:
    row = {"name": "plain-56", "whole": 0.2, "points": 50.0}
    ablation = {"rows": [row], "plain": row, "residual": row, "kept": [10, 19], "chance": 0.9}
    assert "too high an error" in title("ablation", ablation | {"both": True, "hopeless": True})
    assert title("ablation", ablation | {"both": False, "hopeless": False})
    note = caption("ablation", ablation | {"both": True, "hopeless": False}, {})["note"]
    assert "Blocks that change the shape (10 and 19)" in note and "guessing, 90.0%" in note
    angle = {"name": "residual-56", "count": 25, "against": 18, "mean": 0.02}
    outputs = {"rows": [], "both": False}
    blocks = {"angles": [angle], "probes": [], "outputs": outputs}
    assert title("blocks", blocks).startswith("Most residual blocks step against")
    assert "do not" in title("blocks", blocks | {"angles": [angle | {"against": 3}]})
    nothing = caption("blocks", blocks | {"angles": []}, {})
    assert nothing["subtitle"] == "Nothing could be measured in these networks."
    similar = {"within": [], "across": [], "both": False, "residual": False, "plain": False}
    assert caption("similarity", similar, {})["subtitle"] == (
        "The layers' similarity is not defined here."
    )
    step = {"name": "plain-56", "half": 0.5, "start": 1.0, "end": 2.0, "rise": 1.0}
    flat = {"rows": [step], "plain": step, "residual": step, "fair": False, "draws": 10}
    assert "differ too much" in title("landscape", flat | {"both": True})
    assert title("landscape", flat | {"both": False}) == "Loss along random directions"
    assert title("gradients", {"rows": [], "both": False}) == "Gradients by block during training"


@pytest.mark.parametrize(
    ("plain", "residual", "words"),
    [
        (0.4, 0.9, "changes a residual network's layers less than a plain network's"),
        (0.9, 0.4, "changes a plain network's layers less than a residual network's"),
        (0.8, 0.85, "changes layers as much with shortcuts as without"),
    ],
)
def test_the_title_on_pairs_follows_the_numbers(
    tmp_path: Path, plain: float, residual: float, words: str
) -> None:
    write_across(tmp_path, plain=plain, residual=residual)
    found = figure_of(tmp_path, "similarity")
    assert found.caption["title"] == f"More depth {words}"
    assert (
        f"{plain:.2f} for plain-56 with plain-8 and {residual:.2f} for residual"
        in (found.caption["subtitle"])
    )


def test_pairs_are_compared_at_equal_shares_of_depth(tmp_path: Path) -> None:
    write_across(tmp_path, residual=0.9)
    found = figure_of(tmp_path, "similarity")
    (panel,) = found.panels
    assert {row["value"] for row in panel.data["matched"]} == {0.9}
    assert [row["x"] for row in panel.data["matched"]] == [0, 1, 1, 2, 2, 3, 3]
    assert len(panel.data["rows"]) == 7 * 4
    assert found.caption["title"] == "Similarity of layers within and between networks"
    assert found.tables == ("probe_across_residual-56-against-residual-8",)


@pytest.mark.parametrize(
    ("decades", "words"), [(0.15, "1.41"), (3.75, "5,623"), (-0.3, "0.501"), (75.2, "10^75")]
)
def test_powers_of_ten_become_factors(decades: float, words: str) -> None:
    assert times(decades) == words


def test_lists_have_one_and() -> None:
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([{"name": "a", "n": 1.25}], "{n:.1f} in {name}") == "1.2 in a"
    assert listed([]) == ""
