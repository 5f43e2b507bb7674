"""The tables of networks at initialisation enter, their figures leave: what depth does at birth.

Measured is what came out over draws of the weights; theory is drawn in without fitting. Words for
directions: *forward* is from the input to the output, *backward* the other way, where the gradient
goes. Dense layers of the largest width; the tables hold the others and convolutions too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from resnets.report.charts import INK, Figure, finite
from resnets.study.propagation.signal_propagation import INPUTS
from resnets.study.report.cosines import cosines
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import AT_INIT, Drawn, data, families_of
from resnets.study.report.words import and_, times
from resnets.study.tables import Row, Tables, median_by, select

KIND = "init-dense"
EDGES = (-100, -30, -10, -4, -1, 1, 4, 10, 30, 100)
"""decades at which the colour of the atlas changes; beyond 4 half precision ends"""
COLOURS = (
    "#023858", "#0570b0", "#3690c0", "#74a9cf", "#bdd7e7", "#f2f2f2",
    "#fdd0a2", "#fdae6b", "#f16913", "#b03a04", "#5c1a00",
)  # fmt: skip
"""vanishing is blue, exploding orange, which no kind of colour blindness confuses"""
SEAM = 0.006
ILLNESSES = {
    "healthy": "#dfe9df",
    "collapses": "#E69F00",
    "shatters": "#CC79A7",
    "vanishes": "#56B4E9",
    "explodes": "#D55E00",
}
VERBS = {
    "collapses": "collapse",
    "shatters": "shatter",
    "vanishes": "vanish",
    "explodes": "explode",
}


def init_figures(evidence: Tables) -> list[Exhibit]:
    """Those of the figures at initialisation that have something to show."""
    tables = {name: select(evidence.table(name), study=KIND) for name in (
        "init", "init_forward", "init_backward", "init_theory",
    )}  # fmt: skip
    widths = [row["width"] for rows in tables.values() for row in rows]
    if not all(tables.values()):
        return []
    tables = {name: select(rows, width=max(widths)) for name, rows in tables.items()}
    command = f"resnets study init --out {evidence.folder}"
    found = [
        _atlas(tables["init_backward"], command),
        *cosines(tables["init_backward"], tables["init_theory"], command),
        _verdicts(tables["init"], command),
    ]
    return [exhibit for exhibit in found if exhibit is not None]


def _atlas(backward: list[Row], command: str) -> Exhibit:
    rows = select(backward, metric="log10_gradient")
    medians = median_by(rows, "family", "depth", "unit")
    depths = sorted({row["depth"] for row in rows})
    panels = tuple(
        Figure(
            name=f"atlas-{family}",
            title=AT_INIT[family],
            note="",
            chart=_atlas_chart(depths),
            data={"rows": _atlas_cells(medians, family)},
            width=250,
            height=150,
        )
        for family in families_of(rows)
    )
    return Exhibit(
        name="atlas",
        sentence=atlas_sentence(medians, families_of(rows), max(depths)),
        note="Colour: log10 of |dL/dx_l| over |dL/dx_L|, the gradient at layer l relative to the "
        "last layer, median over draws of the weights. Orange is larger than at the end (it "
        "explodes backwards), blue smaller (it vanishes); pale is within a factor of ten. Read "
        "from right, the loss, to left, the input. BN is batch norm; “branch / √L” a residual "
        "network with branches divided by the root of the depth. Nothing is trained here.",
        panels=(*panels, _key()),
        tables=("init_backward",),
        command=command,
        columns=4,
    )


def atlas_sentence(
    medians: dict[tuple[Any, ...], float], families: Sequence[str], depth: int
) -> str:
    """Which families explode, vanish or hold backwards, at the largest depth."""
    kinds: dict[str, list[str]] = {"grows": [], "dies": [], "holds": []}
    for family in families:
        decades = medians.get((family, depth, 0), -math.inf)
        kind = "grows" if decades > 4 else "dies" if decades < -4 else "holds"
        size = "" if kind == "holds" or math.isinf(decades) else f" ({times(decades)})"
        kinds[kind].append(AT_INIT[family] + size)
    texts = {
        "grows": "the gradient grows on its way back in {}",
        "dies": "dies in {}",
        "holds": "stays within a factor of 10,000 in {}",
    }
    parts = [texts[kind].format(and_(names)) for kind, names in kinds.items() if names]
    return f"Through {depth:,} layers {', '.join(parts)}."


def _atlas_cells(medians: dict[tuple[Any, ...], float], family: str) -> list[Row]:
    """A rectangle for each measured layer, from halfway to the last one to halfway to the next.

    Each reaches a little under the next, since edges that only touch let the page shine through.
    """
    cells = []
    for depth in sorted({other for name, other, _ in medians if name == family}):
        units = sorted(u for name, other, u in medians if (name, other) == (family, depth))
        middles = [(a + b) / 2 for a, b in pairwise(units)]
        for unit, start, end in zip(units, [0.0, *middles], [*middles, depth], strict=True):
            value = medians[family, depth, unit]
            cells.append(
                {"depth": depth, "unit": unit, "from": finite(start / depth),
                 "to": finite(min(1.0, end / depth + SEAM)), "decades": finite(value),
                 "factor": times(value)}
            )  # fmt: skip
    return cells


def _atlas_chart(depths: list[int]) -> alt.Chart:
    scale = alt.Scale(type="threshold", domain=list(EDGES), range=list(COLOURS))
    cells: alt.Chart = (
        data()
        .mark_rect(strokeWidth=0)
        .encode(
            x=alt.X("from:Q", title="place l/L")
            .scale(domain=[0, 1], nice=False)
            .axis(grid=False, tickCount=2, format=".1~f"),
            x2="to:Q",
            y=alt.Y("depth:O", title="layers L")
            .scale(domain=depths[::-1])
            .axis(format=",d", ticks=False, domain=False),
            color=alt.Color("decades:Q", scale=scale, legend=None),
            tooltip=[
                alt.Tooltip("depth:O", title="layers", format=",d"),
                alt.Tooltip("unit:Q", title="layer l", format=",d"),
                alt.Tooltip("factor:N", title="gradient / last"),
                alt.Tooltip("decades:Q", format=".2f"),
            ],
        )
    )
    return cells


def _key() -> Figure:
    """What the colours mean, as a panel beside the others."""
    ends = [f"{edge:+d}".replace("-", "\u2212") for edge in EDGES]
    words = [f"below {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"above {ends[-1]}"]
    colour = alt.Color("words:N", scale=alt.Scale(domain=words, range=list(COLOURS)), legend=None)
    rows = data().encode(y=alt.Y("words:N", title=None, sort=words[::-1]).axis(None))
    chart = alt.layer(
        rows.mark_rect(width=26).encode(x=alt.value(14), color=colour),
        rows.mark_text(align="left", fontSize=10).encode(x=alt.value(36), text="words:N"),
    )
    return Figure(
        name="atlas-key",
        title="colours, in decades",
        note="",
        chart=chart,
        data={"rows": [{"words": word} for word in words]},
        width=250,
        height=190,
    )


def _verdicts(init: list[Row], command: str) -> Exhibit:
    panels = []
    for way in ("forward", "backward"):
        rows = select(init, metric=f"verdict_{way}")
        cells = [
            {"series": AT_INIT[row["family"]], "depth": row["depth"], "verdict": row["status"],
             "first": row["status"].split(", ")[0],
             "text": " ".join(word[0].upper() for word in row["status"].split(", "))
             if row["status"] != "healthy" else "·"}
            for row in rows if row["family"] in AT_INIT
        ]  # fmt: skip
        panels.append(
            Figure(
                name=f"verdicts-{way}",
                title=f"{way} ({'signals' if way == 'forward' else 'gradients'})",
                note="",
                chart=_verdict_chart([AT_INIT[name] for name in families_of(rows)]),
                data={"rows": cells},
                width=400,
                height=290,
            )
        )
    return Exhibit(
        name="verdicts",
        sentence=verdict_sentence(init),
        note="E explodes and V vanishes (by more than a factor of 10,000), C collapses (inputs at "
        "right angles have a cosine above 0.99), S shatters (gradients at neighbouring inputs have "
        "a cosine below 0.5), a dot is healthy. The thresholds were fixed before anything was "
        "measured; a cell can have more than one illness. With batch norm an image's gradient runs "
        f"through all of its batch, {INPUTS} here: a larger batch shatters only at a larger depth. "
        "They judge networks before training: one step of it may change much.",
        panels=tuple(panels),
        tables=("init",),
        command=command,
        columns=2,
    )


def verdict_sentence(init: list[Row]) -> str:
    """Which families are healthy both ways at the largest depth."""
    depth = max(row["depth"] for row in init if "depth" in row)
    found: dict[str, set[str]] = {}
    for way in ("forward", "backward"):
        for row in select(init, metric=f"verdict_{way}", depth=depth):
            found.setdefault(row["family"], set()).update(row["status"].split(", "))
    well = [AT_INIT[f] for f in families_of(init) if found.get(f) == {"healthy"}]
    plain = found.get("plain-bn", set()) - {"healthy"}
    health = f"{and_(well)} are healthy both ways" if well else "no family is healthy both ways"
    if len(well) == 1:
        health = f"{well[0]} alone is healthy both ways"
    verbs = [VERBS[word] for word in sorted(plain)]
    told = f"; plain networks with batch norm {and_(verbs)}" if verbs else ""
    return f"At initialisation and {depth:,} layers {health}{told}."


def _verdict_chart(families: list[str]) -> Drawn:
    cells = data().encode(
        x=alt.X("depth:O", title="layers").axis(
            format="~s", labelAngle=0, ticks=False, domain=False
        ),
        y=alt.Y("series:N", title=None, sort=None)
        .scale(domain=families)
        .axis(ticks=False, domain=False, labelLimit=150),
        tooltip=[
            alt.Tooltip("series:N", title="family"),
            alt.Tooltip("depth:O", title="layers"),
            alt.Tooltip("verdict:N"),
        ],
    )
    colour = alt.Color("first:N", title=None).scale(
        domain=list(ILLNESSES), range=list(ILLNESSES.values())
    )
    colour = colour.legend(orient="top", symbolType="square", columns=2, columnPadding=10)
    return alt.layer(
        cells.mark_rect(stroke="white", strokeWidth=2).encode(color=colour),
        cells.mark_text(fontSize=11, fontWeight=600, color=INK).encode(text="text:N"),
    )
