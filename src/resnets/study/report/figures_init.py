"""Draw networks at initialisation: gradients by layer, verdicts, and what these say of training.

Theory is drawn without a fit. *Forward* is from the input to the output, *backward* the way of the
gradient. Dense layers of the largest width; the tables hold the other widths and convolutions too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import altair as alt

from resnets.report.charts import GREY, Figure, Mark, Series, axis, layer, plot
from resnets.study.propagation.signal_propagation import INPUTS
from resnets.study.propagation.stability import DECADES, NEIGHBOURS, SHATTERED
from resnets.study.report import encodings as look
from resnets.study.report.encodings import AT_INIT
from resnets.study.report.figure_data import chance, depths_of, measured
from resnets.study.report.figure_row import Facts, FigureRow, panel
from resnets.study.tables import Row, Tables, median_by, one, select

KIND = "init-dense"
OWN = "Backward, the networks that are trained"
MEASURES = {
    "size": "change of the gradient's size (powers of ten)",
    "apart": "1 - cosine of gradients at near inputs",
}
# Networks below which a rank correlation decides nothing.
FEW = 8
# Depths of the two panels of gradients; what is nearest to them is drawn.
SHOWN = (100, 1000)
# Twins whose gradients at two inputs are compared, without batch norm and with it.
PAIRS = (("plain", "residual"), ("plain-bn", "residual-bn"))
COLOURS = {
    "stable": "#cfe3cf",
    "collapses": "#E69F00",
    "shatters": "#CC79A7",
    "vanishes": "#56B4E9",
    "explodes": "#D55E00",
}
VERDICTS = Series(tuple(COLOURS), tuple(Mark(colour, (), "square") for colour in COLOURS.values()))


def _table(tables: Tables, name: str, **wanted: Any) -> list[Row]:
    """The rows of dense networks of the largest width, of the families that have a name."""
    rows = [row for row in select(tables.table(name), study=KIND) if row["family"] in AT_INIT]
    width = max((row["width"] for row in rows), default=None)
    return select(rows, width=width, **wanted)


def _judged(tables: Tables) -> dict[str, list[Row]]:
    """Verdicts by panel: the sweep both ways, and the study's own networks at their own batch."""
    found = {
        "Forward (signals)": _table(tables, "init", metric="verdict_forward"),
        "Backward (gradients)": _table(tables, "init", metric="verdict_backward"),
        OWN: select(tables.table("initial_gradients"), metric="verdict_backward"),
    }
    return {title: [_named(row, title) for row in rows] for title, rows in found.items() if rows}


def _named(row: Row, title: str) -> Row:
    words = row["status"].replace("healthy", "stable").split(", ")
    letters = " ".join(word[0].upper() for word in words)
    names = look.TRAINED if title == OWN else AT_INIT
    name = names.get(row["family"], row["family"])
    text = "·" if "stable" in words else letters
    return row | {"name": name, "verdict": ", ".join(words), "series": words[0], "text": text}


def _verdicts(tables: Tables) -> Iterator[Figure]:
    for title, rows in _judged(tables).items():
        names = [name for name in AT_INIT.values() if name in {row["name"] for row in rows}]
        names = list(dict.fromkeys(names + [row["name"] for row in rows]))
        hover = {"name:N": "family", "depth:O": "layers|,d", "verdict:N": "verdict"}
        chart = plot(
            axis("depth", "layers", "band", depths_of(rows), format="~s"),
            axis("name", None, "band", names, labelLimit=180),
            layer("rect", hover=hover, stroke="white", strokeWidth=2),
            layer("text", encode={"text": "text:N"}, fontWeight=600, color="#1d1d1d"),
            series=VERDICTS,
        )
        yield panel(title, chart, {"rows": rows}, height=25 * len(names), series=VERDICTS)


def _verdict_facts(tables: Tables) -> Facts:
    judged = _judged(tables)
    own = judged.pop(OWN, [])
    rows = [row for found in judged.values() for row in found]
    depth = max(depths_of(rows), default=0)
    words: dict[str, set[str]] = {}
    for row in select(rows, depth=depth):
        words.setdefault(row["name"], set()).update(row["verdict"].split(", "))
    return {
        "depth": depth,
        "stable": [name for name, found in words.items() if found == {"stable"}],
        "plain": sorted(words.get(AT_INIT["plain-bn"], set()) - {"stable"}),
        "own": own,
        "shattered": sum("shatters" in row["verdict"] for row in own),
        "inputs": INPUTS,
    }


