"""The tables of a study of training enter, its figures leave: does depth harm, and at which rates?

Degradation is judged on *training* error (He 2015, arXiv 1512.03385, figure 1); the test error
stands apart. Every counted seed is a dot. A run that diverged is drawn as a cross at the upper edge
and belongs to no mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from resnets.report.charts import Figure, finite, percent
from resnets.study.report.curves import TWINS, curves, depths_of, rate_words, rates
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, Series, data, faded
from resnets.study.report.variants import dose, families
from resnets.study.report.words import and_
from resnets.study.statistics import Estimate
from resnets.study.tables import Row, Tables, one, select
from resnets.study.twins.study_config import PRESETS

UNCLEAR = "inconclusive"
WORSE, BETTER = "get worse with depth", "get better with depth"
CHANGE = {
    ("plain_degrades", "supported"): WORSE,
    ("plain_degrades", "contradicted"): BETTER,
    ("plain_degrades", UNCLEAR): "show no clear change with depth",
    ("residual_gains", "supported"): BETTER,
    ("residual_gains", "contradicted"): WORSE,
    ("residual_gains", UNCLEAR): "show no clear change with depth",
}
"""what a verdict says of the training error"""


def training_figures(evidence: Tables) -> list[Exhibit]:
    """Those of the figures of training that have something to show."""
    rows, summary = evidence.table("train"), evidence.table("summary")
    preset = evidence.plan.get("name", "minutes")
    data = evidence.plan.get("setup", {}).get("data", "")
    own = preset in PRESETS and data != PRESETS[preset].setup.data
    given = f" {data}" if own else ""  # images in place of the preset's
    command = f"resnets study train{given} --preset {preset} --out {evidence.folder}"
    if not select(rows, study="train", metric="train_error"):
        return []
    made = [_degradation, curves, rates, families, dose]
    return [exhibit for make in made if (exhibit := make(rows, summary, command)) is not None]


def _degradation(rows: list[Row], summary: list[Row], command: str) -> Exhibit | None:
    counted = [row for row in select(rows, study="train") if row["family"] in TWINS]
    depths = depths_of(counted)
    values = [
        row["value"]
        for row in counted
        if row["metric"] in ("train_error", "test_error") and "value" in row
    ]
    if not values:
        return None
    printed = [row["value"] for row in _in_print(summary, "test_error")]
    top = min(1.0, max(values + printed) * 1.15)
    panels = tuple(
        _errors(name, counted, summary, metric=metric, depths=depths, top=top)
        for name, metric in (("Training error", "train_error"), ("Test error", "test_error"))
    )
    seeds = len({row["seed"] for row in counted})
    return Exhibit(
        name="degradation",
        sentence=degradation_sentence(summary, depths),
        note=f"Dots: {seeds} seeds; lines: their mean; bands: 95 % bootstrap intervals over seeds "
        "(three at least). A cross at the upper edge is a run that diverged and is in no mean. "
        f"{'Hollow diamonds: errors in print. ' if printed else ''}"
        "Plain and residual twins have equal parameters, initial values and order of images; "
        f"{rate_words(rows)}. Depth is on a logarithmic axis.",
        panels=panels,
        tables=("train", "summary"),
        command=command,
        columns=2,
    )


def degradation_sentence(summary: list[Row], depths: Sequence[int]) -> str:
    """What became of the training error between the shallowest depth and the deepest."""
    shallow, deep = depths[0], depths[-1]
    parts = []
    for family, claim in (("plain", "plain_degrades"), ("residual", "residual_gains")):
        ends = [
            one(summary, metric="train_error", family=family, depth=depth)
            for depth in (shallow, deep)
        ]
        gone = [depth for depth, end in zip((shallow, deep), ends, strict=True) if end is None]
        if gone:
            lost = all(_lost(summary, family, depth) for depth in gone)
            word = "diverged" if lost else "were not measured"
            parts.append(f"{family} networks of {and_([str(d) for d in gone])} layers {word}")
            continue
        word = CHANGE[claim, _verdict(summary, claim)]
        parts.append(
            f"{family} networks {word} ({percent(ends[0])} training error at {shallow} layers"
            f"{_lost(summary, family, shallow)}, "
            f"{percent(ends[1])} at {deep}{_lost(summary, family, deep)})"
        )
    first, second = parts
    same = [part.split(" (")[0].split(" ", 2)[2] for part in parts]
    joined = f"{first[0].upper()}{first[1:]}, {'and' if same[0] == same[1] else 'while'} {second}"
    return f"{joined}{_primary(summary, deep)}."


def _verdict(summary: list[Row], claim: str) -> str:
    """As the table of claims has it, so that sentence and table cannot differ."""
    return next((row["status"] for row in select(summary, metric=f"verdict_{claim}")), UNCLEAR)


def _lost(summary: list[Row], family: str, depth: int) -> str:
    lost = one(summary, metric="diverged", family=family, depth=depth)
    return f", {lost:.0f} diverged" if lost else ""


def _primary(summary: list[Row], depth: int) -> str:
    """The primary test in words."""
    gap = Estimate.from_rows(summary, "train_error_difference", depth=depth)
    if gap is None or not select(summary, metric="verdict_shortcuts"):
        return ""
    lost = any(_lost(summary, family, depth) for family in TWINS)
    pairs = " in pairs of runs that did not diverge" if lost else ""
    found = _verdict(summary, "shortcuts")
    sign = -1 if found == "contradicted" else 1
    ends = "" if gap.ends is None else " to ".join(
        f"{100 * sign * end:.1f}" for end in gap.ends[::sign]
    )  # fmt: skip
    interval = f" (95 %: {ends}){pairs}" if ends else f" (no interval){pairs}"
    size = f"{100 * sign * gap.value:.1f} points"
    if found == UNCLEAR:
        return f"; at {depth} layers there is no clear difference: {size}{interval}"
    word = "above" if found == "supported" else "below"
    return f"; at {depth} layers plain is {size} {word} residual{interval}"


def _errors(
    name: str,
    counted: list[Row],
    summary: list[Row],
    *,
    metric: str,
    depths: list[int],
    top: float,
) -> Figure:
    """Dots for seeds, mean and band for families, crosses for what diverged."""
    dots = [
        {"series": row["family"], "depth": row["depth"], "seed": row["seed"],
         "value": finite(row["value"]), "lr": row["lr"]}
        for row in select(counted, metric=metric) if "value" in row
    ]  # fmt: skip
    lost = [
        {"series": row["family"], "depth": row["depth"], "seed": row["seed"], "value": top,
         "status": row["status"]}
        for row in select(counted, metric="train_error") if "value" not in row
    ]  # fmt: skip
    means = []
    for family in TWINS:
        for depth in depths:
            found = Estimate.from_rows(summary, metric, family=family, depth=depth)
            if found is not None:
                means.append(
                    {"series": family, "depth": depth, "value": finite(found.value),
                     "low": finite(found.low), "high": finite(found.high)}
                )  # fmt: skip
    return Figure(
        name=f"degradation-{metric.removesuffix('_error')}",
        title=name,
        note="",
        chart=_error_chart(name, depths, top),
        data={"dots": dots, "means": means, "lost": lost, "print": _in_print(summary, metric)},
        width=400,
        height=320,
    )


def _in_print(summary: list[Row], metric: str) -> list[Row]:
    """Published errors that the study may be compared with; they are of test images."""
    return [
        {"series": row["family"], "depth": row["depth"], "value": finite(row["value"]),
         "source": row["status"]}
        for row in select(summary, metric=f"published_{metric}") if row["family"] in TWINS
    ]  # fmt: skip


def _error_chart(name: str, depths: list[int], top: float) -> Drawn:
    series = Series.of(TWINS)
    pick = series.pick()
    ends = [depths[0] / 1.12, depths[-1] * 1.12]
    x = alt.X("depth:Q", title="layers", scale=alt.Scale(type="log", domain=ends, nice=False))
    x = x.axis(values=depths, format="d", grid=False)
    scale = alt.Scale(domain=[0, top], nice=False)
    y = alt.Y("value:Q", title=name.lower(), scale=scale).axis(format=".0%", tickCount=6)
    means = data("means").encode(x=x, y=y, color=series.colour)
    tooltip = [
        alt.Tooltip("series:N", title="family"),
        alt.Tooltip("depth:Q", title="layers"),
        alt.Tooltip("value:Q", title=name.lower(), format=".2%"),
    ]
    ends_tooltip = [
        alt.Tooltip("low:Q", title="95 % from", format=".2%"),
        alt.Tooltip("high:Q", title="to", format=".2%"),
    ]
    return alt.layer(
        means.transform_filter("isValid(datum.low)")
        .mark_area()
        .encode(
            y=alt.Y("low:Q", scale=scale, title=name.lower()),
            y2="high:Q",
            opacity=faded(pick, 0.16),
        ),
        means.mark_line(strokeWidth=2.4).encode(strokeDash=series.dash, opacity=faded(pick)),
        data("dots")
        .mark_point(filled=True, size=34)
        .encode(
            x=x, y=y, color=series.colour, shape=series.shape, opacity=faded(pick, 0.55),
            tooltip=[*tooltip, alt.Tooltip("seed:Q"), alt.Tooltip("lr:Q", title="learning rate")],
        )
        .add_params(pick)
        .properties(name="dots"),
        means.mark_point(size=110, opacity=0, filled=True).encode(tooltip=tooltip + ends_tooltip),
        data("print")
        .mark_point(shape="diamond", size=150, strokeWidth=2, opacity=1)
        .encode(x=x, y=y, color=series.colour, tooltip=[*tooltip, alt.Tooltip("source:N")]),
        data("lost")
        .mark_point(shape="M-1,-1L1,1M1,-1L-1,1", size=60, strokeWidth=2, opacity=1)
        .encode(
            x=x, y=y, color=series.colour,
            tooltip=[*tooltip[:2], alt.Tooltip("seed:Q"), alt.Tooltip("status:N")],
        ),
        data("lost")
        .mark_text(align="left", dx=9, fontSize=11)
        .encode(x=x, y=y, color=series.colour, text="count():Q"),
    )  # fmt: skip
