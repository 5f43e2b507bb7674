"""Fine-tuning against training from scratch in equal time, on few images of new classes.

    .venv/bin/python benchmarks/finetune.py CIFAR_JPEG OUT [--base-time 4m] [--time 30s] [--seeds 3]

CIFAR_JPEG is a folder made by `cifar10_jpeg.py`. resnet20 learns five of its classes; then, a seed
at a time, 50 images each of the other five are learned twice in the same time: from those weights
with `--recipe finetune`, and from scratch with the default recipe. Both are scored on the 5,000
test images of the new classes. OUT keeps every run; what is finished is not done again. The last
line is the verdict; the exit code is 1 unless fine-tuning is better with every seed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import resnets

NUM_IMAGES = 50


def choose(source: Path, target: Path, classes: list[str], *, count: int | None, seed: int) -> Path:
    """A data set of some classes, with `count` training images each."""
    if not target.exists():
        for name in classes:
            files = sorted((source / "train" / name).iterdir())
            random.Random(f"{seed}/{name}").shuffle(files)
            for file in files[:count]:
                place = target / "train" / name / file.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)
            shutil.copytree(source / "test" / name, target / "test" / name)
    return target


def top1(data: Path, out: Path, **options: Any) -> float:
    """Train once; a finished run is only read."""
    if not (out / "scores.json").is_file():
        shutil.rmtree(out, ignore_errors=True)
        resnets.train(data, out=out, **options)
    return float(json.loads((out / "scores.json").read_text())["top1"])


def described(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2%} (sd {spread:.2%}, n {len(values)})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base-time", default="4m")
    parser.add_argument("--time", default="30s")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    names = sorted(path.name for path in (options.data / "train").iterdir())
    known, new = names[::2], names[1::2]
    base_data = choose(options.data, options.out / "data-base", known, count=None, seed=0)
    base = options.out / "run-base"
    score = top1(base_data, base, model="resnet20", time=options.base_time)
    print(f"base: resnet20 on {', '.join(known)} in {options.base_time}: {score:.2%}", flush=True)
    results: dict[str, list[float]] = {"finetune": [], "scratch": []}
    for seed in range(options.seeds):
        few = options.out / f"data-{seed}"
        choose(options.data, few, new, count=NUM_IMAGES, seed=seed)
        common = {"model": "resnet20", "time": options.time, "seed": seed}
        runs: dict[str, dict[str, Any]] = {
            "finetune": {"recipe": "finetune", "weights": str(base / "model.safetensors")},
            "scratch": {},
        }
        for arm, extra in runs.items():
            results[arm].append(top1(few, options.out / f"run-{arm}-{seed}", **common, **extra))
            print(f"seed {seed} {arm}: {results[arm][-1]:.2%}", flush=True)
    wins = sum(a > b for a, b in zip(*results.values(), strict=True))
    arms = ", ".join(f"{arm} {described(values)}" for arm, values in results.items())
    print(f"{arms}: fine-tuning is better with {wins} of {options.seeds} seeds")
    return 0 if wins == options.seeds else 1


if __name__ == "__main__":
    sys.exit(main())
