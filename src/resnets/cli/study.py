"""Provide `resnets study ...`: measure why shortcuts let networks be deep."""

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NoReturn

import tyro

from resnets.cli.flags import Device, ModelPath, Switch, default
from resnets.cli.output import print_message, print_result, print_table
from resnets.errors import UserError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from resnets.study.propagation.stability import Stability

OUT = Path("runs/study")
Out = Annotated[Path, tyro.conf.arg(help="folder of the study")]
Preset = Literal["quick", "minutes", "hour", "cifar"]
Processes = Annotated[int | None, default("as many as cores")]


@dataclass(frozen=True)
class Init:
    """Measure ten families of networks at initialisation, forward and backward, to 10,000 layers.

    Writes tables into OUT/data, with closed-form theory, and prints a verdict for each family and
    depth: explodes, vanishes, shatters, collapses or healthy. About a minute on two cores.

    for example:
      resnets study init --out runs/depth
    """

    out: Out = OUT
    quiet: Switch = False
    """print the verdicts only"""
    leaves_files: ClassVar[bool] = True

    def run(self, started: float) -> int:
        from resnets.study.propagation.sweep import measure_init

        verdicts = measure_init(self.out, log=_logger(self.quiet))
        for study, width in sorted({(v.study, v.width) for v in verdicts}, reverse=True):
            some = [v for v in verdicts if (v.study, v.width) == (study, width)]
            _print_verdicts(f"{study}, width {width}", some)
        return 0


@dataclass(frozen=True)
class Train:
    """Train plain and residual twins at many depths: does depth harm without shortcuts?

    The same command resumes a study that was stopped or killed; no run is repeated.

    for example:
      resnets study train
      resnets study train --preset hour --out runs/hour
      resnets study train cifar10 --preset cifar --device cuda
    """

    data: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DATA", help_behavior_hint="(default: the preset's own)"),
    ] = None
    """images with a training and a test split"""
    preset: Preset = "minutes"
    """quick: 8 and 32 layers, 3 seeds; minutes: 8, 20, 56 layers on embedded images; hour: to 110
    layers, more families and training budgets; cifar: the protocol of He 2015 on CIFAR-10, hours on
    a GPU"""
    out: Path = OUT
    """folder of the study: tables in data/, kept models in models/"""
    processes: Processes = None
    """runs at a time, one thread each"""
    cluster: Annotated[str | None, default("this machine")] = None
    """address of a Dask scheduler, tcp://HOST:8786, whose workers train instead"""
    device: Device = "auto"
    """where to train; auto takes the CPU for all presets but cifar"""
    quiet: Switch = False
    """print the results only"""
    leaves_files: ClassVar[bool] = True

    def run(self, started: float) -> int:
        from resnets.study.tables import Tables
        from resnets.study.twins.analysis import summary_lines
        from resnets.study.twins.job_queue import resolve, train_twins

        config = resolve(self.preset, data=self.data, device=self.device)
        workers = partial(_executor, self.processes, self.cluster)
        with _resumable(self):
            train_twins(config, self.out, workers=workers, log=_logger(self.quiet))
        for line in summary_lines(Tables.read(self.out)):
            print_result(line)
        print_result(
            f"tables: train.csv and summary.csv in {self.out / 'data'}; some of the trained"
        )
        print_result(f"networks: {self.out / 'models'}")
        return 0


@dataclass(frozen=True)
class Probe:
    """Measure what the blocks of a trained network do: tables DIR/data/probe_*.csv.

    Activations, gradients (at a run's first steps too), size and direction of each branch, logit
    lens and linear probes, ablation of blocks, gradients by path length, similarity of layers, loss
    landscape. At most 500 images that the network was not trained on; minutes on a CPU.

    for example:
      resnets study probe runs/photos-001
      resnets study probe model.safetensors --data held-out/
    """

    model: ModelPath
    data: Annotated[str | None, default("the run's own held-out images")] = None
    """images, as for `resnets evaluate`"""
    against: Annotated[Path | None, default("no comparison")] = None
    """a second model file or run folder, whose layers are compared with this one's"""
    out: Out = OUT
    device: Device = "auto"
    """where to compute"""
    quiet: Switch = False
    """print the tables' names only"""
    leaves_files: ClassVar[bool] = True

    def run(self, started: float) -> int:
        import time

        from resnets.cli.progress import Display
        from resnets.study.probes.probe_suite import Prober

        with Display(quiet=self.quiet) as display:

            def log(text: str) -> None:
                seconds = time.perf_counter() - started
                display({"kind": "notice", "text": f"{seconds:6.1f} s  {text}"})

            prober = Prober(self.out, self.device, log, self.data)
            compared = []
            if self.against is not None:  # first, for it is quick and finds what cannot be compared
                compared = [prober.compare(self.model, self.against)]
            paths = [*prober.probe(self.model), *compared]
        for path in paths:
            print_result(path)
        return 0


