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
from resnets.report.html import finite
from resnets.study.report.encodings import (
    block_axis,
    log_axis,
    ordered,
    series_of,
    share_axis,
    similarity_map,
)
from resnets.study.report.evidence import Evidence as Tables
from resnets.study.report.evidence import Row, one, select
from resnets.study.report.figure_data import (
    Networks,
    band_of,
    by_network,
    chance,
    drawn,
    lines_of,
    networks,
)
from resnets.study.report.figure_row import Facts, FigureRow, panel
from resnets.study.report.words import LITTLE_LEFT
from resnets.study.tables import AGAINST

SHARES = {"share of paths": "path_count", "share of the gradient's energy": "path_energy"}
PATHS = Series(tuple(SHARES), (Mark(GREY, (2, 3)), Mark(BLUE, (1, 0), "square")))
# Statistics of batch norm in an ablated network, by the end of the metric's name.
STATISTICS = {"BN as trained": "", "BN re-estimated": "_recalibrated"}
ABLATED = Series(tuple(STATISTICS), (Mark(ORANGE), Mark(BLUE, (5, 3), "diamond")))
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


def _profiles(tables: Tables) -> Networks:
    """Gradients by step and block, of networks with two steps to compare."""
    found = {}
    for name, rows in networks(tables, "gradients", "gradient_x").items():
        rows = [row for row in rows if row.get("step") is not None and row["value"] > 0]
        if len({row["step"] for row in rows}) > 1:
            found[name] = sorted(rows, key=lambda row: (row["step"], row["unit"]))
    return found


def _gradients(tables: Tables) -> Iterator[Figure]:
    profiles = _profiles(tables)
    values = [math.log10(row["value"]) for rows in profiles.values() for row in rows]
    steps = dict.fromkeys(row["step"] for rows in profiles.values() for row in rows)
    series = ordered([f"step {step}" for step in steps])
    hover = {"series:N": "after", "place:Q": "block", "value:Q": "gradient norm|.3~g"}
    for name, rows in profiles.items():
        ends = (10 ** math.floor(min(values)), 10 ** math.ceil(max(values)))
        chart = plot(
            block_axis(),
            axis("value", "gradient norm |dL/dx|", "log", ends, format="~g", tickCount=5),
            # Where one step changes nothing, step 1 is drawn over step 0, so step 0 is broad.
            layer("line", where="datum.step == 0", strokeWidth=6, opacity=0.5),
            layer("line", where="datum.step > 0"),
            layer("point", hover=hover, size=26),
            series=series,
        )
        points = drawn(rows, step="step", place="unit", value="value")
        points = [row | {"series": f"step {row['step']}"} for row in points]
        yield panel(name, chart, {"rows": points}, height=300, series=series)


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
    hover = {"series:N": "share", "place:Q": "branches", "value:Q": "share|.2%"}
    for name, rows in _with_paths(tables).items():
        points = [
            {"series": words, "place": row["x"], "value": finite(row["value"])}
            for words, metric in SHARES.items()
            for row in select(rows, metric=metric)
        ]
        chart = plot(
            block_axis("branches on the path"),
            share_axis("share"),
            layer("line"),
            layer("point", hover=hover),
            series=PATHS,
        )
        width = 400 if len(_with_paths(tables)) > 1 else 760
        yield panel(name, chart, {"rows": points}, width, series=PATHS)


def _path_facts(tables: Tables) -> Facts:
    def of(metric: str) -> Callable[[list[Row]], float]:
        return lambda rows: one(rows, metric=metric) or 0.0

    names = ("energy_mean", "energy_low", "energy_high", "count_mean")
    facts = by_network(
        _with_paths(tables),
        blocks=lambda rows: max(row["x"] for row in select(rows, metric="path_count")),
        **{name: of(f"path_{name}") for name in names},
    )
    short = [row["energy_mean"] < row["count_mean"] for row in facts["rows"]]
    return facts | {"short": all(short), "long": not any(short)}


def _ablated(rows: list[Row], metric: str, place: str = "unit") -> list[Row]:
    return [
        {"series": words, "place": row.get(place), "value": finite(row.get("value"))}
        for words, end in STATISTICS.items()
        for row in select(rows, metric=f"{metric}_error{end}")
    ]


def _ablation(tables: Tables) -> Iterator[Figure]:
    found, error = networks(tables, "lesions"), share_axis("error", 1.0)
    guess = [{"value": guess} for guess in (chance(tables),) if guess is not None]
    line = layer("rule", "chance", x=None, color=GREY, strokeDash=[1, 3])
    hover = {"series:N": "with", "place:Q": "block", "value:Q": "error|.1%"}
    for name, rows in found.items():
        dots = layer("point", hover=hover, opacity=0.85)
        chart = plot(
            block_axis("block removed"),
            error,
            line,
            layer("rule", "whole", x=None),
            dots,
            series=ABLATED,
        )
        data = {"rows": _ablated(rows, "removed"), "whole": _ablated(rows, "intact")}
        title = f"{name}: one block removed"
        yield panel(title, chart, data | {"chance": guess}, height=240, series=ABLATED)
    for name, rows in found.items():
        points = _ablated(rows, "removed_several", "x")
        counts = sorted({row["place"] for row in points})
        several = hover | {"place:Q": "blocks removed"}
        x = log_axis("place", "blocks removed", counts or [1], "d")
        mean = layer("line", y="mean(value)")
        dots = layer("point", hover=several, opacity=0.6)
        chart = plot(x, error, line, mean, dots, series=ABLATED)
        data = {"rows": points, "chance": guess}
        yield panel(f"{name}: several removed", chart, data, height=220, series=ABLATED)


