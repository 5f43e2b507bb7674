"""The figure of gradients at two near inputs: its sentence follows the numbers, beside theory."""

from __future__ import annotations

from pathlib import Path

import pytest
from resnets.study.report.evidence import Evidence, Row

from resnets.study.report.atlas import init_figures
from resnets.study.report.cosines import cosines
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.writing import write_study_report
from resnets.study.tables import read_table, write_table
from tiny_evidence import write_init

DEPTHS = (10, 100)


def table(metric: str, **by_depth: tuple[float, float]) -> list[Row]:
    """Three draws about each value; families are named with an underscore for the hyphen."""
    return [
        {"study": "init-dense", "family": family.replace("_", "-"), "width": 64, "seed": 0,
         "unit": 0, "x": 0.99, "depth": depth, "draw": draw, "metric": metric,
         "value": value + (draw - 1) / 100}
        for family, values in by_depth.items()
        for depth, value in zip(DEPTHS, values, strict=True)
        for draw in range(3)
    ]  # fmt: skip


def measured(**by_depth: tuple[float, float]) -> list[Row]:
    return table("gradient_cosine", **by_depth)


def drawn(backward: list[Row], theory: list[Row]) -> Exhibit:
    (figure,) = cosines(backward, theory, "resnets study init")
    return figure


def test_the_sentence_says_whether_a_shortcut_delays_it() -> None:
    told = drawn(measured(plain=(0.3, 0.1), residual=(0.8, 0.2)), []).sentence
    assert told == (
        "Gradients at two near inputs become unlike without norm from 10 layers on in plain "
        "networks and from 100 layers on in residual ones: a shortcut delays it without norm."
    )
    told = drawn(measured(plain=(0.8, 0.7), residual=(0.8, 0.2)), []).sentence
    assert "at no depth in plain networks and from 100 layers on in residual ones" in told
    assert told.endswith(": a shortcut does not delay it.")


def test_only_the_condition_that_is_delayed_is_named() -> None:
    rows = measured(
        plain=(0.3, 0.1), residual=(0.3, 0.1), plain_bn=(0.3, 0.1), residual_bn=(0.8, 0.9)
    )
    told = drawn(rows, []).sentence
    assert "with batch norm from 10 layers on in plain networks and at no depth in" in told
    assert told.endswith(": a shortcut delays it with batch norm.")


def test_one_that_recovers_is_not_called_unlike_before() -> None:
    """Alike, unlike, alike again: it is unlike only from where it stays so."""
    told = drawn(measured(plain=(0.3, 0.1), residual=(0.2, 0.9)), []).sentence
    assert "at no depth in residual ones" in told


def test_theory_stands_beside_where_it_has_a_closed_form() -> None:
    theory = table("theory_gradient_cosine", plain=(0.35, 0.0))
    figure = drawn(measured(plain=(0.3, 0.1), residual=(0.8, 0.2)), theory)
    assert figure.sentence.endswith("(theory is off by at most 0.10).")
    rows = {(r["family"], r["depth"]): r["theory"] for r in figure.panels[0].data["rows"]}
    assert rows["plain", 10] == pytest.approx(0.35)
    assert rows["residual", 10] is None


def test_without_such_gradients_there_is_no_figure(tmp_path: Path) -> None:
    write_init(tmp_path)
    assert "cosines" not in [figure.name for figure in init_figures(Evidence.read(tmp_path))]


def test_the_page_holds_it_where_they_were_measured(tmp_path: Path) -> None:
    write_init(tmp_path)
    path = tmp_path / "data" / "init_backward.csv"
    write_table(path, read_table(path) + measured(plain=(0.3, 0.1), residual=(0.8, 0.2)))
    page = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="figure-cosines"' in page and "a shortcut delays it without norm." in page
    for kind in ("svg", "png"):
        assert (tmp_path / "figures" / f"cosines.{kind}").stat().st_size > 1000
