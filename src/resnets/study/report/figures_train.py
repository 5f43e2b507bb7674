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
from resnets.study.report import encodings as look
from resnets.study.report.figure_data import TWINS, depths_of, mean_row, measured, rates_of, setting
from resnets.study.report.figure_row import Facts, FigureRow, panel
from resnets.study.statistics import Estimate, differences, estimate, ranked, verdict
from resnets.study.tables import Row, Tables, median_by, one, select
from resnets.study.twins.variants import SHORTCUT_STRENGTH

ERRORS = {"train_error": "Training error", "test_error": "Test error"}
# Families at one depth, or strengths of the shortcut, that are worth a figure.
FEWEST = 3


def _counted(tables: Tables, families: Container[str] = TWINS, **wanted: Any) -> list[Row]:
    rows = select(tables.table("train"), study="train", **wanted)
    return [row for row in rows if row["family"] in families]


def _published(tables: Tables, metric: str) -> list[Row]:
    rows = select(tables.table("summary"), metric=f"published_{metric}")
    return [row for row in rows if row["family"] in TWINS]


def _degradation(tables: Tables) -> Iterator[Figure]:
    counted, summary = _counted(tables), tables.table("summary")
    found = {metric: measured(select(counted, metric=metric)) for metric in ERRORS}
    shown = [row for rows in found.values() for row in rows] + _published(tables, "test_error")
    top = min(1.0, max((row["value"] for row in shown), default=0.0) * 1.15)
    depths, series = depths_of(counted), look.series_of(TWINS, field="family")
    for metric, title in ERRORS.items() if shown else ():
        hover = {"family:N": "family", "depth:Q": "layers", "value:Q": f"{title}|.2%"}
        runs = hover | {"seed:Q": "seed", "lr:Q": "learning rate"}
        hollow: dict[str, Any] = {"shape": "diamond", "size": 150, "filled": False}
        chart = plot(
            look.log_axis("depth", "layers", depths),
            look.share_axis(title.lower(), top),
            *look.mean_layers(hover),
            layer("point", "dots", hover=runs, opacity=0.55),
            layer("point", "print", hover=hover | {"status:N": "source"}, **hollow),
            *look.lost_layers("count():Q"),
            series=series,
        )
        cells = ({"family": family, "depth": depth} for family in TWINS for depth in depths)
        lost = [row for row in select(counted, metric="train_error") if "value" not in row]
        data = {
            "dots": found[metric],
            "means": [mean for cell in cells if (mean := mean_row(summary, metric, **cell))],
            "lost": [row | {"value": top} for row in lost],
            "print": _published(tables, metric),
        }
        yield panel(title, chart, data, series=series)


def _degradation_facts(tables: Tables) -> Facts:
    counted, summary = _counted(tables), tables.table("summary")
    depths = depths_of(counted)
    return {
        "shallow": depths[0],
        "deep": depths[-1],
        "seeds": len({row["seed"] for row in counted}),
        "steps": setting(tables.plan, "steps"),
        "summary": partial(one, summary),
        "gap": Estimate.from_rows(summary, "train_error_difference", depth=depths[-1]),
        "printed": bool(_published(tables, "test_error")),
        **rates_of(tables.table("train")),
    }


def _gaps(tables: Tables) -> list[Row]:
    rows = tables.table("budget")
    means = (
        mean_row(rows, "train_error_difference", step=step)
        for step in sorted({row["step"] for row in rows if "step" in row})
    )
    return [mean | {"points": 100 * mean["value"]} for mean in means if mean]


def _budget(tables: Tables) -> Iterator[Figure]:
    gaps, runs = _gaps(tables), measured(select(tables.table("budget"), metric="train_error"))
    if len(gaps) < 2:
        return
    x = look.log_axis("step", "steps of training", [row["step"] for row in gaps], "d")
    series = look.series_of(TWINS, field="family")
    hover = {"step:Q": "steps", "value:Q": "training error|.2%", "seed:Q": "seed"}
    dots = layer("point", hover=hover, opacity=0.7)
    line = layer("line", y="median(value)")
    chart = plot(x, look.share_axis("training error"), line, dots, series=series)
    yield panel("Training error", chart, {"rows": runs}, series=series)
    hover = {"step:Q": "steps", "value:Q": "plain - residual|.2%"}
    chart = plot(x, look.share_axis("plain - residual"), *look.mean_layers(hover, color=INK))
    yield panel("Gap", chart, {"means": gaps})


def _budget_facts(tables: Tables) -> Facts:
    rows = tables.table("budget")
    seeds = {row["seed"] for row in rows if "seed" in row}
    return {"gaps": _gaps(tables), "depth": max(depths_of(rows)), "seeds": len(seeds)}


def _run(row: Row) -> tuple[str, int, int]:
    return row["family"], row["depth"], row["seed"]


