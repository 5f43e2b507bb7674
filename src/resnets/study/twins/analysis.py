"""Summarise a study of training: estimates and tests as tables, and the lines a person reads.

A run that diverged is censored: it is counted, with Wilson's interval, and never averaged.
"""

from collections.abc import Iterable, Iterator

from resnets.evaluation.metrics import wilson
from resnets.study.claims import SEEDED, read_claims
from resnets.study.statistics import Estimate, Seeds, differences, estimate, ranked, sign_flip
from resnets.study.tables import Row, Tables, one, select
from resnets.study.twins.lr_search import choose, tried_rates
from resnets.study.twins.run_store import key_of, long_form
from resnets.study.twins.study_config import TWINS, Cell, StudyConfig
from resnets.study.twins.variants import PUBLISHED, SHORTCUT_STRENGTH
from resnets.study.verdicts import effect_text, judge_all

# The family column of differences.
PAIR = "plain-residual"


def summary_rows(config: StudyConfig, rows: list[Row]) -> Iterator[Row]:
    """Yield `summary.csv`. An estimate is three rows: the mean, `_low` and `_high`."""
    counted = [row for row in rows if row["purpose"] == "count"]
    for cell in sorted(dict(config.cells())):
        yield from _cell_rows(config, rows, counted, cell)
    for depth in sorted(config.twins.depths):
        role = "primary" if depth == config.deepest else "secondary"
        about: Row = {"study": "train", "family": PAIR, "depth": depth, "status": role}
        plain, residual = (by_seed(counted, (family, depth), "train_error") for family in TWINS)
        yield from _difference_rows(about, plain, residual)
    if config.name == "cifar" and config.setup.data == "cifar10":  # comparable with nothing else
        for row in PUBLISHED:
            source = f"more than this: {row.source}" if row.exceeds else row.source
            about = {"family": row.family, "depth": row.depth, "status": source}
            yield about | {"metric": "published_test_error", "value": row.error / 100}


def budget_rows(config: StudyConfig, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield `budget.csv`: the twins of one depth after each length of training (`step`)."""
    budgets = config.budgets
    assert budgets is not None
    cells = [(family, budgets.depth) for family in TWINS]
    runs = [row for row in rows if row["purpose"] != "tune" and row["seed"] in budgets.seeds]
    runs = [row for row in runs if (row["family"], row["depth"]) in cells]
    for steps in budgets.steps:
        found = sorted((row for row in runs if row["steps"] == steps), key=key_of)
        about: Row = {"study": "budget", "depth": budgets.depth, "step": steps}
        for row in found:
            yield from (line | about for line in long_form(row) if line["metric"] != "loss")
        errors = (by_seed(found, cell, "train_error") for cell in cells)
        yield from _difference_rows(about | {"family": PAIR}, *errors)


def by_seed(rows: Iterable[Row], cell: Cell, metric: str) -> dict[int, float | None]:
    """Return a metric of the runs of a cell."""
    return {
        row["seed"]: None if row["status"] else row[metric]
        for row in sorted(rows, key=lambda row: row["seed"])
        if (row["family"], row["depth"]) == cell
    }


def _difference_rows(about: Row, plain: Seeds, residual: Seeds) -> Iterator[Row]:
    """Training error of plain minus residual, seed by seed, with its one-sided p."""
    found = estimate(differences(plain, residual))
    if found is not None:
        yield from found.rows(about, "train_error_difference")
    p = sign_flip(differences(ranked(plain), ranked(residual)))
    if p is not None:
        yield about | {"metric": "p", "value": p}


def _cell_rows(
    config: StudyConfig, rows: list[Row], counted: list[Row], cell: Cell
) -> Iterator[Row]:
    choice = choose(config, tried_rates(rows, cell))
    assert choice is not None, "the study is not finished"
    about: Row = {"study": "train", "family": cell[0], "depth": cell[1], "lr": choice.rate}
    yield about | {"metric": "lr", "value": choice.rate, "status": choice.flag}
    if cell[0] in SHORTCUT_STRENGTH:
        about["x"] = SHORTCUT_STRENGTH[cell[0]]
    for name in ("train_error", "test_error", "last_loss"):
        seeds = by_seed(counted, cell, name)
        found = estimate([value for value in seeds.values() if value is not None])
        if found is not None:
            yield from found.rows(about, name)
    diverged = sum(value is None for value in seeds.values())
    low, high = wilson(diverged, len(seeds))
    counts: dict[str, float] = {"runs": len(seeds), "diverged": diverged}
    counts |= {"diverged_share_low": low, "diverged_share_high": high}
    yield from (about | {"metric": name, "value": value} for name, value in counts.items())


def summary_lines(tables: Tables) -> Iterator[str]:
    """Yield what a person reads at the end of training, claims included."""
    rows = tables.table("summary")
    yield "training error in %, mean over seeds [95 % interval]; differences are paired by seed"
    yield f"{'layers':>6}  {'plain':22} {'residual':22} {'plain - residual':22} p"
    cells = [(row["family"], row["depth"]) for row in select(rows, metric="runs")]
    for depth in sorted({depth for family, depth in cells if family in TWINS}):
        pair: Row = {"family": PAIR, "depth": depth}
        p = next(iter(select(rows, metric="p", **pair)), None)
        columns = [*(_error_text(rows, family, depth) for family in TWINS)]
        columns.append(percent(Estimate.from_rows(rows, "train_error_difference", **pair)))
        end = "-" if p is None else f"{p['value']:.4f} {p['status']}"
        yield f"{depth:6}  " + " ".join(f"{text:22}" for text in columns) + f" {end}"
    for family, depth in cells:
        if family not in TWINS:
            yield f"{depth:6}  {family:22} {_error_text(rows, family, depth)}"
    words = {"edge": "the best is at the edge of those tried", "diverged": "all tried diverged"}
    for row in select(rows, metric="lr"):
        if row.get("status"):
            cell = f"{row['family']} at {row['depth']} layers, learning rate {row['value']:g}"
            yield f"note: {cell}: {words[row['status']]}"
    claims = [claim for claim in read_claims() if claim.quantity.table == SEEDED]
    for found in judge_all(claims, tables):
        yield f"{found.verdict}: {found.claim.sentence} ({effect_text(found)})"


def _error_text(rows: list[Row], family: str, depth: int) -> str:
    cell: Row = {"family": family, "depth": depth}
    diverged, runs = (one(rows, metric=name, **cell) or 0 for name in ("diverged", "runs"))
    lost = f" ({diverged:.0f} of {runs:.0f} diverged)" if diverged else ""
    return percent(Estimate.from_rows(rows, "train_error", **cell)) + lost


def percent(found: Estimate | None) -> str:
    """Return `12.3 [11.0, 13.5]`, or less where less is known."""
    if found is None:
        return "-"
    if found.spread is None:
        return f"{100 * found.value:.1f} [no interval]"
    low, high = (f"{100 * end:.1f}" for end in found.spread)
    ends = f"({low} to {high})" if found.is_range else f"[{low}, {high}]"
    return f"{100 * found.value:.1f} {ends}"
