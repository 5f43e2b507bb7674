"""Is the bottleneck named rightly? Six faults are planted, each in a short run of its own.

    .venv/bin/python benchmarks/bottleneck.py OUT [--steps 60]

Every run is an ordinary `resnets train` of resnet20 that is made slow in one way; its verdict
after 50 steps is read from metrics.jsonl. It is right when its remedy is the fault's flag. bf16
without hardware is planted by hiding the instructions from oneDNN. A seventh run has no fault and
must hear of none. The last line counts the faults found; exit 1 if one was missed or invented.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
"""of the images of the faults in computing"""
PHOTO_SIDE = 800
"""of the images that are slow to decode"""


@dataclass(frozen=True)
class Plant:
    """A fault, the flags that make it, and the flag that must be named against it."""

    fault: str
    flags: str
    remedy: str
    data: str = "small.npz"
    environment: dict[str, str] = field(default_factory=dict)


SOUND = "--batch-size 32 --evaluate-every 1"
PLANTS = (
    Plant(
        "slow decoding without workers",
        "--batch-size 16 --workers 0 --cache-mb 0",
        "--workers",
        data="photos",
    ),
    Plant("tiny batch", "--batch-size 2", "--batch-size"),
    Plant("too many threads", f"{SOUND} --threads 16", "--threads"),
    Plant("evaluation too often", "--batch-size 32 --evaluate-every 0.03", "--evaluate-every"),
    Plant("NCHW", f"{SOUND} --memory-format contiguous", "--memory-format"),
    Plant(
        "bf16 without hardware",
        f"{SOUND} --precision bf16",
        "--precision",
        environment={"ONEDNN_MAX_CPU_ISA": "AVX2"},
    ),
)
CONTROL = Plant("none", SOUND, "")


def make(folder: Path) -> None:
    """Noise: 2,000 small images in one file, 240 large JPEG photos."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (2000, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(folder / "small.npz", x_train=small, y_train=np.arange(2000) % 4)
    pattern = generator.integers(0, 256, (PHOTO_SIDE // 8, PHOTO_SIDE // 8, 3), dtype=np.uint8)
    photo = Image.fromarray(pattern).resize((PHOTO_SIDE, PHOTO_SIDE))
    for index in range(240):
        path = folder / "photos" / "ab"[index % 2] / f"{index:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.rotate(index).save(path, quality=90)


def verdict(plant: Plant, out: Path, *, steps: int) -> dict[str, str]:
    """Train, and read what was said."""
    run = out / f"run-{plant.fault.replace(' ', '-')}"
    command = [
        sys.executable,
        "-m",
        "resnets",
        "train",
        str(out / plant.data),
        "--out",
        str(run),
        "--model",
        "resnet20",
        "--size",
        str(SIDE),
        "--steps",
        str(steps),
        "--device",
        "cpu",
        "--quiet",
        *plant.flags.split(),
    ]
    environment = os.environ | plant.environment
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = next(r for r in map(json.loads, lines) if r["kind"] == "shares")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    make(options.out)
    found, invented = 0, False
    for plant in (CONTROL, *PLANTS):
        said = verdict(plant, options.out, steps=options.steps)
        right = said["remedy"].split(" ")[0] == plant.remedy
        if plant is CONTROL:
            invented = not right
        else:
            found += right
        print(f"fault: {plant.fault}\n  {said['text']}\n  {'right' if right else 'WRONG'}")
    print(f"{found} of {len(PLANTS)}")
    raise SystemExit(found < len(PLANTS) or invented)


if __name__ == "__main__":
    main()
