"""Run a whole study into a folder: sweep, training, probes, comparisons, page."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
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
    """A study in a folder; `workers` makes the executor that trains."""

    config: StudyConfig
    folder: Path
    workers: Workers
    device: str
    log: Log

    def run(self) -> Path:
        """Do what the folder lacks, then write the page and return its path."""
        # All parts share the processes, whose start takes seconds.
        with self.workers() as executor:
            parts, elsewhere = self._parts(executor), list[Future[None]]()
            for number, part in enumerate(parts, 1):
                title = f"part {number} of {len(parts)}, {part.name}"
                missing = [path.name for path in part.needs if not path.exists()]
                if part.last is not None and part.last.exists():
                    self.log(f"{title}: exists already")
                elif missing:
                    self.log(f"{title}: {missing[0]} is missing, because its run diverged")
                else:
                    self.log(title)
                    if isinstance(made := part.make(), Future):
                        elsewhere.append(made)
            for future in elsewhere:
                future.result()
        self.log("page")
        return write_study_report(self.folder)

    def _parts(self, executor: Executor) -> list[_Part]:
        data, config, log = self.folder / "data", self.config, self.log
        # The lines of several probes at a time would be mixed.
        quiet = log if config.probe.threads is None else _silent
        prober = Prober(self.folder, self.device, quiet, config.setup.data, config.probe)
        probing = partial(self._probing, executor)
        sweep = partial(measure_init, self.folder, log=log, config=config.sweep, executor=executor)
        initial = partial(probing, _initial, config, self.folder)
        parts = [
            _Part("initialisation", sweep, data / "init_theory.csv"),
            _Part(f"training, preset {config.name}", partial(self._train, executor)),
            _Part("gradients at step 0", initial, data / "initial_gradients.csv"),
        ]
        deep, shallow = (
            {family: model_path(self.folder, family, depth) for family in TWINS}
            for depth in (config.deepest, min(config.twins.depths))
        )
        for family, model in deep.items():
            make = partial(probing, _probe, prober, config, family, model)
            last = probe_path(self.folder, "landscape", model.stem)
            parts.append(_Part(f"probe {model.stem}", make, last, (model,)))
        twins = [(kept["residual"], kept["plain"]) for kept in (deep, shallow)]
        for pair in [*twins, *((deep[family], shallow[family]) for family in TWINS)]:
            names = [model.stem for model in pair]
            last = probe_path(self.folder, ACROSS, AGAINST.join(names))
            compare = partial(probing, prober.compare, *pair)
            parts.append(_Part(f"compare {' with '.join(names)}", compare, last, pair))
        return parts

    def _probing(
        self, executor: Executor, function: Callable[..., object], *arguments: object
    ) -> object:
        """Call a function here, or in another process where its threads are limited."""
        threads = self.config.probe.threads
        if threads is None:
            return function(*arguments)
        return executor.submit(_with_threads, threads, function, *arguments)

    def _train(self, executor: Executor) -> None:
        train_twins(self.config, self.folder, workers=lambda: nullcontext(executor), log=self.log)
        for line in summary_lines(Tables.read(self.folder)):
            self.log(line)


def _initial(config: StudyConfig, folder: Path) -> None:
    rows = initial_gradient_rows(config, Tables.read(folder))
    write_table(folder / "data" / "initial_gradients.csv", rows)


def _probe(prober: Prober, config: StudyConfig, family: str, model: Path) -> None:
    rate = read_model(model).recipe["learning_rate"]
    prober.probe(model, job=config.counted((family, config.deepest), rate, config.twins.seeds[0]))


def _with_threads(threads: int, function: Callable[..., object], *arguments: object) -> None:
    with restore_num_threads():
        torch.set_num_threads(threads)
        function(*arguments)


def _silent(line: str) -> None:
    """Log nothing."""
