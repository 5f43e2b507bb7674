"""The run's records in; the curves of loss, accuracy and learning rate over epochs out.

Training and validation differ in colour, in mark (line; line with points) and in the legend.
The epoch with the best validation accuracy, the one a run keeps, is marked in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from resnets.report.charts import BLUE, GREY, INK, ORANGE, Figure, finite, percent

MOST_POINTS = 500  # of one curve: more than a screen can show
_HEIGHT = 270
Row = dict[str, Any]


def learning_figures(history: Sequence[Row]) -> list[Figure]:
    """Those of the three charts that have something to show."""
    train = [record for record in history if record.get("kind") == "train"]
    validation = [record for record in history if record.get("kind") == "validation"]
    best = _best(validation)
    figures = [_loss(train, validation, best), _accuracy(train, validation, best), _rate(train)]
    return [figure for figure in figures if figure is not None]


def thin(records: Sequence[Row], most: int = MOST_POINTS) -> list[Row]:
    """At most `most` records, evenly spaced, the first and the last among them."""
    if len(records) <= most:
        return list(records)
    return [records[round(i * (len(records) - 1) / (most - 1))] for i in range(most)]


def _best(validation: Sequence[Row]) -> Row | None:
    scored = [record for record in validation if finite(record.get("top1")) is not None]
    # of equals the last: the one whose weights a run keeps
    return max(reversed(scored), key=lambda record: record["top1"], default=None)


def _rows(records: Sequence[Row], field: str, series: str) -> list[Row]:
    """Rows of one curve, a gap where the value is not finite; none if there is nothing to draw."""
    rows = [
        {"epoch": finite(record["epoch"]), "value": finite(record[field]), "series": series}
        for record in thin([record for record in records if field in record])
    ]
    return rows if _values(rows) else []


def _values(rows: Sequence[Row]) -> list[float]:
    return [row["value"] for row in rows if row["value"] is not None]


def _loss(train: Sequence[Row], validation: Sequence[Row], best: Row | None) -> Figure | None:
    validation_rows = _rows(validation, "loss", "validation")
    rows = _rows(train, "loss", "training") + validation_rows
    values = _values(rows)
    if not values:
        return None
    # three decades on a linear axis are one spike and a flat line
    log = min(values) > 0 and max(values) > 1000 * min(values)
    title = "Loss"
    if _values(validation_rows):
        low = min((r for r in validation_rows if r["value"] is not None), key=lambda r: r["value"])
        title = f"Validation loss is lowest at epoch {_short(low['epoch'])}: {low['value']:.3g}"
    lost = sum(finite(record.get("loss", 0.0)) is None for record in [*train, *validation])
    note = "Training loss is taken on augmented images while the weights move; it may lie above."
    if lost:
        note += f" {lost} recorded losses are not finite and leave gaps."
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False, nice=True)
    words = "cross-entropy (nats, log scale)" if log else "cross-entropy (nats)"
    axis = alt.Y("value:Q", title=words, scale=scale).axis(tickCount=6)
    marked = None if best is None else {"epoch": best["epoch"], "value": finite(best.get("loss"))}
    return _figure(
        "loss",
        title=title,
        note=note,
        rows=rows,
        y=axis,
        marked=marked,
        label_y=10,
        number_format=".4f",
    )


def _accuracy(train: Sequence[Row], validation: Sequence[Row], best: Row | None) -> Figure | None:
    rows = _rows(train, "accuracy", "training") + _rows(validation, "top1", "validation")
    values = _values(rows)
    if not values:
        return None
    title, marked = "Accuracy", None
    if best is not None:
        where = _short(best["epoch"])
        title = f"Validation accuracy is best at epoch {where}: {percent(best['top1'])}"
        marked = {"epoch": best["epoch"], "value": finite(best["top1"])}
    low = max(0.0, math.floor(min(values) * 20) / 20)
    high = min(1.0, max(math.ceil(max(values) * 20) / 20, low + 0.05))
    scale = alt.Scale(domain=[min(low, high - 0.05), high], nice=False)
    axis = alt.Y("value:Q", title="images classified rightly", scale=scale)
    axis = axis.axis(format="~%", tickCount=6)
    return _figure(
        "accuracy",
        title=title,
        note="The dashed line marks the epoch with the best validation accuracy." if best else "",
        rows=rows,
        y=axis,
        marked=marked,
        label_y=_HEIGHT - 10,
        number_format=".2%",
    )


def _figure(
    name: str,
    *,
    title: str,
    note: str,
    rows: list[Row],
    y: alt.Y,
    marked: Row | None,
    label_y: int,
    number_format: str,
) -> Figure:
    """The two curves of one quantity, with the marked epoch over them."""
    last = max(row["epoch"] for row in rows)
    colours = {"training": ORANGE, "validation": BLUE}
    shown = [series for series in colours if any(row["series"] == series for row in rows)]
    curves = alt.Chart(alt.NamedData(name="curves")).encode(
        x=_epochs(last),
        y=y,
        color=alt.Color("series:N", title=None)
        .scale(domain=shown, range=[colours[series] for series in shown])
        .legend(orient="top", symbolType="circle", symbolStrokeWidth=0, symbolSize=90),
    )
    lines = curves.mark_line(strokeJoin="round").encode(
        strokeWidth=alt.when("datum.series == 'training'")
        .then(alt.value(1.4))
        .otherwise(alt.value(2.2))
    )
    tooltip = [
        alt.Tooltip("series:N", title="on"),
        alt.Tooltip("epoch:Q", format=".3~f"),
        alt.Tooltip("value:Q", title=name, format=number_format),
    ]
    layers = [lines, _points(curves, rows, tooltip), *_mark(marked, last, label_y)]
    data = {"curves": rows, "best": [] if marked is None else [marked]}
    return Figure(
        name=name,
        title=title,
        note=note,
        chart=alt.layer(*layers),
        data=data,
        width=720,
        height=_HEIGHT,
    )


def _points(curves: alt.Chart, rows: list[Row], tooltip: list[alt.Tooltip]) -> Any:
    """Validation as dots, training as a dot under the pointer (or where no line can be drawn)."""
    hover = alt.selection_point(
        name="hover", nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    few = sum(row["series"] == "training" for row in rows) < 2
    many = sum(row["series"] == "validation" for row in rows) > 40
    dots = "isValid(datum.series)" if few else "datum.series == 'validation'"
    shown = alt.when(hover).then(alt.value(1)).when(dots).then(alt.value(1))
    return (
        curves.transform_filter("isValid(datum.value)")
        .mark_point(filled=True, size=14 if many else 38)
        .encode(opacity=shown.otherwise(alt.value(0)), tooltip=tooltip)
        .add_params(hover)
        .properties(name="points")  # named by us: a counter would change from page to page
    )


def _short(epoch: float) -> str:
    """At most two decimals: the last step of a run ends at epoch 2.005, which is 2 to a reader."""
    return f"{epoch:.2f}".rstrip("0").rstrip(".")


def _epochs(last: float) -> alt.X:
    scale = alt.Scale(domain=[0, last or 1], nice=False)
    return alt.X("epoch:Q", title="epoch", scale=scale).axis(grid=False, tickCount=8)


def _mark(marked: Row | None, last: float, label_y: int) -> list[alt.Chart]:
    """A dashed line at the best epoch, a ring on its point, and its name."""
    if marked is None:
        return []
    best = alt.Chart(alt.NamedData(name="best")).encode(x="epoch:Q")
    left = marked["epoch"] > 0.5 * last
    layers = [
        best.mark_rule(strokeDash=[4, 4], color=GREY),
        best.mark_text(
            align="right" if left else "left",
            dx=-6 if left else 6,
            color=INK,
            text=f"best: epoch {_short(marked['epoch'])}",
        ).encode(y=alt.value(label_y)),
    ]
    if marked["value"] is not None:
        ring = best.mark_point(size=150, filled=False, strokeWidth=1.6, color=BLUE)
        layers.insert(1, ring.encode(y="value:Q"))
    return layers


def _rate(train: Sequence[Row]) -> Figure | None:
    rows = _rows(train, "learning_rate", "training")
    values = _values(rows)
    if len(values) < 2:  # one point says nothing of a schedule
        return None
    peak = max((row for row in rows if row["value"] is not None), key=lambda row: row["value"])
    chart = (
        alt.Chart(alt.NamedData(name="curves"))
        .mark_line(color=GREY, strokeWidth=2, strokeJoin="round")
        .encode(
            x=_epochs(max(row["epoch"] for row in rows)),
            y=alt.Y("value:Q", title="learning rate").axis(tickCount=4),
            tooltip=[alt.Tooltip("epoch:Q", format=".3~f"), alt.Tooltip("value:Q", title="rate")],
        )
    )
    title = f"Highest recorded learning rate: {peak['value']:.3g}, epoch {_short(peak['epoch'])}"
    if min(values) == max(values):
        title = f"Learning rate stays at {values[-1]:.3g}"
    return Figure(
        name="learning_rate",
        title=title,
        note=f"The last recorded value is {values[-1]:.3g}.",
        chart=chart,
        data={"curves": rows},
        width=720,
        height=160,
    )