def _losses(tables: Tables) -> tuple[list[Row], list[tuple[str, int, int]]]:
    """The median loss over seeds by family, depth and step, and the runs that are left out.

    These are the runs that diverged: a median over fewer seeds at each step would jump.
    """
    errors = _counted(tables, metric="train_error")
    cut = sorted({_run(row) for row in errors if "value" not in row})
    rows = [row for row in _counted(tables, metric="loss") if _run(row) not in cut]
    keys = ("family", "depth", "step")
    medians = sorted(median_by(rows, *keys).items())
    return [dict(zip(keys, key, strict=True)) | {"loss": loss} for key, loss in medians], cut


def _curves(tables: Tables) -> Iterator[Figure]:
    rows, _ = _losses(tables)
    series = look.ordered([f"{depth} layers" for depth in depths_of(rows)])
    hover = {"series:N": "network", "step:Q": "step", "loss:Q": "loss|.3f"}
    for family in dict.fromkeys(row["family"] for row in rows):
        losses = [row["loss"] for row in rows]
        chart = plot(
            axis("step", "step", grid=False, tickCount=6),
            axis("loss", "training loss (nats)", "switch", (min(losses) / 1.1, max(losses) * 1.05)),
            layer("line"),
            layer("point", hover=hover, size=60, opacity=0),
            series=series,
        )
        own = [row | {"series": f"{row['depth']} layers"} for row in select(rows, family=family)]
        yield panel(family, chart, {"rows": own}, height=300, series=series)


def _curve_facts(tables: Tables) -> Facts:
    losses, cut = _losses(tables)
    rows = []
    for family in dict.fromkeys(row["family"] for row in losses):
        ends = {row["depth"]: row["loss"] for row in select(losses, family=family)}
        best, worst = min(ends, key=ends.__getitem__), max(ends, key=ends.__getitem__)
        if best != worst:
            rows.append({"family": family, "best": best, "worst": worst, "ends": ends})
    lost = Counter(f"{family}-{depth}" for family, depth, _ in cut)
    return {
        "rows": rows,
        "lost": [{"name": name, "count": count} for name, count in lost.items()],
        "deepest": [row["family"] for row in rows if row["worst"] == max(row["ends"])],
    }


def _chosen(tables: Tables) -> dict[tuple[str, int], Row]:
    """The row of the learning rate that each cell took."""
    rows = select(tables.table("summary"), metric="lr")
    rows = sorted(rows, key=lambda row: (row["family"], row["depth"]))
    return {(row["family"], row["depth"]): row for row in rows if row["family"] in TWINS}


def _rates(tables: Tables) -> Iterator[Figure]:
    tried, chosen = select(tables.table("train"), study="tune", metric="val_loss"), _chosen(tables)
    values = [row["value"] for row in measured(tried)]
    if not values or not chosen:
        return
    scale = alt.Scale(type="log", scheme="blues", domain=[min(values), max(values)], reverse=True)
    known, middle = alt.when("isValid(datum.value)"), math.sqrt(min(values) * max(values))
    loss = known.then(alt.Color("value:Q", scale=scale, legend=None))
    cell = {"color": loss.otherwise(alt.value("#eaecf0"))}
    dark = alt.when(f"isValid(datum.value) && datum.value < {middle:.6g}")
    text = dark.then(alt.value("#ffffff")).otherwise(alt.value("#1d1d1d"))
    hover = {"depth:O": "layers", "lr:O": "learning rate", "value:Q": "validation loss|.3f"}
    ring: dict[str, Any] = {"size": 1100, "stroke": "#E69F00", "strokeWidth": 3, "filled": False}
    depths = depths_of(tried)
    for family in TWINS:
        rows = [
            row
            | {"text": f"{row['value']:.2f}" if "value" in row else "lost"}
            | {"chosen": row["lr"] == chosen.get((family, row["depth"]), {}).get("value")}
            for row in select(tried, family=family)
        ]
        chart = plot(
            axis(
                "lr", "learning rate", "band", sorted({row["lr"] for row in tried}), format=".2~g"
            ),
            axis("depth", "layers", "band", depths),
            layer("rect", encode=cell, hover=hover, stroke="white", strokeWidth=2),
            layer("point", where="datum.chosen", **ring),
            layer("text", encode={"text": "text:N", "color": text}),
        )
        if rows:
            yield panel(family, chart, {"rows": rows}, height=44 * len(depths))


def _rate_facts(tables: Tables) -> Facts:
    chosen, rows = _chosen(tables), []
    for family in dict.fromkeys(name for name, _ in chosen):
        rates = {depth: row["value"] for (name, depth), row in chosen.items() if name == family}
        ends = {"shallow": min(rates), "deep": max(rates)}
        first, last = (rates[depth] for depth in ends.values())
        row = {"family": family, "first": first, "last": last, "change": last - first}
        rows.append(row | ends)
    flags = [(row.get("status"), f"{family} {depth}") for (family, depth), row in chosen.items()]
    return {
        "rows": rows,
        "falling": [row["family"] for row in rows if row["change"] < 0],
        "edge": [name for flag, name in flags if flag == "edge"],
        "diverged": [name for flag, name in flags if flag == "diverged"],
    }


