"""`resnets study ...`: why shortcuts let networks be deep, measured."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.commands.train import Device
from resnets.commands.use import ModelPath
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
        from resnets.display import printer
        from resnets.study.init.atlas import measure_init

        tell = _nothing if self.quiet else _tell
        atlas = measure_init(self.out, log=tell)
        console = printer()
        for study, width in sorted({(v.study, v.width) for v in atlas.verdicts}, reverse=True):
            some = [v for v in atlas.verdicts if (v.study, v.width) == (study, width)]
            console.print(_table(f"{study}, width {width}", some))
        tell(f"{len(atlas.tables)} tables in {atlas.tables[0].parent}, {atlas.seconds:.0f} s")
        return 0


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

        if self.processes is not None and self.processes < 1:
            raise UserError(f"--processes {self.processes}: must be 1 or more")
        plan = resolve(self.preset, data=self.data, device=self.device)
        tell = _nothing if self.quiet else _tell
        summary = study_training(plan, self.out, executor=self._executor, tell=tell)
        print("\n".join(summary_lines(summary)))
        print(f"tables: train.csv and summary.csv in {self.out / 'data'}; some of the trained")
        print(f"networks: {self.out / 'models'}")
        return 0

    def _executor(self) -> AbstractContextManager[Executor]:
        from resnets.study.executors import num_cores, on_a_cluster, on_this_machine

        if self.cluster is not None:
            return on_a_cluster(self.cluster)
        return on_this_machine(self.processes or num_cores())


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

        from resnets.display import Display
        from resnets.study.probing import probe_model

        with Display(quiet=self.quiet) as display:

            def say(text: str) -> None:
                seconds = time.perf_counter() - started
                display({"kind": "notice", "text": f"{seconds:6.1f} s  {text}"})

            paths = probe_model(
                self.model, data=self.data, against=self.against, out=self.out,
                device=self.device, say=say,
            )  # fmt: skip
        for path in paths:
            print(path)
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


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _nothing(text: str) -> None:
    pass
