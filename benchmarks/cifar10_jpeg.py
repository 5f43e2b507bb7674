"""Make a folder of CIFAR-10 as small JPEG files: the data set that RESULTS.md trains on.

    .venv/bin/python benchmarks/cifar10_jpeg.py OUT

Downloads CIFAR-10 (Krizhevsky 2009) when it is not there yet and writes OUT/train/CLASS/NNNN.jpg
(5,000 a class) and OUT/test/CLASS/NNNN.jpg (1,000 a class), 32x32, quality 75, chroma halved.
JPEG artefacts cost about three points of accuracy, so compare only runs on the same files.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from PIL import Image

from resnets.data import open_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    if out.exists():
        raise SystemExit(f"{out}: exists already; give a new folder")
    data = open_data("cifar10")
    for name in ("train", "test"):
        part, seen = data.splits[name], Counter[int]()
        for index, target in enumerate(part.targets.tolist()):
            folder = out / name / data.classes[target]
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(part.read(index, 3))
            image.save(folder / f"{seen[target]:04d}.jpg", quality=75, subsampling="4:2:0")
            seen[target] += 1
        print(f"{out / name}: {len(part):,} images of {len(seen)} classes")


if __name__ == "__main__":
    main()
