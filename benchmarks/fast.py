"""Time to accuracy: `resnets train --recipe fast` against airbench94_muon on the same CPU.

    git clone https://github.com/KellerJordan/cifar10-airbench AIRBENCH
    .venv/bin/python benchmarks/fast.py CIFAR OUT --anchor AIRBENCH/airbench94_muon.py [--seeds 3]
    .venv/bin/python benchmarks/fast.py CIFAR OUT --arms fast plain fashion anchor_bf16

CIFAR is a folder made by `cifar10_jpeg.py`. The anchor's file is run as it is, in this process,
with CUDA's names standing for the CPU's and half precision for float32 (`anchor_bf16`: under
bfloat16 autocast); data in memory, nothing compiled. Its clock is its own: training and the six
views of its test images. Ours is given twice: the training clock (first step to last, validations
included) and the cold clock (process start to finished run folder, scores and page included).
Processor
seconds are the anchor's from its `main` on and all of ours: neighbours disturb them least.
Arms take turns, seed by seed. Results are appended to OUT/fast.jsonl, and what is there is not
run again: call it as often as you like. `plain` is the same network without shortcuts, `fashion`
the same recipe on Fashion-MNIST. The last line is the verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from resnets.data import open_data
from resnets.models.registry import create_model
from resnets.models.summary import count_macs

ARMS = ("anchor", "fast")
ANCHOR_EPOCHS, ANCHOR_VIEWS, ANCHOR_MACS = 8, 6, 117_971_904
"""the last counted on its network with torch.utils.flop_counter, an image of 32 x 32"""


class CpuEvent:
    """What the anchor takes the time with."""

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        """Now."""
        self.at = time.perf_counter()

    def elapsed_time(self, other: CpuEvent) -> float:
        """Milliseconds."""
        return 1000 * (other.at - self.at)


def cpu_for_cuda() -> contextlib.ExitStack:
    """CUDA's names stand for the CPU's, half precision for float32, compiling for nothing."""
    load = torch.load

    def itself(anything: Any, *_: Any, **__: Any) -> Any:
        return anything

    stands_for = [
        (torch.Tensor, "half", torch.Tensor.float),
        (torch.Tensor, "bfloat16", torch.Tensor.float),
        (nn.Module, "half", nn.Module.float),
        (nn.Module, "cuda", itself),
        (nn.Module, "compile", itself),
        (torch, "compile", itself),
        (torch, "load", lambda path, **_: load(path, map_location="cpu")),
        (torch.cuda, "Event", CpuEvent),
        (torch.cuda, "synchronize", lambda: None),
    ]
    stack = contextlib.ExitStack()
    for place, name, value in stands_for:
        stack.enter_context(patch.object(place, name, value))
    return stack


def anchor(data: Path, out: Path, source: Path, *, seed: int, precision: str) -> dict[str, float]:
    """One run of the anchor's own `main`, and what it would have printed."""
    dataset, sizes = open_data(data), {}
    for part in ("train", "test"):
        sizes[part] = len(dataset.splits[part])
        file = out / "cifar10" / f"{part}.pt"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            images = dataset.splits[part]
            pixels = np.stack([images.read(index, 3) for index in range(len(images))])
            content = {"images": torch.from_numpy(pixels), "classes": list(dataset.classes)}
            torch.save(content | {"labels": torch.from_numpy(images.targets).long()}, file)
    specification = importlib.util.spec_from_file_location("anchor", source.absolute())
    assert specification is not None and specification.loader is not None
    module: Any = importlib.util.module_from_spec(specification)
    seen: dict[str, float] = {}
    begin = time.process_time()

    def keep(variables: dict[str, Any], **_: Any) -> None:
        for name in ("val_acc", "tta_val_acc", "time_seconds"):
            seen.update({name: variables[name]} if name in variables else {})
        print(f"anchor, epoch {variables['epoch']}: {seen}", file=sys.stderr)

    home, sys.argv[0] = Path.cwd(), str(source.absolute())  # it reads its own text
    os.chdir(out)
    with cpu_for_cuda():
        specification.loader.exec_module(module)
        module.print_training_details = keep
        torch.manual_seed(seed)
        model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
        reduced = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with reduced:
            module.main(seed, model)
    os.chdir(home)
    seen_images = 3 * ANCHOR_EPOCHS * sizes["train"] + ANCHOR_VIEWS * sizes["test"]
    return {
        "top1": seen["tta_val_acc"],
        "without_views": seen["val_acc"],
        "training_seconds": seen["time_seconds"],
        "processor_seconds": time.process_time() - begin,
        "petaflops": 2e-15 * ANCHOR_MACS * seen_images,
    }


