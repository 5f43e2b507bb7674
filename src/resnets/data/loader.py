"""Batches as pure functions of (seed, step): order, augmentation, normalisation.

In: a part, a `Preprocess`, an `Augment`. Out: `Batch`es on the device, from any step, the same
whatever the number of workers and wherever the run began. The idea: epoch e visits the images in
the order permutation(seed, e); the epochs are laid end to end and step s takes the positions
[s * B, (s + 1) * B), so every image comes exactly once an epoch and a batch may span two. Of
several processes each makes its own places of the same batch.
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
from resnets.data.transforms import Preprocess
from resnets.data.workers import (
    Answer,
    Decoded,
    EvaluationReader,
    Indices,
    Progress,
    Request,
    TrainingReader,
    Workers,
    canvas,
    decode_all,
    none_readable,
)
from resnets.errors import UserError

MEGABYTE = 2**20
STATISTICS_SAMPLE = 2000


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step sees. `indices` are the images shown, a replacement under its own index."""

    images: Tensor  # N C H W float32, normalised
    targets: Tensor  # N int64, or N K float32 shares of classes where images are mixed
    indices: Indices
    replaced: int  # files that could not be read (any more)
    waited: float = 0.0  # seconds until the bytes were there


def fits(part: Split, preprocess: Preprocess, cache_mb: float) -> bool:
    """Whether the decoded images take at most `cache_mb` megabytes."""
    return len(part) * preprocess.channels * preprocess.size**2 <= cache_mb * MEGABYTE


