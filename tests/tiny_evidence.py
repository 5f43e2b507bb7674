"""The tables of a study that never was: small, and with the numbers that a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from resnets.study.claims import STORED, read_claims
from resnets.study.report import figure_spec
from resnets.study.report.figure_spec import DrawnFigure
from resnets.study.report.study_page import SECTIONS, command_of
from resnets.study.tables import Tables, probe_path, write_table
from resnets.study.twins.analysis import summary_rows
from resnets.study.twins.run_store import long_form
from resnets.study.twins.study_config import PRESETS, TWINS, Group, StudyConfig
from resnets.study.verdicts import judge_all

Row = dict[str, Any]
DEPTHS, SEEDS = (8, 20, 56), tuple(range(6))
BLOCKS = 6
UNIT_FAMILIES = {"plain": "plain-56", "residual": "residual-56"}


def verdicts_of(tables: Tables) -> dict[str, str]:
    """The verdicts on the stored claims."""
    return {found.claim.name: found.verdict for found in judge_all(read_claims(STORED), tables)}


def figure_of(folder: Path, name: str) -> DrawnFigure:
    """A figure of the page of this folder, which must have something to show."""
    tables = Tables.read(folder)
    row = next(row for rows in SECTIONS.values() for row in rows if row.name == name)
    found = figure_spec.draw(row, tables, verdicts_of(tables), command_of(tables, row.tables[0]))
    assert found is not None, name
    return found


def plan(*others: str) -> StudyConfig:
    """The preset `minutes` under the name that its tables have; further families at 56 layers."""
    further = (Group(others, (56,), SEEDS),) if others else ()
    return replace(PRESETS["minutes"], groups=(Group(TWINS, DEPTHS, SEEDS), *further))


def run(purpose: str, family: str, depth: int, lr: float, seed: int, error: float | None) -> Row:
    """A finished run; without an error it diverged."""
    row: Row = {"purpose": purpose, "family": family, "depth": depth, "lr": lr, "seed": seed}
    row |= {"steps": 40, "num_classes": 10, "status": "", "curve": [[20, 2.0], [40, 1.0]]}
    if error is None:
        return row | {"status": "diverged at step 3", "curve": []}
    names = ("train", "test") if purpose == "count" else ("val",)
    for name in names:
        row |= {f"{name}_error": error, f"{name}_loss": 2 * error, f"{name}_images": 1000}
    return row | {"last_loss": error}


def training_rows(errors: Callable[[str, int, int], float | None], *others: str) -> list[Row]:
    """A finished study, of errors by family, depth and seed."""
    cells = dict(plan(*others).cells())
    rows = [
        run("tune", family, depth, lr, 1000, 0.3 + abs(lr - 0.1))
        for family, depth in cells
        for lr in (0.03, 0.1, 0.3)
    ]
    rows += [
        run("count", family, depth, 0.1, seed, errors(family, depth, seed))
        for (family, depth), seeds in cells.items()
        for seed in seeds
    ]
    return rows


def write_training(
    folder: Path, errors: Callable[[str, int, int], float | None], *others: str
) -> None:
    """Its train.csv, summary.csv and plan."""
    rows = training_rows(errors, *others)
    data = folder / "data"
    write_table(data / "train.csv", (line for row in rows for line in long_form(row)))
    write_table(data / "summary.csv", summary_rows(plan(*others), rows))
    (data / "plan.json").write_text(json.dumps(asdict(plan(*others))), encoding="utf-8")


def degrading(family: str, depth: int, seed: int) -> float:
    """As in the paper: plain networks get worse, residual ones better."""
    change = {8: 0.0, 20: 0.05, 56: 0.4} if family == "plain" else {8: 0.0, 20: -0.02, 56: -0.05}
    return 0.2 + change[depth] + 0.001 * seed


def turned_round(family: str, depth: int, seed: int) -> float:
    """The opposite."""
    return degrading("residual" if family == "plain" else "plain", depth, seed)


GROWTH = {"plain": -0.01, "plain-bn": 0.2, "residual": 0.3, "scaled": 0.0}
"""decades of the gradient a layer"""


def write_init(folder: Path, growth: dict[str, float] = GROWTH) -> None:
    """The tables at initialisation: four families, two depths, three draws, as theory has them."""
    found: dict[str, list[Row]] = {"": [], "_forward": [], "_backward": [], "_theory": []}
    for family, rate in growth.items():
        base: Row = {"study": "init-dense", "family": family, "width": 64, "seed": 0}
        for depth in (10, 100):
            cell = base | {"depth": depth}
            slope = 2 * 2.302585 * rate
            for way in ("forward", "backward"):
                status = "explodes" if rate > 0.05 else "healthy"
                found[""].append(cell | {"metric": f"{way}_slope", "value": slope})
                found[""].append(cell | {"metric": f"verdict_{way}", "status": status})
            for unit in (0, 5, 10, depth):
                value = rate * (depth - unit)
                at = cell | {"unit": unit}
                found["_theory"].append(at | {"metric": "theory_log10_gradient", "value": value})
                for draw in range(3):
                    row = at | {"draw": draw, "metric": "log10_gradient", "value": value}
                    found["_backward"].append(row)
        for unit in (0, 1, 10, 100):
            distance = 0.9 / (1 + unit) ** 2 if family == "plain" else 0.9
            at = base | {"unit": unit, "x": 0.0}
            closed = {"metric": "theory_cosine_distance", "value": distance}
            found["_theory"].append(at | closed)
            for draw in range(3):
                row = at | {"draw": draw, "metric": "cosine_distance", "value": distance}
                found["_forward"].append(row)
    for name, rows in found.items():
        write_table(folder / "data" / f"init{name}.csv", rows)


def write_probes(folder: Path) -> None:
    """The tables of a plain network and its residual twin."""
    for family, network in UNIT_FAMILIES.items():
        about = {"study": "probe", "family": family, "depth": 56}
        for table, rows in _probe(family).items():
            path = folder / "data" / f"probe_{table}_{network}.csv"
            write_table(path, ({**about, **row} for row in rows))
    write_across(folder, plain=0.4, residual=0.9)


def write_across(folder: Path, **alike: float) -> None:
    """The tables of each family's deep network beside its shallow one, of half as many units."""
    for family, value in alike.items():
        about: Row = {"study": "probe", "family": family, "depth": 56, "metric": "cka_across"}
        rows = [
            about | {"unit": u, "x": float(v), "value": value if v == (u + 1) // 2 else 0.1}
            for u in range(BLOCKS + 1)
            for v in range(BLOCKS // 2 + 1)
        ]
        write_table(probe_path(folder, "across", f"{family}-56-against-{family}-8"), rows)


def exchange_networks(folder: Path) -> None:
    """The plain network gets the numbers of the residual one, and the other way round."""
    for path in (folder / "data").glob("probe_*.csv"):
        text = path.read_text(encoding="utf-8")
        swapped = text.replace("probe,plain,", "probe,X,").replace(
            "probe,residual,", "probe,plain,"
        )
        path.write_text(swapped.replace("probe,X,", "probe,residual,"), encoding="utf-8")


def _probe(family: str) -> dict[str, list[Row]]:
    plain = family == "plain"
    units = range(1, BLOCKS + 1)
    lesions = [*_lesions(plain)]
    use: list[Row] = [{"metric": "probe_error", "unit": u, "value": 0.5 - u / 20} for u in units]
    use += [{"metric": "lens_error", "unit": u, "value": 0.6 - u / 20} for u in units]
    paths: list[Row] = [{"metric": "path_energy", "x": float(BLOCKS), "value": 1.0}]
    if not plain:
        use += [{"metric": "branch_angle", "unit": u, "value": 0.1 + u / 100} for u in units]
        use += [{"metric": "branch_ratio", "unit": u, "value": 1 / u} for u in units]
        paths = [*_paths()]
    landscape = [
        {
            "metric": "line_loss_recalibrated",
            "draw": draw,
            "x": x,
            "value": 0.5 + (1 + draw / 10 + plain) * x * x,
        }
        for draw in range(10)
        for x in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    return {
        "lesions": lesions,
        "use": use,
        "paths": paths,
        "landscape": landscape,
        "responses": [
            {"metric": "response_std", "x": float(u), "unit": u, "value": 2.0 + plain + u / 10}
            for u in units
        ],
        "similarity": [
            {"metric": "cka", "unit": u, "x": float(v), "value": 1 / (1 + abs(u - v))}
            for u in range(BLOCKS + 1)
            for v in range(BLOCKS + 1)
        ],
    }


def _lesions(plain: bool) -> Iterator[Row]:
    for kind in ("", "_recalibrated"):
        yield {"metric": f"intact_error{kind}", "value": 0.2}
        for unit in range(1, BLOCKS + 1):
            rise = 0.5 if plain else 0.01
            value = 0.2 + rise + unit / 1000
            yield {"metric": f"removed_error{kind}", "unit": unit, "value": value}
        for count in (1.0, 2.0, 4.0):
            place = {"x": count, "draw": 0}
            yield {"metric": f"removed_several_error{kind}", **place, "value": 0.2 + count / 10}


def _paths() -> Iterator[Row]:
    shares = [0.1, 0.4, 0.3, 0.1, 0.05, 0.03, 0.02]
    for metric, mean in (("path_count", 3.0), ("path_energy", 1.7)):
        for k, share in enumerate(shares):
            yield {"metric": metric, "x": float(k), "value": share}
        for name, value in (("mean", mean), ("low", 0.0), ("high", 5.0)):
            yield {"metric": f"{metric}_{name}", "value": value}
    yield {"metric": "path_mismatch", "value": 1e-15}


def write_budget(folder: Path, *gaps: float) -> None:
    """The table of lengths of training: 100 steps, and twice as many for each further gap."""
    about: Row = {"study": "budget", "depth": 56, "lr": 0.1}
    rows: list[Row] = []
    for number, gap in enumerate(gaps):
        step = 100 * 2**number
        for seed in range(3):
            for family, error in (("plain", 0.2 + gap), ("residual", 0.2)):
                own = about | {"family": family, "seed": seed, "step": step}
                rows.append(own | {"metric": "train_error", "value": error + 0.01 * seed})
        pair = about | {"family": "plain-residual", "step": step}
        for end, value in (("", gap), ("_low", gap - 0.02), ("_high", gap + 0.02)):
            name = f"train_error_difference{end}"
            rows.append(pair | {"metric": name, "value": value, "status": "range of 3"})
    write_table(folder / "data" / "budget.csv", rows)


def write_initial_gradients(folder: Path, size: float, apart: float) -> None:
    """The table of gradients at step 0, beside the errors after training; Fixup diverged."""
    about: Row = {"study": "init-training", "seed": 0}
    rows: list[Row] = [about | {"metric": "chance_error", "value": 0.9}]
    for name, value in (("log10_gradient_span", size), ("gradient_cosine", apart)):
        found = about | {"metric": f"spearman_{name}", "value": value, "x": 8.0}
        rows += [found, found | {"depth": 56}]
    for number, family in enumerate(("plain", "residual", "preact", "fixup")):
        for depth in (8, 56):
            own = about | {"family": family, "depth": depth}
            status = "shatters" if (family, depth) == ("plain", 56) else "healthy"
            rows.append(own | {"metric": "log10_gradient_span", "value": 3.0 - number})
            rows.append(own | {"metric": "gradient_cosine", "value": number / 4, "x": 0.99})
            rows.append(own | {"metric": "verdict_backward", "status": status})
            trained: Row = {"value": 0.4 - number / 10}
            if family == "fixup" and depth == 56:
                trained = {"status": "6 of 6 diverged"}
            rows.append(own | {"metric": "trained_error"} | trained)
    write_table(folder / "data" / "initial_gradients.csv", rows)
