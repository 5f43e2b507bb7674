"""Draw trained networks taken apart: gradients by step, paths, ablation, blocks, CKA, landscape.

A network is what one `resnets study probe` measured; plain networks stand beside residual ones.
Each figure is of one network of a kind.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from resnets.report.charts import BLUE, GREY, ORANGE, Figure, Mark, Series, axis, layer, plot
from resnets.study.report import encodings as look
from resnets.study.report.figure_data import Networks, by_network, chance, measured, networks
from resnets.study.report.figure_row import Facts, FigureRow, panel
from resnets.study.tables import AGAINST, Row, Tables, one, select
from resnets.study.verdicts import LITTLE_LEFT

SHARES = {"path_count": "share of paths", "path_energy": "share of the gradient's energy"}
PATHS = Series(tuple(SHARES.values()), (Mark(GREY, (2, 3)), Mark(BLUE, (1, 0), "square")))
# Statistics of batch norm in an ablated network, by the end of the metric's name.
STATISTICS = {"": "BN as trained", "_recalibrated": "BN re-estimated"}
ABLATED = Series(tuple(STATISTICS.values()), (Mark(ORANGE), Mark(BLUE, (5, 3), "diamond")))
BLOCK_MEASURES = {
    "branch_ratio": ("Relative size of the branch", ".2~f"),
    "branch_angle": ("Cosine of branch and negative gradient", ".2~f"),
    "lens_error": ("Error of the head (logit lens)", ".0%"),
    "probe_error": ("Error of a linear probe", ".0%"),
}
LINE = "line_loss_recalibrated"
# Similarities that differ by less are called equal: there is one pair of each kind.
CLEAR = 0.1
# Losses that differ by more than this factor are not compared.
FAIR = 2.0


def _labelled(rows: list[Row], words: dict[str, str]) -> list[Row]:
    """The rows of these metrics, each with the name of its series."""
    return [row | {"series": words[row["metric"]]} for row in rows if row["metric"] in words]


def _profiles(tables: Tables) -> Networks:
    """Gradients by step and block, of networks with two steps to compare."""
    found = {}
    for name, rows in networks(tables, "gradients", "gradient_x").items():
        rows = [row for row in rows if row.get("step") is not None and row["value"] > 0]
        if len({row["step"] for row in rows}) > 1:
            rows = [row | {"series": f"step {row['step']}"} for row in rows]
            found[name] = sorted(rows, key=lambda row: (row["step"], row["unit"]))
    return found


def _gradients(tables: Tables) -> Iterator[Figure]:
    profiles = _profiles(tables)
    every = [row for rows in profiles.values() for row in rows]
    values = [math.log10(row["value"]) for row in every]
    series = look.ordered(list(dict.fromkeys(row["series"] for row in every)))
    hover = {"series:N": "after", "unit:Q": "block", "value:Q": "gradient norm|.3~g"}
    for name, rows in profiles.items():
        ends = (10 ** math.floor(min(values)), 10 ** math.ceil(max(values)))
        chart = plot(
            look.block_axis(),
            axis("value", "gradient norm |dL/dx|", "log", ends, format="~g", tickCount=5),
            # Where one step changes nothing, step 1 is drawn over step 0, so step 0 is broad.
            layer("line", where="datum.step == 0", strokeWidth=6, opacity=0.5),
            layer("line", where="datum.step > 0"),
            layer("point", hover=hover, size=26),
            series=series,
        )
        yield panel(name, chart, {"rows": rows}, height=300, series=series)


def _gradient_facts(tables: Tables) -> Facts:
    def decades(rows: list[Row], place: int) -> float:
        """Of the gradient at the stem to that at the last block, at the first or last step."""
        own = [row["value"] for row in rows if row["step"] == rows[place]["step"]]
        return math.log10(own[0] / own[-1])

    return by_network(
        _profiles(tables),
        before=lambda rows: decades(rows, 0),
        after=lambda rows: decades(rows, -1),
        step=lambda rows: rows[-1]["step"],
        evened=lambda rows: abs(decades(rows, -1)) < abs(decades(rows, 0)) / 2,
    )


def _with_paths(tables: Tables) -> Networks:
    """Networks with more than one path."""
    found = networks(tables, "paths")
    return {name: rows for name, rows in found.items() if select(rows, metric="path_count")}


def _paths(tables: Tables) -> Iterator[Figure]:
    found = _with_paths(tables)
    hover = {"series:N": "share", "x:Q": "branches", "value:Q": "share|.2%"}
    for name, rows in found.items():
        x, y = look.block_axis("x", "branches on the path"), look.share_axis("share")
        chart = plot(x, y, layer("line"), layer("point", hover=hover), series=PATHS)
        width = 400 if len(found) > 1 else 760
        yield panel(name, chart, {"rows": _labelled(rows, SHARES)}, width, series=PATHS)


def _path_facts(tables: Tables) -> Facts:
    def of(metric: str) -> Callable[[list[Row]], float]:
        return lambda rows: one(rows, metric=metric) or 0.0

    facts = by_network(
        _with_paths(tables),
        blocks=lambda rows: max(row["x"] for row in select(rows, metric="path_count")),
        energy_mean=of("path_energy_mean"),
        energy_low=of("path_energy_low"),
        energy_high=of("path_energy_high"),
        count_mean=of("path_count_mean"),
    )
    short = [row["energy_mean"] < row["count_mean"] for row in facts["rows"]]
    return facts | {"short": all(short), "long": not any(short)}


def _ablation(tables: Tables) -> Iterator[Figure]:
    found, error = networks(tables, "lesions"), look.share_axis("error", 1.0)
    guess = [{"value": guess} for guess in (chance(tables),) if guess is not None]
    line = layer("rule", "chance", x=None, color=GREY, strokeDash=[1, 3])
    hover = {"series:N": "with", "unit:Q": "block", "value:Q": "error|.1%"}
    one_x = look.block_axis("unit", "block removed")
    one_removed = (layer("rule", "whole", x=None), layer("point", hover=hover, opacity=0.85))
    hover = {"series:N": "with", "x:Q": "blocks removed", "value:Q": "error|.1%"}
    several = (layer("line", y="mean(value)"), layer("point", hover=hover, opacity=0.6))
    for title, metric, layers in (
        ("one block removed", "removed_error", one_removed),
        ("several removed", "removed_several_error", several),
    ):
        for name, rows in found.items():
            drawn, whole = (
                _labelled(rows, {f"{what}{end}": words for end, words in STATISTICS.items()})
                for what in (metric, "intact_error")
            )
            counts = sorted({row["x"] for row in drawn if "x" in row})
            x = look.log_axis("x", "blocks removed", counts, "d") if counts else one_x
            chart = plot(x, error, line, *layers, series=ABLATED)
            data = {"rows": drawn, "whole": whole, "chance": guess}
            yield panel(f"{name}: {title}", chart, data, height=240, series=ABLATED)


def _ablation_facts(tables: Tables) -> Facts:
    def whole(rows: list[Row]) -> float:
        return one(rows, metric="intact_error") or 0.0

    def cost(rows: list[Row]) -> float | None:
        errors = [row["value"] for row in measured(select(rows, metric="removed_error"))]
        return 100 * (statistics.median(errors) - whole(rows)) if errors else None

    found = networks(tables, "lesions")
    facts = by_network(found, whole=whole, points=cost)
    removed = [row for rows in found.values() for row in select(rows, metric="removed_error")]
    return facts | {
        "hopeless": max((row["whole"] for row in facts["rows"]), default=0.0) > LITTLE_LEFT,
        "kept": sorted({row["unit"] for row in removed if "value" not in row}),
        "chance": chance(tables),
    }


def _blocks(tables: Tables) -> Iterator[Figure]:
    use = networks(tables, "use", *BLOCK_MEASURES)
    outputs = networks(tables, "responses", "response_std")
    lines = [(use, metric, *words, "unit", "block") for metric, words in BLOCK_MEASURES.items()]
    last = ("Standard deviation of each layer's output", ".2~f", "x", "layer")
    for found, metric, title, form, place, kind in (*lines, (outputs, "response_std", *last)):
        series = look.series_of(list(found), like=[rows[0]["family"] for rows in found.values()])
        hover = {"series:N": "network", f"{place}:Q": kind, "value:Q": f"{title}|.3~f"}
        y = axis("value", None, format=form, tickCount=5)
        dots = layer("point", hover=hover, size=30)
        chart = plot(look.block_axis(place, kind), y, layer("line"), dots, series=series)
        rows = [row for name, own in found.items() for row in _labelled(own, {metric: name})]
        if rows:
            yield panel(title, chart, {"rows": rows}, height=240, series=series)


def _block_facts(tables: Tables) -> Facts:
    def of(metric: str, number: Callable[[dict[int, float]], Any]) -> Callable[[list[Row]], Any]:
        """A number of the values by block; None without values."""
        return lambda rows: (
            number({row["unit"]: row["value"] for row in found})
            if (found := select(rows, metric=metric))
            else None
        )

    use = networks(tables, "use", *BLOCK_MEASURES)
    angles = by_network(
        use,
        count=of("branch_angle", len),
        against=of("branch_angle", lambda values: sum(v > 0 for v in values.values())),
        mean=of("branch_angle", lambda values: statistics.fmean(values.values())),
    )
    probes = by_network(
        use,
        best=of("probe_error", lambda values: min(values, key=values.__getitem__)),
        last=of("probe_error", max),
        low=of("probe_error", lambda values: min(values.values())),
        end=of("probe_error", lambda values: values[max(values)]),
    )
    outputs = by_network(
        networks(tables, "responses", "response_std"),
        mean=lambda rows: statistics.fmean(row["value"] for row in rows),
    )
    return {"angles": angles["rows"], "probes": probes["rows"], "outputs": outputs}


def _pairs(tables: Tables) -> Networks:
    """Compared networks, twins first."""
    found = networks(tables, "across", "cka_across")
    return {name: found[name] for name in sorted(found, key=_of_one_family)}


def _of_one_family(name: str) -> bool:
    return len({network.rpartition("-")[0] for network in name.split(AGAINST)}) == 1


def _lasts(rows: list[Row]) -> tuple[int, int]:
    return max(row["unit"] for row in rows), round(max(row["x"] for row in rows))


def _matched(rows: list[Row]) -> list[Row]:
    """The rows at equal shares of depth: block l of n with l m / n of m, rounded up."""
    n, m = _lasts(rows)
    return [row for row in rows if row["x"] == -(-row["unit"] * m // max(n, 1))]


def _similarity(tables: Tables) -> Iterator[Figure]:
    for name, rows in (networks(tables, "similarity", "cka") | _pairs(tables)).items():
        sides = [f"block of {side}" for side in name.split(AGAINST)]
        pair = len(sides) > 1
        titles = sides if pair else ["block", "block"]
        chart = look.similarity_map(*zip(titles, _lasts(rows), strict=True))
        data = {"rows": rows, "matched": _matched(rows) if pair else []}
        yield panel(name.replace(AGAINST, " with "), chart, data, 330, 330, square=True)


def _similarity_facts(tables: Tables) -> Facts:
    def near(rows: list[Row]) -> float | None:
        values = [row["value"] for row in rows if row["x"] == row["unit"] + 1]
        return statistics.fmean(values) if values else None

    def ends(rows: list[Row]) -> float | None:
        return one(rows, unit=0, x=float(max(row["unit"] for row in rows)))

    means = {
        name: statistics.fmean(row["value"] for row in _matched(rows))
        for name, rows in _pairs(tables).items()
        if _matched(rows)
    }
    kept = {name.split("-")[0]: mean for name, mean in means.items() if _of_one_family(name)}
    gap = kept.get("residual", math.nan) - kept.get("plain", math.nan)
    return {
        "within": by_network(networks(tables, "similarity", "cka"), near=near, ends=ends)["rows"],
        "across": [
            {"name": n.replace(AGAINST, " with "), "mean": mean} for n, mean in means.items()
        ],
        "both": not math.isnan(gap),
        "residual": gap >= CLEAR,
        "plain": gap <= -CLEAR,
    }


def _band(rows: list[Row]) -> Iterator[Row]:
    """The median and the middle 80 % of the values at each step."""
    for x in sorted({row["x"] for row in rows}):
        values = [row["value"] for row in select(rows, x=x)]
        ends = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values
        yield {"x": x, "middle": statistics.median(values), "low": ends[0], "high": ends[-1]}


def _landscape(tables: Tables) -> Iterator[Figure]:
    """Draw each direction thin, the median thick, the middle 80 % as a band."""
    found = networks(tables, "landscape", LINE)
    values = [row["value"] for rows in found.values() for row in rows]
    hover = {"x:Q": "step|+.1f", "middle:Q": "median loss|.3g"}
    hover |= {"low:Q": "80 % from|.3g", "high:Q": "to|.3g"}
    for name, rows in found.items():
        colour = look.series_of([rows[0]["family"]]).marks[0].colour
        ends = (max(min(values) / 1.3, 1e-4), max(values) * 1.1)
        thin: dict[str, Any] = {"encode": {"detail": "draw:N"}, "strokeWidth": 0.7}
        chart = plot(
            axis("x", "step along the direction", grid=False, tickCount=5),
            axis("value", "loss (nats)", "switch", ends),
            layer("area", "band", y="low", y2="high", opacity=0.2, color=colour),
            layer("line", color=colour, opacity=0.45, **thin),
            layer("line", "band", y="middle", color=colour, strokeWidth=2.6),
            layer("point", "band", y="middle", hover=hover, size=90, opacity=0),
        )
        yield panel(name, chart, {"rows": rows, "band": _band(rows)})


def _landscape_facts(tables: Tables) -> Facts:
    def nearest(rows: list[Row], distance: float) -> Any:
        return min({abs(row["x"]) for row in rows}, key=lambda x: abs(x - distance))

    def median(rows: list[Row], distance: float) -> Any:
        at = nearest(rows, distance)
        return statistics.median(row["value"] for row in rows if abs(row["x"]) == at)

    found = networks(tables, "landscape", LINE)
    facts = by_network(
        found,
        start=lambda rows: median(rows, 0.0),
        end=lambda rows: median(rows, 0.5),
        half=lambda rows: nearest(rows, 0.5),
        rise=lambda rows: median(rows, 0.5) - median(rows, 0.0),
    )
    starts = [row["start"] for row in facts["rows"]]
    draws = {row["draw"] for rows in found.values() for row in rows}
    return facts | {"fair": max(starts) <= FAIR * min(starts), "draws": len(draws)}


BY_BLOCK, MAPS = ("probe_use", "probe_responses"), ("probe_similarity", "probe_across")
ROWS = (
    FigureRow("gradients", ("probe_gradients",), _gradients, _gradient_facts),
    FigureRow("paths", ("probe_paths",), _paths, _path_facts),
    FigureRow("ablation", ("probe_lesions",), _ablation, _ablation_facts),
    FigureRow("blocks", BY_BLOCK, _blocks, _block_facts),
    FigureRow("similarity", MAPS, _similarity, _similarity_facts),
    FigureRow("landscape", ("probe_landscape",), _landscape, _landscape_facts),
)
