"""The tables of lesions enter, the figure of networks whose units changed places leaves.

Veit 2016 (arXiv 1605.06431, figure 5b): if a residual network is many short paths, most of them
survive an exchange of units, and the error should grow with disorder instead of jumping.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import altair as alt

from resnets.report.charts import Figure, finite, percent
from resnets.study.report.evidence import Row, one, select
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, Series, data, faded
from resnets.study.report.words import LITTLE_LEFT, and_

Networks = dict[str, list[Row]]
STATISTICS = {"": "batch norm as trained", "_recalibrated": "batch norm re-estimated"}
BIN = 0.05
"""of tau, over which the line takes the median"""
CLEAR = 0.05
"""of error: a smaller difference is called none"""


@dataclass(frozen=True)
class Harm:
    """Error in the trained order, and the medians of the orders nearest to it and farthest."""

    whole: float
    near: float
    far: float

    @property
    def words(self) -> str:
        if self.far - self.whole < CLEAR:
            return "hardly errs more"
        sudden = self.near - self.whole > (self.far - self.whole) / 2
        return "breaks at the first exchanges" if sudden else "errs more step by step"


def reordering(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """Error by Kendall's tau of the order, all networks in each panel."""
    shown = {name: rows for name, rows in networks.items() if _errors(rows, "")}
    if not shown:
        return None
    return Exhibit(
        name="reordering",
        sentence=reordering_sentence(shown),
        note="Units of one shape exchanged within their stage, 1, 2, 4, ... random exchanges, five "
        "draws each (Veit 2016, figure 5b). Kendall's tau is 1 in the trained order, -1 in the "
        f"reverse; each dot is an order, the line their median by steps of {BIN:g}. The "
        "statistics of batch norm are those of training, or re-estimated on the same images. Near "
        "and far: the third of the orders with the highest tau, and with the lowest. Veit "
        "reordered residual networks only.",
        panels=tuple(_panel(kind, shown) for kind in STATISTICS),
        tables=tuple(t for t in tables if t.removeprefix("probe_lesions_") in shown),
        command=command,
        columns=2,
    )


def reordering_sentence(networks: Networks) -> str:
    """How each network bears a little disorder and much, and whether shortcuts help."""
    harms = {name: _harm(rows) for name, rows in networks.items()}
    parts = [
        f"{name} {harm.words} (error {percent(harm.whole)} in the trained order, "
        f"{percent(harm.near)} near it, {percent(harm.far)} far from it)"
        for name, harm in harms.items()
    ]
    return f"When units change places, {and_(parts)}{_conclusion(harms, networks)}."


def _conclusion(harms: dict[str, Harm], networks: Networks) -> str:
    rises = {name: harm.near - harm.whole for name, harm in harms.items()}
    plain = [rises[name] for name in rises if networks[name][0]["family"] == "plain"]
    others = [rises[name] for name in rises if networks[name][0]["family"] != "plain"]
    if not plain or not others:
        return ""
    if max(harm.whole for harm in harms.values()) > LITTLE_LEFT:
        return "; a network that errs so often has little to lose"
    if max(others) < min(plain) - CLEAR:
        return ": with shortcuts a little disorder does less harm"
    return ": shortcuts do not make a little disorder less harmful here"


def _errors(rows: list[Row], kind: str) -> list[tuple[float, float]]:
    """Tau and error of every order, the nearest to the trained one first."""
    found = select(rows, metric=f"reordered_error{kind}")
    return sorted(((row["x"], row["value"]) for row in found if "value" in row), reverse=True)


def _harm(rows: list[Row]) -> Harm:
    """The nearest third of the orders and the farthest."""
    errors = [error for _, error in _errors(rows, "")]
    third = max(1, len(errors) // 3)
    ends = errors[:third], errors[-third:]
    return Harm(one(rows, metric="intact_error") or 0.0, *map(statistics.median, ends))


def _panel(kind: str, networks: Networks) -> Figure:
    names = list(networks)
    series = Series.of(names, like=[networks[name][0]["family"] for name in names])
    errors = {name: _errors(rows, kind) for name, rows in networks.items()}
    dots = [
        {"series": name, "tau": finite(tau), "error": finite(error)}
        for name, found in errors.items()
        for tau, error in found
    ]
    lines = [
        {"series": name, "tau": finite(tau), "error": finite(error)}
        for name, found in errors.items()
        for tau, error in _medians(found, one(networks[name], metric=f"intact_error{kind}"))
    ]
    return Figure(
        name=f"reordering{kind.replace('_', '-')}",
        title=STATISTICS[kind],
        note="",
        chart=_chart(series),
        data={"rows": dots, "lines": lines},
        width=400,
        height=280,
    )


def _medians(errors: list[tuple[float, float]], whole: float | None) -> list[tuple[float, float]]:
    """From the trained order on, the median of each bin at the mean of its taus."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for tau, error in errors:
        bins.setdefault(int((1 - tau) / BIN), []).append((tau, error))
    middles = [
        (statistics.fmean(tau for tau, _ in found), statistics.median(e for _, e in found))
        for found in bins.values()
    ]
    return middles if whole is None else [(1.0, whole), *middles]


def _chart(series: Series) -> Drawn:
    pick = series.pick()
    scale = alt.Scale(reverse=True, zero=False, nice=False, padding=8)
    x = alt.X("tau:Q", title="Kendall's tau of the order (1: as trained)", scale=scale)
    x = x.axis(grid=False, tickCount=6, format=".2~f")
    y = alt.Y("error:Q", title="error").scale(domain=[0, 1]).axis(format=".0%", tickCount=5)
    tooltip = [
        alt.Tooltip("series:N", title="network"),
        alt.Tooltip("tau:Q", title="tau", format=".3f"),
        alt.Tooltip("error:Q", format=".1%"),
    ]
    drawn = {"x": x, "y": y, "color": series.colour}
    return alt.layer(
        data("lines")
        .mark_line(strokeWidth=2)
        .encode(**drawn, strokeDash=series.dash, opacity=faded(pick)),
        data()
        .mark_point(filled=True, size=40)
        .encode(**drawn, shape=series.shape, tooltip=tooltip, opacity=faded(pick, 0.7))
        .add_params(pick)
        .properties(name="orders"),
    )
