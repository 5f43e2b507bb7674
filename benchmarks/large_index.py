"""Start-up on a folder of ImageNet's size: seconds until its files are known and fingerprinted.

    .venv/bin/python benchmarks/large_index.py OUT [--images 1281167] [--rounds 3]

Makes that many names of a few small JPEGs (hard links, one folder for 1,280 of them) in OUT/data
once, then opens the folder in fresh processes: first without an index, which reads every header,
then with it. The last line is the median of the later starts, imports included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

PER_FOLDER = 1280
PER_FILE = 25 * PER_FOLDER  # links: file systems allow some 65,000 of one file
GOAL = 10.0  # seconds
OPEN = """
import resource, sys
from resnets.data import open_data
part = open_data(sys.argv[1]).splits["all"]
part.fingerprint()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{len(part)} images, at most {peak:.0f} MB")
"""


def make(out: Path, count: int) -> None:
    """The tree, unless it is there."""
    if (out / "data").exists():
        return
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for index in range(count):
        if index % PER_FILE == 0:
            file = out / f"{index}.jpg"
            out.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        folder = out / "data" / f"n{index // PER_FOLDER:08}"
        if index % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        os.link(file, folder / f"{folder.name}_{index % PER_FOLDER}.JPEG")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    make(options.out, options.images)
    command = [sys.executable, "-c", OPEN, str(options.out / "data")]
    seconds = []
    for _ in range(1 + options.rounds):
        start = time.perf_counter()
        subprocess.run(
            command, check=True, env=os.environ | {"RESNETS_DATA": str(options.out / "home")}
        )
        seconds.append(time.perf_counter() - start)
        print(f"{seconds[-1]:.1f} s", flush=True)
    median = statistics.median(seconds[1:])
    print(f"start-up with an index: {median:.1f} s (below {GOAL:.0f}); without: {seconds[0]:.1f} s")


if __name__ == "__main__":
    main()
