"""Draw what training shows: error by depth, by budget, by family and by strength of the shortcut.

Degradation is judged on the *training* error (He 2015, arXiv 1512.03385, figure 1). Every counted
seed is a dot. A run that diverged is a cross at the edge of the figure and belongs to no mean.
"""

import math
from collections import Counter
from collections.abc import Container
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any

from resnets.report import charts
from resnets.report.charts import axis, layer, log_axis, lost_layers, mean_layers, share_axis
from resnets.study.report import figure_data
from resnets.study.report.figure_data import depths_of, mean_row, measured, rates_of, setting
from resnets.study.report.figure_spec import Drawing, FigureSpec, panel
from resnets.study.statistics import Estimate, differences, estimate, ranked, verdict
from resnets.study.tables import Row, Tables, median_by, one, select
from resnets.study.twins.study_config import TWINS
from resnets.study.twins.variants import SHORTCUT_STRENGTH

ERRORS = {"train_error": "Training error", "test_error": "Test error"}
# Families at one depth, or strengths of the shortcut, that are worth a figure.
FEWEST = 3


def _counted(tables: Tables, families: Container[str] = TWINS, **wanted: Any) -> list[Row]:
    rows = select(tables.table("train"), study="train", **wanted)
    return [row for row in rows if row["family"] in families]


def _degradation(tables: Tables) -> Drawing:
    counted, summary = _counted(tables), tables.table("summary")
    found = {metric: measured(select(counted, metric=metric)) for metric in ERRORS}
    printed = select(summary, metric="published_test_error")
    printed = [row for row in printed if row["family"] in TWINS]
    shown = [row["value"] for rows in (*found.values(), printed) for row in rows]
    top = min(1.0, max(shown, default=0.0) * 1.15)
    lost = [row for row in select(counted, metric="train_error") if "value" not in row]
    depths, series = depths_of(counted), figure_data.series_of(TWINS, field="family")
    cells = [{"family": family, "depth": depth} for family in TWINS for depth in depths]
    hollow: dict[str, Any] = {"shape": "diamond", "size": 150, "filled": False}
    runs = {"seed:Q": "seed", "lr:Q": "learning rate"}
    panels = [
        panel(
            title,
            {
                "dots": found[metric],
                "means": filter(None, (mean_row(summary, metric, **cell) for cell in cells)),
                "lost": [row | {"value": top} for row in lost],
                "print": printed if metric == "test_error" else [],
            },
            log_axis("depth", "layers", depths),
            share_axis(title.lower(), top),
            *mean_layers(),
            layer("point", "dots", tip=True, hover=runs, opacity=0.55),
            layer("point", "print", tip=True, hover={"status:N": "source"}, **hollow),
            *lost_layers("count():Q"),
            series=series,
        )
        for metric, title in (ERRORS.items() if shown else ())
    ]
    return panels, {
        "depths": depths,
        "seeds": len({row["seed"] for row in counted}),
        "steps": setting(tables.plan, "steps"),
        "summary": partial(one, summary),
        "gap": Estimate.from_rows(summary, "train_error_difference", depth=max(depths, default=0)),
        "printed": bool(printed),
        **rates_of(tables.table("train")),
    }


def _budget(tables: Tables) -> Drawing:
    rows = tables.table("budget")
    steps = sorted({row["step"] for row in rows if "step" in row})
    means = (mean_row(rows, "train_error_difference", step=step) for step in steps)
    gaps = [mean | {"points": 100 * mean["value"]} for mean in means if mean]
    if len(gaps) < 2:
        return [], {}
    runs = measured(select(rows, metric="train_error"))
    x, y = log_axis("step", "steps of training", steps, "d"), share_axis("training error")
    series = figure_data.series_of(TWINS, field="family")
    dots = layer("point", tip=True, hover={"seed:Q": "seed"}, opacity=0.7)
    line, gap = layer("line", y="median(value)"), share_axis("plain - residual")
    panels = [
        panel("Training error", {"rows": runs}, x, y, line, dots, series=series),
        panel("Gap", {"means": gaps}, x, gap, *mean_layers(color=charts.INK)),
    ]
    seeds = {row["seed"] for row in runs}
    return panels, {"gaps": gaps, "depth": max(depths_of(rows)), "seeds": len(seeds)}