def _measured(tables: Tables) -> list[Row]:
    """The two measures of each network at step 0, and its error after training."""
    rows, guess, found = tables.table("initial_gradients"), chance(tables), []
    for row in measured(select(rows, metric="log10_gradient_span")):
        cell = {"family": row["family"], "depth": row["depth"]}
        trained = next(iter(select(rows, metric="trained_error", **cell)), {})
        error, cosine = trained.get("value", guess), one(rows, metric="gradient_cosine", **cell)
        name = look.TRAINED.get(row["family"], row["family"])
        words = {"name": name, "series": f"{row['depth']} layers", "lost": trained.get("status")}
        if error is not None and cosine is not None:
            numbers = {"size": abs(row["value"]), "apart": 1 - cosine, "value": error}
            found.append(cell | words | numbers)
    return found


def _measure(tables: Tables) -> Iterator[Figure]:
    rows = _measured(tables)
    depths = depths_of(rows)
    series = look.ordered([f"{depth} layers" for depth in depths])
    named = f"datum.depth == {max(depths, default=0)} || datum.value > 0.25"
    errors = [row["value"] for row in rows]
    y = {"format": ".0%", "values": [0.05, 0.1, 0.2, 0.4, 0.8], "grid": True}
    hover = {"name:N": "family", "depth:Q": "layers", "value:Q": "training error|.1%"}
    hover |= {"size:Q": "powers of ten|.2f", "apart:Q": "1 - cosine|.2f", "lost:N": "runs"}
    title = "training error after training (log scale)"
    for measure, words in MEASURES.items() if len(rows) > 2 else ():
        chart = plot(
            axis(measure, words, grid=False, tickCount=6),
            axis("value", title, "log", (min(errors) / 1.2, max(errors) * 1.2), **y),
            layer("point", hover=hover, size=60, opacity=0.9),
            layer("text", encode={"text": "name:N"}, where=named, align="left", dx=7, fontSize=10),
            series=series,
        )
        yield panel("", chart, {"rows": rows}, height=340, series=series)


def _measure_facts(tables: Tables) -> Facts:
    rows, table = _measured(tables), tables.table("initial_gradients")
    names = {"size": "spearman_log10_gradient_span", "apart": "spearman_gradient_cosine"}
    found = {measure: select(table, metric=name) for measure, name in names.items()}
    return {
        "count": len(rows),
        "few": len(rows) < FEW,
        "all": {measure: one(own, depth=None) for measure, own in found.items()},
        "by_depth": {m: [row for row in own if "depth" in row] for m, own in found.items()},
        "lost": any(row["lost"] for row in rows),
        "strong": 0.7,
        "weak": 0.3,
    }


def _gradients(tables: Tables) -> dict[tuple[Any, ...], float]:
    """Powers of ten of the gradient over the last layer's, by family, depth and layer."""
    rows = _table(tables, "init_backward", metric="log10_gradient")
    medians = median_by(rows, "family", "depth", "unit")
    last = {(family, depth, depth): 0.0 for family, depth, _ in medians}  # by definition
    return dict(sorted((last | medians).items()))


def _nearest(depths: set[int], wanted: int) -> int:
    return min(depths, key=lambda depth: abs(depth - wanted))


def _atlas(tables: Tables) -> Iterator[Figure]:
    medians = _gradients(tables)
    rows = [
        {"family": family, "series": AT_INIT[family], "depth": depth, "unit": unit, "value": value}
        for (family, depth, unit), value in medians.items()
    ]
    series, depths = look.at_init(rows), set(depths_of(rows))
    shown = dict.fromkeys(_nearest(depths, wanted) for wanted in SHOWN if depths)
    hover = {"series:N": "family", "unit:Q": "layer|,d", "value:Q": "power of ten|.2f"}
    for ends, height in ((None, 340), ((-DECADES, DECADES), 220)):
        for depth in shown:
            chart = plot(
                axis("unit", "layer", domain=(0, depth), grid=False, tickCount=5),
                axis("value", "log10 of gradient / last layer's", domain=ends, tickCount=7),
                layer("line", clip=True),
                layer("point", hover=hover, size=24, clip=True),
                series=series,
            )
            title = f"{depth:,} layers{', enlarged' if ends else ''}"
            data = {"rows": select(rows, depth=depth)}
            yield panel(title, chart, data, height=height, series=series)


