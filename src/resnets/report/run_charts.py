"""Draw the findings of a run: learning curves, confusion matrix, recall and calibration.

Training and validation differ in colour, in shape and in the legend. Classes travel as numbers and
get their names from one list in the chart: names may repeat and cost their bytes once. The
reliability diagram follows Guo et al. 2017 ("On Calibration of Modern Neural Networks", figure 1).
"""

import math
from collections.abc import Sequence
from typing import Any

from resnets.report.chart_data import FEW_CLASSES, Finding
from resnets.report.charts import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Axis,
    Figure,
    Mark,
    Series,
    Spec,
    axis,
    channel,
    layer,
    plot,
)
from resnets.report.html import tidy

_HEIGHT = 270
_CURVES = Series(("training", "validation"), (Mark(ORANGE), Mark(BLUE)))
_SHARES = Series(("recall", "precision"), (Mark(BLUE), Mark(ORANGE, shape="diamond")))
_PERCENT: dict[str, Any] = {"format": ".0%", "tickCount": 5}


# A chart, its width and its height.
Drawing = tuple[Spec, int, int]


def draw(finding: Finding) -> Figure:
    """Return the chart of a finding."""
    drawings = {"learning_rate": _learning_rate, "confusion": _confusion}
    drawings |= {"per_class": _classes, "reliability": _reliability}
    chart, width, height = drawings.get(finding.name, _curves)(finding)
    title, words = tidy(finding.title), tidy(finding.description)
    square = finding.name == "confusion"
    return Figure(finding.name, title, chart, finding.data, width, height, square, words)


def _epochs(finding: Finding) -> Axis:
    last = max(row["epoch"] for row in finding.data["rows"])
    return axis("epoch", "epoch", domain=(0, last or 1), grid=False, tickCount=8)


def _curves(finding: Finding) -> Drawing:
    """Draw one quantity on training and validation images, and mark the best epoch."""
    loss, rows, epochs = finding.name == "loss", finding.data["rows"], _epochs(finding)
    hover = {"series:N": "images", "epoch:Q": "epoch|.3~f"}
    hover |= {"value:Q": f"{finding.name}|{'.4f' if loss else '.2%'}"}
    points = "isValid(datum.value) && datum.series == "
    alone = sum(row["series"] == "training" for row in rows) < 2
    layers = [
        layer("line", strokeWidth=1.8, strokeJoin="round"),
        layer("point", where=points + "'validation'", size=36, hover=hover),
        # Invisible points carry the values of the training curve to the pointer.
        layer("point", where=points + "'training'", size=60, hover=hover, opacity=float(alone)),
    ]
    for best in finding.data["best"]:
        left = best["epoch"] > 0.5 * max(epochs.domain or ())
        align, dx = ("right", -6) if left else ("left", 6)
        words = {"y": {"value": 10 if loss else _HEIGHT - 10}, "text": "label:N"}
        down = {"y": {"value": 0}, "y2": {"value": _HEIGHT}}
        layers += [
            layer("rule", "best", encode=down, color=GREY, strokeDash=[4, 4]),
            layer("text", "best", encode=words, color=INK, align=align, dx=dx),
        ]
        if best["value"] is not None:
            ring = layer("point", "best", color=BLUE, shape="circle", filled=False, size=150)
            layers.append(ring)
    values = [row["value"] for row in rows if row["value"] is not None]
    chart = plot(epochs, _value_axis(values, loss=loss), *layers, series=_CURVES)
    return chart, 720, _HEIGHT


def _value_axis(values: Sequence[float], *, loss: bool) -> Axis:
    if not loss:
        title, ends = "share of correct images", _ends(values)
        return axis("value", title, domain=ends, format="~%", tickCount=6)
    # Three decades on a linear axis are one spike and a flat line.
    if min(values) > 0 and max(values) > 1000 * min(values):
        return axis("value", "cross-entropy (nats, log scale)", "log", tickCount=6)
    return axis("value", "cross-entropy (nats)", zero=False, nice=True, tickCount=6)


def _ends(shares: Sequence[float]) -> tuple[float, float]:
    """Return ends of an axis that holds the shares, on multiples of 5% and at least 5% apart."""
    low = max(0.0, math.floor(min(shares) * 20) / 20)
    high = min(1.0, max(math.ceil(max(shares) * 20) / 20, low + 0.05))
    return min(low, high - 0.05), high