def ours(data: str, out: Path, *, seed: int, arm: str) -> dict[str, float]:
    """One run of the command as a user types it."""
    folder = out / f"{arm}-{seed}"
    command = [sys.executable, "-m", "resnets", "train", data, "--recipe", "fast"]
    command += ["--seed", str(seed), "--out", str(folder)]
    command += ["--model", "plain8_fast_wide"] if arm == "plain" else []
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    cold, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    config = json.loads((folder / "config.json").read_text())
    value = {name: entry["value"] for name, entry in config.items()}
    sizes = json.loads((folder / "data.json").read_text())
    macs = count_macs(
        create_model(value["model"], in_channels=sizes["preprocess"]["channels"]), value["size"]
    )
    images = 3 * value["steps"] * value["batch_size"] + sizes["sizes"]["test"]
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "top1": json.loads((folder / "scores.json").read_text())["top1"],
        "training_seconds": max(record["seconds"] for record in history),
        "cold_seconds": cold,
        "processor_seconds": processor,
        "petaflops": 2e-15 * macs * images,
    }


def table(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Prints a row an arm; returns the means."""
    means: dict[str, dict[str, float]] = {}
    print("arm          n   top-1 mean (range)          training s   cold s   processor s   PFLOPs")
    for arm in dict.fromkeys(result["arm"] for result in results):
        rows = [result for result in results if result["arm"] == arm]
        mean = {
            name: statistics.mean(row.get(name, float("nan")) for row in rows)
            for name in (
                "top1",
                "training_seconds",
                "cold_seconds",
                "processor_seconds",
                "petaflops",
            )
        }
        accuracies = [row["top1"] for row in rows]
        spread = f"({min(accuracies):.2%} .. {max(accuracies):.2%})"
        print(
            f"{arm:12} {len(rows)}   {mean['top1']:.2%} {spread:22} "
            f"{mean['training_seconds']:9.0f} {mean['cold_seconds']:9.0f} "
            f"{mean['processor_seconds']:11.0f} "
            f"{mean['petaflops']:9.3f}"
        )
        means[arm] = mean
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--anchor", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=ARMS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "fast.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    runs: dict[str, Callable[[int], dict[str, float]]] = {
        "fast": lambda seed: ours(str(options.data), options.out, seed=seed, arm="fast"),
        "plain": lambda seed: ours(str(options.data), options.out, seed=seed, arm="plain"),
        "fashion": lambda seed: ours("fashion-mnist", options.out, seed=seed, arm="fashion"),
    }
    for arm, precision in (("anchor", "fp32"), ("anchor_bf16", "bf16")):
        runs[arm] = lambda seed, precision=precision: anchor(  # type: ignore[misc]
            options.data, options.out, options.anchor, seed=seed, precision=precision
        )
    for seed in range(options.seeds):
        for arm in options.arms:
            if any(row["arm"] == arm and row["seed"] == seed for row in results):
                continue
            cores = len(os.sched_getaffinity(0))
            results.append({"arm": arm, "seed": seed, "cores": cores, **runs[arm](seed)})
            with file.open("a") as lines:
                lines.write(json.dumps(results[-1]) + "\n")
    means = table(results)
    if set(ARMS) <= set(means):
        base, fast = means["anchor"], means["fast"]
        training = fast["training_seconds"] / base["training_seconds"]
        cold = fast["cold_seconds"] / base["training_seconds"]
        processor = fast["processor_seconds"] / base["processor_seconds"]
        gain = 100 * (fast["top1"] - base["top1"])
        print(
            f"fast - anchor with its views: {gain:+.2f} points in {training:.2f} of its time by "
            f"the training clock, {cold:.2f} by the cold clock, {processor:.2f} by the processor's"
        )


if __name__ == "__main__":
    main()
