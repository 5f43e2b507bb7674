"""What a person reads: records in, a live line on standard error out while a run goes on.

On a terminal one block is redrawn in place; elsewhere (a log file, a CI) plain lines are written,
one a validation and one at most every ten seconds in between. Beside it, how results are printed
and how a hint calls the program.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

PLAIN_EVERY_SECONDS = 10.0
BAR_WIDTH = 60
WIDE = 1000
"""columns of what is no terminal: a table in a file or a pipe is never wrapped"""


def printer() -> Console:
    """Standard output for results."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def program() -> str:
    """How this program was called, so that a printed hint can be pasted back."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("resnets", "__main__.py"):
        return f"{shlex.quote(sys.executable)} -m resnets"
    found = shutil.which("resnets")
    if called.stem != "resnets" or (found and Path(found).resolve() == called.resolve()):
        return "resnets"
    return shlex.quote(sys.argv[0])


def launcher() -> str:
    """The same, with as many processes as torchrun has started."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return program()
    machines, processes = os.environ["GROUP_WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]
    return f"torchrun --nnodes={machines} --nproc-per-node={processes} -m resnets"


class Display:
    """Shows records of kinds `start`, `train` and `validation`, and any that carries a text."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)
        self.first_step = self.steps = 0
        self.first_seconds = 0.0
        self.latest: dict[str, Any] = {}
        self.best: float | None = None
        self.said = 0.0
        self.live: Live | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Show one record."""
        if self.quiet:
            return
        kind = record["kind"]
        if "text" in record:  # above the block; on a terminal between words, in a file in one line
            self.console.print(record["text"], markup=False, soft_wrap=not self.console.is_terminal)
            return
        if kind == "start":
            self.first_step, self.steps = record["step"], record["steps"]
            self.first_seconds = record["seconds"]
            return
        if kind == "train":
            self.latest |= record
        else:
            self.best = max(self.best or 0.0, record["top1"])
            self.latest |= {"val_accuracy": record["top1"], "seconds": record["seconds"]}
        if self.console.is_terminal:
            self._redraw()
        elif kind == "validation" or time.monotonic() - self.said > PLAIN_EVERY_SECONDS:
            self.said = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _redraw(self) -> None:
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        self.live.update(self._table(), refresh=True)

    def _stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _fields(self) -> dict[str, str]:
        now = self.latest
        done = now.get("step", 0)
        fields = {
            "epoch": f"{now.get('epoch', 0):.1f}",
            "step": f"{done}/{self.steps}",
            "images/s": f"{now.get('images_per_second', 0):.0f}",
            "loss": f"{now.get('loss', 0):.3f}",
            "train acc": f"{now.get('accuracy', 0):.1%}",
            "val acc": f"{now['val_accuracy']:.1%}" if "val_accuracy" in now else "-",
            "best": "-" if self.best is None else f"{self.best:.1%}",
            "lr": f"{now.get('learning_rate', 0):.4f}",
        }
        return fields | {"left": _clock(self._seconds_left(done))}

    def _seconds_left(self, done: int) -> float:
        """By the mean speed since the start or the resume, validations included."""
        spent = float(self.latest.get("seconds", self.first_seconds)) - self.first_seconds
        return spent / max(done - self.first_step, 1) * (self.steps - done)

    def _table(self) -> Table:
        fields = self._fields()
        share = self.latest.get("step", 0) / max(self.steps, 1)
        table = Table(box=None, pad_edge=False)
        for name in fields:
            table.add_column(name, justify="right", style="bold" if "acc" in name else "")
        table.add_row(*fields.values())
        full = round(BAR_WIDTH * share)
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(f"[green]{'━' * full}[/][dim]{'━' * (BAR_WIDTH - full)}[/] {share:.0%}")
        return grid

    def _line(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self._fields().items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
