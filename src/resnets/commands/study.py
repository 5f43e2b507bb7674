"""`resnets study ...`: why shortcuts let networks be deep, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnets.commands.train import Device
from resnets.commands.use import ModelPath


@dataclass(frozen=True)
class Probe:
    """Measure what the units of a trained network do: tables DIR/data/probe_*.csv.

    Responses, gradients (of a run's first steps too), share and direction of each unit, logit lens
    and linear probes, lesions, the gradient by path length, similarity of layers, loss landscape.
    At most 500 images that the network was not trained on; minutes on a CPU.

    for example:
      resnets study probe runs/photos-001
      resnets study probe model.safetensors --data held-out/ --out study
    """

    model: ModelPath
    """model file or run folder"""
    data: str | None = None
    """images, as for `resnets evaluate`; a run's own held-out ones when left out"""
    against: Path | None = None
    """a second model file or run folder, whose layers are compared with this one's"""
    out: Path = Path("study")
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