@dataclass(frozen=True)
class Report:
    """Write the page of a study: DIR/study.html, with figures/ and manifest.json.

    Every figure whose table is in DIR/data is drawn; the claims that were fixed beforehand are
    judged by their tests.

    for example:
      resnets study report
      resnets study report --out runs/hour
    """

    out: Path = OUT
    """folder of the study, with tables in data/"""
    quiet: Switch = False
    """print the page's path only"""
    leaves_files: ClassVar[bool] = True

    def run(self, started: float) -> int:
        _require_charts()
        from resnets.study.report.study_page import write_study_report

        print_result(write_study_report(self.out, log=_logger(self.quiet)))
        return 0


@dataclass(frozen=True)
class Check:
    """Compare stored claims with the tables of a study; exit code 1 unless all hold.

    for example:
      resnets study check runs/study
      resnets study check runs/study --claims claims.toml
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """folder of the study, with tables in data/"""
    claims: Annotated[Path | None, default("the package's own")] = None
    """TOML file of claims and expected verdicts"""
    quiet: Switch = False
    """print only what does not hold"""

    def run(self, started: float) -> int:
        from resnets.study.claims import STORED, read_claims
        from resnets.study.tables import Tables
        from resnets.study.verdicts import effect_text, judge_all

        results = judge_all(read_claims(self.claims or STORED), Tables.read(self.folder))
        for found in results:
            if self.quiet and found.holds:
                continue
            word = "holds" if found.holds else "fails"
            effect = "" if found.verdict == "not measured" else f": {effect_text(found)}"
            wanted = "" if found.holds else f" (expected: {found.claim.expected})"
            print_result(f"{word}  {found.claim.name}  {found.verdict}{wanted}{effect}")
        return 0 if all(found.holds for found in results) else 1


@dataclass(frozen=True)
class Study:
    """Run a whole study in one command: init, train, probe and report.

    About ten minutes on two cores; `--preset quick` takes less than two.

    The same command resumes a study that was stopped; finished parts are not repeated.
    """

    out: Out = OUT
    preset: Preset = "minutes"
    """quick: 8 and 32 layers, 3 seeds; minutes: 8, 20, 56 layers; hour: to 110 layers, more
    families and training budgets; cifar: He 2015 on CIFAR-10, hours on a GPU"""
    processes: Processes = None
    """runs at a time, one thread each"""
    device: Device = "auto"
    """where to probe; training of small networks takes the CPU"""
    quiet: Switch = False
    """print the page's path only"""
    leaves_files: ClassVar[bool] = True

    def run(self, started: float) -> int:
        _require_charts()
        from resnets.study.pipeline import Pipeline
        from resnets.study.twins.job_queue import resolve

        config = resolve(self.preset, device=self.device if self.preset == "cifar" else "cpu")
        workers = partial(_executor, self.processes)
        workers()  # refuses before anything is computed
        log = _logger(self.quiet)
        with _resumable(self):
            print_result(Pipeline(config, self.out, workers, self.device, log).run())
        return 0


def _executor(
    processes: int | None, cluster: str | None = None
) -> "AbstractContextManager[Executor]":
    """Return the executor that trains: processes here, or a cluster."""
    from resnets.data.workers import usable_cpus
    from resnets.study.executors import on_a_cluster, on_this_machine

    if processes is not None and processes < 1:
        raise UserError(f"--processes {processes}: must be 1 or more")
    if cluster is not None:
        return on_a_cluster(cluster)
    return on_this_machine(processes or usable_cpus())


def _require_charts() -> None:
    """Raise UserError without the chart library, before anything is computed."""
    if find_spec("vl_convert") is None:
        raise UserError("the page of a study needs vl-convert: pip install 'resnets[study]'")


def _logger(quiet: bool) -> Callable[[str], None]:
    return print_message if not quiet else lambda line: None


@contextmanager
def _resumable(command: Train | Study) -> Iterator[None]:
    """On Ctrl-C or SIGTERM end the workers, then print the resume command on its own line."""
    words = ["resnets", "study"]
    if isinstance(command, Train):
        words += filter(None, ["train", command.data])
    for name in ("preset", "out", "device", "processes", "cluster"):
        if (value := getattr(command, name, None)) is not None:
            words += [f"--{name}", str(value)]
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        print_message("stopped; resume with:")
        print_message(shlex.join(words))
        if received:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_verdicts(title: str, verdicts: "list[Stability]") -> None:
    """Print two lines for each family, a column for each depth."""
    depths = sorted({verdict.depth for verdict in verdicts})
    rows = []
    for family in dict.fromkeys(verdict.family for verdict in verdicts):
        cells = {verdict.depth: verdict for verdict in verdicts if verdict.family == family}
        rows.append((family, "forward", *(cells[depth].forward for depth in depths)))
        rows.append(("", "backward", *(cells[depth].backward for depth in depths)))
    titles = ("family", "direction", *map(str, depths))
    print_table(titles, "n" * len(titles), rows, title=title)
