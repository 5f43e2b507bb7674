"""Figures of gradients and the Jacobian, at initialisation and after: what they say of numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from resnets.study.report.atlas import init_figures
from resnets.study.report.evidence import Evidence, Row
from resnets.study.report.gradients import gradients as profiles_of
from resnets.study.report.shattering import shattering
from resnets.study.report.spectrum import spectrum
from resnets.study.tables import write_table
from tiny_evidence import write_init

DEPTHS = (10, 1000)


def about(family: str, depth: int | None, draw: int) -> Row:
    row: Row = {"study": "init-dense", "family": family, "width": 64, "seed": 0, "draw": draw}
    return row if depth is None else row | {"depth": depth}


def gradients(**near: float) -> list[Row]:
    """Autocorrelations that fall to nothing with the lag; SkipInit's gradient is constant."""
    rows: list[Row] = []
    noises = {"white-noise": 0.0, "brown-noise": 0.9}
    constant = {"metric": "decorrelation_lag", "status": "the gradient is constant"}
    for draw in range(3):
        cells = [(name, depth, value) for name, value in near.items() for depth in DEPTHS]
        cells += [(name, None, value) for name, value in noises.items()]
        for family, depth, value in cells:
            drawn = value + (0.1 * draw if depth else 0)
            rows += [
                about(family, depth, draw)
                | {"metric": "autocorrelation", "x": lag, "value": drawn / lag} for lag in (1, 2, 5)
            ]  # fmt: skip
        rows += [about("skipinit", depth, draw) | constant for depth in DEPTHS]
    return rows


def spectra(**factors: float) -> list[Row]:
    """Eight singular values, each a factor of the one before."""
    return [
        about(family, depth, draw)
        | {"metric": "log10_singular_value", "x": rank}
        | ({"status": "below"} if draw > 0 and rank == 7 else {"value": 3 - factor * rank})
        for family, factor in factors.items()
        for depth in DEPTHS for draw in range(3) for rank in range(8)
    ]  # fmt: skip


def test_what_shatters_is_said_by_its_number() -> None:
    exhibit = shattering(gradients(plain=0.0, scaled=0.8), "command")
    assert exhibit is not None
    assert exhibit.sentence == (
        "At 1,000 layers the gradients of neighbouring inputs are still alike in branch / √L "
        "(0.90), shattered in plain, no norm (0.10), the same everywhere in SkipInit, which begin "
        "as identities."
    )
    turned = shattering(gradients(plain=0.8, scaled=0.0), "command")
    assert turned is not None and "alike in plain, no norm (0.90)" in turned.sentence
    near, far = (panel.data for panel in exhibit.panels)
    assert {row["series"] for row in near["noise"]} == {"white noise", "brown noise"}
    assert {row["depth"] for row in far["rows"]} == {1000}
    assert {row["lag"] for row in near["rows"]} == {1}


def test_directions_are_counted_from_the_strongest() -> None:
    exhibit = spectrum(spectra(plain=4.0, scaled=0.2), "command")
    assert exhibit is not None
    assert exhibit.sentence.startswith(
        "At 1,000 layers most of the 8 directions of an error come through branch / √L (5); few "
        "come through plain, no norm (1)"
    )
    values, directions = (panel.data["rows"] for panel in exhibit.panels)
    assert max(row["rank"] for row in values) == 7, "the last is lost in two draws of three"
    assert min(row["size"] for row in values) >= -8.0 and len(directions) == 4


def test_no_table_no_figure() -> None:
    assert shattering([], "command") is None and spectrum([], "command") is None


def test_both_stand_among_the_figures_at_initialisation(tmp_path: Path) -> None:
    write_init(tmp_path)
    without = [exhibit.name for exhibit in init_figures(Evidence.read(tmp_path))]
    write_table(tmp_path / "data" / "init_shattering.csv", gradients(plain=0.0))
    write_table(tmp_path / "data" / "init_jacobian.csv", spectra(plain=0.2))
    exhibits = init_figures(Evidence.read(tmp_path))
    assert {exhibit.name for exhibit in exhibits} - set(without) == {"shattering", "spectrum"}
    for exhibit in exhibits:
        if exhibit.name not in without:
            exhibit.save(tmp_path)
            assert (tmp_path / f"{exhibit.name}.png").stat().st_size > 10_000


def test_raised_digits_are_set_higher_instead(tmp_path: Path) -> None:
    """A picture's font may not have them."""
    exhibit = spectrum(spectra(plain=0.2), "command")
    assert exhibit is not None
    replace(exhibit, sentence="Grows (10⁻⁴⁵), dies.").save(tmp_path)
    svg = (tmp_path / "spectrum.svg").read_text("utf-8")
    assert (
        '>Grows (10<tspan dy="-5" font-size="10">-45</tspan><tspan dy="5">),</tspan> dies.<' in svg
    )


@pytest.mark.parametrize("value", [0.49, 0.51])
def test_alike_is_from_one_half(value: float) -> None:
    exhibit = shattering(gradients(plain=value - 0.1), "command")
    assert exhibit is not None and ("still alike" in exhibit.sentence) == (value > 0.5)


def profiles(*stems: float) -> list[Row]:
    """Gradients of one network whose stem has so many times the last unit's, step after step."""
    return [
        {"study": "probe", "family": "plain", "depth": 56, "metric": "gradient_x", "unit": unit,
         "value": factor ** (1 - unit / 4)} | ({} if step is None else {"step": step})
        for step, factor in zip((0, 1, 400, None), (*stems, 9.0), strict=False)
        for unit in range(5)
    ]  # fmt: skip


def test_gradients_are_compared_before_and_after_training() -> None:
    exhibit = profiles_of({"plain-56": profiles(1000, 30, 0.5)}, (), "command")
    assert exhibit is not None
    assert exhibit.sentence == (
        "In plain-56 the gradient at the stem is 1,000 times that at the last unit before "
        "training and 0.5 times after step 400: training evens it out."
    )
    (panel,) = exhibit.panels
    assert [row["series"] for row in panel.data["rows"][::5]] == ["step 0", "step 1", "step 400"]
    assert profiles_of({"plain-56": profiles()}, (), "command") is None, "no steps, nothing to see"
