"""Draw what training shows: error by depth, by budget, by family and by strength of the shortcut.

Degradation is judged on the *training* error (He 2015, arXiv 1512.03385, figure 1). Every counted
seed is a dot. A run that diverged is a cross at the edge of the figure and belongs to no mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import altair as alt

from resnets.report.charts import BLUE, GREY, INK, ORANGE, Figure, axis, layer, plot
from resnets.report.html import finite
from resnets.study.cells import DOSES as SHORTCUT_STRENGTH
from resnets.study.report.encodings import (
    RANGE,
    TRAINED,
    log_axis,
    lost_layers,
    mean_layers,
    ordered,
    series_of,
    share_axis,
)
from resnets.study.report.evidence import Evidence as Tables
from resnets.study.report.evidence import Row, median_by, one, select
from resnets.study.report.figure_data import TWINS, depths_of, drawn, mean_row, rates_of
from resnets.study.report.figure_row import Facts, FigureRow, panel
from resnets.study.report.words import Effect as Estimate
from resnets.study.statistics import differences, estimate, ranked, verdict

# Families at one depth, or strengths of the shortcut, that are worth a figure.
FEWEST = 3


def _counted(tables: Tables, families: Container[str] = TWINS, **wanted: Any) -> list[Row]:
    rows = select(tables.table("train"), study="train", **wanted)
    return [row for row in rows if row["family"] in families]


def _errors(tables: Tables, metric: str, top: float) -> dict[str, list[Row]]:
    """Dots for seeds, means of families, crosses for what diverged, published errors."""
    counted, summary = _counted(tables), tables.table("summary")
    lost = [row for row in select(counted, metric="train_error") if "value" not in row]
    means = [
        {"series": family, "depth": depth, **mean}
        for family in TWINS
        for depth in depths_of(counted)
        if (mean := mean_row(summary, metric, family=family, depth=depth))
    ]
    cell = {"series": "family", "depth": "depth"}
    found = [row for row in select(counted, metric=metric) if "value" in row]
    printed = select(summary, metric=f"published_{metric}")
    printed = [row for row in printed if row["family"] in TWINS]
    return {
        "dots": drawn(found, **cell, seed="seed", lr="lr", value="value"),
        "means": means,
        "lost": [row | {"value": top} for row in drawn(lost, **cell, seed="seed", status="status")],
        "print": drawn(printed, **cell, value="value", source="status"),
    }


def _degradation(tables: Tables) -> Iterator[Figure]:
    kinds = {"Training error": "train_error", "Test error": "test_error"}
    values = [
        row["value"]
        for metric in kinds.values()
        for part in ("dots", "print")
        for row in _errors(tables, metric, 1.0)[part]
    ]
    series, x = series_of(TWINS), log_axis("depth", "layers", depths_of(_counted(tables)) or [1])
    top = min(1.0, max(values, default=0.0) * 1.15)
    for title, metric in kinds.items() if values else ():
        hover = {"series:N": "family", "depth:Q": "layers", "value:Q": f"{title}|.2%"}
        runs = hover | {"seed:Q": "seed", "lr:Q": "learning rate"}
        hollow: dict[str, Any] = {
            "shape": "diamond",
            "size": 150,
            "filled": False,
            "strokeWidth": 2,
        }
        chart = plot(
            x,
            share_axis(title.lower(), top),
            *mean_layers(hover),
            layer("point", "dots", hover=runs, opacity=0.55),
            layer("point", "print", hover=hover | {"source:N": "source"}, **hollow),
            *lost_layers("count():Q"),
            series=series,
        )
        yield panel(title, chart, _errors(tables, metric, top), series=series)


def _degradation_facts(tables: Tables) -> Facts:
    summary, depths = tables.table("summary"), depths_of(_counted(tables))
    return {
        "shallow": depths[0],
        "deep": depths[-1],
        "seeds": len({row["seed"] for row in _counted(tables)}),
        "steps": steps_of(tables),
        "summary": partial(one, summary),
        "gap": Estimate.from_rows(summary, "train_error_difference", depth=depths[-1]),
        "printed": any(row["metric"] == "published_test_error" for row in summary),
        **rates_of(tables.table("train")),
    }


def steps_of(tables: Tables) -> int | None:
    """Return the length of training; None without a plan."""
    recipe = tables.plan.get("setup", {}).get("recipe", {})
    return next((part["steps"] for part in (recipe, *_groups(recipe)) if "steps" in part), None)


def _groups(recipe: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (value for value in recipe.values() if isinstance(value, dict))


def _gaps(tables: Tables) -> list[Row]:
    rows = tables.table("budget")
    return [
        {"step": step, "points": 100 * mean["value"], **mean}
        for step in sorted({row["step"] for row in rows if "step" in row})
        if (mean := mean_row(rows, "train_error_difference", step=step))
    ]


def _budget(tables: Tables) -> Iterator[Figure]:
    gaps, runs = _gaps(tables), select(tables.table("budget"), metric="train_error")
    if len(gaps) < 2:
        return
    x = log_axis("step", "steps of training", [row["step"] for row in gaps], "d")
    series, hover = series_of(TWINS), {"step:Q": "steps", "value:Q": "training error|.2%"}
    dots = drawn(runs, series="family", step="step", value="value", seed="seed")
    medians = median_by(runs, "family", "step").items()
    lines = [{"series": f, "step": step, "value": finite(v)} for (f, step), v in medians]
    chart = plot(
        x,
        share_axis("training error"),
        layer("line", "lines"),
        layer("point", "dots", hover=hover | {"seed:Q": "seed"}, opacity=0.7),
        series=series,
    )
    yield panel("Training error", chart, {"lines": lines, "dots": dots}, series=series)
    hover = {"step:Q": "steps", "value:Q": "plain - residual|.2%"}
    chart = plot(x, share_axis("plain - residual"), *mean_layers(hover, color=INK))
    yield panel("Gap", chart, {"means": gaps})


def _budget_facts(tables: Tables) -> Facts:
    rows = tables.table("budget")
    seeds = {row["seed"] for row in rows if "seed" in row}
    return {"gaps": _gaps(tables), "depth": max(depths_of(rows)), "seeds": len(seeds)}


def _run(row: Row) -> tuple[str, int, int]:
    return row["family"], row["depth"], row["seed"]


def _losses(tables: Tables) -> tuple[dict[tuple[Any, ...], float], list[tuple[str, int, int]]]:
    """The median loss over seeds by family, depth and step, and the runs that are left out.

    These are the runs that diverged: a median over fewer seeds at each step would jump.
    """
    errors = _counted(tables, metric="train_error")
    cut = sorted({_run(row) for row in errors if "value" not in row})
    rows = [row for row in _counted(tables, metric="loss") if _run(row) not in cut]
    return dict(sorted(median_by(rows, "family", "depth", "step").items())), cut


def _curves(tables: Tables) -> Iterator[Figure]:
    losses, _ = _losses(tables)
    series = ordered([f"{depth} layers" for depth in sorted({depth for _, depth, _ in losses})])
    hover = {"series:N": "network", "step:Q": "step", "loss:Q": "loss|.3f"}
    for family in dict.fromkeys(name for name, _, _ in losses):
        rows = [
            {"series": f"{depth} layers", "step": step, "loss": finite(value)}
            for (name, depth, step), value in losses.items()
            if name == family
        ]
        ends = (min(losses.values()) / 1.1, max(losses.values()) * 1.05)
        chart = plot(
            axis("step", "step", grid=False, tickCount=6),
            axis("loss", "training loss (nats)", "switch", ends),
            layer("line"),
            layer("point", hover=hover, size=60, opacity=0),
            series=series,
        )
        yield panel(family, chart, {"rows": rows}, height=300, series=series)


def _curve_facts(tables: Tables) -> Facts:
    losses, cut = _losses(tables)
    last: dict[str, dict[int, float]] = {}
    for (family, depth, _), loss in losses.items():
        last.setdefault(family, {})[depth] = loss
    rows = [
        {
            "family": family,
            "best": min(own, key=own.__getitem__),
            "ends": own,
            "worst": max(own, key=own.__getitem__),
            "deepest": max(own),
        }
        for family, own in last.items()
        if len(set(own.values())) > 1
    ]
    lost = Counter(f"{family}-{depth}" for family, depth, _ in cut)
    return {
        "rows": rows,
        "lost": [{"name": name, "count": count} for name, count in lost.items()],
        "deepest": [row["family"] for row in rows if row["worst"] == row["deepest"]],
    }


def _tried(tables: Tables) -> tuple[list[Row], dict[tuple[str, int], Row]]:
    """The trials of learning rates, and the row of the rate that each cell took."""
    rates = select(tables.table("summary"), metric="lr")
    chosen = {(row["family"], row["depth"]): row for row in rates if row["family"] in TWINS}
    tried = select(tables.table("train"), study="tune", metric="val_loss")
    return [row for row in tried if row["family"] in TWINS], chosen


def _rates(tables: Tables) -> Iterator[Figure]:
    tried, chosen = _tried(tables)
    values = [row["value"] for row in tried if "value" in row]
    if not values or not chosen:
        return
    scale = alt.Scale(type="log", scheme="blues", domain=[min(values), max(values)], reverse=True)
    loss = alt.when("isValid(datum.loss)").then(alt.Color("loss:Q", scale=scale, legend=None))
    dark = f"isValid(datum.loss) && datum.loss < {math.sqrt(min(values) * max(values)):.6g}"
    text = alt.when(dark).then(alt.value("#ffffff")).otherwise(alt.value("#1d1d1d"))
    cell = {"color": loss.otherwise(alt.value("#eaecf0"))}
    hover = {"depth:O": "layers", "lr:O": "learning rate", "loss:Q": "validation loss|.3f"}
    ring: dict[str, Any] = {"size": 1100, "stroke": "#E69F00", "strokeWidth": 3, "filled": False}
    for family in dict.fromkeys(row["family"] for row in tried):
        rows = [
            {
                "depth": row["depth"],
                "lr": f"{row['lr']:.3g}",
                "loss": finite(row.get("value")),
                "chosen": row["lr"] == chosen.get((family, row["depth"]), {}).get("value"),
                "text": f"{row['value']:.2f}" if "value" in row else "lost",
            }
            for row in select(tried, family=family)
        ]
        chart = plot(
            axis(
                "lr",
                "learning rate",
                "band",
                [f"{r:.3g}" for r in sorted({row["lr"] for row in tried})],
            ),
            axis("depth", "layers", "band", depths_of(tried)),
            layer("rect", encode=cell, hover=hover, stroke="white", strokeWidth=2),
            layer("point", where="datum.chosen", **ring),
            layer("text", encode={"text": "text:N", "color": text}),
        )
        yield panel(family, chart, {"rows": rows}, height=44 * len(depths_of(tried)))


def _rate_facts(tables: Tables) -> Facts:
    _, chosen = _tried(tables)
    cells = sorted(chosen, key=lambda cell: (TWINS.index(cell[0]), cell[1]))
    rows = []
    for family in dict.fromkeys(name for name, _ in cells):
        depths = [depth for name, depth in cells if name == family]
        first, last = (chosen[family, depth]["value"] for depth in (depths[0], depths[-1]))
        row = {"family": family, "first": first, "last": last, "change": last - first}
        rows.append(row | {"shallow": depths[0], "deep": depths[-1]})
    flagged = {
        status: [f"{f} {d}" for f, d in cells if chosen[f, d].get("status") == status]
        for status in ("edge", "diverged")
    }
    return {
        "rows": rows,
        "falling": [row["family"] for row in rows if row["change"] < 0],
        **flagged,
    }


def _cells(tables: Tables, depth: int, families: Container[str]) -> list[Row]:
    """The means of families at a depth, the lowest first, those that lost all runs last."""
    summary, cells = tables.table("summary"), []
    for row in select(summary, metric="runs", depth=depth):
        cell = {"family": row["family"], "depth": depth}
        mean = mean_row(summary, "train_error", **cell) or dict.fromkeys(("value", "low", "high"))
        lost = one(summary, metric="diverged", **cell)
        words = f"{lost:.0f} of {row['value']:.0f}" if lost else ""
        name = TRAINED.get(row["family"], row["family"])
        strength = SHORTCUT_STRENGTH.get(row["family"])
        if row["family"] in families:
            cells.append(cell | mean | {"name": name, "strength": strength, "lost": words})
    return sorted(cells, key=lambda row: math.inf if row["value"] is None else row["value"])


def _in_chart(tables: Tables, cells: list[Row], top: float) -> dict[str, list[Row]]:
    places = {row["family"]: row for row in cells}
    runs = _counted(tables, places, metric="train_error", depth=cells[0]["depth"])
    dots = drawn(
        [row for row in runs if "value" in row], family="family", seed="seed", value="value"
    )
    return {
        "means": [row for row in cells if row["value"] is not None],
        "dots": [
            {key: places[dot["family"]][key] for key in ("name", "strength")} | dot for dot in dots
        ],
        "lost": [row | {"value": top} for row in cells if row["lost"]],
    }


def _top(tables: Tables, families: Container[str], **wanted: Any) -> float:
    rows = _counted(tables, families, metric="train_error", **wanted)
    return min(1.0, 1.1 * max((row["value"] for row in rows if "value" in row), default=1.0))


def _depths(tables: Tables, families: Container[str]) -> list[int]:
    """The depths at which there are enough of these families, and more than the twins."""
    rows = [
        row for row in select(tables.table("summary"), metric="runs") if row["family"] in families
    ]
    counts = Counter(row["depth"] for row in rows)
    other = {row["depth"] for row in rows if row["family"] not in TWINS}
    return sorted(depth for depth in other if counts[depth] >= FEWEST)


def _known(tables: Tables) -> set[str]:
    """All families but those of the strengths between the twins."""
    found = {row["family"] for row in select(tables.table("summary"), metric="runs")}
    return found - (SHORTCUT_STRENGTH.keys() - set(TWINS))


def _families(tables: Tables) -> Iterator[Figure]:
    known = _known(tables)
    top = _top(tables, known)
    hover = {"name:N": "family", "value:Q": "mean|.2%", **RANGE, "lost:N": "diverged runs"}
    for depth in _depths(tables, known):
        cells = _cells(tables, depth, known)
        colours = [{"plain": ORANGE, "residual": BLUE}.get(row["family"], GREY) for row in cells]
        scale = alt.Scale(domain=[row["family"] for row in cells], range=colours)
        colour = {"color": alt.Color("family:N", legend=None, scale=scale)}
        chart = plot(
            share_axis("training error", top),
            axis("name", None, "band", [row["name"] for row in cells], grid=True, labelLimit=170),
            layer("point", "dots", size=16, opacity=0.5, color=GREY),
            layer("rule", "means", x="low", x2="high", where="isValid(datum.low)", encode=colour),
            layer("point", "means", hover=hover, encode=colour, size=70),
            *lost_layers("lost:N", align="right", dx=-9),
        )
        data = _in_chart(tables, cells, top)
        yield panel(f"{depth} layers", chart, data, 760, 24 * len(cells))


def _is_lower(tables: Tables, depth: int, first: str, second: str) -> bool:
    """Whether the interval of paired differences and the exact test say so."""
    rows = _counted(tables, (first, second), metric="train_error", depth=depth)
    low, high = (
        {row["seed"]: row.get("value") for row in select(rows, family=family)}
        for family in (first, second)
    )
    found = estimate(differences(low, high))
    tested = differences(ranked(low), ranked(high))
    ends = None if found is None else found.ends
    return verdict(ends, above=None, below=0.0, seeds=tested) == "supported"


def _family_facts(tables: Tables) -> Facts:
    groups = []
    for depth in _depths(tables, _known(tables)):
        cells = _cells(tables, depth, _known(tables))
        means = [row for row in cells if row["value"] is not None]
        sure = means and _is_lower(tables, depth, means[0]["family"], means[-1]["family"])
        lost = [row for row in cells if row["lost"]]
        groups.append({"depth": depth, "means": means, "sure": sure, "lost": lost})
    return {"groups": groups, "deepest": groups[-1], **rates_of(tables.table("train"))}


def _by_strength(tables: Tables) -> list[Row]:
    """The deepest cells of the strengths of the shortcut, from plain to residual."""
    depth = max(_depths(tables, SHORTCUT_STRENGTH), default=0)
    return sorted(_cells(tables, depth, SHORTCUT_STRENGTH), key=lambda row: row["strength"])


def _strength(tables: Tables) -> Iterator[Figure]:
    if not (cells := _by_strength(tables)):
        return
    depth = cells[0]["depth"]
    top = _top(tables, SHORTCUT_STRENGTH, depth=depth)
    hover = {"strength:Q": "strength", "value:Q": "mean|.2%"}
    runs = {"strength:Q": "strength", "seed:Q": "seed", "value:Q": "error|.2%"}
    title, ticks = (
        "strength of the shortcut (0: plain, 1: residual)",
        [c["strength"] for c in cells],
    )
    chart = plot(
        axis("strength", title, domain=(-0.03, 1.03), grid=False, values=ticks, format=".2~f"),
        share_axis("training error", top),
        *mean_layers(hover, color=BLUE),
        layer("point", "dots", hover=runs, opacity=0.55, color=BLUE),
        *lost_layers("lost:N"),
    )
    yield panel(f"{depth} layers", chart, _in_chart(tables, cells, top), 760, 300)


def _strength_facts(tables: Tables) -> Facts:
    cells = _by_strength(tables)
    depth, means = cells[0]["depth"], [row for row in cells if row["value"] is not None]
    ends = [row["family"] for row in (means[0], means[-1])] if means else ["plain", "residual"]
    steps = [
        (abs(b["value"] - a["value"]), a["strength"], b["strength"]) for a, b in pairwise(means)
    ]
    return {
        "depth": depth,
        "means": means,
        "lost": [row for row in cells if row["lost"]],
        "largest": max(steps, default=None),
        "falls": _is_lower(tables, depth, ends[1], ends[0]),
        "rises": _is_lower(tables, depth, ends[0], ends[1]),
    }


RUNS = ("train", "summary")
ROWS = (
    FigureRow("degradation", RUNS, _degradation, _degradation_facts),
    FigureRow("budget", ("budget",), _budget, _budget_facts),
    FigureRow("strength", RUNS, _strength, _strength_facts),
    FigureRow("families", RUNS, _families, _family_facts, columns=1),
    FigureRow("curves", ("train",), _curves, _curve_facts),
    FigureRow("rates", RUNS, _rates, _rate_facts),
)
