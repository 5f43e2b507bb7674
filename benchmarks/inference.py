"""What does an evaluation on the CPU cost beside torchvision's and timm's? ResNet-18 and 50.

    .venv/bin/python benchmarks/inference.py [--pairs 40] [--threads 2]

The networks have the same weights and compute the same bits. In each round all of them see the
same images once, in an order drawn anew, and the ratio of each to torchvision's time in that round
counts, so that a slow moment of the machine slows both. "again" is a second network of torchvision:
what the measurement itself wavers by. Printed are the median ratio, its quartiles and the pages of
memory that the system gave to a pass; the last line compares ours with the goal.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import resnets

GOAL = 1.01


def page_faults() -> int:
    """Return how many pages of memory this process has been given; 0 where that is unknown."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def networks(name: str) -> dict[str, nn.Module]:
    """Return torchvision's network, and others with its weights."""
    import timm
    import torchvision

    makers: dict[str, Callable[[], Any]] = {
        "torchvision": lambda: torchvision.models.get_model(name),
        "again": lambda: torchvision.models.get_model(name),
        "timm": lambda: timm.create_model(name),
        "ours": lambda: resnets.create_model(name),
    }
    made: dict[str, nn.Module] = {arm: make().eval() for arm, make in makers.items()}
    for network in made.values():
        # The same memory, too: where weights lie changes the time by some percent.
        network.load_state_dict(made["torchvision"].state_dict(), assign=True)
    return made


@torch.inference_mode()
def measure(arms: dict[str, nn.Module], images: Tensor, *, rounds: int) -> float:
    """Print a line for each network; return the median ratio of ours."""
    for network in arms.values():
        network(images)
    order, rng = list(arms), random.Random(0)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    pages: dict[str, list[int]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        rng.shuffle(order)
        for arm in order:
            before, start = page_faults(), time.perf_counter()
            arms[arm](images)
            seconds[arm].append(time.perf_counter() - start)
            pages[arm].append(page_faults() - before)
    medians = {}
    for arm in arms:
        pairs = zip(seconds[arm], seconds["torchvision"], strict=True)
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        medians[arm] = statistics.median(ratios)
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        print(
            f"  {arm:12} {1e3 * statistics.median(seconds[arm]):7.1f} ms, ratio {medians[arm]:.3f} "
            f"({low:.3f} .. {high:.3f}), {statistics.median(pages[arm]):.0f} pages",
            flush=True,
        )
    return medians["ours"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="rounds at batch 1; a quarter at 8")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    worst = 0.0
    for name in ("resnet18", "resnet50"):
        arms = networks(name)
        for batch, rounds in ((1, options.pairs), (8, max(options.pairs // 4, 1))):
            print(f"{name}, batch {batch}, {options.threads} threads, {rounds} pairs")
            images = torch.randn(batch, 3, options.size, options.size)
            worst = max(worst, measure(arms, images, rounds=rounds))
    print(f"ours / torchvision: at most {worst:.3f}, median of pairs (goal {GOAL})")


if __name__ == "__main__":
    main()