class TrainLoader:
    """Endless training batches of a part; `batches(first, last)` starts anywhere."""

    def __init__(
        self,
        part: Split,
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
        on_progress: Progress | None = None,
    ) -> None:
        check(part, batch_size=batch_size, workers=workers)
        if augment.fill == "reflect" and augment.padding >= preprocess.size:
            raise UserError(
                f"--crop-padding {augment.crop_padding} with --fill reflect: must be below the "
                f"size of the images, {preprocess.size}"
            )
        self.part, self.preprocess, self.augment = part, preprocess, augment
        self.num_classes, self.batch_size, self.seed = num_classes, batch_size, seed
        self.device = torch.device(device)
        self.places = np.arange(batch_size) if places is None else places
        self.own = np.ones(len(self.places), dtype=np.bool_)
        if augment.mixes:
            self.places, self.own = with_partners(self.places, batch_size=batch_size)
        self.targets = torch.from_numpy(part.targets.astype(np.int64))
        self.orders: dict[int, Indices] = {}
        kept = canvas(part, preprocess) if augment.crop == "resized" else preprocess
        self.cached = fits(part, kept, cache_mb)
        if self.cached:
            decoded = decode_all(part, kept, on_progress)
            self.shown, self.aspects = decoded.shown(), decoded.aspects
            # torchvision's policies work image by image, for which a GPU is the wrong place.
            home = self.device if augment.auto_augment == "none" else torch.device("cpu")
            self.pixels = decoded.pixels.to(home)
        else:
            reader = TrainingReader(part, preprocess, augment, seed)
            self.workers = Workers(reader, count=workers, device=self.device)

    def request(self, step: int) -> Request:
        """The epochs and indices of the samples of one step, N each."""
        return self.samples(step * self.batch_size + self.places)

    def samples(self, positions: Indices) -> Request:
        """The epochs and indices at positions in the epochs laid end to end, N each."""
        epochs, places = np.divmod(positions, len(self.part))
        indices = np.empty_like(places)
        for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
            members = epochs == epoch
            indices[members] = self.order(epoch)[places[members]]
        return epochs, indices

    def order(self, epoch: int) -> Indices:
        """permutation(seed, epoch); the last two are kept, since workers are asked ahead."""
        if epoch not in self.orders:
            self.orders[epoch] = permutation(self.seed, epoch, len(self.part))
            for old in list(self.orders)[:-2]:
                del self.orders[old]
        return self.orders[epoch]

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """The batches of the steps first_step, ..., last_step - 1.

        With workers, one long call is faster than many short ones, each of which starts empty.
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
        """The images of a request from memory."""
        epochs, indices = request
        shown = self.shown[indices]
        images = self.pixels[torch.from_numpy(shown).to(self.pixels.device)]
        return apply_auto_augment(
            images, keys(self.seed, epochs, indices), self.augment.auto_augment
        ), shown

    def finish(self, step: int, images: Tensor, shown: Indices) -> Batch:
        """Everything that is done to whole batches on the device."""
        epochs, indices = self.request(step)
        sample_keys = keys(self.seed, epochs, indices)
        mirrored = flips(self.augment.flip, seed=self.seed, epochs=epochs, indices=indices)
        images = images.to(self.device, non_blocking=True)
        if self.augment.crop != "resized":
            images = shift_and_flip(images, sample_keys, self.augment, mirrored=mirrored)
        elif self.cached:  # else the workers, who saw the originals, did so
            images = self.cut(images, shown, sample_keys, mirrored)
        images = erase(self.preprocess.normalise(images), sample_keys, self.augment.erasing)
        targets = self.targets[torch.from_numpy(shown)].to(self.device)
        if self.augment.mixes:
            epochs, first = self.samples(np.array([step * self.batch_size]))
            key = keys(self.seed, epochs, first)  # one draw for the whole batch
            images, targets = mix_batch(
                images, targets, key, augment=self.augment, num_classes=self.num_classes
            )
        if not self.own.all():  # some were here to be mixed with, and are another process's
            own = torch.from_numpy(self.own).to(self.device)
            images, targets = images[own], targets[own]
            shown, indices = shown[self.own], indices[self.own]
        return Batch(images, targets, shown, int((shown != indices).sum()))

    def cut(
        self, images: Tensor, shown: Indices, sample_keys: Keys, mirrored: NDArray[np.bool_]
    ) -> Tensor:
        """Random boxes of cached canvases, mirrored in the same product."""
        area, aspects = self.augment.min_area, self.aspects[shown]
        box = crop_boxes(sample_keys, min_area=area, image_aspect=aspects)
        return resized_crop(images, box, size=self.preprocess.size, mirrored=mirrored)

    def close(self) -> None:
        """End the worker processes, if any."""
        if not self.cached:
            self.workers.close()


class EvalLoader:
    """Every image of a part once, in order, as it is predicted; may be walked again and again.

    What fits is decoded at the first walk and kept as bytes. A file that cannot be read is left
    out and counted in `replaced` of the batch before or after its place.
    """

    def __init__(
        self,
        part: Split,
        *,
        preprocess: Preprocess,
        batch_size: int,
        device: torch.device | str,
        workers: int = 0,
        cache_mb: float = 1024,
        on_progress: Progress | None = None,
    ) -> None:
        check(part, batch_size=batch_size, workers=workers)
        self.part, self.preprocess, self.batch_size = part, preprocess, batch_size
        self.device, self.on_progress = torch.device(device), on_progress
        self.targets = torch.from_numpy(part.targets.astype(np.int64))
        self.cached = fits(part, preprocess, cache_mb)
        self.decoded: Decoded | None = None
        reader = EvaluationReader(part, preprocess)
        count = 0 if self.cached else workers
        self.workers = Workers(reader, count=count, device=self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.part) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        places = np.arange(len(self.part))
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
        """The readable ones of these images, from memory."""
        if self.decoded is None:
            decoded = decode_all(self.part, self.preprocess, self.on_progress)
            self.decoded = replace(decoded, pixels=decoded.pixels.to(self.device))
        shown = indices[self.decoded.readable[indices]]
        return self.decoded.pixels[torch.from_numpy(shown).to(self.device)], shown

    def finish(self, images: Tensor, shown: Indices, missing: int) -> Batch:
        """To the device, and to the numbers that the network takes."""
        images = self.preprocess.normalise(images.to(self.device, non_blocking=True))
        targets = self.targets[torch.from_numpy(shown)].to(self.device)
        return Batch(images, targets, shown, missing)

    def close(self) -> None:
        """End the worker processes, if any."""
        self.workers.close()


def check(part: Split, *, batch_size: int, workers: int) -> None:
    """What both kinds of batches need."""
    if len(part) == 0:
        raise UserError("there are no images to make batches of")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be 1 or more")
    if workers < 0:
        raise UserError(f"workers {workers}: must be 0 (no worker processes) or more")


def channel_statistics(
    part: Split, preprocess: Preprocess, *, sample: int = STATISTICS_SAMPLE
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in 0..1, of the images as evaluated.

    All images in memory, or `sample` evenly spaced files. Sums of bytes and of their squares are
    whole numbers below 2^53, so float64 holds them exactly. A channel of a single value gets the
    deviation of one grey level, so that it can be divided by.
    """
    if isinstance(part, ImageFiles) and len(part) > sample:
        part = part.subset(np.linspace(0, len(part) - 1, sample).round().astype(np.int64))
    decoded = decode_all(part, preprocess)
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
