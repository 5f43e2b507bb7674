"""Provide batches as pure functions of (seed, step): order, augmentation, normalisation.

Epoch e visits the images in the order permutation(seed, e). The epochs form one sequence, of which
step s takes the positions [s * B, (s + 1) * B): every image comes once an epoch, and a batch may
span two. Each of several processes makes its own places of the same batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.augment import (
    Augment,
    apply_auto_augment,
    crop_boxes,
    erase,
    flips,
    mix_batch,
    resized_crop,
    shift_and_flip,
    with_partners,
)
from resnets.data.dataset import ImageFiles, Split
from resnets.data.rng import Keys, keys, permutation
from resnets.data.transforms import Preprocess, to_device
from resnets.data.workers import (
    Answer,
    DecodedSplit,
    EvalReader,
    Indices,
    Request,
    TrainReader,
    WorkerPool,
    canvas,
    decode_all,
    none_readable,
)
from resnets.errors import UserError

MEGABYTE = 2**20
# Images on which the mean and deviation of the channels are measured.
STATISTICS_SAMPLE = 2000


@dataclass(frozen=True, eq=False)
class Batch:
    """Hold the images of a step; `indices` names a replacement by its own index."""

    images: Tensor  # N C H W float32, normalised
    targets: Tensor  # N int64, or N K float32 shares of classes where images are mixed
    indices: Indices
    replaced: int  # files that could not be read
    waited: float = 0.0  # seconds for the images


def fits(split: Split, preprocess: Preprocess, cache_mb: float) -> bool:
    """Return whether the decoded images take at most `cache_mb` megabytes."""
    return len(split) * preprocess.channels * preprocess.size**2 <= cache_mb * MEGABYTE


class TrainLoader:
    """Make training batches that are a pure function of (seed, step), from any step on.

    `batch_size` counts the images of all processes and `places` those of this process (None: all).
    """

    def __init__(
        self,
        split: Split,
        *,
        preprocess: Preprocess,
        augment: Augment,
        num_classes: int,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        workers: int = 0,
        cache_mb: float = 1024,
        places: Indices | None = None,
    ) -> None:
        check(split, batch_size=batch_size, workers=workers)
        if augment.fill == "reflect" and augment.padding >= preprocess.size:
            raise UserError(
                f"--crop-padding {augment.crop_padding} with --fill reflect: must be below the "
                f"size of the images, {preprocess.size}"
            )
        self.split, self.preprocess, self.augment = split, preprocess, augment
        self.num_classes, self.batch_size, self.seed = num_classes, batch_size, seed
        self.device = torch.device(device)
        self.places = np.arange(batch_size) if places is None else places
        self.own = np.ones(len(self.places), dtype=np.bool_)
        if augment.mixes:
            self.places, self.own = with_partners(self.places, batch_size=batch_size)
        self.targets = torch.from_numpy(split.targets.astype(np.int64))
        self.orders: dict[int, Indices] = {}
        kept = canvas(split, preprocess) if augment.crop == "resized" else preprocess
        self.cached = fits(split, kept, cache_mb)
        if self.cached:
            decoded = decode_all(split, kept)
            self.shown, self.aspects = decoded.shown(), decoded.aspects
            # torchvision's policies work image by image, for which a GPU is the wrong place.
            home = self.device if augment.auto_augment == "none" else torch.device("cpu")
            self.pixels = decoded.pixels.to(home)
        else:
            reader = TrainReader(split, preprocess, augment, seed)
            self.workers = WorkerPool(reader, count=workers, device=self.device)

    def request(self, step: int) -> Request:
        """Return the epochs and indices of the samples of a step, N each."""
        return self.samples(step * self.batch_size + self.places)

    def samples(self, positions: Indices) -> Request:
        """Return the epochs and indices at positions in the sequence of all epochs, N each."""
        epochs, places = np.divmod(positions, len(self.split))
        indices = np.empty_like(places)
        for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
            members = epochs == epoch
            indices[members] = self.order(epoch)[places[members]]
        return epochs, indices

    def order(self, epoch: int) -> Indices:
        """Return permutation(seed, epoch); two are kept, since requests run ahead."""
        if epoch not in self.orders:
            self.orders[epoch] = permutation(self.seed, epoch, len(self.split))
            for old in list(self.orders)[:-2]:
                del self.orders[old]
        return self.orders[epoch]

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield the batches of the steps first_step, ..., last_step - 1.

        With workers, one long call is faster than many short ones, which start without prefetching.
        """
        steps = range(first_step, last_step)
        requests = (self.request(step) for step in steps)
        answers = map(self.look_up, requests) if self.cached else self.workers.map(requests)
        for step in steps:
            begin = time.perf_counter()
            images, shown = next(answers)
            waited = time.perf_counter() - begin
            if len(shown) == 0:
                raise none_readable()
            yield replace(self.finish(step, images, shown), waited=waited)

    def look_up(self, request: Request) -> Answer:
        """Return the images of a request from memory."""
        epochs, indices = request
        shown = self.shown[indices]
        images = self.pixels[to_device(torch.from_numpy(shown), self.pixels.device)]
        return apply_auto_augment(
            images, keys(self.seed, epochs, indices), self.augment.auto_augment
        ), shown

    def finish(self, step: int, images: Tensor, shown: Indices) -> Batch:
        """Augment, normalise and mix a batch on the device."""
        epochs, indices = self.request(step)
        sample_keys = keys(self.seed, epochs, indices)
        mirrored = flips(self.augment.flip, seed=self.seed, epochs=epochs, indices=indices)
        images = images.to(self.device, non_blocking=True)
        if self.augment.crop != "resized":
            images = shift_and_flip(images, sample_keys, self.augment, mirrored=mirrored)
        elif self.cached:  # else the workers, who saw the originals, did so
            images = self.cut(images, shown, sample_keys, mirrored)
        images = erase(self.preprocess.normalise(images), sample_keys, self.augment.erasing)
        targets = to_device(self.targets[torch.from_numpy(shown)], self.device)
        if self.augment.mixes:
            epochs, first = self.samples(np.array([step * self.batch_size]))
            key = keys(self.seed, epochs, first)  # one draw for the whole batch
            images, targets = mix_batch(
                images, targets, key, augment=self.augment, num_classes=self.num_classes
            )
        if not self.own.all():  # some are only partners of a mix
            own = to_device(torch.from_numpy(self.own), self.device)
            images, targets = images[own], targets[own]
            shown, indices = shown[self.own], indices[self.own]
        return Batch(images, targets, shown, int((shown != indices).sum()))

    def cut(
        self, images: Tensor, shown: Indices, sample_keys: Keys, mirrored: NDArray[np.bool_]
    ) -> Tensor:
        """Crop random boxes of cached images, and mirror some, in one product."""
        area, aspects = self.augment.min_area, self.aspects[shown]
        box = crop_boxes(sample_keys, min_area=area, image_aspect=aspects)
        return resized_crop(images, box, size=self.preprocess.size, mirrored=mirrored)

    def close(self) -> None:
        """End the worker processes, if any."""
        if not self.cached:
            self.workers.close()


