"""Provide the images of a split as uint8 N C H W: decoded into memory, or on demand by workers.

A split that fits into the cache is decoded once, by threads. Other splits are read by processes
that get (epochs, indices) and have no state, so their number does not change the result.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from resnets.data.augment import Augment, apply_auto_augment, crop_boxes, flips
from resnets.data.dataset import Split
from resnets.data.decode import DecodeError, Piece
from resnets.data.rng import Keys, keys
from resnets.data.transforms import Preprocess
from resnets.errors import UserError

Bytes = NDArray[np.uint8]  # H W C
Indices = NDArray[np.int64]
Request = tuple[Indices, Indices]  # epochs, indices: N each
Answer = tuple[Tensor, Indices]  # images N C H W uint8, indices shown
# Images that a thread decodes at a time.
CHUNK = 64
# To decode an image up to this side takes the interpreter's lock most of the time: more threads
# than these only wait for each other.
SMALL_SIDE, SMALL_THREADS = 64, 2
# Side of a cached image, by that of the input, where crops are cut from it.
CANVAS = 1.25


def try_read(split: Split, index: int, channels: int, piece: Piece | None = None) -> Bytes | None:
    """Return an image H W C or a piece of it, or None where the file cannot be read."""
    try:
        return split.read(index, channels, piece)
    except DecodeError:
        return None


def as_tensor(image: Bytes) -> Tensor:
    """Permute H W C to C H W, without a copy where the array is writable."""
    return torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)


def stacked(images: Iterable[Tensor]) -> Tensor:
    """Stack images C H W to N C H W in channels_last order."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class DecodedSplit:
    """Hold a whole split in memory."""

    pixels: Tensor  # N C H W uint8
    readable: NDArray[np.bool_]
    aspects: NDArray[np.float64]  # width / height of the originals

    def shown(self) -> Indices:
        """Return for each index the first readable one from there on, cyclically."""
        good = np.flatnonzero(self.readable)
        if len(good) == 0:
            raise none_readable()
        following = np.searchsorted(good, np.arange(len(self.readable)))
        return good[following % len(good)]


def none_readable() -> UserError:
    """Return the error for a split of which no image can be read."""
    return UserError("none of the images can be read; check that the files still exist")


def decode_all(split: Split, preprocess: Preprocess) -> DecodedSplit:
    """Read and resize every image, in threads: decoding releases the interpreter's lock."""
    total, size, channels = len(split), preprocess.size, preprocess.channels
    pixels = np.zeros((total, channels, size, size), dtype=np.uint8)
    readable, aspects = np.zeros(total, dtype=np.bool_), np.ones(total)

    def fill(start: int) -> None:
        for index in range(start, min(start + CHUNK, total)):
            image = try_read(split, index, channels)
            if image is not None:
                aspects[index] = image.shape[1] / image.shape[0]
                pixels[index] = preprocess.resize(image).transpose(2, 0, 1)
                readable[index] = True

    small = split.largest_side <= SMALL_SIDE
    threads = min(usable_cpus(), SMALL_THREADS) if small else usable_cpus()
    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(fill, range(0, total, CHUNK)))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
            raise
    return DecodedSplit(torch.from_numpy(pixels), readable, aspects)


def usable_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def canvas(split: Split, preprocess: Preprocess) -> Preprocess:
    """Return how to cache images that are cropped at random: whole, a quarter larger.

    They are squashed to a square. Boxes are drawn in the original's aspect, so crops keep theirs.
    """
    size = min(round(CANVAS * preprocess.size), max(preprocess.size, split.largest_side))
    return replace(preprocess, size=size, resize_mode="squash", crop_fraction=1.0)


