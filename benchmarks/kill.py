"""Runs killed at random with SIGKILL, against the same run left alone: are the model files equal?

    .venv/bin/python benchmarks/kill.py [--kills 100] [--seed 0] [--out FOLDER] [--usual]

A tiny network learns from files read by 0, 1 or 2 workers (another number after each kill), with
every source of randomness on. A run is killed in its steps, in validations, inside the write of a
checkpoint, while it starts up (so often twice in a row) and while it is scored: the process alone,
or with its workers. After some kills it may end, and the next run begins. Where to strike is read
off the run folder from outside; the product knows nothing of this. Two of five processes have a
fault besides, unless `--usual` is given: no file of theirs can grow beyond 100 kB (a full disk),
/dev/shm has 64 kB, or nobody reads what they print. The last line is the verdict; the exit code is
1 unless every model file has the SHA-256 of the uninterrupted run's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")
NUM_TRAIN, NUM_VAL = 30, 20  # a class
STEPS, EVALUATE_EVERY = 80, 10
KILLS_A_RUN = 10
RECIPE = shlex.split(
    f"--model resnet20 --size 24 --batch-size 9 --steps {STEPS} --evaluate-every 1"
    " --crop resized --auto-augment trivialaugment --erasing 0.25 --mixup 0.2 --cutmix 0.2"
    " --label-smoothing 0.1 --dropout 0.1 --drop-path 0.2 --ema 0.95 --clip-grad-norm 1"
    " --precision fp32 --tune off --threads 1 --cache-mb 0 --checkpoint-every 0.02"
    " --device cpu"
)
PHASES = ("step", "validation", "write", "start", "scoring")
SHARES = (3, 2, 3, 2, 1)
"""how often each is aimed at"""
CONDITIONS = ("usual", "full disk", "small shm", "closed terminal")
CONDITION_SHARES = (9, 2, 2, 2)
LARGEST_FILE = 100_000  # bytes; a checkpoint has more
NOT_SAVED = 4
SMALL_SHM = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
POLL_SECONDS = 0.001
PATIENCE_SECONDS = 120.0


def draw(folder: Path) -> Path:
    """Class folders of noise with a hue, as JPEG: 30 training and 20 validation images a class."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        for part, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 200, (32, 40, 3), dtype=np.uint8)
                pixels[..., channel] += 50
                Image.fromarray(pixels).save(folder / part / name / f"{index:03d}.jpg")
    return folder


class Life:
    """One process that starts or resumes a run, and what it writes into the folder."""

    def __init__(self, data: Path, folder: Path, *, workers: int, condition: str = "usual") -> None:
        self.condition, self.folder, self.metrics = condition, folder, folder / "metrics.jsonl"
        self.born = time.time()
        self.former = self.metrics.stat().st_ino if self.metrics.is_file() else None
        what = ["--resume", folder]
        if not (folder / "config.json").is_file():  # killed before there was anything to resume
            shutil.rmtree(folder, ignore_errors=True)
            what = [data, *RECIPE, "--out", folder]
        command = [sys.executable, "-m", "resnets", "train", *map(str, what)]
        if condition == "small shm":
            command = ["unshare", "-rm", "sh", "-c", SMALL_SHM, "sh", *command]
        self.errors = folder.with_suffix(".log")
        with self.errors.open("wb") as errors:
            closed = condition == "closed terminal"
            self.process = subprocess.Popen(
                [*command, "--workers", str(workers)],
                stdout=subprocess.PIPE if closed else subprocess.DEVNULL,
                stderr=subprocess.STDOUT if closed else errors,
                start_new_session=True,
            )
        if self.process.stdout:
            self.process.stdout.close()
        if condition == "full disk":
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))

    def ended(self) -> bool:
        """Whether the process came to its end by itself, which must be a good one."""
        code = self.process.poll()
        if code == NOT_SAVED and self.condition == "full disk":
            return True
        if code:
            raise SystemExit(f"{self.errors.read_text()}FAILED: a run ended with exit {code}")
        return code == 0

    def kill(self, *, group: bool) -> None:
        """SIGKILL, to the process alone or to its workers too."""
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def records(self) -> list[dict[str, Any]]:
        """What was logged so far; a torn last line left out."""
        lines = self.metrics.read_text().splitlines(keepends=True) if self.trains() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def trains(self) -> bool:
        """Whether the loop was reached: metrics.jsonl is written just before it."""
        return self.metrics.is_file() and self.metrics.stat().st_ino != self.former

    def writes(self) -> bool:
        """Whether a checkpoint is half-written."""
        with contextlib.suppress(FileNotFoundError):
            partial = (self.folder / "checkpoints").glob(".*.part")
            return any(path.stat().st_mtime >= self.born for path in partial)
        return False

    def phase(self) -> str:
        """What the process is doing, or was when it was killed."""
        records = self.records()
        if self.writes():
            return "write"
        if not self.trains():
            return "start"
        last: dict[str, Any] = records[-1] if records else {"step": 0, "kind": "train"}
        due = last["step"] > 0 and (STEPS - last["step"]) % EVALUATE_EVERY == 0
        if due and last["kind"] == "train":
            return "validation"
        return "scoring" if last["step"] == STEPS else "step"


