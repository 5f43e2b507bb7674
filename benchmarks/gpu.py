"""On a GPU: is what is computed right, does it repeat its bits, and how fast is it beside others?

    python benchmarks/gpu.py OUT --cifar CIFAR --anchor AIRBENCH/airbench94_muon.py
    python benchmarks/gpu.py OUT --parts train inference
    python benchmarks/gpu.py OUT --tiny --device cpu

CIFAR is a folder made by `cifar10_jpeg.py`. Each part is a process of its own under a time limit,
so one that fails costs the others nothing. Results are appended to OUT/gpu.jsonl; the last lines
are a table. The parts:

`agree`      logits and scores of the GPU against those of the CPU
`sync`       what a training step waits for (torch.cuda.set_sync_debug_mode)
`repeat`     runs killed with SIGKILL at a random step and resumed, against uninterrupted ones
`memory`     a batch that does not fit is divided, before the run and in it
`fast`       CIFAR-10: `resnets train --recipe fast` against airbench94_muon on the same card
`train`      resnet50 at 224 pixels in one loop: ours, torchvision's, timm's; and in our trainer
`inference`  resnet50: ours and torchvision's; eager, compiled, as CUDA graphs
`budget`     `resnets train CIFAR --time 60s` keeps its time

Terms: in `train` and `inference` all networks have bf16, channels_last, the same images and torch's
own choice of kernels, take turns, and are warm. In `fast` the cold clock of both starts with their
process; the anchor's own clock leaves out its start and its compilation.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from fast import cpu_for_cuda
from torch import Tensor, nn

import resnets
from resnets.data import DataSet, open_data
from resnets.data.dataset import Images
from resnets.device import autocast, deterministic_kernels, place
from resnets.models.summary import count_macs
from resnets.training.auto_config import ResolvedConfig
from resnets.training.recipe import Recipe
from resnets.training.recipes import named_recipe
from resnets.training.step_metrics import StepMetrics
from resnets.training.train_step import TrainState, train_step
from resnets.training.trainer import Trainer, splits_for

Row = dict[str, Any]
# Seconds that a part may take.
LIMITS = {
    "agree": 60,
    "sync": 60,
    "repeat": 120,
    "memory": 90,
    "fast": 300,
    "train": 240,
    "inference": 150,
    "budget": 120,
}
# Comparisons start no further round after this time.
MOST_SECONDS = 45.0
SOURCES_OF_RANDOMNESS = (
    "--erasing 0.25 --mixup 0.2 --cutmix 0.2 --dropout 0.1 --drop-path 0.2 --ema 0.95"
    " --clip-grad-norm 1"
)
# Runs on the embedded images that are killed and resumed: flags, and whether it is one of `--tiny`.
REPEATED = {
    "resnet20 bf16, every source of randomness": (
        f"--model resnet20 --size 28 --precision bf16 --steps 240 {SOURCES_OF_RANDOMNESS}"
    ),
    "resnet18_half at 64 pixels, bf16": (
        "--model resnet18_half --size 64 --precision bf16 --steps 240 --crop resized"
    ),
    "resnet18_half at 64 pixels, fp32": (
        "--model resnet18_half --size 64 --precision fp32 --steps 240 --crop resized"
    ),
    "the recipe fast": "--recipe fast --model resnet8_fast --precision bf16 --epochs 2",
    "resnet20 fp16, AdamW": "--model resnet20 --precision fp16 --optimizer adamw --steps 240",
    "resnet20 compiled": "--model resnet20 --precision bf16 --compile --steps 240",
    "resnetblur18 at 64 pixels": (
        "--model resnetblur18 --size 64 --precision bf16 --steps 240 --crop resized"
    ),
}


class Bench:
    """Where and how much to measure."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out: Path = options.out
        self.device = torch.device(options.device)
        self.cifar, self.anchor = options.cifar, options.anchor
        self.seeds, self.tiny, self.only = options.seeds, options.tiny, options.only
        self.arms: list[str] = options.arms
        self.rounds: int = options.rounds
        self.cases: list[str] = options.cases
        self.compile = not (options.tiny or options.no_compile)
        self.on_gpu = self.device.type == "cuda"

    def now(self) -> float:
        """The time when all that was queued is done."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def name(self) -> str:
        """The device as it calls itself."""
        if self.on_gpu:
            return torch.cuda.get_device_name(self.device)
        return torch.backends.cpu.get_cpu_capability()

    def resnets(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command line, as a user types it."""
        command = [sys.executable, "-m", "resnets", *map(str, arguments)]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | environment
        )