def _learning_rate(finding: Finding) -> Drawing:
    hover = {"epoch:Q": "epoch|.3~f", "value:Q": "learning rate"}
    chart = plot(
        _epochs(finding),
        axis("value", tickCount=3),
        layer("line", color=GREY, strokeJoin="round"),
        layer("point", color=GREY, size=60, opacity=0.0, hover=hover),
    )
    return chart, 360, 90


def _confusion(finding: Finding) -> Drawing:
    """Draw the cells that hold an image, with their counts where they fit."""
    few = len(finding.names) <= FEW_CLASSES
    # The root lets one confusion in a hundred show beside a diagonal near 100%.
    root = {"type": "sqrt", "domain": [0, 1], "range": [0, 1]}
    tint = {"opacity": channel("share:Q", legend=None, scale=root)}
    hover = {"true_name:N": "true", "predicted_name:N": "predicted", "images:Q": "images|,"}
    names = {"true_name": "names[datum.true]", "predicted_name": "names[datum.predicted]"}
    layers = [layer("rect", "cells", color=BLUE, hover=hover, encode=tint, calculate=names)]
    if few:
        white = {"test": "datum.share > 0.3", "value": "#ffffff"}
        words = {"text": "images:Q", "color": {"condition": [white], "value": INK}}
        # A count is as large as its cell allows, and vanishes where it would be unreadable.
        digits = max(len(str(cell["images"])) for cell in finding.data["cells"] or [{"images": 0}])
        size = f"min(13, bandwidth('x') / {0.62 * digits + 0.3:.2f})"
        font = {"expr": f"{size} < 6 ? 0 : {size}"}
        layers.append(layer("text", "cells", encode=words, baseline="middle", fontSize=font))
    x, y = _class_axis("predicted", finding), _class_axis("true", finding)
    chart = plot(x, y, *layers, names=finding.names) | {"view": {"stroke": {"expr": "line"}}}
    side = 420 if len(finding.names) <= 4 else 680 if few else 1160
    return chart, side, side


def _class_axis(field: str, finding: Finding) -> Axis:
    few = len(finding.names) <= FEW_CLASSES
    flat = field == "true" or len(finding.names) == 2
    return axis(
        field,
        f"{field} class",
        "band",
        range(len(finding.names)),
        padding=0,
        labelExpr="names[datum.value]",
        labelAngle=0 if flat else -45 if few else -90,
        labelFontSize=11 if few else 8,
        labelLimit=110 if few else 80,
        # Of many labels, those that fit.
        labelOverlap=False if few else "greedy",
    )


def _classes(finding: Finding) -> Drawing:
    """Draw recall as dots with their intervals, and precision as diamonds."""
    labels, data = finding.names, finding.data
    ends = [row["value"] for row in data["rows"]] + [row["low"] for row in data["intervals"]]
    few = len(labels) <= FEW_CLASSES
    hover = {"name:N": "class", "images:Q": "images|,", "series:N": "score"}
    hover |= {"value:Q": "value|.1%"}
    look = {"labelExpr": "labels[datum.value]", "labelLimit": 210, "grid": True, "padding": 0.5}
    chart = plot(
        axis("value", "share of images", domain=_ends(ends or [0]), grid=False, **_PERCENT),
        axis("class", None, "point", range(len(labels)), labelFontSize=12 if few else 10, **look),
        layer("rule", "intervals", x="low", x2="high", color=BLUE, strokeDash=[1, 0]),
        layer("point", size=70 if few else 36, hover=hover),
        series=_SHARES,
        labels=labels,
    )
    height = max(110, len(labels) * (26 if few else 15))
    return chart, 560, height


def _reliability(finding: Finding) -> Drawing:
    """Draw the accuracy of each range of confidence with its interval, larger for more images."""
    size = channel("images:Q", legend=None, scale={"range": [20, 200]})
    hover = {"from:Q": "confidence from|.0%", "to:Q": "to|.0%", "images:Q": "images|,"}
    hover |= {"confidence:Q": "mean confidence|.1%", "accuracy:Q": "accuracy|.1%"}
    chart = plot(
        axis("confidence", "confidence", domain=(0, 1), **_PERCENT),
        axis("accuracy", "accuracy", domain=(0, 1), **_PERCENT),
        layer("line", "ideal", x="value", y="value", color=GREY, strokeDash=[4, 4]),
        layer("rule", y="low", y2="high", color=BLUE, strokeWidth=1.6),
        layer("point", color=BLUE, encode={"size": size}, hover=hover),
    )
    return chart, 560, 330