@dataclass(frozen=True, eq=False)
class TrainReader:
    """Read the images of a request, and do what depends on their original size."""

    split: Split
    preprocess: Preprocess
    augment: Augment
    seed: int

    def __getitem__(self, request: Request) -> Answer:
        epochs, indices = request
        sample_keys = keys(self.seed, epochs, indices)
        shown, images = [], []
        mirrored = flips(self.augment.flip, seed=self.seed, epochs=epochs, indices=indices)
        pieces = self.pieces(sample_keys, indices)
        for index, piece, mirror in zip(indices, pieces, mirrored, strict=True):
            found, image = self.next_readable(int(index), piece)
            if image is None:
                return torch.empty(0), np.empty(0, dtype=np.int64)
            images.append(self.resize(image, mirror=mirror))
            shown.append(found)
        batch = apply_auto_augment(stacked(images), sample_keys, self.augment.auto_augment)
        return batch, np.array(shown, dtype=np.int64)

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
        return [
            Piece(top=top, left=left, height=height, width=width, side=side)
            for top, left, height, width in box.T.tolist()
        ]

    def next_readable(self, index: int, piece: Piece | None) -> tuple[int, Bytes | None]:
        """Return the first readable image from `index` on; None if there is none."""
        for step in range(len(self.split)):
            found = (index + step) % len(self.split)
            image = try_read(self.split, found, self.preprocess.channels, piece)
            if image is not None:
                return found, image
        return index, None

    def resize(self, image: Bytes, *, mirror: bool) -> Tensor:
        """Resize to the network's input: a random box, mirrored or not, or as in evaluation."""
        if self.augment.crop != "resized":
            return as_tensor(self.preprocess.resize(image))
        from torchvision.transforms.v2 import functional as v2

        # Unlike Pillow's, this resize is vectorised over the colours of a pixel.
        resized: Tensor = v2.resize(as_tensor(image), [self.preprocess.size] * 2)
        return resized.flip(2) if mirror else resized


@dataclass(frozen=True, eq=False)
class EvalReader:
    """Read the images of a request as in evaluation; leave out what cannot be read."""

    split: Split
    preprocess: Preprocess

    def __getitem__(self, indices: Indices) -> Answer:
        size, channels = self.preprocess.size, self.preprocess.channels
        found = {int(i): try_read(self.split, int(i), channels) for i in indices}
        images = {
            i: as_tensor(self.preprocess.resize(x)) for i, x in found.items() if x is not None
        }
        empty = torch.empty((0, channels, size, size), dtype=torch.uint8)
        batch = stacked(images.values()) if images else empty
        return batch, np.array(list(images), dtype=np.int64)


class RequestSampler(Sampler[Any]):
    """Hold the requests of the next pass over the loader, in the main process."""

    def __init__(self) -> None:
        self.pending: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pending)


def init_worker(_: int) -> None:
    """Leave signals to the main process, which ends the workers when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where a worker dies of a signal, torch raises in the main process, even within a step.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: os._exit(0))
    threading.Thread(target=exit_with_parent, daemon=True).start()
    sys.excepthook = hide_broken_connection


def exit_with_parent() -> None:
    """End a worker when the main process is gone, however it was started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def hide_broken_connection(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print no traceback where the main process ended while a worker sent it a tensor."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def identity(answer: Any) -> Any:
    """Collate nothing: readers return whole batches."""
    return answer


class WorkerPool:
    """Answer requests in order, in `count` persistent processes, or in this one if 0.

    The processes start with the first request and end with `close()`, with the last reference to
    this object, or with this process.
    """

    def __init__(
        self, reader: TrainReader | EvalReader, *, count: int, device: torch.device
    ) -> None:
        self.reader, self.count, self.device = reader, count, device
        self.requests = RequestSampler()
        self.turn = 0
        self.loader: DataLoader[Any] | None = None
        self.answers: Iterator[Answer] = iter(())

    def map(self, requests: Iterable[Any]) -> Iterator[Answer]:
        """Yield the answers in order; a new call ends an unfinished older one."""
        self.turn += 1
        turn = self.turn
        self.answers = self.start(requests)
        while turn == self.turn:
            try:
                answer = next(self.answers)
            except StopIteration:
                return
            yield answer
        raise RuntimeError("these batches were ended by a newer call of batches(), or by close()")

    def start(self, requests: Iterable[Any]) -> Iterator[Answer]:
        """Send the requests to this process, or to the others."""
        if self.count == 0:
            return map(self.reader.__getitem__, requests)
        self.requests.pending = requests
        with warnings.catch_warnings():  # more workers than cores are the caller's choice
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            self.loader = self.make_loader() if self.loader is None else self.loader
            return iter(self.loader)

    def make_loader(self) -> DataLoader[Any]:
        """Make a loader of whole requests; its processes start with its first iteration."""
        return DataLoader(
            self.reader,  # type: ignore[arg-type]  # __getitem__ is all that it needs
            batch_size=None,
            sampler=self.requests,
            num_workers=self.count,
            persistent_workers=True,
            collate_fn=identity,
            worker_init_fn=init_worker,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader draws from the global one
        )

    def close(self) -> None:
        """End the processes, which exist as long as their iterator is referred to."""
        self.turn += 1
        self.answers, self.loader = iter(()), None