def interleaved(
    bench: Bench, arms: dict[str, Callable[[], object]], *, calls: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of one call of each arm: in turns, each for some calls, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    deadline = bench.now() + MOST_SECONDS
    for number in range(-1, rounds):
        if number > 0 and bench.now() > deadline:
            break
        for name, call in arms.items():
            begin = bench.now()
            for _ in range(calls):
                call()
            if number >= 0:
                seconds[name].append((bench.now() - begin) / calls)
    return seconds


def spread(values: list[float]) -> Row:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def in_memory(count: int, size: int, classes: int = 10) -> DataSet:
    """A data set of noise."""
    rng = np.random.default_rng(0)

    def split(number: int, name: str) -> Images:
        return Images(
            pixels=rng.integers(0, 256, (number, size, size, 3), dtype=np.uint8),
            targets=np.arange(number, dtype=np.int64) % classes,
            ids=tuple(f"{name}{i}" for i in range(number)),
        )

    splits: Any = {"train": split(count, "train"), "val": split(max(classes, count // 10), "val")}
    return DataSet("noise", tuple(map(str, range(classes))), splits)


def agree(bench: Bench) -> Iterator[Row]:
    """Compare with the CPU: logits of one batch, scores of a trained network, predictions."""
    side, count = (64, 4) if bench.tiny else (224, 32)
    torch.manual_seed(0)
    model = resnets.create_model("resnet18" if bench.tiny else "resnet50").eval()
    images = torch.randn(count, 3, side, side)
    with torch.inference_mode():
        exact = model(images)
        place(model, device=bench.device, memory_format="channels_last")
        moved = images.to(bench.device).contiguous(memory_format=torch.channels_last)
        for name, tf32, precision in (
            ("fp32, as torch computes it (convolutions in tf32)", True, "fp32"),
            ("fp32 without tf32", False, "fp32"),
            ("bf16", True, "bf16"),
        ):
            torch.backends.cudnn.allow_tf32 = tf32
            with autocast(bench.device, precision):
                logits = model(moved).float().cpu()
            yield {
                "case": f"logits, {name}",
                "error": float((logits - exact).norm() / exact.norm()),
            }
    torch.backends.cudnn.allow_tf32 = True
    fields: Row = {"steps": 5} if bench.tiny else {"epochs": 2}
    run = bench.out / "agree"
    resnets.train(
        "fashion-mini",
        out=run,
        model="resnet8_fast_half",
        device=str(bench.device),
        tune="off",
        tta="mirror",
        **fields,
    )
    devices = ("cpu", str(bench.device))
    for device in devices:
        found = resnets.evaluate(run, "fashion-mini", device=device)
        yield {"case": f"scores on {device}", "top1": found.top1, "loss": found.loss}
    test: Any = open_data("fashion-mini").splits["test"]
    answers = [list(resnets.predict(run, list(test.pixels[:64]), device=d)) for d in devices]
    worst = max(abs(a.probabilities[0] - b.probabilities[0]) for a, b in zip(*answers, strict=True))
    yield {"case": "predictions of 64 images, largest difference", "error": worst}


def sync(bench: Bench) -> Iterator[Row]:
    """Count what waits for the device in steps of the trainer."""
    shared: Row = {"steps": 1000, "workers": 0, "threads": 1, "memory_format": "channels_last"}
    shared |= {"precision": "bf16", "learning_rate": 0.01, "batch_size": 64}
    recipes = {
        "fast": {**named_recipe("fast"), "epochs": None, "size": 28, **shared},
        "sgd, mixup, cutmix, erasing, resized crops": dict(
            model="resnet18_half", size=32, optimizer="sgd", crop="resized", auto_augment="none"
        )
        | {
            "mixup": 0.2,
            "cutmix": 0.2,
            "erasing": 0.25,
            "dropout": 0.1,
            "drop_path": 0.1,
            **shared,
        },
        "adamw, averaged weights": dict(model="resnet20", size=28, optimizer="adamw", ema=0.99)
        | {"crop": "shift", "auto_augment": "none", **shared},
    }
    data = open_data("fashion-mini")
    for name, fields in recipes.items():
        recipe = Recipe().override(**fields)
        trainer = Trainer(
            ResolvedConfig(recipe), data, splits_for(data, recipe), device=bench.device
        )
        state = TrainState.start(trainer.new_model().train(), recipe, device=bench.device)
        batches, metrics = trainer.train_loader.batches(0, 1000), StepMetrics(bench.device)
        found: Counter[str] = Counter()
        for step in range(6):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if bench.on_gpu and step > 2:
                    torch.cuda.set_sync_debug_mode("warn")
                batch = next(batches)
                loss, correct = train_step(state, state.model, batch, recipe)
                state.step += 1
                metrics.add(loss, correct, images=64, step=state.step, indices=batch.indices)
                if bench.on_gpu:
                    torch.cuda.set_sync_debug_mode("default")
            if step > 2:
                found.update(
                    f"{Path(w.filename).name}:{w.lineno}"
                    for w in caught
                    if "ynchron" in str(w.message)
                )
        trainer.close()
        yield {"case": name, "waits_in_3_steps": sum(found.values()), "where": dict(found)}


def digest(run: Path) -> str:
    """The SHA-256 of a run's model file."""
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def last_step(run: Path) -> int:
    """The last step in metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def repeat_one(bench: Bench, name: str, flags: str) -> Row:
    """One run left alone, then the same run killed at a random step and resumed."""
    folder = bench.out / "repeat" / re.sub(r"\W+", "-", name)
    words = f"train fashion-mini --device {bench.device} --tune off --workers 0 {flags}"
    words += " --checkpoint-every 0.01 --threads 1"
    if bench.tiny:
        words = re.sub(r"--(steps|epochs) \d+", "--steps 40 --batch-size 32", words)
    bench.resnets(*words.split(), "--out", folder / "whole")
    steps = last_step(folder / "whole")
    aim = random.Random(name).randint(steps // 4, steps * 3 // 4)
    command = [sys.executable, "-m", "resnets", *words.split(), "--out", str(folder / "killed")]
    with (bench.out / "killed.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None and last_step(folder / "killed") < aim:
            time.sleep(0.02)
        process.kill()
        process.wait()
    finished = (folder / "killed" / "scores.json").is_file()
    step = last_step(folder / "killed")
    if not finished:
        bench.resnets("train", "--resume", folder / "killed")
    pair = [digest(folder / which) for which in ("whole", "killed")]
    row: Row = {"case": name, "steps": steps, "killed_after": None if finished else step}
    return row | {"equal": pair[0] == pair[1], "sha256": [each[:12] for each in pair]}


def repeat(bench: Bench) -> Iterator[Row]:
    """Resume killed runs; several at a time, since nothing is timed."""
    names = bench.cases[:1] if bench.tiny else bench.cases
    chosen = {name: REPEATED[name] for name in names}

    def attempt(item: tuple[str, str]) -> Row:
        try:
            return repeat_one(bench, *item)
        except subprocess.CalledProcessError as error:
            return {"case": item[0], "failed": error.stderr[-600:]}

    with ThreadPoolExecutor(len(chosen)) as pool:
        yield from pool.map(attempt, chosen.items())


def memory(bench: Bench) -> Iterator[Row]:
    """Give a run less memory than its batch needs: before it begins, and after it was measured."""
    side, batch, fraction = (32, 32, 1.0) if bench.tiny else (224, 256, 0.1)
    data = in_memory(batch * 3, side)
    parts: Any = {"train": data.splits["train"], "test": data.splits["val"]}
    arrays = {f"x_{name}": part.pixels for name, part in parts.items()}
    np.savez(bench.out / "noise.npz", **arrays, **{f"y_{n}": x.targets for n, x in parts.items()})
    fields: Row = {"model": "resnet18_half" if bench.tiny else "resnet50", "size": side, "steps": 6}
    fields |= {"batch_size": batch, "tune": "off", "precision": "bf16", "auto_augment": "none"}
    for case in ("before the run", "in the run"):
        texts: list[str] = []

        def keep(record: Any, texts: list[str] = texts) -> None:
            texts.append(str(record.get("text", "")))

        if bench.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            limit = fraction if case == "before the run" else 1.0
            torch.cuda.set_per_process_memory_fraction(limit)
        trainer = Trainer.start(
            bench.out / "noise.npz",
            ResolvedConfig(Recipe().override(**fields)),
            device=bench.device,
            out=bench.out / "memory" / case.replace(" ", "-"),
            log=keep,
        )
        if bench.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(fraction)
        with trainer:
            result = trainer.fit()
        row: Row = {"case": case, "finished": result.scores is not None}
        row |= {"micro_batches": trainer.recipe.optimizer.grad_accum_steps}
        row |= {"said": [text for text in texts if "memory" in text]}
        if bench.on_gpu:
            row["peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
        yield row


def write_for_anchor(bench: Bench) -> None:
    """Write the pixels of CIFAR where the anchor looks for them; nobody's clock runs."""
    data = open_data(bench.cifar)
    for part in ("train", "test"):
        images = data.splits[part]
        count = 4000 if bench.tiny else len(images)
        places = np.linspace(0, len(images) - 1, count).astype(int)
        pixels = np.stack([images.read(int(place), 3) for place in places])
        content = {"images": torch.from_numpy(pixels), "classes": list(data.classes)}
        file = bench.out / "cifar10" / f"{part}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content | {"labels": torch.from_numpy(images.targets[places]).long()}, file)


def anchor(bench: Bench) -> Iterator[Row]:
    """Run the anchor's own file: its warm-up, then its `main` for each seed."""
    begin = time.perf_counter()
    source = Path(bench.anchor).absolute()
    specification = importlib.util.spec_from_file_location("anchor", source)
    assert specification is not None and specification.loader is not None
    module: Any = importlib.util.module_from_spec(specification)
    os.chdir(bench.out)
    compiled = "TORCHDYNAMO_DISABLE" not in os.environ
    seen: Row = {}

    def keep(variables: Row, **_: Any) -> None:
        names = ("val_acc", "tta_val_acc", "time_seconds")
        seen.update({name: variables[name] for name in names if name in variables})

    with (
        contextlib.nullcontext() if bench.on_gpu else cpu_for_cuda(),
        patch.object(sys, "argv", [str(source)]),  # it reads its own text
    ):
        specification.loader.exec_module(module)
        module.print_training_details = keep
        model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
        if compiled:
            model.compile(mode="max-autotune")
            module.main("warmup", model)
        warm = time.perf_counter()
        for seed in range(1 if bench.tiny else bench.seeds):
            torch.manual_seed(seed)
            started = bench.now()
            module.main(seed, model)
            arm = f"airbench94_muon, {'compiled' if compiled else 'eager'}"
            row: Row = {"arm": arm, "seed": seed, "top1": seen["tta_val_acc"]}
            row |= {"training_seconds": seen["time_seconds"], "top1_one_view": seen["val_acc"]}
            row |= {"whole_seconds": bench.now() - started}
            row |= {"cold_seconds": bench.now() - started + warm - begin} if seed == 0 else {}
            yield row


# What is added to `resnets train CIFAR --recipe fast`.
FAST_ARMS = {
    "fast": "",
    "fast, resnet8_fast": "--model resnet8_fast",
}


def fast(bench: Bench) -> Iterator[Row]:
    """Train CIFAR-10 with the command and with the anchor, in turns."""
    for seed in range(1 if bench.tiny else bench.seeds):
        for arm, flags in FAST_ARMS.items():
            if bench.arms and arm not in bench.arms:
                continue
            run = bench.out / "fast" / f"{re.sub(r'[^a-z0-9_]+', '-', arm)}-{seed}"
            words = f"train {bench.cifar} --recipe fast {flags} --device {bench.device}"
            words += " --steps 4 --batch-size 64" if bench.tiny else ""
            begin = time.perf_counter()
            bench.resnets(*words.split(), "--seed", seed, "--out", run, "--quiet")
            cold = time.perf_counter() - begin
            history = [
                json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
            ]
            config = json.loads((run / "config.json").read_text())
            yield {
                "arm": arm,
                "seed": seed,
                "top1": json.loads((run / "scores.json").read_text())["top1"],
                "training_seconds": max(record["seconds"] for record in history),
                "cold_seconds": cold,
                "precision": config["precision"]["value"],
                "shares": next((r["text"] for r in history if r["kind"] == "shares"), ""),
            }
    if bench.anchor is None or (bench.arms and "anchor" not in bench.arms):
        return
    write_for_anchor(bench)
    for environment in ({"TORCHDYNAMO_DISABLE": "1"}, {})[: 1 if bench.tiny else 2]:
        command = [sys.executable, *sys.argv, "--only", "anchor"]
        subprocess.run(command, env=os.environ | environment, timeout=200, check=False)


def budget(bench: Bench) -> Iterator[Row]:
    """Give a run a minute."""
    seconds = 25 if bench.tiny else 60
    run, begin = bench.out / "budget", time.perf_counter()
    data = "fashion-mini" if bench.tiny else bench.cifar
    bench.resnets("train", data, "--time", f"{seconds}s", "--out", run, "--device", bench.device)
    took = time.perf_counter() - begin
    config = json.loads((run / "config.json").read_text())
    values = {name: config[name]["value"] for name in ("model", "steps", "batch_size", "precision")}
    scores = json.loads((run / "scores.json").read_text())
    yield {"asked": seconds, "took": took, "top1": scores["top1"], **values}


def stepper(network: Any, model: nn.Module, images: Tensor, targets: Tensor) -> Callable[[], None]:
    """Plain PyTorch: one training step each call."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(images.device, "bf16"):
            logits = network(images)
        F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()

    return step


def trainer_steps(bench: Bench, model: Any, network: Any, recipe: Recipe) -> Iterator[None]:
    """Our loop around the same network: loader, augmentation, step, sums, learning rate."""
    data = in_memory(4 * (recipe.schedule.batch_size or 0), recipe.model.size or 0)
    trainer = Trainer(ResolvedConfig(recipe), data, splits_for(data, recipe), device=bench.device)
    state, metrics = TrainState.start(model, recipe, device=bench.device), StepMetrics(bench.device)
    for batch in trainer.train_loader.batches(0, 1_000_000):
        loss, correct = train_step(state, network, batch, recipe)
        state.step += 1
        images = len(batch.images)
        metrics.add(loss, correct, images=images, step=state.step, indices=batch.indices)
        yield


def train(bench: Bench) -> Iterator[Row]:
    """Time training steps of resnet50 in one loop, and of our trainer."""
    import timm

    side, batch, calls = (32, 8, 1) if bench.tiny else (224, 256, 5)
    rounds = 1 if bench.tiny else bench.rounds
    yield from roof(bench)
    torch.manual_seed(0)
    images = torch.randn(batch, 3, side, side, device=bench.device)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 1000, (batch,), device=bench.device)
    makers: dict[str, Callable[[], nn.Module]] = {
        "ours": lambda: resnets.create_model("resnet50"),
        "torchvision": lambda: torchvision.models.resnet50(),
        "timm": lambda: timm.create_model("resnet50"),
    }
    arms: dict[str, Callable[[], object]] = {}
    macs = count_macs(makers["ours"](), side)
    for name, make in makers.items():
        model = place(make(), device=bench.device, memory_format="channels_last").train()
        begin = bench.now()
        kinds: dict[str, Any] = {"eager": model}
        if not bench.tiny:
            kinds["compiled"] = torch.compile(model)
        for kind, network in kinds.items():
            step = stepper(network, model, images, targets)
            step()
            arms[f"{name}, {kind}"] = step
            yield {"case": f"{name}, {kind}", "first_step_seconds": bench.now() - begin}
        if name == "ours":
            for kind in kinds:
                step = arms[f"ours, {kind}"]  # type: ignore[assignment]

                def repeatable(step: Callable[[], object] = step) -> None:
                    with deterministic_kernels():
                        step()

                arms[f"ours, {kind}, deterministic"] = repeatable
            recipe = Recipe().override(
                model="resnet50",
                size=side,
                batch_size=batch,
                steps=1_000_000,
                learning_rate=0.01,
                optimizer="sgd",
                crop="shift",
                auto_augment="none",
                label_smoothing=0.0,
                workers=0,
                threads=1,
                precision="bf16",
                memory_format="channels_last",
            )
            own = resnets.create_model("resnet50").train()
            place(own, device=bench.device, memory_format="channels_last")
            network = own if bench.tiny else torch.compile(own)
            for crop in ("shift", "resized"):
                steps = trainer_steps(bench, own, network, recipe.override(crop=crop))
                arms[f"ours in our trainer, {kind}, crop {crop}"] = lambda s=steps: next(s)  # type: ignore[misc]
    found = interleaved(bench, arms, calls=calls, rounds=rounds)
    for name, seconds in found.items():
        speeds = [batch / each for each in seconds]
        flops = 6 * macs * statistics.median(speeds)
        yield {"case": name, "images_per_second": spread(speeds), "TFLOPs": flops / 1e12}


def roof(bench: Bench) -> Iterator[Row]:
    """Measure the rate of a large bf16 product and of a large copy."""
    size = 512 if bench.tiny else 8192
    a, b = (torch.randn(size, size, device=bench.device).bfloat16() for _ in range(2))
    source = torch.randn(2**20 if bench.tiny else 2**29, device=bench.device)
    target = torch.empty_like(source)
    calls: dict[str, Callable[[], object]] = {
        "matmul": lambda: a @ b,
        "copy": lambda: target.copy_(source),
    }
    seconds = {n: min(s) for n, s in interleaved(bench, calls, calls=10, rounds=5).items()}
    yield {
        "case": "roof",
        "matmul_TFLOPs": 2 * size**3 / seconds["matmul"] / 1e12,
        "copy_TB_per_second": 2 * source.nbytes / seconds["copy"] / 1e12,
    }


def graphed(call: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], object]:
    """Capture a call as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(images)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        call(images)
    return graph.replay


@torch.inference_mode()
def inference(bench: Bench) -> Iterator[Row]:
    """Time resnet50 in bf16: eager, compiled, and each as a CUDA graph."""
    side, sizes = (32, (1,)) if bench.tiny else (224, (1, 32, 256))
    makers: dict[str, Callable[[], nn.Module]] = {
        "ours": lambda: resnets.create_model("resnet50"),
        "torchvision": lambda: torchvision.models.resnet50(),
    }
    for count in sizes:
        images = torch.randn(count, 3, side, side, device=bench.device).bfloat16()
        images = images.contiguous(memory_format=torch.channels_last)
        arms: dict[str, Callable[[], object]] = {}
        for name, make in makers.items():
            model = make().eval().bfloat16()
            place(model, device=bench.device, memory_format="channels_last")
            arms[f"{name}, eager"] = lambda m=model, x=images: m(x)  # type: ignore[misc]
            if bench.tiny:
                continue
            arms[f"{name}, eager, CUDA graph"] = graphed(model, images)
            if not bench.compile:
                continue
            compiled = torch.compile(model, dynamic=False)
            compiled(images)
            arms[f"{name}, compiled"] = lambda m=compiled, x=images: m(x)  # type: ignore[misc]
            arms[f"{name}, compiled, CUDA graph"] = graphed(compiled, images)
        calls = 1 if bench.tiny else {1: 100, 32: 40, 256: 10}[count]
        found = interleaved(bench, arms, calls=calls, rounds=2 if bench.tiny else bench.rounds)
        for name, seconds in found.items():
            row = {"case": name, "batch": count, "ms": spread([1000 * s for s in seconds])}
            yield row | {"images_per_second": count / statistics.median(seconds)}
        torch._dynamo.reset()


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "agree": agree,
    "sync": sync,
    "repeat": repeat,
    "memory": memory,
    "fast": fast,
    "train": train,
    "inference": inference,
    "budget": budget,
}


def shown(row: Row) -> str:
    """A result as a line."""
    cells = []
    for name, value in row.items():
        if isinstance(value, dict) and "median" in value:
            value = f"{value['median']:.4g} ({value['least']:.4g} to {value['most']:.4g})"
        elif isinstance(value, float):
            value = f"{value:.4g}" if name != "top1" else f"{value:.2%}"
        if name in ("part", "case", "arm"):
            cells.append(str(value))
        elif name not in ("device", "torch", "commit"):
            cells.append(f"{name} {value}")
    return "  ".join(cells)


def run_part(bench: Bench, name: str) -> None:
    """Run one part in this process and append its results."""
    facts = {"part": name, "device": bench.name(), "torch": torch.__version__}
    for row in {**PARTS, "anchor": anchor}[name](bench):
        with (bench.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps({**facts, **row}) + "\n")
        print(shown({**facts, **row}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=lambda text: Path(text).absolute())
    parser.add_argument("--cifar", type=lambda text: Path(text).absolute())
    parser.add_argument("--anchor", type=lambda text: Path(text).absolute())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--arms", nargs="+", default=[], help="of the part fast: names of ours, anchor"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(REPEATED), help="of the part repeat")
    parser.add_argument("--no-compile", action="store_true", help="of the part inference")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="does it run at all?")
    parser.add_argument("--only", choices=[*PARTS, "anchor"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    if options.only is not None:
        run_part(bench, options.only)
        return 0
    failed = []
    for part in options.parts:
        if part in ("fast", "budget") and bench.cifar is None and not bench.tiny:
            print(f"{part}: not run without --cifar")
            continue
        begin = time.perf_counter()
        command = [sys.executable, *sys.argv, "--only", part]
        limit = LIMITS[part] * (1 if bench.on_gpu else 10)
        with (bench.out / f"{part}.log").open("w") as log:
            try:
                subprocess.run(command, stdout=log, stderr=log, check=True, timeout=limit)
                outcome = "done"
            except subprocess.SubprocessError as error:
                outcome = f"FAILED: {str(error).splitlines()[0][-100:]}"
                failed.append(part)
        print(f"{part}: {outcome}, {time.perf_counter() - begin:.0f} s", flush=True)
    lines = (bench.out / "gpu.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    print(f"\n{bench.name()}, torch {torch.__version__}")
    for row in rows:
        print(shown(row))
    for part in failed:
        print(f"\n{part} FAILED:\n{(bench.out / f'{part}.log').read_text()[-1500:]}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
