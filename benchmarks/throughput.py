"""Training throughput of `resnet18_cifar` on the CPU beside plain PyTorch and the tutorial's loop.

    .venv/bin/python benchmarks/throughput.py [--rounds 5] [--steps 3]

One run, all arms interleaved, the median of the rounds counts. Arms: the tutorial loop (NCHW,
DataLoader with 2 workers, `loss.item()` each step), plain PyTorch eager and compiled in NCHW and
channels_last on tensors that already lie in memory, and ours in fp32 and as the recipe chooses.
Our arms draw, augment and normalise real batches; the plain ones reuse one batch. The floor is the
machine's matmul rate, measured in the same run. The last lines are the verdict.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from resnets import create_model
from resnets.data import open_data
from resnets.models.summary import count_macs
from resnets.training.auto_config import ResolvedConfig
from resnets.training.recipe import Recipe
from resnets.training.train_step import TrainState, train_step
from resnets.training.trainer import Trainer, splits_for

BATCH = 128
SIDE = 32


class Augmented(TensorDataset):
    """What the tutorial does for each image: pad, crop, flip, to float, normalise."""

    transform = v2.Compose(
        [
            v2.RandomCrop(SIDE, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = (tensor[index] for tensor in self.tensors)
        return self.transform(image), target


def tutorial(pixels: Tensor, targets: Tensor) -> Iterator[None]:
    """One step each time it is asked."""
    model = create_model("resnet18_cifar").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        Augmented(pixels, targets),
        BATCH,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
    )
    running = 0.0
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
            yield


def plain(memory_format: torch.memory_format, *, compiled: bool) -> Iterator[None]:
    """PyTorch at its best: tensors in memory, nothing but the step."""
    model: nn.Module = create_model("resnet18_cifar").to(memory_format=memory_format).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    network = torch.compile(model) if compiled else model
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=memory_format)
    targets = torch.randint(0, 10, (BATCH,))
    while True:
        optimizer.zero_grad()
        F.cross_entropy(network(images), targets).backward()
        optimizer.step()
        yield


def ours(recipe: Recipe, data: str) -> Iterator[None]:
    """The trainer's own step over the trainer's own batches."""
    dataset = open_data(data)
    recipe, device = recipe.override(steps=1_000_000), torch.device("cpu")
    splits = splits_for(dataset, recipe)
    trainer = Trainer(ResolvedConfig(recipe), dataset, splits, device=device)
    state = TrainState.start(trainer.new_model(), recipe, device=device)
    model = state.model.train()
    network: Any = torch.compile(model) if recipe.runtime.compile else model
    for batch in trainer.train_loader.batches(0, 1_000_000):
        train_step(state, network, batch, recipe)
        state.step += 1
        yield


def matmul_rate() -> float:
    """fp32 operations a second."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return float(2 * 2048**3 / min(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--data", default="fashion-mini")
    options = parser.parse_args()
    pixels = torch.randint(0, 256, (4096, 3, SIDE, SIDE), dtype=torch.uint8)
    targets = torch.randint(0, 10, (4096,))
    recipe = Recipe().override(
        model="resnet18_cifar",
        size=SIDE,
        batch_size=BATCH,
        learning_rate=0.1,
        crop="shift",
        auto_augment="none",
        workers=0,
        threads=torch.get_num_threads(),
        precision="fp32",
        memory_format="channels_last",
        optimizer="sgd",
    )
    makers: dict[str, Callable[[], Iterator[None]]] = {
        "tutorial loop": lambda: tutorial(pixels, targets),
        "plain eager NCHW": lambda: plain(torch.contiguous_format, compiled=False),
        "plain eager channels_last": lambda: plain(torch.channels_last, compiled=False),
        "plain compiled NCHW": lambda: plain(torch.contiguous_format, compiled=True),
        "plain compiled channels_last": lambda: plain(torch.channels_last, compiled=True),
        "ours fp32": lambda: ours(recipe, options.data),
        "ours fp32 compiled": lambda: ours(recipe.override(compile=True), options.data),
        "ours bf16": lambda: ours(recipe.override(precision="bf16"), options.data),
    }
    arms = {name: maker() for name, maker in makers.items()}
    for arm in arms.values():
        next(arm), next(arm)  # compile, start workers, warm the allocator
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            for _ in range(options.steps):
                next(arm)
            speeds[name].append(options.steps * BATCH / (time.perf_counter() - start))
    rate = matmul_rate()
    floor = rate / (6 * count_macs(create_model("resnet18_cifar"), SIDE))
    print(f"fp32 matmul {rate / 1e9:.0f} GFLOP/s allows {floor:.0f} images/s in fp32")
    median = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        print(
            f"{name:30} {median[name]:7.1f} images/s  ({min(values):.1f} .. {max(values):.1f})  "
            f"{median[name] / floor:.2f} of the fp32 floor"
        )
    best_plain = max(v for name, v in median.items() if name.startswith("plain"))
    chosen = max(v for name, v in median.items() if name.startswith("ours"))
    exact = max(v for name, v in median.items() if name.startswith("ours fp32"))
    print(
        f"ours / best plain PyTorch: {chosen / best_plain:.2f} as chosen, "
        f"{exact / best_plain:.2f} in fp32 (at least 0.95)"
    )
    print(
        f"ours / tutorial loop: {chosen / median['tutorial loop']:.2f} as chosen, "
        f"{exact / median['tutorial loop']:.2f} in fp32 (at least 1.2)"
    )


if __name__ == "__main__":
    main()
