"""Run a whole study into a folder: sweep, training, probes, comparisons, page."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from resnets.device import restore_num_threads
from resnets.inference.model_file import read_model
from resnets.study.probes.initial_gradients import initial_gradient_rows
from resnets.study.probes.probe_suite import Prober
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
    needs: tuple[Path, ...] = ()  # models; one whose run diverged was not kept


@dataclass(frozen=True)
class Pipeline:
    """A study in a folder; `workers` makes the executor that trains, networks are probed here."""

    config: StudyConfig
    folder: Path
    workers: Workers
    device: str
    log: Log

    def run(self) -> Path:
        """Do what the folder lacks, then write the page and return its path."""
        # Sweep and training share the processes, whose start takes seconds.
        with restore_num_threads(), self.workers() as executor:
            if self.config.probe.threads:
                torch.set_num_threads(self.config.probe.threads)
            self._run(self._parts(executor))
        self.log("page")
        return write_study_report(self.folder)

    def _run(self, parts: list[_Part]) -> None:
        for number, part in enumerate(parts, 1):
            title = f"part {number} of {len(parts)}, {part.name}"
            missing = [path.name for path in part.needs if not path.exists()]
            if part.last is not None and part.last.exists():
                self.log(f"{title}: exists already")
            elif missing:
                self.log(f"{title}: {missing[0]} is missing, because its run diverged")
            else:
                self.log(title)
                part.make()

    def _parts(self, executor: Executor) -> list[_Part]:
        data, config, log = self.folder / "data", self.config, self.log
        sweep = partial(measure_init, self.folder, log=log, config=config.sweep, executor=executor)
        parts = [
            _Part("initialisation", sweep, data / "init_theory.csv"),
            _Part(f"training, preset {config.name}", partial(self._train, executor)),
            _Part("gradients at step 0", self._initial, data / "initial_gradients.csv"),
        ]
        deep, shallow = (
            {family: model_path(self.folder, family, depth) for family in TWINS}
            for depth in (config.deepest, min(config.twins.depths))
        )
        prober = Prober(self.folder, self.device, log, config.setup.data, config.probe)
        for family, model in deep.items():
            make = partial(self._probe, prober, family, model)
            last = probe_path(self.folder, "landscape", model.stem)
            parts.append(_Part(f"probe {model.stem}", make, last, (model,)))
        twins = [(kept["residual"], kept["plain"]) for kept in (deep, shallow)]
        for pair in [*twins, *((deep[family], shallow[family]) for family in TWINS)]:
            names = [model.stem for model in pair]
            last = probe_path(self.folder, ACROSS, AGAINST.join(names))
            compare = partial(prober.compare, *pair)
            parts.append(_Part(f"compare {' with '.join(names)}", compare, last, pair))
        return parts

    def _train(self, executor: Executor) -> None:
        train_twins(self.config, self.folder, workers=lambda: nullcontext(executor), log=self.log)
        for line in summary_lines(Tables.read(self.folder)):
            self.log(line)

    def _initial(self) -> None:
        rows = initial_gradient_rows(self.config, Tables.read(self.folder))
        write_table(self.folder / "data" / "initial_gradients.csv", rows)

    def _probe(self, prober: Prober, family: str, model: Path) -> None:
        cell, seed = (family, self.config.deepest), self.config.twins.seeds[0]
        job = self.config.counted(cell, read_model(model).recipe["learning_rate"], seed)
        prober.probe(model, job=job)
