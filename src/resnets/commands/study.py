"""`resnets study ...`: why depth works, measured."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.commands.train import Device
from resnets.errors import UserError

if TYPE_CHECKING:
    from concurrent.futures import Executor


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
    out: Path = Path("runs/study")
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
        summary = study_training(plan, self.out, executor=self._executor, tell=self._tell)
        print("\n".join(summary_lines(summary)))
        print(f"tables: train.csv and summary.csv in {self.out / 'data'}; some of the trained")
        print(f"networks: {self.out / 'models'}")
        return 0

    def _executor(self) -> AbstractContextManager[Executor]:
        from resnets.study.executors import num_cores, on_a_cluster, on_this_machine

        if self.cluster is not None:
            return on_a_cluster(self.cluster)
        return on_this_machine(self.processes or num_cores())

    def _tell(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)
