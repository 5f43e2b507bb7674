"""Provide batches as pure functions of (seed, step): order, augmentation, normalisation.

Epoch e visits the images in the order permutation(seed, e). The epochs form one sequence, of which
step s takes the positions [s * B, (s + 1) * B): every image comes once an epoch, and a batch may
span two. Each of several processes makes its own places of the same batch.

A split that fits into the cache is decoded once, by threads. Other splits are read by workers.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.augment import (
    apply_auto_augment,
    crop_boxes,
    erase,
    flips,
    mix_batch,
    resized_crop,
    shift_and_flip,
    with_partners,
)
from resnets.data.augment_config import Augment
from resnets.data.dataset import ImageFiles, Split, listed_reasons
from resnets.data.decode import DecodeError, Piece
from resnets.data.rng import Keys, keys, permutation
from resnets.data.transforms import Preprocess, to_device
from resnets.data.workers import WorkerPool, usable_cpus
from resnets.errors import UserError

Bytes = NDArray[np.uint8]  # H W C
Indices = NDArray[np.int64]
Request = tuple[Indices, Indices]  # epochs, indices: N each
Failures = dict[int, str]  # index of an image that cannot be read -> the reason
Answer = tuple[Tensor, Indices, Failures]  # images N C H W uint8, indices shown
# Images that a thread decodes at a time.
CHUNK = 64
# To decode an image up to this side takes the interpreter's lock most of the time: more threads
# than these only wait for each other.
SMALL_SIDE, SMALL_THREADS = 64, 2
# Side of a cached image, by that of the input, where crops are cut from it.
CANVAS = 1.25


def try_read(
    split: Split, index: int, channels: int, failures: Failures, piece: Piece | None = None
) -> Bytes | None:
    """Return an image H W C or a piece of it, or None, with the reason in `failures`."""
    try:
        return split.read(index, channels, piece)
    except DecodeError as error:
        failures[index] = error.reason
        return None


def read_again(split: Split, known: Mapping[str, str], channels: int) -> Failures:
    """Return which of the images that could not be read earlier, by id, still cannot."""
    failures = Failures()
    for index in [index for index, name in enumerate(split.ids) if name in known]:
        try_read(split, index, channels, failures)
    return failures


def stacked(images: Sequence[Bytes]) -> Tensor:
    """Stack images H W C to N C H W in channels_last order."""
    if not images:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def no_tick() -> None:
    """Do nothing: who reads in its own process needs no sign of life."""


@dataclass(frozen=True, eq=False)
class DecodedSplit:
    """Hold a whole split in memory."""

    pixels: Tensor  # N C H W uint8
    readable: NDArray[np.bool_]
    aspects: NDArray[np.float64]  # width / height of the originals
    failures: Failures

    def shown(self) -> Indices:
        """Return for each index the first readable one from there on, cyclically."""
        good = np.flatnonzero(self.readable)
        following = np.searchsorted(good, np.arange(len(self.readable)))
        return good[following % len(good)]


class NoneReadableError(UserError):
    """None of the images of a split can be read."""


def none_readable(split: Split, failures: Failures) -> NoneReadableError:
    """Return the error for a split of which no image can be read."""
    named = listed_reasons({split.ids[index]: failures[index] for index in sorted(failures)})
    text = "none of the images can be read; check that the files still exist"
    return NoneReadableError(f"{text}: {named}")


def decode_all(split: Split, preprocess: Preprocess) -> DecodedSplit:
    """Read and resize every image, in threads: decoding releases the interpreter's lock."""
    total, size, channels = len(split), preprocess.size, preprocess.channels
    pixels = np.zeros((total, channels, size, size), dtype=np.uint8)
    aspects, failures = np.ones(total), Failures()

    def fill(start: int) -> None:
        for index in range(start, min(start + CHUNK, total)):
            image = try_read(split, index, channels, failures)
            if image is not None:
                aspects[index] = image.shape[1] / image.shape[0]
                pixels[index] = preprocess.resize(image).transpose(2, 0, 1)

    small = split.sizes.max(initial=0) <= SMALL_SIDE
    threads = min(usable_cpus(), SMALL_THREADS) if small else usable_cpus()
    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(fill, range(0, total, CHUNK)))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
            raise
    readable = np.ones(total, dtype=np.bool_)
    readable[list(failures)] = False
    return DecodedSplit(torch.from_numpy(pixels), readable, aspects, failures)


def fits(split: Split, preprocess: Preprocess, cache_mb: float) -> bool:
    """Return whether the decoded images take at most `cache_mb` megabytes."""
    return len(split) * preprocess.channels * preprocess.size**2 <= cache_mb * 2**20


