"""Reading photos for training: ours beside torchvision's ImageFolder, v2 transforms and DataLoader.

    .venv/bin/python benchmarks/large_images.py [--workers 2] [--images 768] [--rounds 7]

Writes JPEGs of 500 x 375 (smooth shapes and grain, quality 90) into a temporary folder, then reads
them in turns, one epoch an arm and round, with as many workers each: a random resized crop to 224
(area 0.08 to 1), a random flip, normalised float32 batches of 64 in the main process. The median
of the rounds counts; the last line is the ratio.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from resnets.data import open_data
from resnets.data.augment import Augment
from resnets.data.loader import TrainLoader
from resnets.data.transforms import Preprocess

WIDTH, HEIGHT, SIDE, BATCH, NUM_CLASSES = 500, 375, 224, 64, 4
# Cells across, and grey levels, of each layer of a picture: shapes, objects, texture, grain.
LAYERS = ((6, 60), (24, 30), (96, 14), (250, 8))
GOAL = 1.3
CUBIC = Image.Resampling.BICUBIC


def photo(seed: int) -> Image.Image:
    """Noise of several sizes, mostly grey: about as many bytes as a photo of this size."""
    draws = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for cells, levels in LAYERS:
        noise = draws.normal(size=(cells * 3 // 4, cells, 3)).astype(np.float32)
        noise = 0.4 * noise + noise.mean(axis=2, keepdims=True)
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel]).resize((WIDTH, HEIGHT), CUBIC)
            pixels[..., channel] += levels * np.asarray(layer)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make(folder: Path, count: int) -> None:
    """The photos in class folders."""

    def write(index: int) -> None:
        place = folder / f"class{index % NUM_CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        photo(index).save(place / f"{index}.jpg", quality=90)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(count)))


def theirs(folder: Path, workers: int) -> Callable[[], Iterator[int]]:
    """Batch sizes of one epoch of torchvision's recipe."""
    normal = Preprocess(SIDE)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIDE),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(normal.mean, normal.std),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda: (len(images) for images, _ in loader)


def ours(folder: Path, workers: int) -> Callable[[], Iterator[int]]:
    """The same of our stream, with nothing kept in memory."""
    part = open_data(folder).splits["all"]
    augment = Augment(crop="resized", min_area=0.08, flip="random")
    stream = TrainLoader(
        part,
        preprocess=Preprocess(SIDE),
        augment=augment,
        num_classes=NUM_CLASSES,
        batch_size=BATCH,
        seed=0,
        device="cpu",
        workers=workers,
        cache_mb=0,
    )
    steps = math.ceil(len(part) / BATCH)  # an epoch
    return lambda: (len(batch.images) for batch in stream.batches(0, steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, options.images)
        mean = statistics.mean(path.stat().st_size for path in folder.rglob("*.jpg")) / 1024
        print(f"{options.images} JPEGs of {mean:.0f} KB, {options.workers} workers", flush=True)
        arms = {
            name: arm(folder, options.workers)
            for name, arm in (("torchvision", theirs), ("ours", ours))
        }
        for arm in arms.values():  # start the workers, fill the disk cache
            sum(arm())
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(options.rounds):
            for name, arm in arms.items():
                start = time.perf_counter()
                shown = sum(arm())
                speeds[name].append(shown / (time.perf_counter() - start))
    median = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        print(f"{name:12} {median[name]:7.1f} images/s  ({min(values):.1f} .. {max(values):.1f})")
    print(f"ours / torchvision: {median['ours'] / median['torchvision']:.2f} (at least {GOAL})")


if __name__ == "__main__":
    main()
