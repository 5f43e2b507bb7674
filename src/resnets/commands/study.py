"""`resnets study ...`: evidence that shortcuts let networks be deep, or the opposite."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.commands.train import Device

if TYPE_CHECKING:
    from rich.table import Table

    from resnets.study.init.verdicts import Verdict

OUT = Path("study")


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

        atlas = measure_init(self.out, log=_quiet if self.quiet else _say)
        console = printer()
        for study, width in sorted({(v.study, v.width) for v in atlas.verdicts}, reverse=True):
            some = [v for v in atlas.verdicts if (v.study, v.width) == (study, width)]
            console.print(_table(f"{study}, width {width}", some))
        if not self.quiet:
            _say(f"{len(atlas.tables)} tables in {atlas.tables[0].parent}, {atlas.seconds:.0f} s")
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _quiet(text: str) -> None:
    pass