def _ablation_facts(tables: Tables) -> Facts:
    def whole(rows: list[Row]) -> float:
        return one(rows, metric="intact_error") or 0.0

    def cost(rows: list[Row]) -> float | None:
        errors = [row["value"] for row in select(rows, metric="removed_error") if "value" in row]
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
    found = networks(tables, "use", *BLOCK_MEASURES)
    for metric, (title, form) in BLOCK_MEASURES.items():
        yield from _lines(found, metric, title, form)
    found = networks(tables, "responses", "response_std")
    yield from _lines(
        found, "response_std", "Standard deviation of each layer's output", ".2~f", "x"
    )


def _lines(
    found: Networks, metric: str, title: str, form: str, place: str = "unit"
) -> Iterator[Figure]:
    """A line for each network along its blocks or layers."""
    rows, kind = lines_of(found, metric, place), "block" if place == "unit" else "layer"
    series = series_of(list(found), like=[rows[0]["family"] for rows in found.values()])
    hover = {"series:N": "network", "place:Q": kind, "value:Q": f"{title}|.3~f"}
    chart = plot(
        block_axis(kind),
        axis("value", None, format=form, tickCount=5),
        layer("line"),
        layer("point", hover=hover, size=30),
        series=series,
    )
    if rows:
        yield panel(title, chart, {"rows": rows}, height=240, series=series)


def _block_facts(tables: Tables) -> Facts:
    def of(metric: str, number: Callable[[dict[int, float]], float]) -> Callable[[list[Row]], Any]:
        """A number of the values by block; None without values."""

        def condensed(rows: list[Row]) -> float | None:
            values = {row["unit"]: row["value"] for row in select(rows, metric=metric)}
            return number(values) if values else None

        return condensed

    found = networks(tables, "use", *BLOCK_MEASURES)
    return {
        "angles": by_network(
            found,
            count=of("branch_angle", len),
            against=of("branch_angle", lambda v: sum(value > 0 for value in v.values())),
            mean=of("branch_angle", lambda v: statistics.fmean(v.values())),
        )["rows"],
        "probes": by_network(
            found,
            best=of("probe_error", lambda v: min(v, key=v.__getitem__)),
            last=of("probe_error", max),
            low=of("probe_error", lambda v: min(v.values())),
            end=of("probe_error", lambda v: v[max(v)]),
        )["rows"],
        "outputs": by_network(
            networks(tables, "responses", "response_std"),
            mean=lambda rows: statistics.fmean(row["value"] for row in rows),
        ),
    }


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
        first, second = name.split(AGAINST) if AGAINST in name else ("", "")
        ends = zip((f"block of {first}", f"block of {second}"), _lasts(rows), strict=True)
        chart = similarity_map(*((words.removesuffix(" of "), last) for words, last in ends))
        matched = _matched(rows) if first else []
        data = {
            part: drawn(found, unit="unit", other="x", cka="value")
            for part, found in (("rows", rows), ("matched", matched))
        }
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
    across = [{"name": n.replace(AGAINST, " with "), "mean": mean} for n, mean in means.items()]
    within = by_network(networks(tables, "similarity", "cka"), near=near, ends=ends)["rows"]
    return {
        "within": within,
        "across": across,
        "both": not math.isnan(gap),
        "residual": gap >= CLEAR,
        "plain": gap <= -CLEAR,
    }


def _landscape(tables: Tables) -> Iterator[Figure]:
    """Draw each direction thin, the median thick, the middle 80 % as a band."""
    found = networks(tables, "landscape", LINE)
    values = [row["value"] for rows in found.values() for row in rows]
    hover = {"x:Q": "step|+.1f", "middle:Q": "median loss|.3g"}
    hover |= {"low:Q": "80 % from|.3g", "high:Q": "to|.3g"}
    for name, rows in found.items():
        colour = series_of([rows[0]["family"]]).marks[0].colour
        ends = (max(min(values) / 1.3, 1e-4), max(values) * 1.1)
        thin: dict[str, Any] = {"encode": {"detail": "draw:N"}, "strokeWidth": 0.7, "opacity": 0.45}
        chart = plot(
            axis("x", "step along the direction", grid=False, tickCount=5),
            axis("loss", "loss (nats)", "switch", ends),
            layer("area", "band", y="low", y2="high", opacity=0.2, color=colour),
            layer("line", color=colour, **thin),
            layer("line", "band", y="middle", color=colour, strokeWidth=2.6),
            layer("point", "band", y="middle", hover=hover, size=90, opacity=0),
        )
        lines = [{"draw": r["draw"], "x": r["x"], "loss": finite(r["value"])} for r in rows]
        yield panel(name, chart, {"rows": lines, "band": band_of(rows, "x")})


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


BY_BLOCK = ("probe_use", "probe_responses")
MAPS = ("probe_similarity", "probe_across")
ROWS = (
    FigureRow("gradients", ("probe_gradients",), _gradients, _gradient_facts),
    FigureRow("paths", ("probe_paths",), _paths, _path_facts),
    FigureRow("ablation", ("probe_lesions",), _ablation, _ablation_facts),
    FigureRow("blocks", BY_BLOCK, _blocks, _block_facts),
    FigureRow("similarity", MAPS, _similarity, _similarity_facts),
    FigureRow("landscape", ("probe_landscape",), _landscape, _landscape_facts),
)