def _curves(tables: Tables) -> Drawing:
    """Draw medians over seeds of the runs that did not diverge, so that no median jumps."""
    errors = _counted(tables, metric="train_error")
    run = itemgetter("family", "depth", "seed")
    cut = sorted({run(row) for row in errors if "value" not in row})
    rows = [row for row in _counted(tables, metric="loss") if run(row) not in cut]
    medians = sorted(median_by(rows, "family", "depth", "step").items())
    losses = [loss for _, loss in medians]
    series = charts.ordered([f"{depth} layers" for depth in depths_of(rows)])
    panels, ended = [], []
    for family in dict.fromkeys(key[0] for key, _ in medians):
        own = [(depth, step, loss) for (name, depth, step), loss in medians if name == family]
        points = [{"series": f"{d} layers", "step": step, "loss": loss} for d, step, loss in own]
        ends = (min(losses) / 1.1, max(losses) * 1.05)
        drawn = panel(
            family,
            {"rows": points},
            axis("step", "step", grid=False, tickCount=6),
            axis("loss", "training loss (nats)", "switch", ends),
            layer("line"),
            layer("point", tip=True, size=60, opacity=0),
            series=series,
        )
        panels.append(drawn)
        last = {depth: loss for depth, _, loss in own}
        best, worst = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
        if best != worst:
            ended.append({"family": family, "best": best, "worst": worst, "ends": last})
    lost = Counter(f"{family}-{depth}" for family, depth, _ in cut)
    return panels, {
        "rows": ended,
        "lost": [{"name": name, "count": count} for name, count in lost.items()],
        "deepest": [row["family"] for row in ended if row["worst"] == max(row["ends"])],
    }


def _rates(tables: Tables) -> Drawing:
    tried = select(tables.table("train"), study="tune", metric="val_loss")
    taken = select(tables.table("summary"), metric="lr")
    chosen = {(row["family"], row["depth"]): row for row in taken if row["family"] in TWINS}
    values, depths = [row["value"] for row in measured(tried)], depths_of(tried)
    if not values or not chosen:
        return [], {}
    low, high, known = min(values), max(values), "isValid(datum.value)"
    scale = {"type": "log", "scheme": "blues", "domain": [low, high], "reverse": True}
    loss = charts.channel("value:Q", scale=scale, legend=None, test=known)
    cell = {"color": {"condition": loss, "value": "#eaecf0"}}
    dark = {"test": f"{known} && datum.value < {math.sqrt(low * high):.6g}", "value": "#ffffff"}
    text = {"condition": [dark], "value": "#1d1d1d"}
    ring: dict[str, Any] = {"size": 1100, "stroke": "#E69F00", "strokeWidth": 3, "filled": False}
    rates, panels, rows = sorted({row["lr"] for row in tried}), [], []
    for family in dict.fromkeys(family for family, _ in sorted(chosen)):
        own = {depth: chosen[name, depth]["value"] for name, depth in chosen if name == family}
        cells = [
            row
            | {"text": f"{row['value']:.2f}" if "value" in row else "lost"}
            | {"chosen": row["lr"] == own.get(row["depth"])}
            for row in select(tried, family=family)
        ]
        drawn = panel(
            family,
            {"rows": cells},
            axis("lr", "learning rate", "band", rates, format=".2~g"),
            axis("depth", "layers", "band", depths),
            layer("rect", encode=cell, tip=True, stroke="white", strokeWidth=2),
            layer("point", where="datum.chosen", **ring),
            layer("text", encode={"text": "text:N", "color": text}),
            height=44 * len(depths),
        )
        panels.append(drawn)
        ends = {"shallow": min(own), "deep": max(own)}
        rows.append(ends | {"family": family, "first": own[min(own)], "last": own[max(own)]})
    flags = [(row.get("status"), f"{name} {depth}") for (name, depth), row in chosen.items()]
    return panels, {
        "rows": rows,
        "falling": [row["family"] for row in rows if row["last"] < row["first"]],
        "edge": [name for flag, name in flags if flag == "edge"],
        "diverged": [name for flag, name in flags if flag == "diverged"],
    }


def _depths(tables: Tables, families: Container[str]) -> list[int]:
    """The depths at which there are enough of these families, and more than the twins."""
    rows = select(tables.table("summary"), metric="runs")
    cells = [(row["family"], row["depth"]) for row in rows if row["family"] in families]
    counts = Counter(depth for _, depth in cells)
    other = {depth for family, depth in cells if family not in TWINS}
    return sorted(depth for depth in other if counts[depth] >= FEWEST)


def _cells(tables: Tables, depth: int, families: Container[str]) -> list[Row]:
    """The means of families at a depth, the lowest first, those that lost all runs last."""
    summary, cells = tables.table("summary"), []
    for row in select(summary, metric="runs", depth=depth):
        cell = {"family": row["family"], "depth": depth}
        lost = one(summary, metric="diverged", **cell)
        words = {
            "name": figure_data.TRAINED.get(row["family"], row["family"]),
            "strength": SHORTCUT_STRENGTH.get(row["family"]),
            "lost": f"{lost:.0f} of {row['value']:.0f}" if lost else "",
        }
        if row["family"] in families:
            cells.append((mean_row(summary, "train_error", **cell) or cell) | words)
    return sorted(cells, key=lambda row: row.get("value", math.inf))


