"""Draw networks at initialisation: gradients by layer, verdicts, and what these say of training.

Theory is drawn without a fit. *Forward* is from the input to the output, *backward* the way of the
gradient. Dense layers of the largest width; the tables hold the other widths and convolutions too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import altair as alt

from resnets.report.charts import GREY, INK, Figure, Mark, Series, axis, layer, plot
from resnets.report.html import finite
from resnets.study.init.geometry import INPUTS
from resnets.study.init.verdicts import DECADES, NEIGHBOURS, SHATTERED
from resnets.study.report.encodings import (
    AT_INIT,
    TRAINED,
    at_init,
    families_of,
    log_axis,
    series_of,
    share_axis,
)
from resnets.study.report.evidence import Evidence as Tables
from resnets.study.report.evidence import Row, median_by, one, select
from resnets.study.report.figure_data import chance, depths_of, drawn
from resnets.study.report.figure_row import Facts, FigureRow, panel

KIND = "init-dense"
# Studies of the same kind with the batch of training, which batch norm depends on.
AT_BATCH = "init-dense-batch"
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
    """The rows of dense networks of the largest width."""
    rows = select(tables.table(name), study=KIND)
    width = max((row["width"] for row in rows), default=None)
    return select(rows, width=width, **wanted)


def _verdicts(tables: Tables) -> Iterator[Figure]:
    for way, title in (("forward", "Forward (signals)"), ("backward", "Backward (gradients)")):
        cells = [
            {
                "name": name,
                "depth": row["depth"],
                "series": words[0],
                "verdict": ", ".join(words),
                "text": "·"
                if words[0] == "stable"
                else " ".join(word[0].upper() for word in words),
            }
            for name, row in _judged(tables, way)
            if (words := row["status"].replace("healthy", "stable").split(", "))
        ]
        names = list(dict.fromkeys(cell["name"] for cell in cells))
        hover = {"name:N": "family", "depth:O": "layers|,d", "verdict:N": "verdict"}
        chart = plot(
            axis("depth", "layers", "band", depths_of(cells), format="~s"),
            axis("name", None, "band", names, labelLimit=220),
            layer("rect", hover=hover, stroke="white", strokeWidth=2),
            layer("text", encode={"text": "text:N"}, fontWeight=600, color="#1d1d1d"),
            series=VERDICTS,
        )
        if cells:
            height = 25 * len(names)
            yield panel(title, chart, {"rows": cells}, height=height, series=VERDICTS)


def _judged(tables: Tables, way: str) -> Iterator[tuple[str, Row]]:
    """The verdicts of each family, those at another batch below."""
    metric = f"verdict_{way}"
    found = _table(tables, "init", metric=metric)
    for family in families_of(found):
        yield from ((AT_INIT[family], row) for row in select(found, family=family))
        for row in select(tables.table("init"), metric=metric, family=family):
            if row["study"].startswith(AT_BATCH):
                yield f"{AT_INIT[family]}, batch {row['study'].removeprefix(AT_BATCH)}", row


def _verdict_facts(tables: Tables) -> Facts:
    found: dict[str, dict[int, set[str]]] = {}
    for way in ("forward", "backward"):
        for name, row in _judged(tables, way):
            words = found.setdefault(name, {}).setdefault(row["depth"], set())
            words.update(row["status"].split(", "))
    depth = max(max(cells) for cells in found.values())
    at_batch = {name: cells for name, cells in found.items() if ", batch " in name}
    return {
        "depth": depth,
        "stable": [name for name, cells in found.items() if cells.get(depth) == {"healthy"}],
        "plain": sorted(found.get(AT_INIT["plain-bn"], {}).get(depth, set()) - {"healthy"}),
        "batches": [
            {
                "name": name,
                "deep": max(cells),
                "first": min(
                    (d for d, words in cells.items() if "shatters" in words), default=None
                ),
            }
            for name, cells in at_batch.items()
        ],
        "inputs": INPUTS,
    }


def _measured(tables: Tables) -> list[Row]:
    """The change of the gradient through each network at step 0, and its error after training."""
    rows, found = tables.table("initial_gradients"), []
    for row in select(rows, metric="log10_gradient_span"):
        cell = {"family": row["family"], "depth": row["depth"]}
        trained = next(iter(select(rows, metric="trained_error", **cell)), {})
        error = trained.get("value", chance(tables))
        if "value" in row and error is not None:
            name = TRAINED.get(row["family"], row["family"])
            cell |= {"name": name, "series": f"{row['depth']} layers"}
            cell |= {"span": finite(abs(row["value"])), "value": finite(error)}
            found.append(cell | {"lost": trained.get("status", "")})
    return found


def _measure(tables: Tables) -> Iterator[Figure]:
    rows = _measured(tables)
    if len(rows) < 3:
        return
    series = series_of([f"{depth} layers" for depth in depths_of(rows)])
    hover = {"name:N": "family", "depth:Q": "layers", "span:Q": "powers of ten|.2f"}
    hover |= {"value:Q": "training error|.1%", "lost:N": "runs"}
    title = "gradient change before training (powers of ten)"
    chart = plot(
        axis("span", title, grid=False, tickCount=6),
        share_axis("training error after training"),
        layer("point", hover=hover, size=70, opacity=0.9),
        layer("text", encode={"text": "name:N"}, align="left", dx=8, color=INK),
        series=series,
    )
    yield panel("", chart, {"rows": rows}, 760, 380, series=series)


def _measure_facts(tables: Tables) -> Facts:
    found = select(tables.table("initial_gradients"), metric="spearman")
    by_depth = [row for row in found if "depth" in row and "value" in row]
    return {
        "count": len(_measured(tables)),
        "spearman": one([row for row in found if "depth" not in row], metric="spearman"),
        "by_depth": drawn(by_depth, depth="depth", value="value"),
        "lost": any(row["lost"] for row in _measured(tables)),
        "strong": 0.7,
        "weak": 0.3,
    }


def _gradients(tables: Tables) -> dict[tuple[Any, ...], float]:
    """Powers of ten of the gradient over the last layer's, by family, depth and layer."""
    rows = _table(tables, "init_backward", metric="log10_gradient")
    medians = median_by(
        [row for row in rows if row["family"] in AT_INIT], "family", "depth", "unit"
    )
    last = {(family, depth, depth): 0.0 for family, depth, _ in medians}  # by definition
    return dict(sorted((last | medians).items()))


