"""Run a whole study into a folder: sweep, training, probes, comparisons, page.

A part whose last table exists is not repeated; training finds out itself what is missing, and
whether the config is still the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnets.inference.model_file import read_model
from resnets.study.probes.initial_gradients import initial_gradient_rows
from resnets.study.probes.probe_suite import compare_models, probe_model
from resnets.study.propagation.sweep import measure_init
from resnets.study.report.study_page import write_study_report
from resnets.study.tables import ACROSS, AGAINST, Tables, probe_path, write_table
from resnets.study.twins.analysis import summary_lines
from resnets.study.twins.job_queue import Log, Workers, train_twins
from resnets.study.twins.run_store import model_path
from resnets.study.twins.study_config import TWINS, StudyConfig


@dataclass(frozen=True)
class _Part:
    """One part of a study; it is done when the table that it writes last exists."""

    name: str
    make: Callable[[], object]
    last: Path | None = None  # None: always run, and quick where nothing is missing


@dataclass(frozen=True)
class Pipeline:
    """A study in a folder.

    Attributes:
        config: What the study does.
        folder: Where its tables, models and page are.
        workers: Makes the executor that trains.
        device: Where networks are probed.
        log: Gets the lines of progress.
    """

    config: StudyConfig
    folder: Path
    workers: Workers
    device: str
    log: Log

    def run(self) -> Path:
        """Do what the folder lacks, then write the page and return its path.

        Raises:
            UserError: A part cannot be done.
        """
        data, sweep = self.folder / "data", self.config.sweep
        parts = [
            _Part(
                "initialisation",
                lambda: measure_init(
                    self.folder,
                    log=self.log,
                    depths=sweep.depths,
                    widths=sweep.widths,
                    draws=sweep.draws,
                ),
                data / "init_theory.csv",
            ),
            _Part(f"training, preset {self.config.name}", self._train),
            _Part("gradients at step 0", self._initial, data / "initial_gradients.csv"),
            *(self._probe(family) for family in TWINS),
            *(self._compare(*pair) for pair in self._pairs()),
        ]
        for number, part in enumerate(parts, 1):
            title = f"part {number} of {len(parts)}, {part.name}"
            if part.last is not None and part.last.exists():
                self.log(f"{title}: exists already")
                continue
            self.log(title)
            part.make()
        self.log("page")
        return write_study_report(self.folder)

    def _train(self) -> None:
        train_twins(self.config, self.folder, workers=self.workers, log=self.log)
        for line in summary_lines(Tables.read(self.folder)):
            self.log(line)

    def _initial(self) -> None:
        rows = initial_gradient_rows(self.config, Tables.read(self.folder))
        write_table(self.folder / "data" / "initial_gradients.csv", rows)

    def _probe(self, family: str) -> _Part:
        """Probe a kept network; a network that diverged was not kept."""
        config, model = self.config, model_path(self.folder, family, self.config.deepest)

        def probe() -> None:
            if not model.exists():
                self.log(f"{model.name} is missing, because its run diverged: it is not probed")
                return
            rate = read_model(model).recipe["learning_rate"]
            probe_model(
                model,
                data=config.setup.data,
                out=self.folder,
                device=self.device,
                log=self.log,
                job=config.counted((family, config.deepest), rate, config.twins.seeds[0]),
                config=config.probe,
            )

        return _Part(f"probe {model.stem}", probe, probe_path(self.folder, "landscape", model.stem))

    def _pairs(self) -> list[tuple[Path, Path]]:
        """Kept networks to compare: twins at both ends of depth, each family's deep and shallow."""
        deep, shallow = (
            {family: model_path(self.folder, family, depth) for family in TWINS}
            for depth in (self.config.deepest, min(self.config.twins.depths))
        )
        twins = [(kept["residual"], kept["plain"]) for kept in (deep, shallow)]
        return twins + [(deep[family], shallow[family]) for family in TWINS]

    def _compare(self, first: Path, second: Path) -> _Part:
        """Compare two kept networks."""

        def compare() -> None:
            if not (first.exists() and second.exists()):
                self.log(f"{first.name} or {second.name} is missing: they are not compared")
                return
            compare_models(
                first,
                second,
                data=self.config.setup.data,
                out=self.folder,
                device=self.device,
                log=self.log,
                config=self.config.probe,
            )

        last = probe_path(self.folder, ACROSS, f"{first.stem}{AGAINST}{second.stem}")
        return _Part(f"compare {first.stem} with {second.stem}", compare, last)