def _in_chart(tables: Tables, cells: list[Row], top: float) -> dict[str, list[Row]]:
    places = {row["family"]: {"name": row["name"], "strength": row["strength"]} for row in cells}
    runs = _counted(tables, places, metric="train_error", depth=cells[0]["depth"])
    return {
        "means": measured(cells),
        "dots": [row | places[row["family"]] for row in measured(runs)],
        "lost": [row | {"value": top} for row in cells if row["lost"]],
    }


def _top(tables: Tables, families: Container[str]) -> float:
    rows = measured(_counted(tables, families, metric="train_error"))
    return min(1.0, 1.1 * max((row["value"] for row in rows), default=1.0))


def _is_lower(tables: Tables, depth: int, first: str, second: str) -> bool:
    """Whether the interval of paired differences and the exact test say so."""
    rows = _counted(tables, (first, second), metric="train_error", depth=depth)
    low, high = (
        {row["seed"]: row.get("value") for row in select(rows, family=family)}
        for family in (first, second)
    )
    found, tested = estimate(differences(low, high)), differences(ranked(low), ranked(high))
    ends = None if found is None else found.ends
    return verdict(ends, above=None, below=0.0, seeds=tested) == "supported"


def _families(tables: Tables) -> Drawing:
    found = {row["family"] for row in select(tables.table("summary"), metric="runs")}
    known = found - (SHORTCUT_STRENGTH.keys() - set(TWINS))
    top, panels, groups = _top(tables, known), [], []
    for depth in _depths(tables, known):
        cells = _cells(tables, depth, known)
        names = [row["name"] for row in cells]
        own = {"plain": charts.ORANGE, "residual": charts.BLUE}
        scale = {"domain": names, "range": [own.get(name, charts.GREY) for name in names]}
        colour = {"color": charts.channel("name:N", legend=None, scale=scale)}
        drawn = panel(
            f"{depth} layers",
            _in_chart(tables, cells, top),
            share_axis("training error", top),
            axis("name", "", "band", names, grid=True, labelLimit=170),
            layer("point", "dots", size=16, opacity=0.5, color=charts.GREY),
            layer("rule", "means", x="low", x2="high", where="isValid(datum.low)", encode=colour),
            layer("point", "means", tip=True, hover=charts.RANGE, encode=colour, size=70),
            *lost_layers("lost:N", align="right", dx=-9),
            width=760,
            height=24 * len(cells),
        )
        panels.append(drawn)
        means, lost = measured(cells), [row for row in cells if row["lost"]]
        sure = means and _is_lower(tables, depth, means[0]["family"], means[-1]["family"])
        groups.append({"depth": depth, "means": means, "sure": sure, "lost": lost})
    return panels, {"groups": groups, **rates_of(tables.table("train"))}


def _strength(tables: Tables) -> Drawing:
    depth = max(_depths(tables, SHORTCUT_STRENGTH), default=0)
    cells = sorted(_cells(tables, depth, SHORTCUT_STRENGTH), key=lambda row: row["strength"])
    if not cells:
        return [], {}
    means, top = measured(cells), _top(tables, SHORTCUT_STRENGTH)
    ticks: dict[str, Any] = {"values": [row["strength"] for row in cells], "format": ".2~f"}
    title, runs = "strength of the shortcut (0: plain, 1: residual)", {"seed:Q": "seed"}
    drawn = panel(
        f"{depth} layers",
        _in_chart(tables, cells, top),
        axis("strength", title, domain=(-0.03, 1.03), grid=False, **ticks),
        share_axis("training error", top),
        *mean_layers(color=charts.BLUE),
        layer("point", "dots", tip=True, hover=runs, opacity=0.55, color=charts.BLUE),
        *lost_layers("lost:N"),
        width=760,
    )
    ends = [row["family"] for row in ((means or cells)[0], (means or cells)[-1])]
    return [drawn], {
        "depth": depth,
        "means": means,
        "lost": [row for row in cells if row["lost"]],
        "steps": [(abs(b["value"] - a["value"]), a, b) for a, b in pairwise(means)],
        "falls": _is_lower(tables, depth, ends[1], ends[0]),
        "rises": _is_lower(tables, depth, ends[0], ends[1]),
    }


RUNS = ("train", "summary")
ROWS = (
    FigureSpec("degradation", RUNS, _degradation),
    FigureSpec("budget", ("budget",), _budget),
    FigureSpec("strength", RUNS, _strength),
    FigureSpec("families", RUNS, _families, columns=1),
    FigureSpec("curves", ("train",), _curves),
    FigureSpec("rates", RUNS, _rates),
)
