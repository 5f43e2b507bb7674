"""The tables of compared networks enter, the figure of what their layers have in common leaves.

Kornblith 2019 (arXiv 1905.00414) and Nguyen 2021 (arXiv 2010.15327): two networks are laid beside
each other layer by layer. The idea here: twins at both ends of depth, and each family's deep
network with its shallow one, tell whether depth changes what a network computes.
"""

from __future__ import annotations

import statistics

import altair as alt

from resnets.report.charts import INK, Figure, finite
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.layers import similarity_map
from resnets.study.report.look import Drawn, data
from resnets.study.report.words import and_
from resnets.study.tables import AGAINST, Row, select

Networks = dict[str, list[Row]]
CLEAR = 0.1
"""of similarity: what differs by less is called the same, for there is one pair of each"""


def across(pairs: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """A map a pair: every unit of the first with every unit of the second."""
    found = {name: select(rows, metric="cka_across") for name, rows in pairs.items()}
    shown = [name for name, rows in found.items() if any("value" in row for row in rows)]
    found = {name: found[name] for name in sorted(shown, key=_of_one_family)}  # twins first
    if not found:
        return None
    return Exhibit(
        name="across",
        sentence=across_sentence(found),
        note="Similarity (unbiased linear CKA; Kornblith 2019, Nguyen 2021) of what leaves each "
        "unit of one network with what leaves each unit of another, on the same held-out images; "
        "unit 0 is the stem. Rings: equal shares of depth, whose mean is the number above. One "
        "pair each, and networks that differ by their seed alone are not alike to 1 either.",
        panels=tuple(_panel(name, rows) for name, rows in found.items()),
        tables=tables,
        command=command,
        columns=2,
    )


def across_sentence(pairs: Networks) -> str:
    """How alike the layers are at equal shares of depth, and whether depth changed them more."""
    means = {}
    for name, rows in pairs.items():
        values = [row["value"] for row in _matched(rows) if "value" in row]
        if values:
            means[name] = statistics.fmean(values)
    if not means:
        return "The similarity of these networks' layers is not defined at equal shares of depth."
    parts = [f"{mean:.2f} for {name.replace(AGAINST, ' with ')}" for name, mean in means.items()]
    sentence = f"At equal shares of depth the layers' similarity is {and_(parts)}"
    return f"{sentence}{_conclusion(means)}."


def _conclusion(means: dict[str, float]) -> str:
    """Of a study's networks, FAMILY-DEPTH: which deep one is more like its shallow one?"""
    kept = {_families(name)[0]: mean for name, mean in means.items() if _of_one_family(name)}
    if not {"plain", "residual"} <= kept.keys():
        return ""
    more = kept["residual"] - kept["plain"]
    if abs(more) < CLEAR:
        return ": more depth changes what layers compute as much with shortcuts as without"
    first, second = ("residual", "plain") if more > 0 else ("plain", "residual")
    return f": more depth changes a {first} network's layers less than a {second} network's"


def _families(name: str) -> list[str]:
    return [network.rpartition("-")[0] for network in name.split(AGAINST)]


def _of_one_family(name: str) -> bool:
    return len(set(_families(name))) == 1


def _matched(rows: list[Row]) -> list[Row]:
    """The rows at equal shares of depth: unit l of n with l m / n of m, rounded up."""
    n, m = _lasts(rows)
    return [row for row in rows if row["x"] == -(-row["unit"] * m // max(n, 1))]


def _lasts(rows: list[Row]) -> tuple[int, int]:
    return max(row["unit"] for row in rows), round(max(row["x"] for row in rows))


def _panel(name: str, rows: list[Row]) -> Figure:
    first, second = name.split(AGAINST)
    n, m = _lasts(rows)
    return Figure(
        name=f"across-{name}",
        title=f"{first} with {second}",
        note="",
        chart=_chart((f"unit of {first}", n), (f"unit of {second}", m)),
        data={"rows": _cells(rows), "matched": _cells(_matched(rows))},
        width=330,
        height=330,
        square=True,
    )


def _cells(rows: list[Row]) -> list[Row]:
    return [
        {"unit": row["unit"], "other": row["x"], "cka": finite(row.get("value"))} for row in rows
    ]


def _chart(first: tuple[str, int], second: tuple[str, int]) -> Drawn:
    cells = similarity_map(first, second)
    rings = data("matched").mark_point(size=26, stroke=INK, fill="white", strokeWidth=1)
    return alt.layer(
        cells,
        rings.encode(x=cells.encoding.x, y=cells.encoding.y, tooltip=cells.encoding.tooltip),
    )
