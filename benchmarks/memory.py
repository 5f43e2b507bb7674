"""Memory while training on a streamed folder: resident megabytes after each epoch.

    .venv/bin/python benchmarks/memory.py OUT [--images 50000] [--epochs 4] [--workers 2]

Writes that many small JPEG files into OUT/data once, trains a tiny network on them through worker
processes (`cache_mb=0`: nothing is kept in memory), and prints the unique memory of the process
and of its workers after every epoch. The last line is the growth from the second epoch to the last.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import resnets

NUM_CLASSES = 10
ALLOWED_GROWTH = 0.05


def make(folder: Path, count: int) -> None:
    """Random small images in class folders."""
    if folder.exists():
        return
    draws = np.random.default_rng(0)
    for index in range(count):
        place = folder / f"class{index % NUM_CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (40, 48, 3), np.uint8)).save(place / f"{index}.jpg")


def unique_megabytes() -> float:
    """Proportional memory of this process and its children (Linux)."""
    me = str(os.getpid())
    children = [
        path.name for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(path) == me
    ]
    return sum(_proportional(process) for process in [me, *children]) / 1024


def _parent(process: Path) -> str:
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
    except OSError:
        return ""


def _proportional(process: str) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return float(next(line.split()[1] for line in lines if line.startswith("Pss:")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    make(options.out / "data", options.images)
    used: list[float] = []

    def watch(record: Mapping[str, Any]) -> None:
        if record["kind"] == "validation":
            used.append(unique_megabytes())
            print(f"epoch {record['epoch']:.1f}: {used[-1]:.0f} MB", flush=True)

    resnets.train(
        options.out / "data",
        out=options.out / "run",
        model="resnet20",
        size=16,
        cache_mb=0,
        crop="shift",
        epochs=options.epochs,
        evaluate_every=1,
        workers=options.workers,
        log=watch,
    )
    growth = used[-1] / used[1] - 1
    verdict = "flat" if growth <= ALLOWED_GROWTH else "growing"
    print(f"growth from the second epoch to the last: {growth:+.1%}: {verdict}")
    raise SystemExit(growth > ALLOWED_GROWTH)


if __name__ == "__main__":
    main()