def _known(tables: Tables) -> set[str]:
    """All families but those of the strengths between the twins."""
    found = {row["family"] for row in select(tables.table("summary"), metric="runs")}
    return found - (SHORTCUT_STRENGTH.keys() - set(TWINS))


def _depths(tables: Tables, families: Container[str]) -> list[int]:
    """The depths at which there are enough of these families, and more than the twins."""
    rows = select(tables.table("summary"), metric="runs")
    rows = [row for row in rows if row["family"] in families]
    counts = Counter(row["depth"] for row in rows)
    other = {row["depth"] for row in rows if row["family"] not in TWINS}
    return sorted(depth for depth in other if counts[depth] >= FEWEST)


def _cells(tables: Tables, depth: int, families: Container[str]) -> list[Row]:
    """The means of families at a depth, the lowest first, those that lost all runs last."""
    summary, cells = tables.table("summary"), []
    for row in select(summary, metric="runs", depth=depth):
        cell = {"family": row["family"], "depth": depth}
        lost = one(summary, metric="diverged", **cell)
        words = {
            "name": look.TRAINED.get(row["family"], row["family"]),
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


def _families(tables: Tables) -> Iterator[Figure]:
    known = _known(tables)
    top, hover = _top(tables, known), {"name:N": "family", "value:Q": "mean|.2%", **look.RANGE}
    for depth in _depths(tables, known):
        cells = _cells(tables, depth, known)
        colours = [{"plain": ORANGE, "residual": BLUE}.get(row["family"], GREY) for row in cells]
        names = [row["name"] for row in cells]
        scale = alt.Scale(domain=names, range=colours)
        colour = {"color": alt.Color("name:N", legend=None, scale=scale)}
        chart = plot(
            look.share_axis("training error", top),
            axis("name", None, "band", names, grid=True, labelLimit=170),
            layer("point", "dots", size=16, opacity=0.5, color=GREY),
            layer("rule", "means", x="low", x2="high", where="isValid(datum.low)", encode=colour),
            layer("point", "means", hover=hover, encode=colour, size=70),
            *look.lost_layers("lost:N", align="right", dx=-9),
        )
        yield panel(f"{depth} layers", chart, _in_chart(tables, cells, top), 760, 24 * len(cells))


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
        means, lost = measured(cells), [row for row in cells if row["lost"]]
        sure = means and _is_lower(tables, depth, means[0]["family"], means[-1]["family"])
        groups.append({"depth": depth, "means": means, "sure": sure, "lost": lost})
    return {"groups": groups, "deepest": groups[-1], **rates_of(tables.table("train"))}


def _by_strength(tables: Tables) -> list[Row]:
    """The deepest cells of the strengths of the shortcut, from plain to residual."""
    depth = max(_depths(tables, SHORTCUT_STRENGTH), default=0)
    return sorted(_cells(tables, depth, SHORTCUT_STRENGTH), key=lambda row: row["strength"])


def _strength(tables: Tables) -> Iterator[Figure]:
    cells, top = _by_strength(tables), _top(tables, SHORTCUT_STRENGTH)
    hover = {"strength:Q": "strength", "value:Q": "error|.2%"}
    ticks: dict[str, Any] = {
        "grid": False,
        "values": [row["strength"] for row in cells],
        "format": ".2~f",
    }
    title = "strength of the shortcut (0: plain, 1: residual)"
    chart = plot(
        axis("strength", title, domain=(-0.03, 1.03), **ticks),
        look.share_axis("training error", top),
        *look.mean_layers(hover, color=BLUE),
        layer("point", "dots", hover=hover | {"seed:Q": "seed"}, opacity=0.55, color=BLUE),
        *look.lost_layers("lost:N"),
    )
    if cells:
        data = _in_chart(tables, cells, top)
        yield panel(f"{cells[0]['depth']} layers", chart, data, 760, 300)


def _strength_facts(tables: Tables) -> Facts:
    cells = _by_strength(tables)
    depth, means = cells[0]["depth"], measured(cells)
    plain, residual = (row["family"] for row in ((means or cells)[0], (means or cells)[-1]))
    changes = [
        (abs(b["value"] - a["value"]), a["strength"], b["strength"]) for a, b in pairwise(means)
    ]
    return {
        "depth": depth,
        "means": means,
        "lost": [row for row in cells if row["lost"]],
        "largest": max(changes, default=None),
        "falls": _is_lower(tables, depth, residual, plain),
        "rises": _is_lower(tables, depth, plain, residual),
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
