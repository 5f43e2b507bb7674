"""Scores in; the confusion matrix, the bars of each class and the reliability diagram out.

Classes travel as numbers and get their names from one list in the chart: names may repeat, hold
any letters, and cost their bytes once. The reliability diagram follows Guo et al. 2017
("On Calibration of Modern Neural Networks", figure 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from resnets.report.charts import BLUE, GREY, INK, ORANGE, Figure, finite, percent, shorten, tidy

MOST_BARS = 100  # classes; of more, those with the lowest recall
_COUNTED = 20  # classes up to which each cell of the matrix has room for its count
_TINTS = ["#f5f8fc", "#cfe1f2", "#93c4de", "#4a98c9", "#1764ab", "#08306b"]
Row = dict[str, Any]


def quality_figures(scores: Mapping[str, Any]) -> list[Figure]:
    return [_confusion(scores), _classes(scores), _reliability(scores)]


def confusions(scores: Mapping[str, Any], most: int = 12) -> list[tuple[str, str, int, float]]:
    """The most frequent mistakes: true class, predicted class, images, share of the true class."""
    found = [cell for cell in _cells(scores) if cell["true"] != cell["predicted"]]
    found.sort(key=lambda cell: (-cell["images"], -cell["share"]))  # ties in order of the classes
    names = scores["classes"]
    return [
        (names[cell["true"]], names[cell["predicted"]], cell["images"], cell["share"])
        for cell in found[:most]
    ]


def _cells(scores: Mapping[str, Any]) -> list[Row]:
    """The cells that hold an image; 200 classes have 40,000 cells, nearly all of them empty."""
    return [
        {"true": true, "predicted": predicted, "images": images, "share": finite(images / sum(row))}
        for true, row in enumerate(scores["confusion"])
        for predicted, images in enumerate(row)
        if images
    ]


def _confusion(scores: Mapping[str, Any]) -> Figure:
    names = [tidy(name) for name in scores["classes"]]
    num_classes = len(names)
    cells = _cells(scores)
    base = alt.Chart(alt.NamedData(name="cells"))
    base = base.transform_calculate(
        true_name="names[datum.true]", predicted_name="names[datum.predicted]"
    ).encode(
        x=_class_axis(alt.X("predicted:N", title="predicted class"), num_classes, upright=True),
        y=_class_axis(alt.Y("true:N", title="true class"), num_classes, upright=False),
    )
    tint = alt.Color("share:Q", title="share of the true class")
    # the root lets a confusion of one in a hundred show beside a diagonal near 100%
    tint = tint.scale(type="sqrt", domain=[0, 1], range=_TINTS).legend(
        orient="top",
        format=".0%",
        values=[0, 0.05, 0.25, 0.5, 1],
        gradientLength=190,
    )
    line = 1 if num_classes <= _COUNTED else 0
    heat = base.mark_rect(stroke="white", strokeWidth=line).encode(
        color=tint,
        tooltip=[
            alt.Tooltip("true_name:N", title="true"),
            alt.Tooltip("predicted_name:N", title="predicted"),
            alt.Tooltip("images:Q", title="images", format=","),
            alt.Tooltip("share:Q", title="of the true class", format=".1%"),
        ],
    )
    layers = [heat] if num_classes > _COUNTED else [heat, _counts(base, cells)]
    frame = None if line else "#d0d5dd"  # the cells' white lines would cut it into pieces
    chart = alt.layer(*layers, view=alt.ViewConfig(fill=_TINTS[0], stroke=frame))
    right = sum(cell["images"] for cell in cells if cell["true"] == cell["predicted"])
    total = sum(cell["images"] for cell in cells)
    size = 420 if num_classes <= 4 else 680 if num_classes <= _COUNTED else 1160
    return Figure(
        name="confusion",
        title=f"Confusion matrix: {right:,} of {total:,} images lie on the diagonal",
        note="A row is a true class and sums to 100%, a column is what the model said. Tints grow "
        "with the square root of the share."
        + (" Point at a cell for its count." if num_classes > _COUNTED else ""),
        chart=chart.add_params(alt.param(name="names", value=names)),
        data={"cells": cells},
        width=size,
        height=size,
        square=True,
    )


def _class_axis(channel: Any, num_classes: int, *, upright: bool) -> Any:
    few = num_classes <= _COUNTED
    angle = 0 if not upright or num_classes <= 2 else -45 if few else -90
    return channel.scale(domain=list(range(num_classes)), padding=0).axis(
        labelExpr="names[datum.value]",
        labelAngle=angle,
        labelFontSize=11 if few else 8,
        labelLimit=110 if few else 80,
        labelOverlap=False if few else "greedy",  # of many, those that find room
        ticks=False,
        domain=False,
    )


def _counts(base: alt.Chart, cells: list[Row]) -> Any:
    """The count in each cell, as large as the cell allows; none where it would be unreadable."""
    digits = max((len(str(cell["images"])) for cell in cells), default=1)
    room = f"min(13, bandwidth('x') / {0.62 * digits + 0.3:.2f})"
    return base.mark_text(
        baseline="middle", fontSize=alt.ExprRef(f"{room} < 6 ? 0 : {room}")
    ).encode(
        text="images:Q",
        color=alt.when("datum.share > 0.3").then(alt.value("white")).otherwise(alt.value(INK)),
    )


def _classes(scores: Mapping[str, Any]) -> Figure:
    """Recall as bars, precision as diamonds, the lowest recall first."""
    rows = sorted(
        scores["per_class"],
        key=lambda row: 2.0 if row["recall"] is None else row["recall"],
    )
    shown = rows[:MOST_BARS]
    labels = [f"{shorten(tidy(row['name']), 24)} ({row['num_images']:,})" for row in shown]
    data = [
        {
            "class": place,
            "name": tidy(row["name"]),
            "images": row["num_images"],
            "recall": finite(row["recall"]),
            "precision": finite(row["precision"]),
            "recall_text": percent(row["recall"]),
            "precision_text": percent(row["precision"]),
        }
        for place, row in enumerate(shown)
    ]
    hidden = len(rows) - len(shown)
    return Figure(
        name="per_class",
        title=_classes_title(rows),
        note="In brackets: the number of images. Recall: the share of a class that is found. "
        "Precision: the share of the answers with this name that are right; without a "
        "diamond the class was never answered."
        + (f" Shown are the {MOST_BARS} lowest; {hidden} classes lie above." if hidden else ""),
        chart=_bars(len(shown)).add_params(alt.param(name="labels", value=labels)),
        data={"classes": data},
        width=640,
        height=max(110, round(len(shown) * (26 if len(shown) <= _COUNTED else 15))),
    )


def _classes_title(rows: list[Row]) -> str:
    known = [row for row in rows if row["recall"] is not None]
    if not known:
        return "Classes"
    low, high = known[0], known[-1]
    if low["recall"] == high["recall"]:
        return f"Every class is found equally often: {percent(low['recall'])}"
    low_name, high_name = (shorten(tidy(row["name"]), 30) for row in (low, high))
    return (
        f"Recall runs from {percent(low['recall'])} ({low_name}) "
        f"to {percent(high['recall'])} ({high_name})"
    )


def _bars(num_classes: int) -> alt.LayerChart | alt.FacetChart:
    kind = alt.Color("kind:N", title=None)
    kind = kind.scale(domain=["recall", "precision"], range=["#7fb3d9", ORANGE])
    kind = kind.legend(orient="top", symbolSize=90, symbolType="square")
    unit = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format=".0%", tickCount=5)
    base = alt.Chart(alt.NamedData(name="classes")).encode(
        y=alt.Y("class:N", title=None)
        .scale(domain=list(range(num_classes)), paddingInner=0.25)
        .axis(
            labelExpr="labels[datum.value]",
            labelLimit=210,
            labelFontSize=12 if num_classes <= _COUNTED else 10,
            ticks=False,
            domain=False,
        ),
        tooltip=[
            alt.Tooltip("name:N", title="class"),
            alt.Tooltip("images:Q", format=","),
            alt.Tooltip("recall_text:N", title="recall"),
            alt.Tooltip("precision_text:N", title="precision"),
        ],
    )
    size = 60 if num_classes <= _COUNTED else 34
    layers = [
        base.transform_filter(f"isValid(datum.{name})")
        .transform_calculate(kind=f"'{name}'")
        .encode(x=alt.X(f"{name}:Q", title="share of images", scale=unit, axis=axis), color=kind)
        for name in ("recall", "precision")
    ]
    bars, diamonds = layers
    return alt.layer(
        bars.mark_bar(), diamonds.mark_point(shape="diamond", filled=True, size=size, opacity=1)
    )


def _reliability(scores: Mapping[str, Any]) -> Figure:
    bins = scores["reliability"]
    data = [
        {
            "low": finite(place / len(bins)),
            "high": finite((place + 1) / len(bins)),
            "images": row["count"],
            "confidence": finite(row["confidence"]),
            "accuracy": finite(row["accuracy"]),
            "label": _compact(row["count"]),
        }
        for place, row in enumerate(bins)
        if row["count"]
    ]
    counted = sum(row["images"] for row in data)
    error = percent(scores["calibration_error"])
    title = f"Calibration: the expected calibration error is {error}"
    if counted:
        confidence = sum(row["images"] * row["confidence"] for row in data) / counted
        accuracy = sum(row["images"] * row["accuracy"] for row in data) / counted
        title = (
            f"Mean confidence {percent(confidence)}, accuracy {percent(accuracy)}; "
            f"expected calibration error {error}"
        )
    return Figure(
        name="reliability",
        title=title,
        note="A bar is the accuracy of the images in one range of confidence, the number at its "
        "foot how many they are, the dot their mean confidence. On the dashed line confidence "
        "is exactly right; bars below it are overconfident.",
        chart=_diagram(),
        data={"bins": data, "ideal": [{"value": 0}, {"value": 1}]},
        width=560,
        height=360,
    )


def _compact(count: int) -> str:
    return f"{count:,}" if count < 1000 else f"{count / 1000:.1f}k".replace(".0k", "k")


def _diagram() -> alt.LayerChart | alt.FacetChart:
    unit = alt.Scale(domain=[0, 1])
    tooltip = [
        alt.Tooltip("low:Q", title="confidence from", format=".0%"),
        alt.Tooltip("high:Q", title="to", format=".0%"),
        alt.Tooltip("images:Q", format=","),
        alt.Tooltip("confidence:Q", title="mean confidence", format=".1%"),
        alt.Tooltip("accuracy:Q", format=".1%"),
    ]
    bins = alt.Chart(alt.NamedData(name="bins"))
    confidence = alt.X("confidence:Q", title="confidence", scale=unit)
    accuracy = alt.Y("accuracy:Q", title="accuracy", scale=unit)
    percents: dict[str, Any] = {"format": ".0%", "tickCount": 5, "grid": False}
    bars = bins.mark_bar(color="#bcd7ee", stroke="white", strokeWidth=1).encode(
        x=alt.X("low:Q", title="confidence", scale=unit).axis(**percents),
        x2="high:Q",
        y=accuracy.axis(**percents | {"grid": True}),
        y2=alt.datum(0),
        tooltip=tooltip,
    )
    ideal = alt.Chart(alt.NamedData(name="ideal")).mark_line(
        color=GREY, strokeDash=[4, 4], strokeWidth=1.2
    )
    return alt.layer(
        bars,
        ideal.encode(x=alt.X("value:Q", scale=unit), y=alt.Y("value:Q", scale=unit)),
        bins.mark_point(filled=True, size=45, color=BLUE, opacity=1).encode(
            x=confidence, y=accuracy, tooltip=tooltip
        ),
        bins.transform_calculate(middle="(datum.low + datum.high) / 2")
        .mark_text(baseline="bottom", dy=-3, fontSize=10, color=INK)
        .encode(x=alt.X("middle:Q", title="confidence"), y=alt.datum(0), text="label:N"),
    )
