"""The tables of probed networks enter, their figures leave: paths and lesions.

A network is what one `resnets study probe` measured; plain networks stand beside residual ones of
their depth. The other figures of the same networks are drawn in the rooms named by the imports.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import altair as alt

from resnets.report.charts import GREY, Figure, finite, percent
from resnets.study.report.across import across
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.gradients import gradients
from resnets.study.report.landscape import landscape
from resnets.study.report.layers import responses, similarity, use
from resnets.study.report.look import Drawn, Mark, Series, count_axis, data, faded
from resnets.study.report.words import LITTLE_LEFT, and_
from resnets.study.tables import AGAINST, Row, Tables, one, select

Networks = dict[str, list[Row]]
CURVES = {
    "path_count": ("share of paths", Mark(GREY, (2, 3), "circle")),
    "path_energy": ("gradient's energy, exact", Mark("#0072B2", (1, 0), "square")),
}
STATISTICS = {
    "": ("BN as trained", Mark("#D55E00", (1, 0), "circle")),
    "_recalibrated": ("BN re-estimated", Mark("#0072B2", (5, 3), "diamond")),
}
MOST_NETWORKS = 4


def inside_figures(evidence: Tables) -> list[Exhibit]:
    """Those of the figures inside trained networks that have something to show."""
    made = (
        ("gradients", gradients), ("paths", paths), ("lesions", lesions),
        ("use", use), ("responses", responses), ("similarity", similarity), ("across", across),
        ("landscape", landscape),
    )  # fmt: skip
    exhibits = []
    for table, make in made:
        networks = dict(list(evidence.probes(table).items())[-MOST_NETWORKS:])
        names = tuple(f"probe_{table}_{network}" for network in networks)
        command = _command(evidence, table, networks)
        exhibit = make(networks, names, command) if networks else None
        exhibits += [exhibit] if exhibit is not None else []
    return exhibits


def _command(evidence: Tables, table: str, networks: Networks) -> str:
    """How these networks were probed: where a study keeps them, or wherever they lie."""

    def kept(network: str) -> Path:
        return evidence.folder / "models" / f"{network}.safetensors"

    def place(network: str) -> str:
        return str(kept(network)) if kept(network).exists() else "MODEL"

    if table == "gradients" and all(kept(network).exists() for network in networks):
        return f"resnets study --out {evidence.folder}"  # the first steps are done by the plan
    models = (" --against ".join(map(place, network.split(AGAINST))) for network in networks)
    commands = (f"resnets study probe {model} --out {evidence.folder}" for model in models)
    return "; ".join(dict.fromkeys(commands))


def paths(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """The gradient by the length of the paths that it came along; plain networks have but one."""
    shown = {name: rows for name, rows in networks.items() if rows[0]["family"] != "plain"}
    if not shown:
        return None
    panels = tuple(
        Figure(
            name=f"paths-{name}",
            title=name,
            note="",
            chart=_path_chart(),
            data={"rows": _path_rows(rows)},
            width=760 if len(shown) == 1 else 420,
            height=300,
        )
        for name, rows in shown.items()
    )
    return Exhibit(
        name="paths",
        sentence=paths_sentence(shown),
        note="A path of length k goes through k residual branches and around the others. All of "
        "the 2^n paths are added up exactly, and their parts sum to the ordinary gradient. A "
        "plain network has a single path, through all units.",
        panels=panels,
        tables=tuple(t for t in tables if t.removeprefix("probe_paths_") in shown),
        command=command,
        columns=min(2, len(panels)),
    )


def paths_sentence(networks: Networks) -> str:
    """How long the paths are that carry the gradient, against those that there are."""
    parts = []
    for name, rows in networks.items():
        got = {
            f"{curve}_{what}": one(rows, metric=f"{curve}_{what}") or 0.0
            for curve in ("path_energy", "path_count")
            for what in ("mean", "low", "high")
        }
        units = max(row["x"] for row in select(rows, metric="path_count", unit=None) if "x" in row)
        word = "short" if got["path_energy_mean"] < got["path_count_mean"] else "long"
        parts.append(
            f"the gradient of {name} comes along {word} paths: {got['path_energy_mean']:.1f} of "
            f"{units:.0f} branches in the mean, 95 % between {got['path_energy_low']:.0f} and "
            f"{got['path_energy_high']:.0f}, where the average path has "
            f"{got['path_count_mean']:.1f}"
        )
    joined = "; ".join(parts)
    return f"{joined[0].upper()}{joined[1:]}."


def _path_rows(rows: list[Row]) -> list[Row]:
    return [
        {"series": title, "place": row["x"], "share": finite(row.get("value"))}
        for metric, (title, _) in CURVES.items()
        for row in select(rows, metric=metric)
    ]


def _path_chart() -> Drawn:
    words, marks = zip(*CURVES.values(), strict=True)
    series = Series(words, marks, columns=1)
    pick = series.pick()
    rows = data().encode(
        x=count_axis("branches on the path"),
        y=alt.Y("share:Q", title="share").axis(format=".0%", tickCount=5),
        color=series.colour,
        opacity=faded(pick),
    )
    tooltip = [
        alt.Tooltip("series:N", title="measure"),
        alt.Tooltip("place:Q", title="branches"),
        alt.Tooltip("share:Q", format=".2%"),
    ]
    return alt.layer(
        rows.mark_line(strokeWidth=2).encode(strokeDash=series.dash),
        rows.mark_point(filled=True, size=26)
        .encode(shape=series.shape, tooltip=tooltip)
        .add_params(pick)
        .properties(name="points"),
    )


def lesions(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """One unit removed: error by unit; several removed: error by their number."""
    single = [_single(name, rows) for name, rows in networks.items()]
    several = [_several(name, rows) for name, rows in networks.items()]
    return Exhibit(
        name="lesions",
        sentence=lesions_sentence(networks),
        note="Upper row: one unit is replaced by its shortcut (in a plain network by nothing, "
        "where shapes allow it) and the rest is left alone; the rule is the whole network. Lower "
        "row: several random units removed, five draws each and their mean. Much of the harm can "
        "be batch norm's: its statistics are those of the whole network, so each lesion is shown "
        "once more with statistics re-estimated on the same images.",
        panels=(*single, *several),
        tables=tables,
        command=command,
        columns=min(2, len(networks)) if len(networks) < 3 else len(networks),
    )


def lesions_sentence(networks: Networks) -> str:
    """What removing one unit costs in each network, as the median over units."""
    parts = []
    costs, wholes = {}, {}
    for name, rows in networks.items():
        whole = one(rows, metric="intact_error") or 0.0
        errors = [row["value"] for row in select(rows, metric="removed_error") if "value" in row]
        if not errors:
            continue
        costs[name], wholes[name] = statistics.median(errors) - whole, whole
        parts.append(
            f"{100 * costs[name]:+.1f} points in {name} (error of the whole: {percent(whole)})"
        )
    if not parts:
        return "No unit could be removed from these networks."
    sentence = f"Removing one unit changes the error, in the median over units, by {and_(parts)}"
    kinds = {name: networks[name][0]["family"] == "plain" for name in costs}
    plain = [costs[name] for name in costs if kinds[name]]
    others = [costs[name] for name in costs if not kinds[name]]
    if plain and others:
        if max(wholes.values()) > LITTLE_LEFT:
            sentence += "; a network that errs so often has little to lose"
        elif max(others) < min(plain):
            sentence += ": with shortcuts the network survives better"
        else:
            sentence += ": shortcuts do not make the network survive better here"
    return sentence + "."


def _lesion_rows(rows: list[Row], metric: str, place: str) -> list[Row]:
    return [
        {"series": title, "place": row[place], "error": finite(row.get("value")),
         "draw": row.get("draw")}
        for kind, (title, _) in STATISTICS.items()
        for row in select(rows, metric=f"{metric}_error{kind}")
    ]  # fmt: skip


def _single(name: str, rows: list[Row]) -> Figure:
    words, marks = zip(*STATISTICS.values(), strict=True)
    series = Series(words, marks)
    pick = series.pick()
    y = alt.Y("error:Q", title="error").scale(domain=[0, 1]).axis(format=".0%", tickCount=5)
    points = (
        data()
        .mark_point(filled=True, size=44)
        .encode(
            x=count_axis("unit removed"),
            y=y, color=series.colour, shape=series.shape, opacity=faded(pick, 0.85),
            tooltip=[
                alt.Tooltip("series:N", title="with"),
                alt.Tooltip("place:Q", title="unit"),
                alt.Tooltip("error:Q", format=".1%"),
            ],
        )
        .add_params(pick)
        .properties(name="units")
    )  # fmt: skip
    whole = [
        {"series": title, "error": finite(one(rows, metric=f"intact_error{kind}"))}
        for kind, (title, _) in STATISTICS.items()
    ]
    rules = data("whole").mark_rule(strokeWidth=1.4).encode(
        y=y, color=series.colour, strokeDash=series.dash, opacity=faded(pick)
    )  # fmt: skip
    return Figure(
        name=f"lesions-{name}",
        title=f"{name}: one unit removed",
        note="",
        chart=alt.layer(rules, points),
        data={"rows": _lesion_rows(rows, "removed", "unit"), "whole": whole},
        width=400,
        height=240,
    )


def _several(name: str, rows: list[Row]) -> Figure:
    words, marks = zip(*STATISTICS.values(), strict=True)
    series = Series(words, marks)
    found = _lesion_rows(rows, "removed_several", "x")
    counts = sorted({row["place"] for row in found})
    x = (
        alt.X("place:Q", title="units removed")
        .scale(type="log", base=2)
        .axis(values=counts, grid=False)
    )
    y = alt.Y("error:Q", title="error").scale(domain=[0, 1])
    y = y.axis(format=".0%", tickCount=5)
    tooltip = [
        alt.Tooltip("series:N", title="with"),
        alt.Tooltip("place:Q", title="removed"),
        alt.Tooltip("error:Q", format=".1%"),
    ]
    base = data().encode(x=x, y=y, color=series.colour)
    mean = data().encode(x=x, y=alt.Y("mean(error):Q", title="error"), color=series.colour)
    return Figure(
        name=f"lesions-several-{name}",
        title=f"{name}: several units removed",
        note="",
        chart=alt.layer(
            mean.mark_line(strokeWidth=2).encode(strokeDash=series.dash),
            base.mark_point(filled=True, size=34, opacity=0.6).encode(
                shape=series.shape, tooltip=tooltip
            ),
        ),
        data={"rows": found},
        width=400,
        height=220,
    )
