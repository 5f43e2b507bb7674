"""The tables of a study of training enter; curves over steps and learning rates by depth leave.

Curves: He 2015, arXiv 1512.03385, figure 6. Rates: the great confound, since the best rate may fall
with depth; what was tried in every cell is shown, and what each took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import altair as alt

from resnets.report.charts import INK, Figure, finite
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, data, faded, switch, switched, switched_axis
from resnets.study.report.words import and_
from resnets.study.tables import Row, median_by, one, select

TWINS = ("plain", "residual")
DEPTH_COLOURS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#8C3A00")
DASHES = ([1, 0], [8, 2], [5, 2], [3, 2], [2, 2], [1, 2])


def depths_of(rows: Sequence[Row], **wanted: Any) -> list[int]:
    return sorted({row["depth"] for row in select(rows, **wanted)})


def rate_words(rows: list[Row]) -> str:
    """How the learning rates of the counted runs came about."""
    if select(rows, study="tune"):
        return "each cell has its own learning rate, tuned on another seed"
    rates = sorted({f"{row['lr']:g}" for row in select(rows, study="train")})
    return f"all cells have the same learning rate, {and_(rates)}, which was not tuned"


def curves(rows: list[Row], summary: list[Row], command: str) -> Exhibit | None:
    cut = {_run(row) for row in select(rows, study="train", metric="train_error")
           if "value" not in row}  # fmt: skip
    curve = [row for row in select(rows, study="train", metric="loss") if _run(row) not in cut]
    families = [family for family in TWINS if select(curve, family=family)]
    if not families:
        return None
    depths = depths_of(curve)
    means = {key: value for key, value in median_by(curve, "family", "depth", "step").items()}
    values = means.values()
    domain = [min(values) / 1.1, max(values) * 1.05]
    panels = []
    for family in families:
        points = [
            {"series": f"{depth} layers", "step": step, "loss": finite(value)}
            for (name, depth, step), value in sorted(means.items())
            if name == family
        ]
        panels.append(
            Figure(
                name=f"curves-{family}",
                title=family,
                note="",
                chart=_curve_chart(depths, domain),
                data={"rows": points},
                width=400,
                height=300,
            )
        )
    return Exhibit(
        name="curves",
        sentence=curves_sentence(means, families, depths),
        note="Training loss, the mean of a few steps at a time, median over seeds"
        f"{_left_out(cut)}. The switch below each chart changes its axis.",
        panels=tuple(panels),
        tables=("train",),
        command=command,
        columns=2,
    )


def _run(row: Row) -> tuple[str, int, int]:
    return row["family"], row["depth"], row["seed"]


def _left_out(cut: set[tuple[str, int, int]]) -> str:
    """How many curves are missing, since a median over fewer seeds at each step would jump."""
    cells = Counter(f"{family}-{depth}" for family, depth, _ in sorted(cut) if family in TWINS)
    told = and_([f"{count} of {name}" for name, count in cells.items()])
    return f", without the runs that diverged ({told})" if told else ""


def curves_sentence(
    means: dict[tuple[Any, ...], float], families: Sequence[str], depths: Sequence[int]
) -> str:
    """Which depth ends lowest and which highest, for each family."""
    parts = []
    for family in families:
        last = {}
        for depth in depths:
            steps = [step for name, other, step in means if (name, other) == (family, depth)]
            if steps:
                last[depth] = means[family, depth, max(steps)]
        best, worst = min(last, key=lambda d: last[d]), max(last, key=lambda d: last[d])
        if best == worst:
            continue
        parts.append(
            f"of the {family} networks the one of {best} layers ends lowest (loss "
            f"{last[best]:.3g}), that of {worst} highest ({last[worst]:.3g})"
        )
    joined = "; ".join(parts) or "all depths that have a curve end alike"
    return f"{joined[0].upper()}{joined[1:]}."


def _curve_chart(depths: list[int], domain: list[float]) -> Drawn:
    words = [f"{depth} layers" for depth in depths]
    spread = [
        round(place * (len(DEPTH_COLOURS) - 1) / max(1, len(depths) - 1))
        for place in range(len(depths))
    ]
    legend = alt.Legend(
        orient="top", title=None, symbolType="stroke", symbolSize=220, columns=3, symbolOpacity=1
    )
    colour = alt.Color("series:N", title=None, legend=legend).scale(
        domain=words, range=[DEPTH_COLOURS[place] for place in spread]
    )
    dash = alt.StrokeDash("series:N", title=None, legend=legend).scale(
        domain=words, range=[DASHES[place] for place in spread]
    )
    pick = alt.selection_point(name="pick", fields=["series"], bind="legend", toggle="true")
    scale, axis = switched_axis(*domain)
    lines = switched(data(), "loss").encode(
        x=alt.X("step:Q", title="step").axis(grid=False, tickCount=6),
        y=alt.Y("loss_shown:Q", title="training loss (nats)", scale=scale, axis=axis),
        color=colour,
    )
    tooltip = [
        alt.Tooltip("series:N", title="network"),
        alt.Tooltip("step:Q"),
        alt.Tooltip("loss:Q", format=".3f"),
    ]
    return alt.layer(
        lines.mark_line(strokeWidth=2.2)
        .encode(strokeDash=dash, opacity=faded(pick))
        .add_params(pick)
        .properties(name="curves"),
        lines.mark_point(size=60, opacity=0, filled=True).encode(tooltip=tooltip),
    ).add_params(switch("log"))


def rates(rows: list[Row], summary: list[Row], command: str) -> Exhibit | None:
    tried = select(rows, study="tune", metric="val_loss")
    if not tried:
        return None
    families = [family for family in TWINS if select(tried, family=family)]
    values_tried = sorted({row["lr"] for row in tried})
    values = [row["value"] for row in tried if "value" in row]
    sentence = rates_sentence(summary, families)
    if not values or not sentence:
        return None
    panels = tuple(
        Figure(
            name=f"rates-{family}",
            title=family,
            note="",
            chart=_rate_chart(values_tried, depths_of(tried), [min(values), max(values)]),
            data={"rows": _rate_rows(select(tried, family=family), summary)},
            width=400,
            height=60 + 44 * len(depths_of(tried)),
        )
        for family in families
    )
    return Exhibit(
        name="rates",
        sentence=sentence,
        note="Validation loss at half length on a seed that is not counted, in nats. The ring is "
        "the rate that the cell took; “lost” is a run that diverged. Every cell has equally many "
        "trials, and more beyond an edge only within a reserve that was fixed beforehand.",
        panels=panels,
        tables=("train", "summary"),
        command=command,
        columns=2,
    )


def rates_sentence(summary: list[Row], families: Sequence[str]) -> str:
    """Whether the best rate falls with depth, family by family, and where it is at an edge."""
    parts = []
    flagged: dict[str, list[str]] = {"edge": [], "diverged": []}
    for family in families:
        chosen = {row["depth"]: row for row in select(summary, metric="lr", family=family)}
        depths = sorted(chosen)
        if not depths:
            continue
        first, last = (chosen[depth]["value"] for depth in (depths[0], depths[-1]))
        word = "falls" if last < first else "rises" if last > first else "stays"
        change = f"at {first:g}" if word == "stays" else f"from {first:g} to {last:g}"
        span = f"between {depths[0]} and {depths[-1]} layers"
        parts.append(f"the best learning rate of {family} networks {word} {change} {span}")
        for depth in depths:
            for status, cells in flagged.items():
                if chosen[depth].get("status") == status:
                    cells.append(f"{family} {depth}")
    sentence = "; ".join(parts)
    words = {"edge": "At the edge of what was tried", "diverged": "Diverged at every rate"}
    added = [f" {words[status]}: {', '.join(cells)}." for status, cells in flagged.items() if cells]
    return f"{sentence[:1].upper()}{sentence[1:]}.{''.join(added)}" if parts else ""


def _rate_rows(tried: list[Row], summary: list[Row]) -> list[Row]:
    rows = []
    for row in tried:
        chosen = one(summary, metric="lr", family=row["family"], depth=row["depth"])
        rows.append(
            {"depth": row["depth"], "lr": f"{row['lr']:.3g}", "loss": finite(row.get("value")),
             "chosen": row["lr"] == chosen, "status": row.get("status", ""),
             "text": f"{row['value']:.2f}" if "value" in row else "lost"}
        )  # fmt: skip
    return rows


def _rate_chart(rates: list[float], depths: list[int], domain: list[float]) -> Drawn:
    cells = data().encode(
        x=alt.X("lr:O", title="learning rate", sort=None)
        .scale(domain=[f"{rate:.3g}" for rate in rates])
        .axis(labelAngle=0, ticks=False, domain=False),
        y=alt.Y("depth:O", title="layers").scale(domain=depths).axis(ticks=False, domain=False),
    )
    middle = (domain[0] * domain[1]) ** 0.5
    scale = alt.Scale(type="log", scheme="blues", domain=domain, reverse=True)
    return alt.layer(
        cells.mark_rect(stroke="white", strokeWidth=2).encode(
            color=alt.when("isValid(datum.loss)")
            .then(alt.Color("loss:Q", scale=scale, legend=None))
            .otherwise(alt.value("#eaecf0")),
            tooltip=[
                alt.Tooltip("depth:O", title="layers"),
                alt.Tooltip("lr:O", title="learning rate"),
                alt.Tooltip("loss:Q", title="validation loss", format=".3f"),
                alt.Tooltip("status:N"),
            ],
        ),
        cells.transform_filter("datum.chosen").mark_point(
            shape="circle", size=1100, stroke="#E69F00", strokeWidth=3, filled=False, opacity=1
        ),
        cells.mark_text(fontSize=11).encode(
            text="text:N",
            color=alt.when(f"isValid(datum.loss) && datum.loss < {middle:.6g}")
            .then(alt.value("white"))
            .otherwise(alt.value(INK)),
        ),
    )
