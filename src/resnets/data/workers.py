"""A part of a data set -> uint8 images N C H W: at once into memory, or on demand by workers.

In: a part (`Images` or `ImageFiles`), a `Preprocess`. Out: tensors of bytes and the indices shown.
The idea: whatever fits is decoded once by threads (`decode_all`); the rest is read by processes
that get (epochs, indices) and keep no state, so their number cannot change what they return.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
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
Progress = Callable[[int, int], None]
Request = tuple[Indices, Indices]  # epochs, indices: N each
Answer = tuple[Tensor, Indices]  # images N C H W uint8, indices shown
CHUNK = 64  # images a thread takes at a time
CANVAS = 1.25  # side of a cached image by the input's, where crops are cut from it


def try_read(part: Split, index: int, channels: int, piece: Piece | None = None) -> Bytes | None:
    """One image H W C or a piece of it, or None where the file cannot be read (any more)."""
    try:
        return part.read(index, channels, piece)
    except DecodeError:
        return None


def as_tensor(image: Bytes) -> Tensor:
    """H W C to C H W, without a copy where the array may be written to."""
    return torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)


def stacked(images: Iterable[Tensor]) -> Tensor:
    """C H W each to N C H W, in the order of files: the colours of a pixel lie together."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Decoded:
    """A whole part in memory."""

    pixels: Tensor  # N C H W uint8
    readable: NDArray[np.bool_]
    aspects: NDArray[np.float64]  # width / height of the originals

    def shown(self) -> Indices:
        """For each index the first readable one from there on, around the end if need be."""
        good = np.flatnonzero(self.readable)
        if len(good) == 0:
            raise none_readable()
        following = np.searchsorted(good, np.arange(len(self.readable)))
        return good[following % len(good)]


def none_readable() -> UserError:
    """The end of every search for the next readable image."""
    return UserError("none of the images can be read any more; are the files still there?")


def decode_all(part: Split, preprocess: Preprocess, on_progress: Progress | None = None) -> Decoded:
    """Read and resize every image; threads help, since decoding leaves the interpreter's lock."""
    total, size, channels = len(part), preprocess.size, preprocess.channels
    pixels = np.zeros((total, channels, size, size), dtype=np.uint8)
    readable, aspects = np.zeros(total, dtype=np.bool_), np.ones(total)

    def fill(start: int) -> int:
        stop = min(start + CHUNK, total)
        for index in range(start, stop):
            image = try_read(part, index, channels)
            if image is not None:
                aspects[index] = image.shape[1] / image.shape[0]
                pixels[index] = preprocess.resize(image).transpose(2, 0, 1)
                readable[index] = True
        return stop

    with ThreadPoolExecutor(usable_cpus()) as pool:
        try:
            for stop in pool.map(fill, range(0, total, CHUNK)):
                if on_progress is not None:
                    on_progress(stop, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
            raise
    return Decoded(torch.from_numpy(pixels), readable, aspects)


def usable_cpus() -> int:
    """Cores that this process may use, not those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def canvas(part: Split, preprocess: Preprocess) -> Preprocess:
    """How to keep an image from which random boxes are cut: whole, a quarter larger than the input.

    Squashed to a square: boxes are drawn in the original's aspect, so that the crops are not.
    """
    size = min(round(CANVAS * preprocess.size), max(preprocess.size, part.largest_side))
    return replace(preprocess, size=size, resize_mode="squash", crop_fraction=1.0)


@dataclass(frozen=True, eq=False)
class TrainingReader:
    """Reads the images of one request; what depends on the original's size is done here."""

    part: Split
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
            images.append(self.fit(image, mirror=mirror))
            shown.append(found)
        batch = apply_auto_augment(stacked(images), sample_keys, self.augment.auto_augment)
        return batch, np.array(shown, dtype=np.int64)

    def pieces(self, sample_keys: Keys, indices: Indices) -> list[Piece] | list[None]:
        """The random box of each image, N; None where images are shown as in evaluation.

        What replaces an unreadable file is cut by that file's box.
        """
        if self.augment.crop != "resized":
            return [None] * len(indices)
        widths, heights = self.part.sizes[indices].T
        area = self.augment.min_area
        box = crop_boxes(sample_keys, min_area=area, image_aspect=widths / heights)
        side = self.preprocess.size
        return [
            Piece(top=top, left=left, height=height, width=width, side=side)
            for top, left, height, width in box.T.tolist()
        ]

    def next_readable(self, index: int, piece: Piece | None) -> tuple[int, Bytes | None]:
        """The image at `index`, or at the first index after it that can be read; None: nowhere."""
        for step in range(len(self.part)):
            found = (index + step) % len(self.part)
            image = try_read(self.part, found, self.preprocess.channels, piece)
            if image is not None:
                return found, image
        return index, None

    def fit(self, image: Bytes, *, mirror: bool) -> Tensor:
        """To the size of the network: a random box, mirrored or not, or as in evaluation."""
        if self.augment.crop != "resized":
            return as_tensor(self.preprocess.resize(image))
        from torchvision.transforms.v2 import functional as v2

        # Unlike Pillow's, this resize is vectorised, and takes the colours of a pixel together.
        resized: Tensor = v2.resize(as_tensor(image), [self.preprocess.size] * 2)
        return resized.flip(2) if mirror else resized


@dataclass(frozen=True, eq=False)
class EvaluationReader:
    """Reads the images of one request as they are evaluated; leaves out what cannot be read."""

    part: Split
    preprocess: Preprocess

    def __getitem__(self, indices: Indices) -> Answer:
        size, channels = self.preprocess.size, self.preprocess.channels
        found = {int(i): try_read(self.part, int(i), channels) for i in indices}
        images = {
            i: as_tensor(self.preprocess.resize(x)) for i, x in found.items() if x is not None
        }
        empty = torch.empty((0, channels, size, size), dtype=torch.uint8)
        batch = stacked(images.values()) if images else empty
        return batch, np.array(list(images), dtype=np.int64)


class Requests(Sampler[Any]):
    """What the next pass over the loader asks for; lives in the main process only."""

    def __init__(self) -> None:
        self.pending: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pending)