def _atlas(tables: Tables) -> Iterator[Figure]:
    medians = _gradients(tables)
    series = at_init(families_of([{"family": family} for family, _, _ in medians]))
    depths = {depth for _, depth, _ in medians}
    shown = [min(depths, key=lambda depth: abs(depth - wanted)) for wanted in SHOWN if depths]
    hover = {"series:N": "family", "unit:Q": "layer|,d", "value:Q": "power of ten|.2f"}
    for ends, height in ((None, 340), ((-DECADES, DECADES), 220)):
        for depth in dict.fromkeys(shown):
            rows = [
                {"series": AT_INIT[family], "unit": unit, "value": finite(value)}
                for (family, other, unit), value in medians.items()
                if other == depth
            ]
            chart = plot(
                axis("unit", "layer", domain=(0, depth), grid=False, tickCount=5),
                axis("value", "log10 of gradient / last layer's", domain=ends, tickCount=7),
                layer("line", clip=True),
                layer("point", hover=hover, size=24, clip=True),
                series=series,
            )
            title = f"{depth:,} layers{', enlarged' if ends else ''}"
            yield panel(title, chart, {"rows": rows}, height=height, series=series)


def _atlas_facts(tables: Tables) -> Facts:
    medians = _gradients(tables)
    families = families_of([{"family": family} for family, _, _ in medians])
    far = max(depth for _, depth, _ in medians)
    depth = min({depth for _, depth, _ in medians}, key=lambda depth: abs(depth - SHOWN[-1]))

    def sized(depth: int) -> list[Row]:
        """Each family's gradient at the first layer; one that is 0 is as small as can be."""
        found = ((AT_INIT[f], medians.get((f, depth, 0), -math.inf)) for f in families)
        return [{"name": name, "decades": decades} for name, decades in found]

    return {
        "depth": depth,
        "count": len(families),
        "grows": [row for row in sized(depth) if row["decades"] > DECADES],
        "shrinks": [row for row in sized(depth) if row["decades"] < -DECADES],
        "holds": [row for row in sized(depth) if abs(row["decades"]) <= DECADES],
        "far": far,
        "beyond": [row for row in sized(far) if abs(row["decades"]) > DECADES],
    }


def _cosine_rows(tables: Tables) -> list[Row]:
    """Medians over draws at the first layer, beside theory where it has a closed form."""
    wanted = {"x": NEIGHBOURS, "unit": 0}
    backward = _table(tables, "init_backward", metric="gradient_cosine", **wanted)
    closed = _table(tables, "init_theory", metric="theory_gradient_cosine", **wanted)
    theory = median_by(closed, "family", "depth")
    rows = [
        {
            "series": AT_INIT[cell[0]],
            "family": cell[0],
            "depth": cell[1],
            "value": finite(value),
            "theory": finite(theory.get(cell)),
        }
        for cell, value in median_by(backward, "family", "depth").items()
        if cell[0] in AT_INIT
    ]
    return sorted(rows, key=lambda row: (row["series"], row["depth"]))


def _cosines(tables: Tables) -> Iterator[Figure]:
    if not (rows := _cosine_rows(tables)):
        return
    series = at_init(families_of(rows))
    hover = {"series:N": "family", "depth:Q": "layers|,d"}
    hover |= {"value:Q": "measured|.3f", "theory:Q": "theory|.3f"}
    ends = (min(0, *(row["value"] for row in rows)) - 0.05, 1.05)
    chart = plot(
        log_axis("depth", "layers", depths_of(rows)),
        axis("value", "cosine of the gradients", domain=ends),
        layer("rule", x=None, encode={"y": alt.datum(0)}, color=GREY, strokeWidth=0.6),
        layer("line", y="theory", where="isValid(datum.theory)", strokeWidth=1.4),
        layer("point", hover=hover, size=60),
        series=series,
    )
    yield panel("", chart, {"rows": rows}, 760, 340, series=series)


def _cosine_facts(tables: Tables) -> Facts:
    rows = _cosine_rows(tables)
    measured = {(row["family"], row["depth"]): row["value"] for row in rows}

    def apart(family: str) -> int | None:
        """The depth from which on they are unlike; None where they are alike in the deepest."""
        alike = [d for d in depths_of(rows) if measured.get((family, d), 0.0) >= SHATTERED]
        return next((d for d in depths_of(rows) if d > max(alike, default=0)), None)

    ends = [tuple(map(apart, pair)) for pair in PAIRS]
    pairs = [
        {
            "norm": norm,
            "plain": plain,
            "residual": residual,
            "later": (residual or math.inf) > (plain or math.inf),
        }
        for norm, (plain, residual) in enumerate(ends)
        if set(PAIRS[norm]) <= {family for family, _ in measured}
    ]
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
