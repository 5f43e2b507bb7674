"""Draw networks at initialisation: gradients by layer, verdicts, and what these say of training.

Theory is drawn without a fit. *Forward* is from the input to the output, *backward* the way of the
gradient. Dense layers of the largest width; the tables hold the other widths and convolutions too.
"""

import math
from typing import Any

from resnets.report.charts import GREY, Mark, Series, axis, layer, log_axis, ordered
from resnets.study.propagation.signal_propagation import INPUTS
from resnets.study.propagation.stability import DECADES, NEIGHBOURS, SHATTERED
from resnets.study.report import figure_data
from resnets.study.report.figure_data import AT_INIT, chance, depths_of, measured
from resnets.study.report.figure_spec import Drawing, FigureSpec, panel
from resnets.study.tables import Row, Tables, median_by, one, select

OWN = "Backward, the networks that are trained"
MEASURES = {
    "size": ("change of the gradient's size (powers of ten)", "spearman_log10_gradient_span"),
    "apart": ("1 - cosine of gradients at near inputs", "spearman_gradient_cosine"),
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
    dense = select(tables.table(name), study="init-dense")
    rows = [row for row in dense if row["family"] in AT_INIT]
    width = max((row["width"] for row in rows), default=None)
    return select(rows, width=width, **wanted)


def _named(row: Row, title: str) -> Row:
    words = row["status"].replace("healthy", "stable").split(", ")
    letters = " ".join(word[0].upper() for word in words)
    names = figure_data.TRAINED if title == OWN else AT_INIT
    name = names.get(row["family"], row["family"])
    text = "·" if "stable" in words else letters
    return row | {"name": name, "verdict": ", ".join(words), "series": words[0], "text": text}


def _verdicts(tables: Tables) -> Drawing:
    """Draw the sweep both ways, and the study's own networks at their own batch."""
    found = {
        "Forward (signals)": _table(tables, "init", metric="verdict_forward"),
        "Backward (gradients)": _table(tables, "init", metric="verdict_backward"),
        OWN: select(tables.table("initial_gradients"), metric="verdict_backward"),
    }
    judged = {title: [_named(row, title) for row in rows] for title, rows in found.items() if rows}
    panels = []
    for title, rows in judged.items():
        names = [name for name in AT_INIT.values() if name in {row["name"] for row in rows}]
        names = list(dict.fromkeys(names + [row["name"] for row in rows]))
        drawn = panel(
            title,
            {"rows": rows},
            axis("depth", "layers", "band", depths_of(rows), format="~s"),
            axis("name", "", "band", names, labelLimit=180),
            layer("rect", tip=True, hover={"verdict:N": "verdict"}, stroke="white", strokeWidth=2),
            layer("text", encode={"text": "text:N"}, fontWeight=600, color="#1d1d1d"),
            series=VERDICTS,
            height=25 * len(names),
        )
        panels.append(drawn)
    own = judged.pop(OWN, [])
    rows = [row for found in judged.values() for row in found]
    depth, words = max(depths_of(rows), default=0), dict[str, set[str]]()
    for row in select(rows, depth=depth):
        words.setdefault(row["name"], set()).update(row["verdict"].split(", "))
    return panels, {
        "depth": depth,
        "stable": [name for name, found in words.items() if found == {"stable"}],
        "plain": sorted(words.get(AT_INIT["plain-bn"], set()) - {"stable"}),
        "own": own,
        "shattered": sum("shatters" in row["verdict"] for row in own),
        "inputs": INPUTS,
    }


def _measure(tables: Tables) -> Drawing:
    """Draw two measures of each network at step 0 against its error after training."""
    table, guess, rows = tables.table("initial_gradients"), chance(tables), []
    for row in measured(select(table, metric="log10_gradient_span")):
        cell = {"family": row["family"], "depth": row["depth"]}
        trained = next(iter(select(table, metric="trained_error", **cell)), {})
        error, cosine = trained.get("value", guess), one(table, metric="gradient_cosine", **cell)
        name = figure_data.TRAINED.get(row["family"], row["family"])
        words = {"name": name, "series": f"{row['depth']} layers", "lost": trained.get("status")}
        if error is not None and cosine is not None:
            numbers = {"size": abs(row["value"]), "apart": 1 - cosine, "value": error}
            rows.append(cell | words | numbers)
    if len(rows) < 3:
        return [], {}
    depths, errors = depths_of(rows), [row["value"] for row in rows]
    named = f"datum.depth == {max(depths)} || datum.value > 0.25"
    ticks = {"format": ".0%", "values": [0.05, 0.1, 0.2, 0.4, 0.8]}
    title, ends = "training error (log scale)", (min(errors) / 1.2, max(errors) * 1.2)
    hover = {"name:N": "family", "lost:N": "runs"}
    panels = [
        panel(
            "",
            {"rows": rows},
            axis(measure, words, grid=False, tickCount=6),
            axis("value", title, "log", ends, **ticks),
            layer("point", tip=True, hover=hover, size=60, opacity=0.9),
            layer("text", encode={"text": "name:N"}, where=named, align="left", dx=7, fontSize=10),
            series=ordered([f"{depth} layers" for depth in depths]),
            height=340,
        )
        for measure, (words, _) in MEASURES.items()
    ]
    found = {measure: select(table, metric=metric) for measure, (_, metric) in MEASURES.items()}
    return panels, {
        "count": len(rows),
        "few": len(rows) < FEW,
        "all": {measure: one(own, depth=None) for measure, own in found.items()},
        "by_depth": {m: [row for row in own if "depth" in row] for m, own in found.items()},
        "lost": any(row["lost"] for row in rows),
        "strong": 0.7,
        "weak": 0.3,
    }


def _atlas(tables: Tables) -> Drawing:
    """Draw powers of ten of the gradient over the last layer's, whose own is 0 by definition."""
    found = _table(tables, "init_backward", metric="log10_gradient")
    medians, depths = median_by(found, "family", "depth", "unit"), depths_of(found)
    medians |= {(family, depth, depth): 0.0 for family, depth, _ in medians}
    if not medians:
        return [], {}
    rows = [
        {"family": family, "series": AT_INIT[family], "depth": depth, "unit": unit, "value": value}
        for (family, depth, unit), value in sorted(medians.items())
    ]
    shown = [min(depths, key=lambda depth: abs(depth - at)) for at in SHOWN]
    panels = [
        panel(
            f"{depth:,} layers{', enlarged' if ends else ''}",
            {"rows": select(rows, depth=depth)},
            axis("unit", "layer", domain=(0, depth), grid=False, tickCount=5),
            axis("value", "log10 of gradient / last layer's", domain=ends, tickCount=7),
            layer("line", clip=True),
            layer("point", tip=True, size=24, clip=True),
            series=figure_data.at_init(rows),
            height=height,
        )
        for ends, height in ((None, 340), ((-DECADES, DECADES), 220))
        for depth in dict.fromkeys(shown)
    ]

    def sized(depth: int) -> list[Row]:
        """Each family's gradient at the first layer; one that is 0 is as small as can be."""
        families = {row["family"] for row in rows}
        found = ((f, medians.get((f, depth, 0), -math.inf)) for f in AT_INIT if f in families)
        return [{"name": AT_INIT[family], "decades": size} for family, size in found]

    depth, far = shown[-1], max(depths)
    own = sized(depth)
    return panels, {
        "depth": depth,
        "count": len(own),
        "grows": [row for row in own if row["decades"] > DECADES],
        "shrinks": [row for row in own if row["decades"] < -DECADES],
        "holds": [row for row in own if abs(row["decades"]) <= DECADES],
        "far": far,
        "beyond": [row for row in sized(far) if abs(row["decades"]) > DECADES],
    }


def _cosines(tables: Tables) -> Drawing:
    """Draw medians over draws at the first layer, beside theory where it has a closed form."""
    wanted = {"x": NEIGHBOURS, "unit": 0}
    backward = _table(tables, "init_backward", metric="gradient_cosine", **wanted)
    closed = _table(tables, "init_theory", metric="theory_gradient_cosine", **wanted)
    found, theory = (median_by(rows, "family", "depth") for rows in (backward, closed))
    if not found:
        return [], {}
    rows = [
        {"series": AT_INIT[cell[0]], "family": cell[0], "depth": cell[1]}
        | {"value": value, "theory": theory.get(cell)}
        for cell, value in sorted(found.items())
    ]
    depths, low = depths_of(rows), min(0, *found.values()) - 0.05
    drawn = panel(
        "",
        {"rows": rows},
        log_axis("depth", "layers", depths),
        axis("value", "cosine of the gradients", domain=(low, 1.05)),
        layer("rule", x=None, encode={"y": {"datum": 0}}, color=GREY, strokeWidth=0.6),
        layer("line", y="theory", where="isValid(datum.theory)", strokeWidth=1.4),
        layer("point", tip=True, hover={"theory:Q": "theory|.3f"}, size=60),
        series=figure_data.at_init(rows),
        width=760,
        height=340,
    )

    def apart(family: str) -> int | None:
        """The depth from which on they are unlike; None where they are alike in the deepest."""
        alike = [depth for depth in depths if found.get((family, depth), 0.0) >= SHATTERED]
        return next((depth for depth in depths if depth > max(alike, default=0)), None)

    pairs = []
    for norm, names in enumerate(PAIRS):
        plain, residual = map(apart, names)
        delayed = (residual or math.inf) > (plain or math.inf)
        if set(names) <= {family for family, _ in found}:
            pairs.append({"norm": norm, "plain": plain, "residual": residual, "later": delayed})
    return [drawn], {
        "pairs": pairs,
        "later": [pair["norm"] for pair in pairs if pair["later"]],
        "miss": max((abs(found[c] - theory[c]) for c in found if c in theory), default=None),
        "near": NEIGHBOURS,
        "unlike": SHATTERED,
    }


ROWS = (
    FigureSpec("verdicts", ("init",), _verdicts),
    FigureSpec("measure", ("initial_gradients",), _measure),
    FigureSpec("atlas", ("init_backward",), _atlas),
    FigureSpec("cosines", ("init_backward", "init_theory"), _cosines),
)
