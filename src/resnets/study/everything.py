"""A folder enters, a whole study leaves: the story of `resnets study`.

The parts in their order, each a row: how it is made, and what it leaves behind last. A part that
has left that is not done again; training looks by itself what is missing, and whether the plan is
still the same.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from resnets.inference.model_file import read_model
from resnets.study.account import summary_lines
from resnets.study.book import model_path
from resnets.study.init.atlas import measure_init
from resnets.study.plan import TWINS, Plan
from resnets.study.probing import compare_models, probe_model
from resnets.study.report.study_page import write_study_report
from resnets.study.tables import ACROSS, AGAINST, probe_path
from resnets.study.training import study_training

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One part of a study; it is done when the file that it writes last is there."""

    name: str
    make: Callable[[], object]
    last: Path | None = None  # None: asked every time, and quick where nothing is missing


def study_everything(
    plan: Plan,
    folder: Path,
    *,
    executor: Callable[[], AbstractContextManager[Executor]],
    device: str,
    tell: Tell,
) -> Path:
    """Do what the folder lacks of a study, then write its page; the page's path is returned.

    Raises UserError as the parts do.
    """

    def train() -> None:
        summary = study_training(plan, folder, executor=executor, tell=tell)
        for line in summary_lines(summary):
            tell(line)

    parts = [
        Part("init", lambda: measure_init(folder, log=tell), folder / "data" / "init_theory.csv"),
        Part(f"train, preset {plan.name}", train),
        *(_probe(plan, family, folder, device, tell) for family in TWINS),
        *(_compare(plan, *pair, folder, device, tell) for pair in _pairs(plan, folder)),
    ]
    for number, part in enumerate(parts, 1):
        if part.last is not None and part.last.exists():
            tell(f"part {number} of {len(parts)}, {part.name}: done before")
            continue
        tell(f"part {number} of {len(parts)}, {part.name}")
        part.make()
    tell("report")
    return write_study_report(folder)


def _probe(plan: Plan, family: str, folder: Path, device: str, tell: Tell) -> Part:
    """The probe of a kept network; a network that diverged was not kept."""
    model = model_path(folder, family, plan.deepest)

    def probe() -> None:
        if not model.exists():
            tell(f"{model.name} was not kept, because its run diverged: it is not probed")
            return
        rate = read_model(model).recipe["learning_rate"]
        job = plan.counted((family, plan.deepest), rate, plan.twins.seeds[0])
        probe_model(
            model, data=plan.setup.data, against=None, out=folder, device=device, say=tell, job=job
        )

    return Part(f"probe {model.stem}", probe, probe_path(folder, "landscape", model.stem))


def _pairs(plan: Plan, folder: Path) -> list[tuple[Path, Path]]:
    """Kept networks to compare: twins at both ends of depth, and each family's deep and shallow."""
    deep, shallow = (
        {family: model_path(folder, family, depth) for family in TWINS}
        for depth in (plan.deepest, min(plan.twins.depths))
    )
    twins = [(kept["residual"], kept["plain"]) for kept in (deep, shallow)]
    return twins + [(deep[family], shallow[family]) for family in TWINS]


def _compare(plan: Plan, first: Path, second: Path, folder: Path, device: str, tell: Tell) -> Part:
    """The comparison of two kept networks."""

    def compare() -> None:
        if not (first.exists() and second.exists()):
            tell(f"{first.name} or {second.name} was not kept: they are not compared")
            return
        compare_models(first, second, data=plan.setup.data, out=folder, device=device, say=tell)

    last = probe_path(folder, ACROSS, f"{first.stem}{AGAINST}{second.stem}")
    return Part(f"compare {first.stem} with {second.stem}", compare, last)
