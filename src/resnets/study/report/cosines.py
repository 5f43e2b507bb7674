"""Cosines of gradients at two near inputs enter, the figure beside their closed form leaves.

Balduzzi 2017 (arXiv 1702.08591): through depth the gradients at two inputs become unlike, without
shortcuts faster than with them. The closed form is `gradient_correlation` of `theory.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from resnets.report.charts import Figure, finite
from resnets.study.propagation.stability import NEIGHBOURS, SHATTERED
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import AT_INIT, beside_theory, families_of
from resnets.study.report.words import and_
from resnets.study.tables import Row, median_by, select

TWINS = {"without norm": ("plain", "residual"), "with batch norm": ("plain-bn", "residual-bn")}


def cosines(backward: list[Row], theory: list[Row], command: str) -> list[Exhibit]:
    """Nothing where no gradients at two inputs were measured."""
    rows = _rows(backward, theory)
    if not rows:
        return []
    families = families_of(rows)
    figure = Figure(
        name="cosines",
        title="",
        note="",
        chart=beside_theory(
            families, rows, alt.Y("value:Q", title="cosine of the gradients"), form=".3f"
        ),
        data={"rows": rows},
        width=760,
        height=340,
    )
    return [
        Exhibit(
            name="cosines",
            sentence=cosines_sentence(rows),
            note=f"Cosine of the gradients at two inputs whose own cosine is {NEIGHBOURS}, beside "
            f"the input (Balduzzi 2017); below {SHATTERED} they count as unlike. Points: median "
            "over draws; lines: theory for infinite width, not fitted, where there is a closed "
            "form; networks here are finite. With batch norm an image's gradient runs through all "
            "of its small batch.",
            panels=(figure,),
            tables=("init_backward", "init_theory"),
            command=command,
        )
    ]


def cosines_sentence(rows: Sequence[Row]) -> str:
    """From which depth on gradients are unlike, with shortcuts and without, and theory's miss."""
    measured = {(row["family"], row["depth"]): row["value"] for row in rows}
    depths = sorted({row["depth"] for row in rows})
    pairs = {
        condition: tuple(_apart(measured, name, depths) for name in names)
        for condition, names in TWINS.items()
        if set(names) <= {row["family"] for row in rows}
    }
    told = [
        f"{condition} {_when(plain)} in plain networks and {_when(residual)} in residual ones"
        for condition, (plain, residual) in pairs.items()
    ]
    sentence = "Gradients at two near inputs become unlike"
    if told:
        later = [condition for condition, (plain, residual) in pairs.items() if residual > plain]
        sentence += f" {'; '.join(told)}: a shortcut "
        sentence += f"delays it {and_(later)}" if later else "does not delay it"
    else:
        sentence = "Gradients at two near inputs were measured, but not of twins"
    misses = [abs(row["value"] - row["theory"]) for row in rows if row["theory"] is not None]
    return sentence + (f" (theory is off by at most {max(misses):.2f})." if misses else ".")


def _when(depth: float) -> str:
    return "at no depth" if math.isinf(depth) else f"from {depth:,} layers on"


def _apart(measured: dict[tuple[str, int], float], family: str, depths: list[int]) -> float:
    """The depth from which on they are unlike; infinite where they are alike in the deepest."""
    alike = [depth for depth in depths if measured.get((family, depth), 0.0) >= SHATTERED]
    return next((depth for depth in depths if depth > max(alike, default=0)), math.inf)


def _rows(backward: list[Row], theory: list[Row]) -> list[Row]:
    """Medians over draws at the first layer, beside theory where it has a closed form."""
    wanted = {"x": NEIGHBOURS, "unit": 0}
    measured = median_by(select(backward, metric="gradient_cosine", **wanted), "family", "depth")
    closed = median_by(select(theory, metric="theory_gradient_cosine", **wanted), "family", "depth")
    found = [
        {"series": AT_INIT[family], "family": family, "depth": depth, "value": finite(value),
         "theory": finite(closed.get((family, depth)))}
        for (family, depth), value in measured.items() if family in AT_INIT
    ]  # fmt: skip
    return sorted(found, key=lambda row: (row["series"], row["depth"]))