class EvalLoader:
    """Make batches of every image of a split, once and in order; it can be iterated repeatedly.

    A split that fits into the cache is decoded in the first iteration. An unreadable file is left
    out and counted in `replaced` of the batch before or after its place.
    """

    def __init__(
        self,
        split: Split,
        *,
        preprocess: Preprocess,
        batch_size: int,
        device: torch.device | str,
        workers: int = 0,
        cache_mb: float = 1024,
    ) -> None:
        check(split, batch_size=batch_size, workers=workers)
        self.split, self.preprocess, self.batch_size = split, preprocess, batch_size
        self.device = torch.device(device)
        self.targets = torch.from_numpy(split.targets.astype(np.int64))
        self.cached = fits(split, preprocess, cache_mb)
        self.decoded: DecodedSplit | None = None
        reader = EvalReader(split, preprocess)
        count = 0 if self.cached else workers
        self.workers = WorkerPool(reader, count=count, device=self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        places = np.arange(len(self.split))
        requests = [places[i : i + self.batch_size] for i in places[:: self.batch_size]]
        answers = map(self.look_up, requests) if self.cached else self.workers.map(requests)
        held: Batch | None = None  # one behind, so that a last batch without images is counted
        missing = 0
        for request, (images, shown) in zip(requests, answers, strict=True):
            missing += len(request) - len(shown)
            if len(shown) == 0:
                continue
            if held is not None:
                yield held
            held, missing = self.finish(images, shown, missing), 0
        if held is None:
            raise none_readable()
        yield replace(held, replaced=held.replaced + missing)

    def look_up(self, indices: Indices) -> Answer:
        """Return the readable ones of these images, from memory."""
        if self.decoded is None:
            decoded = decode_all(self.split, self.preprocess)
            self.decoded = replace(decoded, pixels=decoded.pixels.to(self.device))
        shown = indices[self.decoded.readable[indices]]
        return self.decoded.pixels[to_device(torch.from_numpy(shown), self.device)], shown

    def finish(self, images: Tensor, shown: Indices, missing: int) -> Batch:
        """Move images to the device and normalise them."""
        images = self.preprocess.normalise(images.to(self.device, non_blocking=True))
        targets = to_device(self.targets[torch.from_numpy(shown)], self.device)
        return Batch(images, targets, shown, missing)

    def close(self) -> None:
        """End the worker processes, if any."""
        self.workers.close()


def check(split: Split, *, batch_size: int, workers: int) -> None:
    """Check what both loaders need."""
    if len(split) == 0:
        raise UserError("there are no images to make batches of")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be 1 or more")
    if workers < 0:
        raise UserError(f"workers {workers}: must be 0 (no worker processes) or more")


def channel_statistics(
    split: Split, preprocess: Preprocess, *, sample: int = STATISTICS_SAMPLE
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, in 0..1.

    Measured are all images in memory, or `sample` evenly spaced files. Sums are whole numbers below
    2^53, so they are exact in float64. The deviation is at least one grey level.
    """
    if isinstance(split, ImageFiles) and len(split) > sample:
        split = split.subset(np.linspace(0, len(split) - 1, sample).round().astype(np.int64))
    decoded = decode_all(split, preprocess)
    count = int(decoded.readable.sum()) * preprocess.size**2
    if count == 0:
        raise none_readable()
    means, deviations = [], []
    for channel in decoded.pixels.numpy().swapaxes(0, 1):  # N H W; unreadable ones are 0
        total = squares = 0.0
        for start in range(0, len(channel), 1024):
            values = channel[start : start + 1024].astype(np.float64).ravel()
            total, squares = total + values.sum(), squares + values @ values
        mean = float(total / count)
        means.append(mean / 255)
        deviations.append(math.sqrt(max(float(squares / count) - mean**2, 1)) / 255)
    return tuple(means), tuple(deviations)
