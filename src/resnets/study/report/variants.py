"""The further families of a study of training enter, their figures leave.

Families: other ways to be deep, side by side at each depth. Dose and response: a shortcut that is
multiplied by a strength from 0, the plain network, to 1, the residual one; an intervention says
more than a comparison of two. A cell that lost all its runs is drawn as a cross and named.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import altair as alt

from resnets.report.charts import BLUE, INK, ORANGE, Figure, finite, percent
from resnets.study.report.curves import TWINS, rate_words
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, data
from resnets.study.statistics import Estimate, differences, estimate, ranked, verdict
from resnets.study.tables import Row, one, select
from resnets.study.twins.variants import FAMILIES, SHORTCUT_STRENGTH

FEWEST = 3
"""families at one depth, or doses, that are worth a figure"""
CROSS: dict[str, Any] = {
    "shape": "M-1,-1L1,1M1,-1L-1,1", "size": 60, "strokeWidth": 2, "opacity": 1, "color": INK,
}  # fmt: skip
"""what diverged, as in the first figure"""


def families(rows: list[Row], summary: list[Row], command: str) -> Exhibit | None:
    """Training error of every family, a panel a depth."""
    found = select(summary, metric="runs")
    depths = sorted({row["depth"] for row in found if row["family"] not in TWINS})
    groups = {depth: _cells(select(found, depth=depth), summary) for depth in depths}
    groups = {depth: cells for depth, cells in groups.items() if len(cells) >= FEWEST}
    if not groups:
        return None
    seeds = select(rows, study="train", metric="train_error")
    top = _top(seeds)
    panels = tuple(
        Figure(
            name=f"families-{depth}",
            title=f"{depth} layers",
            note="",
            chart=_family_chart([row["family"] for row in cells], top),
            data=_drawn(cells, select(seeds, depth=depth), top),
            width=760,
            height=40 + 24 * len(cells),
        )
        for depth, cells in groups.items()
    )
    told = rate_words(rows)
    return Exhibit(
        name="families",
        sentence=families_sentence(groups, seeds),
        note="Mean training error over seeds that did not diverge, with 95 % bootstrap intervals; "
        "small dots are seeds. A cross at the upper edge: runs that diverged, and how many. "
        f"{told[0].upper()}{told[1:]}. Families are described in src/resnets/study/cells.py, with "
        "their papers.",
        panels=panels,
        tables=("train", "summary"),
        command=command,
    )


def families_sentence(groups: dict[int, list[Row]], seeds: list[Row]) -> str:
    """The best and the worst at each depth, if their seeds tell them apart; what diverged."""
    parts = []
    for depth, cells in groups.items():
        means = [row for row in cells if row["value"] is not None]
        told = f"at {depth} layers "
        if len(means) > 1:
            best, worst = means[0], means[-1]
            here = select(seeds, depth=depth)
            clear = _is_lower(best["family"], worst["family"], here)
            own = [{row["seed"] for row in select(here, family=c["family"])} for c in (best, worst)]
            count = len(own[0] & own[1])
            word = "" if clear else f", which the exact test of {count} seeds does not tell apart"
            told += (
                f"the mean training error goes from {percent(best['value'])} ({best['family']}) "
                f"to {percent(worst['value'])} ({worst['family']}){word}"
            )
        else:
            told += "no two families are left to compare"
        parts.append(told + _lost(cells, "family"))
    joined = "; ".join(parts)
    return f"{joined[0].upper()}{joined[1:]}."


def dose(rows: list[Row], summary: list[Row], command: str) -> Exhibit | None:
    """Training error by the strength of the shortcut."""
    found = [row for row in select(summary, metric="runs") if row["family"] in SHORTCUT_STRENGTH]
    depths = [
        depth
        for depth in sorted({row["depth"] for row in found})
        if len(select(found, depth=depth)) >= FEWEST
    ]
    if not depths:
        return None
    depth = depths[-1]
    cells = sorted(_cells(select(found, depth=depth), summary), key=lambda row: row["dose"])
    seeds = select(rows, study="train", depth=depth, metric="train_error")
    top = _top(seeds)
    figure = Figure(
        name="dose-response",
        title="",
        note="",
        chart=_dose_chart(depth, top),
        data=_drawn(cells, seeds, top),
        width=760,
        height=300,
    )
    return Exhibit(
        name="dose",
        sentence=dose_sentence(cells, seeds, depth),
        note="The shortcut is multiplied by a strength: 0 is the plain network, 1 the residual "
        "one, and nothing else changes. Band: 95 % bootstrap interval; dots: seeds. A cross at the "
        "upper edge: runs that diverged, and how many; the line goes by strengths that lost all.",
        panels=(figure,),
        tables=("train", "summary"),
        command=command,
    )


def dose_sentence(cells: list[Row], seeds: list[Row], depth: int) -> str:
    """From end to end, and where the largest step lies; what diverged."""
    means = [row for row in cells if row["value"] is not None]
    lost = _lost(cells, "dose")
    if len(means) < 2:
        return f"At {depth} layers no two strengths of the shortcut are left to compare{lost}."
    first, last = means[0], means[-1]
    falls = _is_lower(last["family"], first["family"], seeds)
    rises = _is_lower(first["family"], last["family"], seeds)
    word = "falls" if falls else "rises" if rises else "shows no clear change"
    steps = [(abs(b["value"] - a["value"]), a["dose"], b["dose"]) for a, b in pairwise(means)]
    _, low, high = max(steps)
    most = f", the most between {low:g} and {high:g}" if falls or rises else ""
    return (
        f"As the shortcut's strength goes from {first['dose']:g} to {last['dose']:g}, the training "
        f"error at {depth} layers {word}, from {percent(first['value'])} to "
        f"{percent(last['value'])}{most}{lost}."
    )


def _is_lower(family: str, other: str, seeds: list[Row]) -> bool:
    """Whether the interval of paired differences and the exact test say so."""
    one, two = (
        {row["seed"]: row.get("value") for row in select(seeds, family=name)}
        for name in (family, other)
    )
    found = estimate(differences(one, two))
    ends = None if found is None else found.ends
    tested = differences(ranked(one), ranked(two))
    return verdict(ends, above=None, below=0.0, seeds=tested) == "supported"


def _lost(cells: list[Row], name: str) -> str:
    """Which cells lost runs, and how many of how many."""
    lost = [f"{row[name]} ({row['lost']})" for row in cells if row["lost"]]
    words = {"family": "runs that diverged", "dose": "runs that diverged, by strength"}
    return f"; {words[name]}: {', '.join(lost)}" if lost else ""


def _title(family: str) -> str:
    """Its own name where a table has a family that the study does not."""
    return FAMILIES[family].title if family in FAMILIES else family


def _cells(found: list[Row], summary: list[Row]) -> list[Row]:
    """The lowest error first, cells that lost all runs last."""
    cells = []
    for row in found:
        cell = {"family": row["family"], "depth": row["depth"]}
        effect = Estimate.from_rows(summary, "train_error", **cell)
        lost = one(summary, metric="diverged", **cell)
        cells.append(
            {"family": row["family"], "title": _title(row["family"]),
             "dose": SHORTCUT_STRENGTH.get(row["family"]),
             "value": None if effect is None else effect.value,
             "low": None if effect is None else finite(effect.low),
             "high": None if effect is None else finite(effect.high),
             "lost": f"{lost:.0f} of {row['value']:.0f}" if lost else ""}
        )  # fmt: skip
    return sorted(cells, key=lambda row: math.inf if row["value"] is None else row["value"])


def _top(seeds: list[Row]) -> float:
    """The upper edge."""
    return min(1.0, 1.1 * max((row["value"] for row in seeds if "value" in row), default=1.0))


def _drawn(cells: list[Row], seeds: list[Row], top: float) -> dict[str, list[Row]]:
    return {
        "means": [row for row in cells if row["value"] is not None],
        "dots": _dots(seeds),
        "lost": [{**row, "value": top} for row in cells if row["lost"]],
    }


def _dots(rows: list[Row]) -> list[Row]:
    return [
        {"family": row["family"], "dose": SHORTCUT_STRENGTH.get(row["family"]), "seed": row["seed"],
         "value": finite(row["value"])}
        for row in rows if "value" in row
    ]  # fmt: skip


def _family_chart(order: list[str], top: float) -> Drawn:
    y = alt.Y("family:N", title=None, sort=None).scale(domain=order)
    y = y.axis(ticks=False, domain=False, grid=True)
    x = alt.X("value:Q", title="training error").scale(domain=[0, top], nice=False)
    x = x.axis(format=".0%", tickCount=5, grid=False)
    colour = alt.when("datum.family == 'plain'").then(alt.value(ORANGE))
    colour = colour.when("datum.family == 'residual'").then(alt.value(BLUE))
    means = data("means").encode(y=y, color=colour.otherwise(alt.value(INK)))
    tooltip = [
        alt.Tooltip("title:N", title="family"),
        alt.Tooltip("value:Q", title="mean", format=".2%"),
        alt.Tooltip("low:Q", title="95 % from", format=".2%"),
        alt.Tooltip("high:Q", title="to", format=".2%"),
        alt.Tooltip("lost:N", title="diverged runs"),
    ]
    return alt.layer(
        data("dots")
        .mark_point(filled=True, size=16, opacity=0.5, color="#667085")
        .encode(x=x, y=y),
        means.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title="training error"), x2="high:Q"
        ),
        means.mark_point(filled=True, size=70, opacity=1).encode(x=x, tooltip=tooltip),
        data("lost").mark_point(**CROSS).encode(x=x, y=y),
        data("lost").mark_text(align="right", dx=-9, fontSize=11).encode(x=x, y=y, text="lost:N"),
    )


def _dose_chart(depth: int, top: float) -> Drawn:
    x = alt.X("dose:Q", title="strength of the shortcut").axis(grid=False, tickCount=5)
    title = f"training error, {depth} layers"
    scale = alt.Scale(domain=[0, top], nice=False)
    y = alt.Y("value:Q", title=title, scale=scale).axis(format=".0%", tickCount=5)
    means = data("means").encode(x=x)
    tooltip = [
        alt.Tooltip("dose:Q", title="strength"),
        alt.Tooltip("value:Q", title="mean", format=".2%"),
        alt.Tooltip("low:Q", title="95 % from", format=".2%"),
        alt.Tooltip("high:Q", title="to", format=".2%"),
    ]
    return alt.layer(
        means.transform_filter("isValid(datum.low)")
        .mark_area(opacity=0.16, color=BLUE)
        .encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q"),
        means.mark_line(color=BLUE, strokeWidth=2.2).encode(y=y),
        data("dots")
        .transform_filter("isValid(datum.dose)")
        .mark_point(filled=True, size=30, opacity=0.55, color=BLUE)
        .encode(x=x, y=y, tooltip=[alt.Tooltip("seed:Q"), alt.Tooltip("value:Q", format=".2%")]),
        means.mark_point(filled=True, size=80, color=BLUE, opacity=1).encode(y=y, tooltip=tooltip),
        data("lost").mark_point(**CROSS).encode(x=x, y=y),
        data("lost").mark_text(align="left", dx=9, fontSize=11).encode(x=x, y=y, text="lost:N"),
    )
