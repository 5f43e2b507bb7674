"""The tables of probed networks enter; what each unit does, layer by layer, leaves as figures.

Use: where depth is used, and where it only refines (Jastrzebski 2018, arXiv 1710.04773). Responses:
He 2015, figure 7. Similarity: which layers say the same (Kornblith 2019, arXiv 1905.00414).
"""

from __future__ import annotations

import statistics

import altair as alt

from resnets.report.charts import GREY, Figure, finite, percent
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Series, count_axis, data, faded
from resnets.study.report.words import and_
from resnets.study.tables import Row, one, select

Networks = dict[str, list[Row]]
USE = {
    "branch_ratio": ("size of the branch, |F|/|x|", ".2~f"),
    "branch_angle": ("cosine of branch and -gradient", ".2~f"),
    "lens_error": ("error of the head on x_l (logit lens)", ".0%"),
    "probe_error": ("error of a linear probe on x_l", ".0%"),
}


def use(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """Four measures on one axis of units, all networks in each."""
    panels = []
    for metric, (title, axis_format) in USE.items():
        rows = _lines(networks, metric, "unit")
        if rows:
            panels.append(_panel(f"use-{metric}", title, rows, networks, axis_format=axis_format))
    if not panels:
        return None
    return Exhibit(
        name="use",
        sentence=use_sentence(networks),
        note="Size: the share of the stream that a unit rewrites. Cosine: whether it steps against "
        "the gradient of the loss, as one more step of descent would (iterative refinement). Lens: "
        "later units removed, the network's own head reads x_l. Probe: a ridge regression reads "
        "it. A plain network has no shortcut, so the first two are not defined there.",
        panels=tuple(panels),
        tables=tables,
        command=command,
        columns=2,
    )


def use_sentence(networks: Networks) -> str:
    """Whether units step against the gradient, and where in depth a probe stops gaining."""
    parts = []
    for name, rows in networks.items():
        angles = [r["value"] for r in select(rows, metric="branch_angle") if "value" in r]
        if angles:
            with_it = sum(angle > 0 for angle in angles)
            parts.append(
                f"in {name} {with_it} of {len(angles)} units step against the gradient (mean "
                f"cosine {statistics.fmean(angles):+.2f})"
            )
        errors = {r["unit"]: r["value"] for r in select(rows, metric="probe_error") if "value" in r}
        if errors:
            best, last = min(errors, key=lambda unit: errors[unit]), max(errors)
            parts.append(
                f"a linear probe of {name} errs least after unit {best} of {last} "
                f"({percent(errors[best])}; {percent(errors[last])} at the end)"
            )
    joined = "; ".join(parts) or "nothing could be measured in these networks"
    return f"{joined[0].upper()}{joined[1:]}."


def responses(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """Standard deviation of each layer's response."""
    rows = _lines(networks, "response_std", "x")
    if not rows:
        return None
    panel = _panel("responses-layers", "", rows, networks, axis_format=".2~f", width=760,
                   axis="standard deviation", place="layer")  # fmt: skip
    found = {name: [row["value"] for row in rows if row["series"] == name] for name in networks}
    means = {name: statistics.fmean(values) for name, values in found.items() if values}
    return Exhibit(
        name="responses",
        sentence=responses_sentence(means, networks),
        note="Standard deviation of what each convolution's norm gives, before the ReLU or the "
        "addition, over images, places and channels (He 2015, figure 7).",
        panels=(panel,),
        tables=tables,
        command=command,
    )


def responses_sentence(means: dict[str, float], networks: Networks) -> str:
    """Mean responses, and whether those of residual networks are weaker."""
    listed = and_([f"{mean:.2f} in {name}" for name, mean in means.items()])
    sentence = f"The layers' responses have a standard deviation of {listed} in the mean"
    plain = [means[name] for name in means if networks[name][0]["family"] == "plain"]
    others = [means[name] for name in means if networks[name][0]["family"] != "plain"]
    if plain and others:
        weaker = max(others) < min(plain)
        sentence += (
            ": residual branches answer more weakly, as He 2015 found" if weaker
            else ": residual branches do not answer more weakly here, unlike in He 2015"
        )  # fmt: skip
    return sentence + "."


def similarity(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """CKA of every layer with every other, a map a network."""
    panels = []
    for name, rows in networks.items():
        cells = [
            {"unit": row["unit"], "other": row["x"], "cka": finite(row.get("value"))}
            for row in select(rows, metric="cka")
        ]
        if not cells:
            continue
        panels.append(
            Figure(
                name=f"similarity-{name}",
                title=name,
                note="",
                chart=similarity_map(*[("unit", max(cell["unit"] for cell in cells))] * 2),
                data={"rows": cells},
                width=330,
                height=330,
                square=True,
            )
        )
    if not panels:
        return None
    return Exhibit(
        name="similarity",
        sentence=similarity_sentence(networks),
        note="Similarity (unbiased linear CKA) of what leaves each unit with what leaves each "
        "other, from 0 to 1. A bright block is a stretch of depth that says the same.",
        panels=tuple(panels),
        tables=tables,
        command=command,
        columns=2,
    )


def similarity_sentence(networks: Networks) -> str:
    """How alike the stem's output and the last unit's are, and neighbours."""
    parts = []
    for name, rows in networks.items():
        cka = {(r["unit"], r["x"]): r["value"] for r in select(rows, metric="cka") if "value" in r}
        last = max((unit for unit, _ in cka), default=0)
        ends = one(rows, metric="cka", unit=0, x=float(last))
        near = [cka[u, u + 1.0] for u in range(last) if (u, u + 1.0) in cka]
        if ends is not None and near:
            parts.append(
                f"in {name} neighbouring units are alike to {statistics.fmean(near):.2f} in the "
                f"mean, the first and the last to {ends:.2f}"
            )
    joined = "; ".join(parts) or "the layers' similarity is not defined here"
    return f"{joined[0].upper()}{joined[1:]}."


def _lines(networks: Networks, metric: str, place: str) -> list[Row]:
    return [
        {"series": name, "place": row[place], "value": finite(row["value"])}
        for name, rows in networks.items()
        for row in select(rows, metric=metric)
        if "value" in row
    ]


def _panel(
    name: str,
    title: str,
    rows: list[Row],
    networks: Networks,
    *,
    axis_format: str,
    axis: str = "",
    place: str = "unit",
    width: int = 400,
) -> Figure:
    """A line a network along its units or layers."""
    names = list(networks)
    series = Series.of(names, like=[networks[name][0]["family"] for name in names])
    pick = series.pick()
    zero = title == USE["branch_angle"][0]
    lines = data().encode(
        x=count_axis(place),
        y=alt.Y("value:Q", title=axis).axis(format=axis_format, tickCount=5),
        color=series.colour,
        opacity=faded(pick),
    )
    tooltip = [
        alt.Tooltip("series:N", title="network"),
        alt.Tooltip("place:Q", title=place),
        alt.Tooltip("value:Q", title=axis or title, format=".3~f"),
    ]
    layers = [
        lines.mark_line(strokeWidth=1.8).encode(strokeDash=series.dash),
        lines.mark_point(filled=True, size=30)
        .encode(shape=series.shape, tooltip=tooltip)
        .add_params(pick)
        .properties(name="points"),
    ]
    if zero:
        layers.insert(0, data().mark_rule(stroke=GREY, strokeWidth=0.6).encode(y=alt.datum(0)))
    return Figure(
        name=name,
        title=title,
        note="",
        chart=alt.layer(*layers),
        data={"rows": rows},
        width=width,
        height=240,
    )


def similarity_map(first: tuple[str, int], second: tuple[str, int]) -> alt.Chart:
    """Cells from 0 to 1; each side has a title and its last unit."""
    scale = alt.Scale(domain=[0, 1], scheme="viridis", clamp=True)
    ticks = [list(range(0, last + 1, max(1, round(last / 8)))) for _, last in (first, second)]
    legend = alt.Legend(
        orient="top", titleOrient="left", gradientLength=160, gradientThickness=8, tickCount=3
    )
    cells: alt.Chart = (
        data()
        .mark_rect()
        .encode(
            x=alt.X("unit:O", title=first[0]).axis(values=ticks[0], labelAngle=0),
            y=alt.Y("other:O", title=second[0])
            .sort("descending")
            .axis(values=ticks[1], format="d"),
            color=alt.Color("cka:Q", title="CKA", scale=scale, legend=legend),
            tooltip=[
                alt.Tooltip("unit:O", title=first[0]),
                alt.Tooltip("other:O", title=f"with {second[0]}", format="d"),
                alt.Tooltip("cka:Q", format=".3f"),
            ],
        )
    )
    return cells