def canvas(split: Split, preprocess: Preprocess) -> Preprocess:
    """Return how to cache images that are cropped at random: whole, a quarter larger.

    They are squashed to a square. Boxes are drawn in the original's aspect, so crops keep theirs.
    """
    size = min(round(CANVAS * preprocess.size), max(preprocess.size, int(split.sizes.max())))
    return replace(preprocess, size=size, resize_mode="squash", crop_fraction=1.0)


@dataclass(frozen=True, eq=False)
class TrainReader:
    """Read the images of a request, and do what depends on their original size."""

    split: Split
    preprocess: Preprocess
    augment: Augment
    seed: int
    tick: Callable[[], None] = no_tick

    def __getitem__(self, request: Request) -> Answer:
        epochs, indices = request
        sample_keys = keys(self.seed, epochs, indices)
        mirrored = flips(self.augment.flip, seed=self.seed, epochs=epochs, indices=indices)
        pieces = self.pieces(sample_keys, indices)
        shown, images, failures = list[int](), list[Bytes](), Failures()
        for index, piece, mirror in zip(indices.tolist(), pieces, mirrored, strict=True):
            found = self.first_readable(index, piece, failures)
            if found is None:
                return stacked([]), np.empty(0, dtype=np.int64), failures
            shown.append(found[0])
            images.append(self.resize(found[1], mirror=mirror))
        batch = apply_auto_augment(stacked(images), sample_keys, self.augment.auto_augment)
        return batch, np.array(shown, dtype=np.int64), failures

    def pieces(self, sample_keys: Keys, indices: Indices) -> list[Piece] | list[None]:
        """Return the random box of each image, N, or None for the crop of evaluation.

        The replacement of an unreadable file is cropped by that file's box.
        """
        if self.augment.crop != "resized":
            return [None] * len(indices)
        widths, heights = self.split.sizes[indices].T
        area = self.augment.min_area
        box = crop_boxes(sample_keys, min_area=area, image_aspect=widths / heights)
        side = self.preprocess.size
        return [Piece(top, left, high, wide, side) for top, left, high, wide in box.T.tolist()]

    def first_readable(
        self, index: int, piece: Piece | None, failures: Failures
    ) -> tuple[int, Bytes] | None:
        """Return the first readable image from `index` on, cyclically."""
        for found in chain(range(index, len(self.split)), range(index)):
            image = try_read(self.split, found, self.preprocess.channels, failures, piece)
            self.tick()
            if image is not None:
                return found, image
        return None

    def resize(self, image: Bytes, *, mirror: bool) -> Bytes:
        """Resize to the network's input: a random box, mirrored or not, or as in evaluation."""
        if self.augment.crop != "resized":
            return self.preprocess.resize(image)
        from torchvision.transforms.v2 import functional as v2

        tensor = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)  # C H W
        # Unlike Pillow's, this resize is vectorised over the colours of a pixel.
        resized: Bytes = v2.resize(tensor, [self.preprocess.size] * 2).permute(1, 2, 0).numpy()
        return resized[:, ::-1] if mirror else resized


@dataclass(frozen=True, eq=False)
class EvalReader:
    """Read the images of a request as in evaluation; leave out what cannot be read."""

    split: Split
    preprocess: Preprocess
    tick: Callable[[], None] = no_tick

    def __getitem__(self, indices: Indices) -> Answer:
        images, failures = dict[int, Bytes](), Failures()
        for index in indices.tolist():
            image = try_read(self.split, index, self.preprocess.channels, failures)
            if image is not None:
                images[index] = self.preprocess.resize(image)
            self.tick()
        return stacked(list(images.values())), np.array(list(images), dtype=np.int64), failures


@dataclass(frozen=True, eq=False)
class Batch:
    """Hold the images of a step; `indices` names a replacement by its own index."""

    images: Tensor  # N C H W float32, normalised
    targets: Tensor  # N int64, or N K float32 shares of classes where images are mixed
    indices: Indices
    replaced: int = 0  # files that could not be read, in training
    waited: float = 0.0  # seconds for the images


