"""Draw trained networks taken apart: gradients by step, paths, ablation, blocks, CKA, landscape.

A network is what one `resnets study probe` measured; plain networks stand beside residual ones.
Each figure is of one network of a kind.
"""

import math
import statistics
from collections.abc import Iterator
from typing import Any

from resnets.report import charts
from resnets.report.charts import Mark, Series, axis, layer, log_axis, ordered, share_axis
from resnets.study.report import figure_data
from resnets.study.report.figure_data import by_network, chance, measured, networks
from resnets.study.report.figure_spec import Drawing, FigureSpec, panel
from resnets.study.tables import AGAINST, Row, Tables, one, select
from resnets.study.verdicts import LITTLE_LEFT

SHARES = {"path_count": "share of paths", "path_energy": "share of the gradient's energy"}
PATHS = Series(
    tuple(SHARES.values()), (Mark(charts.GREY, (2, 3)), Mark(charts.BLUE, (1, 0), "square"))
)
# Statistics of batch norm in an ablated network, by the end of the metric's name.
STATISTICS = {"": "BN as trained", "_recalibrated": "BN re-estimated"}
ABLATED = Series(
    tuple(STATISTICS.values()), (Mark(charts.ORANGE), Mark(charts.BLUE, (5, 3), "diamond"))
)
BLOCK_MEASURES = {
    "branch_ratio": ("Relative size of the branch", ".2~f"),
    "branch_angle": ("Cosine of branch and negative gradient", ".2~f"),
    "lens_error": ("Error of the head (logit lens)", ".0%"),
    "probe_error": ("Error of a linear probe", ".0%"),
}
# Similarities that differ by less are called equal: there is one pair of each kind.
CLEAR = 0.1
# Losses that differ by more than this factor are not compared.
FAIR = 2.0


def _labelled(rows: list[Row], words: dict[str, str]) -> list[Row]:
    """The rows of these metrics, each with the name of its series."""
    return [row | {"series": words[row["metric"]]} for row in rows if row["metric"] in words]


def _gradients(tables: Tables) -> Drawing:
    """Draw gradients by step and block, of networks with two steps to compare."""
    profiles = {}
    for name, rows in networks(tables, "gradients", "gradient_x").items():
        rows = [row for row in rows if row.get("step") is not None and row["value"] > 0]
        if len({row["step"] for row in rows}) > 1:
            rows = [row | {"series": f"step {row['step']}"} for row in rows]
            profiles[name] = sorted(rows, key=lambda row: (row["step"], row["unit"]))
    every = [row for rows in profiles.values() for row in rows]
    values = [math.log10(row["value"]) for row in every] or [0.0]
    ends = (10 ** math.floor(min(values)), 10 ** math.ceil(max(values)))
    series = ordered(list(dict.fromkeys(row["series"] for row in every)))
    panels = [
        panel(
            name,
            {"rows": rows},
            figure_data.block_axis(),
            axis("value", "gradient norm |dL/dx|", "log", ends, format="~g", tickCount=5),
            # Where one step changes nothing, step 1 is drawn over step 0, so step 0 is broad.
            layer("line", where="datum.step == 0", strokeWidth=6, opacity=0.5),
            layer("line", where="datum.step > 0"),
            layer("point", tip=True, size=26),
            series=series,
        )
        for name, rows in profiles.items()
    ]

    def decades(rows: list[Row], place: int) -> float:
        """Of the gradient at the stem to that at the last block, at the first or last step."""
        own = [row["value"] for row in rows if row["step"] == rows[place]["step"]]
        return math.log10(own[0] / own[-1])

    return panels, by_network(
        profiles,
        before=lambda rows: decades(rows, 0),
        after=lambda rows: decades(rows, -1),
        step=lambda rows: rows[-1]["step"],
        evened=lambda rows: abs(decades(rows, -1)) < abs(decades(rows, 0)) / 2,
    )


def _paths(tables: Tables) -> Drawing:
    """Draw networks with more than one path, which a plain one has not."""
    every = networks(tables, "paths")
    found = {name: rows for name, rows in every.items() if rows[0]["family"] != "plain"}
    x, y = figure_data.block_axis("x", "branches on the path"), share_axis("share")
    layers, width = (layer("line"), layer("point", tip=True)), 400 if len(found) > 1 else 760
    panels = [
        panel(name, {"rows": _labelled(rows, SHARES)}, x, y, *layers, series=PATHS, width=width)
        for name, rows in found.items()
    ]

    facts = by_network(
        found,
        blocks=lambda rows: max(row["x"] for row in select(rows, metric="path_count")),
        energy_mean=lambda rows: one(rows, metric="path_energy_mean") or 0.0,
        energy_low=lambda rows: one(rows, metric="path_energy_low") or 0.0,
        energy_high=lambda rows: one(rows, metric="path_energy_high") or 0.0,
        count_mean=lambda rows: one(rows, metric="path_count_mean") or 0.0,
    )
    short = [row["energy_mean"] < row["count_mean"] for row in facts["rows"]]
    return panels, facts | {"short": all(short), "long": not any(short)}


