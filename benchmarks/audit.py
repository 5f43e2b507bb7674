"""What `resnets check` finds of planted faults, and how long it takes.

    .venv/bin/python benchmarks/audit.py OUT [--data fashion-mini] [--images 5000] [--seed 0]

Takes images of DATA (a name or a folder) and writes them to OUT/data, 9 of 10 as train, the rest as
test. Plants 20 exact and 20 near copies within a split and a class (recompressed, resized,
brighter, rotated), 10 copies in both splits, 10 blank images, 10 that EXIF turns, and 5 % wrong
labels. Then runs the command in a fresh process and prints recall and precision of each kind. A
copy that DATA had before counts as a wrong answer.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnets.data import open_data

Picture = Image.Image
EXACT, NEAR, LEAKS, BLANK, TURNED, WRONG = 20, 20, 10, 10, 10, 0.05
GOALS = {"exact copies": 0.95, "near copies": 0.95, "leaks": 0.95, "wrong labels": 0.6}
GOAL_SECONDS, GOAL_PRECISION = 180, 0.5


def resized(picture: Picture) -> Picture:
    """Shrink to 0.9 and back."""
    width, height = picture.size
    return picture.resize((round(0.9 * width), round(0.9 * height))).resize(picture.size)


def brighter(picture: Picture) -> Picture:
    """Make 5 % brighter."""
    return picture.point(lambda value: min(255, round(1.05 * value)))


CHANGES: list[tuple[Callable[[Picture], Picture], str]] = [
    (lambda picture: picture, ".jpg"),
    (resized, ".png"),
    (brighter, ".png"),
    (lambda picture: picture.transpose(Image.Transpose.ROTATE_90), ".png"),
]


class Plant:
    """Write the set and remember what was planted in it."""

    def __init__(self, root: Path, rng: np.random.Generator) -> None:
        self.root, self.rng = root, rng
        self.pairs: dict[str, set[frozenset[str]]] = {"exact copies": set(), "near copies": set()}
        self.pairs["leaks"] = set()
        self.single: dict[str, set[str]] = {"blank": set(), "rotated": set(), "wrong labels": set()}

    def save(self, picture: Picture, name: str, **options: Any) -> str:
        """Write a picture below the root; return its name."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
        return name

    def fill(self, pictures: list[Picture], labels: list[int], classes: list[str]) -> None:
        """Write all images and plant the faults among them, each image in one fault."""
        count = len(pictures)
        chosen = self.rng.permutation(count)
        wrong = set(chosen[: round(WRONG * count)].tolist())
        names, shown = [], []
        for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            split, given = "train" if index % 10 else "test", label
            if index in wrong:
                given = int(label + self.rng.integers(1, len(classes))) % len(classes)
            folder = f"{split}/{classes[given]}"
            names.append(self.save(picture, f"{folder}/{index:06d}.png"))
            shown.append((split, classes[given]))
            if index in wrong:
                self.single["wrong labels"].add(names[index])
        rest = iter(chosen[len(wrong) :].tolist())
        for number, index in enumerate(next(rest) for _ in range(EXACT)):
            name = f"{'/'.join(shown[index])}/exact{number}.png"
            shutil.copy(self.root / names[index], self.root / name)
            self.pairs["exact copies"].add(frozenset((names[index], name)))
        for number, index in enumerate(next(rest) for _ in range(NEAR)):
            change, suffix = CHANGES[number % len(CHANGES)]
            name = f"{'/'.join(shown[index])}/near{number}{suffix}"
            options = {"quality": 70} if suffix == ".jpg" else {}
            self.save(change(pictures[index]), name, **options)
            self.pairs["near copies"].add(frozenset((names[index], name)))
        for number, index in enumerate(next(rest) for _ in range(LEAKS)):
            split, label = shown[index]
            other = {"train": "test", "test": "train"}[split]
            name = f"{other}/{label}/leak{number}.jpg"
            if number % 2:
                name = name.replace(".jpg", ".png")
                shutil.copy(self.root / names[index], self.root / name)
            else:
                self.save(pictures[index], name, quality=70)
            self.pairs["leaks"].add(frozenset((names[index], name)))
        for number in range(BLANK):
            colour = tuple(self.rng.integers(0, 256, 3).tolist())
            blank = Image.new("RGB", pictures[0].size, colour)
            name = f"train/{classes[number % len(classes)]}/blank{number}.png"
            self.single["blank"].add(self.save(blank, name))
        turned = Image.Exif()
        turned[274] = 6
        for number, index in enumerate(next(rest) for _ in range(TURNED)):
            path = self.root / names[index]
            path.unlink()
            name = f"{'/'.join(shown[index])}/turned{number}.jpg"
            upright = pictures[index].transpose(Image.Transpose.ROTATE_90)
            self.single["rotated"].add(self.save(upright, name, exif=turned, quality=95))