class TrainLoader:
    """Make training batches that are a pure function of (seed, step), from any step on.

    `batch_size` counts the images of all processes and `places` those of this process (None: all).
    `failures` has the images that could not be read so far: of a split in memory, all of them.
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
        # Two orders are kept, since requests run ahead.
        self.order = lru_cache(2)(lambda epoch: permutation(seed, epoch, len(split)))
        kept = canvas(split, preprocess) if augment.crop == "resized" else preprocess
        self.failures = Failures()
        self.cached = fits(split, kept, cache_mb)
        if self.cached:
            decoded = decode_all(split, kept)
            self.failures = decoded.failures
            if len(self.failures) == len(split):
                raise none_readable(split, self.failures)
            self.shown, self.aspects = decoded.shown(), decoded.aspects
            # torchvision's policies work image by image, for which a GPU is the wrong place.
            home = self.device if augment.auto_augment == "none" else torch.device("cpu")
            self.pixels = decoded.pixels.to(home)
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

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield the batches of the steps first_step, ..., last_step - 1.

        With workers, one long call is faster than many short ones, which start without prefetching.
        """
        steps = range(first_step, last_step)
        requests = (self.request(step) for step in steps)
        answers = map(self.look_up, requests) if self.cached else self.workers.map(requests)
        for step in steps:
            begin = time.perf_counter()
            images, shown, failures = next(answers)
            waited = time.perf_counter() - begin
            self.failures |= failures
            if len(shown) == 0:
                raise none_readable(self.split, failures)
            yield replace(self.finish(step, images, shown), waited=waited)

    def look_up(self, request: Request) -> Answer:
        """Return the images of a request from memory."""
        epochs, indices = request
        shown = self.shown[indices]
        images = self.pixels[to_device(torch.from_numpy(shown), self.pixels.device)]
        sample_keys = keys(self.seed, epochs, indices)
        return apply_auto_augment(images, sample_keys, self.augment.auto_augment), shown, {}

    def finish(self, step: int, images: Tensor, shown: Indices) -> Batch:
        """Augment, normalise and mix a batch on the device."""
        epochs, indices = self.request(step)
        sample_keys = keys(self.seed, epochs, indices)
        mirrored = flips(self.augment.flip, seed=self.seed, epochs=epochs, indices=indices)
        images = images.to(self.device, non_blocking=True)
        if self.augment.crop != "resized":
            images = shift_and_flip(images, sample_keys, self.augment, mirrored=mirrored)
        elif self.cached:  # else the workers, who saw the originals, did so
            area, aspects = self.augment.min_area, self.aspects[shown]
            box = crop_boxes(sample_keys, min_area=area, image_aspect=aspects)
            images = resized_crop(images, box, size=self.preprocess.size, mirrored=mirrored)
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

    def close(self) -> None:
        """End the worker processes, if any."""
        self.workers.close()


class EvalLoader:
    """Make batches of every image of a split, once and in order; it can be iterated repeatedly.

    A split that fits into the cache is decoded by `decode()`, or in the first iteration. What
    cannot be read is left out; `failures` has it as far as it is known.
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
        self.cached, self.failures = fits(split, preprocess, cache_mb), Failures()
        self.workers = WorkerPool(EvalReader(split, preprocess), count=workers, device=self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        places = np.arange(len(self.split))
        requests = [places[i : i + self.batch_size] for i in places[:: self.batch_size]]
        answers = map(self.look_up, requests) if self.cached else self.workers.map(requests)
        found = False
        for images, shown, failures in answers:
            self.failures |= failures
            if len(shown):
                found = True
                images = self.preprocess.normalise(images.to(self.device, non_blocking=True))
                targets = to_device(self.targets[torch.from_numpy(shown)], self.device)
                yield Batch(images, targets, shown)
        if not found:
            raise none_readable(self.split, self.failures)

    def decode(self) -> None:
        """Decode a split that fits into the cache, if that is still to be done."""
        if self.cached:
            self.failures |= self.decoded.failures

    @cached_property
    def decoded(self) -> DecodedSplit:
        """The whole split, at first in the memory of the CPU."""
        return decode_all(self.split, self.preprocess)

    def look_up(self, indices: Indices) -> Answer:
        """Return the readable ones of these images, from memory."""
        self.decode()
        # Moved when it is needed, not when it is decoded.
        self.decoded = replace(self.decoded, pixels=self.decoded.pixels.to(self.device))
        shown = indices[self.decoded.readable[indices]]
        return self.decoded.pixels[to_device(torch.from_numpy(shown), self.device)], shown, {}

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
    split: Split,
    preprocess: Preprocess,
    *,
    sample: int = 2000,
    failures: Failures | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, in 0..1.

    Measured are all images in memory, or `sample` evenly spaced files. Sums are whole numbers, so
    they are exact. The deviation is at least one grey level. `failures` takes up the images that
    cannot be read.
    """
    places = np.arange(len(split))
    if isinstance(split, ImageFiles) and len(split) > sample:
        places = np.linspace(0, len(split) - 1, sample).round().astype(np.int64)
        split = split.subset(places)
    decoded = decode_all(split, preprocess)
    if failures is not None:
        failures |= {int(places[index]): reason for index, reason in decoded.failures.items()}
    count = int(decoded.readable.sum()) * preprocess.size**2
    if count == 0:
        raise none_readable(split, decoded.failures)
    levels = np.arange(256)
    means, deviations = [], []
    for channel in decoded.pixels.unbind(1):  # N H W; unreadable ones are 0
        histogram = torch.bincount(channel.flatten(), minlength=256).numpy()
        mean = float(histogram @ levels / count)
        variance = float(histogram @ levels**2 / count) - mean**2
        means.append(mean / 255)
        deviations.append(math.sqrt(max(variance, 1)) / 255)
    return tuple(means), tuple(deviations)
