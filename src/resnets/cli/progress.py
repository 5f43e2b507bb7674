"""Show the progress of a run on standard error, and word its hints.

On a terminal a block is redrawn in place, and each validation leaves a row above it. Elsewhere (a
log file, a CI) plain lines are written: one for each validation and at most one every ten seconds
in between.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from resnets.errors import visible

PLAIN_EVERY_SECONDS = 10.0
BAR_WIDTH = 60


def program() -> str:
    """Return how this program was called, so that a printed hint can be pasted."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("resnets", "__main__.py"):
        return f"{shlex.quote(sys.executable)} -m resnets"
    found = shutil.which("resnets")
    if called.stem != "resnets" or (found and Path(found).resolve() == called.resolve()):
        return "resnets"
    return shlex.quote(sys.argv[0])


def launcher() -> str:
    """Return how this program was called, with torchrun and its processes where it was used."""
    counts = [os.environ.get(name, "") for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    if "TORCHELASTIC_RUN_ID" not in os.environ or not all(map(str.isdecimal, counts)):
        return program()  # some schedulers set the id alone
    machines, processes = counts
    return f"torchrun --nnodes={machines} --nproc-per-node={processes} -m resnets"


class Display:
    """Show records of kinds `start`, `train` and `validation`, and every record with a text.

    `cautions` are the texts of the records of kind `caution`, which are kept with `quiet` too.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)
        self.start: Mapping[str, Any] = {"step": 0, "steps": 0, "seconds": 0.0}
        self.latest: dict[str, Any] = {}
        self.line_time = 0.0
        self.live: Live | None = None
        self.cautions: list[str] = []

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Show one record."""
        kind, terminal = record["kind"], self.console.is_terminal
        if kind == "caution":
            self.cautions.append(record["text"])
        if self.quiet:
            return
        if "text" in record:  # a terminal breaks it between words, a file keeps it in one line
            self.console.print(Text(visible(record["text"])), soft_wrap=not terminal)
            return
        if kind == "start":
            self.start = record
            return
        if kind == "train":
            self.latest |= record
        else:
            best = max(self.latest.get("best", 0.0), record["top1"])
            self.latest |= {"val_accuracy": record["top1"], "best": best}
            self.latest["seconds"] = record["seconds"]
        due = not terminal and time.monotonic() - self.line_time > PLAIN_EVERY_SECONDS
        if kind == "validation" or due:
            self.line_time = time.monotonic()
            hidden = ("images/s", "lr", "left") if terminal else ()  # the block shows them
            fields = {name: value for name, value in self._fields().items() if name not in hidden}
            line = "  ".join(f"{name} {value}" for name, value in fields.items())
            self.console.print(Text(line), soft_wrap=not terminal)
        if terminal:
            self._redraw()

    def _redraw(self) -> None:
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        self.live.update(self._block(), refresh=True)

    def _fields(self) -> dict[str, str]:
        now, start = self.latest, self.start
        step, steps = now.get("step", 0), start["steps"]
        # By the mean speed since the start or the resume, validations included.
        spent = now.get("seconds", start["seconds"]) - start["seconds"]
        left = spent / max(step - start["step"], 1) * (steps - step)
        return {
            "epoch": f"{now.get('epoch', 0):.1f}",
            "step": f"{step}/{steps}",
            "images/s": f"{now.get('images_per_second', 0):.0f}",
            "loss": f"{now.get('loss', 0):.3f}",
            "train acc": f"{now.get('accuracy', 0):.1%}",
            "val acc": f"{now['val_accuracy']:.1%}" if "val_accuracy" in now else "-",
            "best": f"{now['best']:.1%}" if "best" in now else "-",
            "lr": f"{now.get('learning_rate', 0):.4f}",
            "left": _clock(left),
        }

    def _block(self) -> Group:
        """Return the table of the latest values over a bar."""
        fields = self._fields()
        table = Table(box=None, pad_edge=False)
        for name in fields:
            table.add_column(name, justify="right", style="bold" if "acc" in name else "")
        table.add_row(*fields.values())
        share = self.latest.get("step", 0) / max(self.start["steps"], 1)
        full = round(BAR_WIDTH * share)
        dash = "━" if self.console.encoding.startswith("utf") else "-"
        bar = f"[green]{dash * full}[/][dim]{dash * (BAR_WIDTH - full)}[/] {share:.0%}"
        return Group(table, bar)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