def _ablation(tables: Tables) -> Drawing:
    found, error, panels = networks(tables, "lesions"), share_axis("error", 1.0), []
    guess = [{"value": guess} for guess in (chance(tables),) if guess is not None]
    line = layer("rule", "chance", x=None, color=charts.GREY, strokeDash=[1, 3])
    one_removed = (layer("rule", "whole", x=None), layer("point", tip=True, opacity=0.85))
    several = (layer("line", y="mean(value)"), layer("point", tip=True, opacity=0.6))
    for title, metric, layers in (
        ("one block removed", "removed_error", one_removed),
        ("several removed", "removed_several_error", several),
    ):
        for name, rows in found.items():
            drawn, whole = (
                _labelled(rows, {f"{what}{end}": words for end, words in STATISTICS.items()})
                for what in (metric, "intact_error")
            )
            x = figure_data.block_axis("unit", "block removed")
            if counts := sorted({row["x"] for row in drawn if "x" in row}):
                x = log_axis("x", "blocks removed", counts, "d")
            data = {"rows": drawn, "whole": whole, "chance": guess}
            shown = (x, error, line, *layers)
            panels.append(panel(f"{name}: {title}", data, *shown, series=ABLATED, height=240))

    def whole_error(rows: list[Row]) -> float:
        return one(rows, metric="intact_error") or 0.0

    def cost(rows: list[Row]) -> float | None:
        errors = [row["value"] for row in measured(select(rows, metric="removed_error"))]
        return 100 * (statistics.median(errors) - whole_error(rows)) if errors else None

    facts = by_network(found, whole=whole_error, points=cost)
    removed = [row for rows in found.values() for row in select(rows, metric="removed_error")]
    return panels, facts | {
        "hopeless": max((row["whole"] for row in facts["rows"]), default=0.0) > LITTLE_LEFT,
        "kept": sorted({row["unit"] for row in removed if "value" not in row}),
        "chance": chance(tables),
    }


def _blocks(tables: Tables) -> Drawing:
    use = networks(tables, "use", *BLOCK_MEASURES)
    outputs = networks(tables, "responses", "response_std")
    lines = [(use, metric, *words, "unit", "block") for metric, words in BLOCK_MEASURES.items()]
    last = ("Standard deviation of each layer's output", ".2~f", "x", "layer")
    panels = []
    for found, metric, title, form, place, kind in (*lines, (outputs, "response_std", *last)):
        families = [rows[0]["family"] for rows in found.values()]
        series = figure_data.series_of(list(found), like=families)
        rows = [row for name, own in found.items() for row in _labelled(own, {metric: name})]
        x, y = figure_data.block_axis(place, kind), axis("value", None, format=form, tickCount=5)
        shown = (x, y, layer("line"), layer("point", tip=True, size=30))
        if rows:
            panels.append(panel(title, {"rows": rows}, *shown, series=series, height=240))

    def values(rows: list[Row], metric: str) -> dict[int, float]:
        return {row["unit"]: row["value"] for row in select(rows, metric=metric)}

    angles = [
        {"name": name, "count": len(own), "mean": statistics.fmean(own.values())}
        | {"against": sum(value > 0 for value in own.values())}
        for name, rows in use.items()
        if (own := values(rows, "branch_angle"))
    ]
    probes = [
        {"name": name, "best": min(own, key=own.__getitem__), "last": max(own)}
        | {"low": min(own.values()), "end": own[max(own)]}
        for name, rows in use.items()
        if (own := values(rows, "probe_error"))
    ]
    means = by_network(outputs, mean=lambda rows: statistics.fmean(r["value"] for r in rows))
    return panels, {"angles": angles, "probes": probes, "outputs": means}


def _of_one_family(name: str) -> bool:
    return len({network.rpartition("-")[0] for network in name.split(AGAINST)}) == 1


def _lasts(rows: list[Row]) -> tuple[int, int]:
    return max(row["unit"] for row in rows), round(max(row["x"] for row in rows))


