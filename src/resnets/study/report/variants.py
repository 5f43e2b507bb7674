"""The further families of a study of training enter, their figures leave.

Families: other ways to be deep, side by side at each depth. Dose and response: a shortcut that is
multiplied by a strength from 0, the plain network, to 1, the residual one; an intervention says
more than a comparison of two.
"""

from __future__ import annotations

from itertools import pairwise

import altair as alt

from resnets.report.figure import BLUE, INK, ORANGE, Figure, finite, percent
from resnets.study.cells import DOSES, FAMILIES
from resnets.study.report.curves import TWINS
from resnets.study.report.evidence import Row, select
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, data
from resnets.study.report.words import Effect

FEWEST = 3
"""families at one depth, or doses, that are worth a figure"""


def families(rows: list[Row], summary: list[Row], command: str) -> Exhibit | None:
    """Training error of every family, a panel a depth."""
    found = select(summary, metric="train_error")
    depths = sorted({row["depth"] for row in found if row["family"] not in TWINS})
    groups = {depth: _means(select(found, depth=depth), summary) for depth in depths}
    groups = {depth: means for depth, means in groups.items() if len(means) >= FEWEST}
    if not groups:
        return None
    seeds = select(rows, study="train", metric="train_error")
    top = min(1.0, 1.05 * max(row["value"] for row in seeds if "value" in row))
    panels = tuple(
        Figure(
            name=f"families-{depth}",
            title=f"{depth} layers",
            note="",
            chart=_family_chart([row["family"] for row in means], top),
            data={"means": means, "dots": _dots(select(seeds, depth=depth))},
            width=760,
            height=40 + 24 * len(means),
        )
        for depth, means in groups.items()
    )
    return Exhibit(
        name="families",
        sentence=families_sentence(groups),
        note="Mean training error over seeds that did not diverge, with 95 % bootstrap intervals; "
        "small dots are seeds. Every cell has its own learning rate. Families are described in "
        "src/resnets/study/cells.py, with their papers.",
        panels=panels,
        tables=("train", "summary"),
        command=command,
    )


def families_sentence(groups: dict[int, list[Row]]) -> str:
    """The best and the worst at each depth."""
    parts = []
    for depth, means in groups.items():
        best, worst = means[0], means[-1]
        lost = [f"{row['family']} ({row['diverged']:.0f})" for row in means if row["diverged"]]
        note = f", runs that diverged: {', '.join(lost)}" if lost else ""
        parts.append(
            f"at {depth} layers {best['family']} has the lowest training error "
            f"({percent(best['value'])}), {worst['family']} the highest "
            f"({percent(worst['value'])}){note}"
        )
    joined = "; ".join(parts)
    return f"{joined[0].upper()}{joined[1:]}."


def dose(rows: list[Row], summary: list[Row], command: str) -> Exhibit | None:
    """Training error by the strength of the shortcut."""
    found = [row for row in select(summary, metric="train_error") if row["family"] in DOSES]
    depths = [
        depth
        for depth in sorted({row["depth"] for row in found})
        if len(select(found, depth=depth)) >= FEWEST
    ]
    if not depths:
        return None
    depth = depths[-1]
    means = sorted(_means(select(found, depth=depth), summary), key=lambda row: row["dose"])
    figure = Figure(
        name="dose-response",
        title="",
        note="",
        chart=_dose_chart(depth),
        data={"means": means, "dots": _dots(select(rows, study="train", depth=depth,
                                                   metric="train_error"))},
        width=760,
        height=300,
    )  # fmt: skip
    return Exhibit(
        name="dose",
        sentence=dose_sentence(means, depth),
        note="The shortcut is multiplied by a strength: 0 is the plain network, 1 the residual "
        "one, and nothing else changes. Band: 95 % bootstrap interval; dots: seeds.",
        panels=(figure,),
        tables=("train", "summary"),
        command=command,
    )


def dose_sentence(means: list[Row], depth: int) -> str:
    """From end to end, and where the largest step lies."""
    first, last = means[0], means[-1]
    steps = [(abs(b["value"] - a["value"]), a["dose"], b["dose"]) for a, b in pairwise(means)]
    _, low, high = max(steps)
    word = "falls" if last["value"] < first["value"] else "rises"
    return (
        f"As the shortcut's strength goes from {first['dose']:g} to {last['dose']:g}, the training "
        f"error at {depth} layers {word} from {percent(first['value'])} to "
        f"{percent(last['value'])}, the most between {low:g} and {high:g}."
    )


def _means(found: list[Row], summary: list[Row]) -> list[Row]:
    """The lowest error first."""
    means = []
    for row in found:
        cell = {"family": row["family"], "depth": row["depth"]}
        effect = Effect.of(summary, "train_error", **cell)
        lost = select(summary, metric="diverged", **cell)
        if effect is not None:
            means.append(
                {"family": row["family"], "title": FAMILIES[row["family"]].title,
                 "dose": DOSES.get(row["family"]), "value": finite(effect.value),
                 "low": finite(effect.low), "high": finite(effect.high),
                 "diverged": lost[0]["value"] if lost else 0}
            )  # fmt: skip
    return sorted(means, key=lambda row: row["value"])


def _dots(rows: list[Row]) -> list[Row]:
    return [
        {"family": row["family"], "dose": DOSES.get(row["family"]), "seed": row["seed"],
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
        alt.Tooltip("diverged:Q", title="diverged runs"),
    ]
    return alt.layer(
        data("dots")
        .mark_point(filled=True, size=16, opacity=0.5, color="#667085")
        .encode(x=x, y=y),
        means.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title="training error"), x2="high:Q"
        ),
        means.mark_point(filled=True, size=70, opacity=1).encode(x=x, tooltip=tooltip),
    )


def _dose_chart(depth: int) -> Drawn:
    x = alt.X("dose:Q", title="strength of the shortcut").axis(grid=False, tickCount=5)
    title = f"training error, {depth} layers"
    y = alt.Y("value:Q", title=title).axis(format=".0%", tickCount=5)
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
        .encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        means.mark_line(color=BLUE, strokeWidth=2.2).encode(y=y),
        data("dots")
        .transform_filter("isValid(datum.dose)")
        .mark_point(filled=True, size=30, opacity=0.55, color=BLUE)
        .encode(x=x, y=y, tooltip=[alt.Tooltip("seed:Q"), alt.Tooltip("value:Q", format=".2%")]),
        means.mark_point(filled=True, size=80, color=BLUE, opacity=1).encode(y=y, tooltip=tooltip),
    )