def kill_in(phase: str, life: Life, draws: random.Random) -> bool:
    """Wait for the phase and kill in it; False when the run ended before."""
    if phase == "start":
        time.sleep(draws.uniform(0.1, 3.0))
    else:
        awaits(life, life.trains)
        time.sleep(draws.uniform(0.0, 1.5))
        awaits(life, lambda: life.phase() == phase)
        time.sleep(0.0 if phase == "write" else draws.uniform(0.0, 0.1))
    if life.ended():
        return False
    life.kill(group=draws.random() < 0.5)
    return True


def awaits(life: Life, condition: Callable[[], bool]) -> None:
    """Poll until the condition holds or the process has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and not life.ended():
        if time.monotonic() > deadline:
            raise SystemExit(f"FAILED: nothing came for {PATIENCE_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def finished(data: Path, folder: Path, *, workers: int) -> str:
    """Let the run end; the SHA-256 of its model file."""
    life = Life(data, folder, workers=workers)
    while not life.ended():
        time.sleep(0.05)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def possible_conditions(*, usual: bool) -> dict[str, int]:
    """How often each condition is drawn; a small /dev/shm needs a namespace of its own."""
    if usual:
        return {"usual": 1}
    conditions = dict(zip(CONDITIONS, CONDITION_SHARES, strict=True))
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", SMALL_SHM, "sh", "true"], check=False)
    if tried.returncode:
        print("no small /dev/shm: this machine does not permit a mount of one's own")
        del conditions["small shm"]
    return conditions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--usual", action="store_true", help="no fault besides the kills")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="kill-"))
    draws, begin = random.Random(options.seed), time.monotonic()
    data = draw(out / "data")
    expected = finished(data, out / "whole", workers=1)
    print(f"uninterrupted: {expected}, {time.monotonic() - begin:.0f} s", flush=True)
    conditions = possible_conditions(usual=options.usual)
    hits: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    equal, runs = 0, 0
    while hits.total() < options.kills:
        runs += 1
        folder, before = out / f"run-{runs:03d}", hits.total()
        while hits.total() < min(before + KILLS_A_RUN, options.kills):
            workers = draws.choice((0, 1, 2))
            aim = draws.choices(PHASES, SHARES)[0]
            condition = draws.choices(tuple(conditions), tuple(conditions.values()))[0]
            life = Life(data, folder, workers=workers, condition=condition)
            if not kill_in(aim, life, draws):
                break
            hits[life.phase()] += 1
            faults[condition] += 1
            step = max((record["step"] for record in life.records()), default=0)
            print(
                f"kill {hits.total()}: run {runs}, {workers} workers, {condition}, near step "
                f"{step}, in the {life.phase()}",
                flush=True,
            )
        if not (folder / "scores.json").is_file():
            finished(data, folder, workers=draws.choice((0, 1, 2)))
        found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        equal += found == expected
        print(f"run {runs}: {'equal' if found == expected else f'DIFFERENT: {found}'}", flush=True)
    where = ", ".join(f"{hits[phase]} in the {phase}" for phase in PHASES)
    print(f"{hits.total()} kills in {time.monotonic() - begin:.0f} s: {where}")
    print(", ".join(f"{count} with: {condition}" for condition, count in faults.items()))
    verdict = "equal" if equal == runs else "NOT EQUAL"
    print(
        f"{verdict}: after {hits.total()} kills {equal} of {runs} model files are that of the "
        f"uninterrupted run, SHA-256 {expected[:16]}"
    )
    return 0 if equal == runs else 1


if __name__ == "__main__":
    raise SystemExit(main())