def _matched(rows: list[Row]) -> list[Row]:
    """The rows at equal shares of depth: block l of n with l m / n of m, rounded up."""
    n, m = _lasts(rows)
    return [row for row in rows if row["x"] == -(-row["unit"] * m // max(n, 1))]


def _similarity(tables: Tables) -> Drawing:
    """Draw each network's map, then those of compared networks, twins first, with their rings."""
    within, across = networks(tables, "similarity", "cka"), networks(tables, "across", "cka_across")
    across = {name: across[name] for name in sorted(across, key=_of_one_family)}
    matched, panels = {name: _matched(rows) for name, rows in across.items()}, []
    legend = {"titleOrient": "left", "gradientLength": 160, "gradientThickness": 8, "tickCount": 3}
    scale = {"domain": [0, 1], "scheme": "viridis", "clamp": True}
    colour = {"color": charts.channel("value:Q", title="CKA", scale=scale, legend=legend)}
    for name, rows in (within | across).items():
        sides = [f"block of {side}" for side in name.split(AGAINST)]
        titles, (n, m) = sides if name in across else ["block", "block"], _lasts(rows)
        ticks = [list(range(0, last + 1, max(1, round(last / 8)))) for last in (n, m)]
        drawn = panel(
            name.replace(AGAINST, " with "),
            {"rows": rows, "matched": matched.get(name, [])},
            axis("unit", titles[0], "band", values=ticks[0]),
            axis("x", titles[1], "band", list(range(m, -1, -1)), values=ticks[1], format="d"),
            layer("rect", encode=colour, tip=True, hover={"value:Q": "CKA|.3f"}),
            layer("point", "matched", size=22, color="#ffffff", stroke="#1d1d1d"),
            square=True,
            width=330,
            height=330,
        )
        panels.append(drawn)

    def near(rows: list[Row]) -> float | None:
        values = [row["value"] for row in rows if row["x"] == row["unit"] + 1]
        return statistics.fmean(values) if values else None

    def ends(rows: list[Row]) -> float | None:
        return one(rows, unit=0, x=float(max(row["unit"] for row in rows)))

    means = {n: statistics.fmean(row["value"] for row in own) for n, own in matched.items() if own}
    kept = {name.split("-")[0]: mean for name, mean in means.items() if _of_one_family(name)}
    gap = kept.get("residual", math.nan) - kept.get("plain", math.nan)
    return panels, {
        "within": by_network(within, near=near, ends=ends)["rows"],
        "across": [{"name": n.replace(AGAINST, " with "), "mean": m} for n, m in means.items()],
        "both": not math.isnan(gap),
        "residual": gap >= CLEAR,
        "plain": gap <= -CLEAR,
    }


def _band(rows: list[Row]) -> Iterator[Row]:
    """The median and the middle 80 % of the values at each step."""
    for x in sorted({row["x"] for row in rows}):
        values = [row["value"] for row in select(rows, x=x)]
        ends = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values
        yield {"x": x, "value": statistics.median(values), "low": ends[0], "high": ends[-1]}


def _landscape(tables: Tables) -> Drawing:
    """Draw each direction thin, the median thick, the middle 80 % as a band."""
    found = networks(tables, "landscape", "line_loss_recalibrated")
    if not found:
        return [], {}
    values = [row["value"] for rows in found.values() for row in rows]
    ends = (max(min(values) / 1.3, 1e-4), max(values) * 1.1)
    hover = {"low:Q": "80 % from|.3g", "high:Q": "to|.3g"}
    thin: dict[str, Any] = {"encode": {"detail": "draw:N"}, "strokeWidth": 0.7, "opacity": 0.45}
    panels = []
    for name, rows in found.items():
        colour = figure_data.series_of([rows[0]["family"]]).marks[0].colour
        drawn = panel(
            name,
            {"rows": rows, "band": _band(rows)},
            axis("x", "step along the direction", grid=False, tickCount=5),
            axis("value", "loss (nats)", "switch", ends),
            layer("area", "band", y="low", y2="high", opacity=0.2, color=colour),
            layer("line", color=colour, **thin),
            layer("line", "band", color=colour, strokeWidth=2.6),
            layer("point", "band", tip=True, hover=hover, size=90, opacity=0),
        )
        panels.append(drawn)

    def nearest(rows: list[Row], distance: float) -> Any:
        return min({abs(row["x"]) for row in rows}, key=lambda x: abs(x - distance))

    def median(rows: list[Row], distance: float) -> Any:
        at = nearest(rows, distance)
        return statistics.median(row["value"] for row in rows if abs(row["x"]) == at)

    facts = by_network(
        found,
        start=lambda rows: median(rows, 0.0),
        end=lambda rows: median(rows, 0.5),
        half=lambda rows: nearest(rows, 0.5),
        rise=lambda rows: median(rows, 0.5) - median(rows, 0.0),
    )
    starts = [row["start"] for row in facts["rows"]]
    draws = {row["draw"] for rows in found.values() for row in rows}
    return panels, facts | {"fair": max(starts) <= FAIR * min(starts), "draws": len(draws)}


ROWS = (
    FigureSpec("gradients", ("probe_gradients",), _gradients),
    FigureSpec("paths", ("probe_paths",), _paths),
    FigureSpec("ablation", ("probe_lesions",), _ablation),
    FigureSpec("blocks", ("probe_use", "probe_responses"), _blocks),
    FigureSpec("similarity", ("probe_similarity", "probe_across"), _similarity),
    FigureSpec("landscape", ("probe_landscape",), _landscape),
)