def _atlas_facts(tables: Tables) -> Facts:
    medians = _gradients(tables)
    families = look.families_of({"family": family} for family, _, _ in medians)
    depths = {depth for _, depth, _ in medians}
    far, depth = max(depths), _nearest(depths, SHOWN[-1])

    def sized(depth: int, low: float, high: float) -> list[Row]:
        """Each family's gradient at the first layer; one that is 0 is as small as can be."""
        found = ((AT_INIT[f], medians.get((f, depth, 0), -math.inf)) for f in families)
        return [{"name": name, "decades": size} for name, size in found if low <= size <= high]

    held, beyond = sized(far, -DECADES, DECADES), sized(far, -math.inf, math.inf)
    return {
        "depth": depth,
        "count": len(families),
        "grows": sized(depth, math.nextafter(DECADES, math.inf), math.inf),
        "shrinks": sized(depth, -math.inf, math.nextafter(-DECADES, -math.inf)),
        "holds": sized(depth, -DECADES, DECADES),
        "far": far,
        "beyond": [row for row in beyond if row not in held],
    }


def _cosine_rows(tables: Tables) -> list[Row]:
    """Medians over draws at the first layer, beside theory where it has a closed form."""
    wanted = {"x": NEIGHBOURS, "unit": 0}
    backward = _table(tables, "init_backward", metric="gradient_cosine", **wanted)
    closed = _table(tables, "init_theory", metric="theory_gradient_cosine", **wanted)
    theory = median_by(closed, "family", "depth")
    return [
        {"series": AT_INIT[cell[0]], "family": cell[0], "depth": cell[1]}
        | {"value": value, "theory": theory.get(cell)}
        for cell, value in sorted(median_by(backward, "family", "depth").items())
    ]


def _cosines(tables: Tables) -> Iterator[Figure]:
    rows = _cosine_rows(tables)
    series = look.at_init(rows)
    hover = {"series:N": "family", "depth:Q": "layers|,d"}
    hover |= {"value:Q": "measured|.3f", "theory:Q": "theory|.3f"}
    low = min((row["value"] for row in rows), default=0)
    chart = plot(
        look.log_axis("depth", "layers", depths_of(rows) or [1]),
        axis("value", "cosine of the gradients", domain=(min(0, low) - 0.05, 1.05)),
        layer("rule", x=None, encode={"y": alt.datum(0)}, color=GREY, strokeWidth=0.6),
        layer("line", y="theory", where="isValid(datum.theory)", strokeWidth=1.4),
        layer("point", hover=hover, size=60),
        series=series,
    )
    if rows:
        yield panel("", chart, {"rows": rows}, 760, 340, series=series)


def _cosine_facts(tables: Tables) -> Facts:
    rows = _cosine_rows(tables)
    found = {(row["family"], row["depth"]): row["value"] for row in rows}

    def apart(family: str) -> int | None:
        """The depth from which on they are unlike; None where they are alike in the deepest."""
        alike = [d for d in depths_of(rows) if found.get((family, d), 0.0) >= SHATTERED]
        return next((d for d in depths_of(rows) if d > max(alike, default=0)), None)

    pairs = []
    for norm, names in enumerate(PAIRS):
        plain, residual = map(apart, names)
        delayed = (residual or math.inf) > (plain or math.inf)
        if set(names) <= {family for family, _ in found}:
            pairs.append({"norm": norm, "plain": plain, "residual": residual, "later": delayed})
    misses = [abs(row["value"] - row["theory"]) for row in rows if row["theory"] is not None]
    later = [pair["norm"] for pair in pairs if pair["later"]]
    miss = max(misses, default=None)
    return {"pairs": pairs, "later": later, "miss": miss, "near": NEIGHBOURS, "unlike": SHATTERED}


ROWS = (
    FigureRow("verdicts", ("init",), _verdicts, _verdict_facts),
    FigureRow("measure", ("initial_gradients",), _measure, _measure_facts),
    FigureRow("atlas", ("init_backward",), _atlas, _atlas_facts),
    FigureRow("cosines", ("init_backward", "init_theory"), _cosines, _cosine_facts),
)
