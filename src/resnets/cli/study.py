"""`resnets study ...`: why shortcuts let networks be deep, measured."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.cli.flags import Device, ModelPath
from resnets.errors import UserError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.table import Table

    from resnets.study.init.verdicts import Verdict

OUT = Path("runs/study")


@dataclass(frozen=True)
class Init:
    """Measure ten kinds of network at initialisation, forward and backward, to 10,000 layers.

    Writes tables into OUT/data, with closed-form theory beside, and prints a verdict for each kind
    and depth: explodes, vanishes, shatters, collapses or healthy. About a minute on two cores.

    for example:
      resnets study init --out runs/depth
    """

    out: Path = OUT
    """folder of the study"""
    device: Device = "auto"
    """accepted like everywhere; computed on the processor"""
    quiet: bool = False
    """print the verdicts only"""

    def run(self, started: float) -> int:
        """Measure, write, print."""
        from resnets.cli.progress import printer
        from resnets.study.init.atlas import measure_init

        atlas = measure_init(self.out, log=self._tell)
        console = printer()
        for study, width in sorted({(v.study, v.width) for v in atlas.verdicts}, reverse=True):
            some = [v for v in atlas.verdicts if (v.study, v.width) == (study, width)]
            console.print(_table(f"{study}, width {width}", some))
        self._tell(f"{len(atlas.tables)} tables in {atlas.tables[0].parent}, {atlas.seconds:.0f} s")
        return 0

    def _tell(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Train:
    """Train plain and residual twins at many depths: does depth harm without shortcuts?

    A study that was stopped, or killed, goes on with the same command; no run is done twice.

    for example:
      resnets study train
      resnets study train --preset hour --out runs/hour
      resnets study train cifar10 --preset cifar --device cuda
    """

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """images of any kind with a test part, in place of the preset's own"""
    preset: Literal["minutes", "hour", "cifar"] = "minutes"
    """minutes: 8, 20, 56 layers on embedded images; hour: to 110 layers and more families;
    cifar: the protocol of He 2015 on CIFAR-10, hours on a GPU"""
    out: Path = OUT
    """folder of the study: tables in data/, kept models in models/"""
    processes: int | None = None
    """runs at a time, one thread each; as many as cores when left out"""
    cluster: str | None = None
    """address of a Dask scheduler, tcp://HOST:8786, whose workers train instead"""
    device: Device = "auto"
    """where to compute; auto takes the CPU for all but the preset cifar"""
    quiet: bool = False
    """print the results only"""

    def run(self, started: float) -> int:
        """Run what is missing, write the tables, say what was found."""
        from resnets.study.account import summary_lines
        from resnets.study.training import resolve, study_training

        plan = resolve(self.preset, data=self.data, device=self.device)
        summary = study_training(plan, self.out, executor=self.executor, tell=self.tell)
        print("\n".join(summary_lines(summary)))
        print(f"tables: train.csv and summary.csv in {self.out / 'data'}; some of the trained")
        print(f"networks: {self.out / 'models'}")
        return 0

    def executor(self) -> AbstractContextManager[Executor]:
        """Who trains: processes here, or a cluster."""
        from resnets.study.executors import num_cores, on_a_cluster, on_this_machine

        if self.processes is not None and self.processes < 1:
            raise UserError(f"--processes {self.processes}: must be 1 or more")
        if self.cluster is not None:
            return on_a_cluster(self.cluster)
        return on_this_machine(self.processes or num_cores())

    def tell(self, line: str) -> None:
        """Progress, unless it is not wanted."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Probe:
    """Measure what the units of a trained network do: tables DIR/data/probe_*.csv.

    Responses, gradients (of a run's first steps too), share and direction of each unit, logit lens
    and linear probes, lesions, the gradient by path length, similarity of layers, loss landscape.
    At most 500 images that the network was not trained on; minutes on a CPU.

    for example:
      resnets study probe runs/photos-001
      resnets study probe model.safetensors --data held-out/
    """

    model: ModelPath
    """model file or run folder"""
    data: str | None = None
    """images, as for `resnets evaluate`; a run's own held-out ones when left out"""
    against: Path | None = None
    """a second model file or run folder, whose layers are compared with this one's"""
    out: Path = OUT
    """folder of the study"""
    device: Device = "auto"
    """where to compute"""
    quiet: bool = False
    """print the tables' names only"""

    def run(self, started: float) -> int:
        """Probe, write, and say where."""
        import time

        from resnets.cli.progress import Display
        from resnets.study.probing import probe_model

        with Display(quiet=self.quiet) as display:

            def say(text: str) -> None:
                seconds = time.perf_counter() - started
                display({"kind": "notice", "text": f"{seconds:6.1f} s  {text}"})

            paths = probe_model(
                self.model,
                data=self.data,
                against=self.against,
                out=self.out,
                device=self.device,
                say=say,
            )
        for path in paths:
            print(path)
        return 0


@dataclass(frozen=True)
class Report:
    """Write the page of a study: DIR/study.html, with figures/ and manifest.json.

    What DIR/data holds is drawn, the rest left out. Each figure says in one sentence what its
    numbers say; claims are judged by tests that were fixed beforehand.

    for example:
      resnets study report
      resnets study report --out runs/hour
    """

    out: Path = OUT
    """folder of the study, with tables in data/"""
    device: Device = "auto"
    """accepted like everywhere; nothing is computed on it"""
    quiet: bool = False
    """print the page's path only"""

    def run(self, started: float) -> int:
        """Write, and say where."""
        from resnets.study.report.study_page import write_study_report

        if not self.quiet:
            print("drawing the figures", file=sys.stderr, flush=True)
        print(write_study_report(self.out))
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
    claims: Path | None = None
    """TOML file of claims and expected verdicts; the package's own when left out"""
    device: Device = "auto"
    """accepted like everywhere; nothing is computed on it"""
    quiet: bool = False
    """print only what does not hold"""

    def run(self, started: float) -> int:
        """A line for each claim."""
        from resnets.study.report.claims import STORED, read_claims
        from resnets.study.report.evidence import Evidence
        from resnets.study.report.judging import judge_all
        from resnets.study.report.page import effect_text

        claims = read_claims(self.claims or STORED)
        judged = judge_all(claims, Evidence.read(self.folder))
        for found in judged:
            if self.quiet and found.holds:
                continue
            word = "holds" if found.holds else "fails"
            effect = "" if found.verdict == "not measured" else f": {effect_text(found)}"
            wanted = "" if found.holds else f" (expected: {found.claim.expected})"
            print(f"{word}  {found.claim.name}  {found.verdict}{wanted}{effect}")
        return 0 if all(found.holds for found in judged) else 1


@dataclass(frozen=True)
class Everything:
    """All of a study in one command: init, train, probe and report.

    About ten minutes on two cores.

    What is done is not done again: the same command goes on with a study that was stopped.
    """

    out: Path = OUT
    """folder of the study"""
    processes: int | None = None
    """runs at a time, one thread each; as many as cores when left out"""
    device: Device = "auto"
    """where to probe; training of small networks takes the CPU"""
    quiet: bool = False
    """print the page's path only"""

    def run(self, started: float) -> int:
        """Everything, in order."""
        from resnets.study.everything import study_everything
        from resnets.study.training import resolve

        settings = Train(out=self.out, processes=self.processes, quiet=self.quiet)
        plan = resolve(settings.preset, data=None, device="cpu")
        settings.executor()  # refuses before anything is computed
        page = study_everything(
            plan, self.out, executor=settings.executor, device=self.device, tell=settings.tell
        )
        print(page)
        return 0


def _table(title: str, verdicts: list[Verdict]) -> Table:
    """Two lines for each family, a column for each depth."""
    from rich.table import Table

    depths = sorted({verdict.depth for verdict in verdicts})
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("family", "direction", *map(str, depths)):
        table.add_column(name, no_wrap=True)
    for family in dict.fromkeys(verdict.family for verdict in verdicts):
        cells = {verdict.depth: verdict for verdict in verdicts if verdict.family == family}
        table.add_row(family, "forward", *(cells[depth].forward for depth in depths))
        table.add_row("", "backward", *(cells[depth].backward for depth in depths))
    return table