def start_worker(_: int) -> None:
    """Signals are the main process's to handle; it ends the workers when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where a worker dies of a signal, torch raises in the main process, even in mid-step.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: os._exit(0))
    threading.Thread(target=leave_with_parent, daemon=True).start()
    sys.excepthook = unless_abandoned


def leave_with_parent() -> None:
    """Ends a worker at once when the process that asked for it is gone, however it was started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def unless_abandoned(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Prints no traceback where the main process ended while a worker handed it a tensor."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def unchanged(answer: Any) -> Any:
    """Readers return whole batches already."""
    return answer


class Workers:
    """Answers requests in order, by `count` processes that stay, or (0) in this one.

    The processes start with the first request and end with `close()`, with the last reference to
    this object, or when this process dies.
    """

    def __init__(
        self, reader: TrainingReader | EvaluationReader, *, count: int, device: torch.device
    ) -> None:
        self.reader, self.count, self.device = reader, count, device
        self.requests = Requests()
        self.turn = 0
        self.loader: DataLoader[Any] | None = None
        self.answers: Iterator[Answer] = iter(())

    def map(self, requests: Iterable[Any]) -> Iterator[Answer]:
        """The answers, in order; a newer call ends an older one that was left half-way."""
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
        """Hand the requests to this process, or to the others."""
        if self.count == 0:
            return map(self.reader.__getitem__, requests)
        self.requests.pending = requests
        with warnings.catch_warnings():  # more workers than cores are the caller's choice
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            self.loader = self.make_loader() if self.loader is None else self.loader
            return iter(self.loader)

    def make_loader(self) -> DataLoader[Any]:
        """Hands out whole requests; the processes start with its first iteration."""
        return DataLoader(
            self.reader,  # type: ignore[arg-type]  # __getitem__ is all that it needs
            batch_size=None,
            sampler=self.requests,
            num_workers=self.count,
            persistent_workers=True,
            collate_fn=unchanged,
            worker_init_fn=start_worker,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader would draw from the global one
        )

    def close(self) -> None:
        """End the processes: they live as long as somebody refers to their iterator."""
        self.turn += 1
        self.answers, self.loader = iter(()), None