def found_pairs(report: dict[str, Any], kinds: tuple[str, ...]) -> set[frozenset[str]]:
    """Return the pairs of all groups of some kinds of finding."""
    return {
        frozenset((one["id"], other["id"]))
        for finding in report["findings"]
        if finding["kind"] in kinds
        for group in finding["groups"]
        for place, one in enumerate(group)
        for other in group[place + 1 :]
    }


def found_images(report: dict[str, Any], kind: str) -> set[str]:
    """Return the images of a kind of finding."""
    findings = [finding for finding in report["findings"] if finding["kind"] == kind]
    return {image["id"] for finding in findings for group in finding["groups"] for image in group}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.images < 700:
        parser.error("--images: at least 700, so that both splits have every class")
    rng = np.random.default_rng(options.seed)
    data = open_data(options.data)
    split = data.splits["train" if "train" in data.splits else "all"]
    picked = np.sort(rng.permutation(len(split))[: options.images]).tolist()
    pictures = [
        Image.fromarray(np.broadcast_to(read, (*read.shape[:2], 3)).copy())
        for read in (split.read(index, split.channels) for index in picked)
    ]
    plant = Plant(options.out / "data", rng)
    classes = [name.replace("/", " ") for name in data.classes]
    plant.fill(pictures, split.targets[picked].tolist(), classes)

    start = time.perf_counter()
    words = ["check", str(plant.root), "--out", str(options.out / "check"), "--quiet"]
    done = subprocess.run([sys.executable, "-m", "resnets", *words], stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads((options.out / "check" / "check.json").read_text())
    crossing = ("exact-leak", "near-leak")
    answers: dict[str, tuple[set[Any], set[Any]]] = {
        "exact copies": (plant.pairs["exact copies"], found_pairs(report, ("exact-duplicate",))),
        "near copies": (plant.pairs["near copies"], found_pairs(report, ("near-duplicate",))),
        "leaks": (plant.pairs["leaks"], found_pairs(report, crossing)),
        "blank": (plant.single["blank"], found_images(report, "blank")),
        "rotated": (plant.single["rotated"], found_images(report, "rotated")),
        "wrong labels": (plant.single["wrong labels"], found_images(report, "wrong-label")),
    }
    print(f"{'kind':14} {'planted':>8} {'found':>6} {'recall':>7} {'precision':>10}")
    for kind, (planted, found) in answers.items():
        hits = len(planted & found)
        recall, precision = hits / len(planted), hits / max(len(found), 1)
        short = recall < GOALS.get(kind, 0) or (
            kind == "wrong labels" and precision < GOAL_PRECISION
        )
        mark = "  below the goal" if short else ""
        print(f"{kind:14} {len(planted):8} {len(found):6} {recall:7.1%} {precision:10.1%}{mark}")
    print(
        f"{seconds:.0f} s (at most {GOAL_SECONDS}), {used.ru_utime + used.ru_stime:.0f} s of "
        f"processor time, exit code {done.returncode} (1: problems)"
    )


if __name__ == "__main__":
    main()
