"""Classify images with a model file alone, in batches of bounded memory.

Shapes: N images, K classes, C H W channels, height, width.
"""

import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from resnets.arguments import checked
from resnets.data.decode import DecodeError, decode, from_array, from_picture
from resnets.data.file_limits import MAX_PIXELS
from resnets.device import MemoryBound
from resnets.errors import UserError
from resnets.inference.model_file import ModelFile, read_model
from resnets.inference.tta import with_tta

Source = str | Path | bytes | NDArray[Any] | Image.Image
Pixels = NDArray[np.uint8]
KINDS = "a path, the bytes of a file, a uint8 array or a Pillow image"
# What can be iterated over, but not image by image: a file gives lines, and bytearray numbers.
NO_IMAGES = (Mapping, torch.Tensor, DataLoader, bytearray, memoryview, io.IOBase)
# Threads that decode; Pillow releases the interpreter lock meanwhile.
DECODERS = 2


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Args:
        source: The path of the image, or "image 3" for the fourth source where it has no path.
        classes: Class names, most probable first; empty where the image cannot be read.
        probabilities: Their probabilities, 0 to 1.
        error: Why there is no prediction, or None.
    """

    source: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


class Predictor:
    """A trained network that classifies images; threads may share it.

    Pixels come through the package's decoder and the `Preprocess` in the model file, as in
    training.

    Args:
        model: Path of a model file, a run folder, or the contents of a model file.
        device: Where to compute, such as "cpu" or "cuda:0".
        max_pixels: Most pixels of an image; larger JPEGs are decoded at a part of their size.

    Raises:
        ModelFileError: The model file cannot be used.
        UserError: The device cannot be used.
    """

    @checked()
    def __init__(
        self,
        model: str | Path | ModelFile,
        *,
        device: str | torch.device = "cpu",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        contents = model if isinstance(model, ModelFile) else read_model(model)
        self.classes = contents.classes
        self.preprocess = contents.preprocess
        self.max_pixels = max_pixels
        network = contents.build()
        try:
            self.device = torch.device(device)
            self.network = network.to(self.device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the device {str(device)!r} cannot be used here: {reason}") from None
        self._bounded = MemoryBound(self._logits)

    def __call__(self, source: Source, *, top: int = 5) -> Prediction:
        """Classify one image.

        Args:
            source: A path, the bytes of an image file, a uint8 array or a Pillow image.
            top: Number of classes to return.

        Returns:
            The prediction; its `error` is set where the image cannot be read.
        """
        return next(self.predict([source], top=top, batch_size=1))

    @checked()
    def predict(
        self, sources: Source | Iterable[Source], *, top: int = 5, batch_size: int = 64
    ) -> Iterator[Prediction]:
        """Classify images, one batch at a time, as the predictions are asked for.

        Args:
            sources: One image or several. An image is a path, the bytes of a file, a Pillow image,
                or a uint8 array H W or H W C with 1 (grey), 3 (red, green, blue) or 4 (and alpha)
                channels. A model of wide pixels also takes arrays of other numbers with 1 or 3
                channels, in the scale of its training images.
            top: How many of the most probable classes to return; at most all of them.
            batch_size: Images computed at a time, which bounds the memory; fewer where the memory
                does not suffice.

        Returns:
            A prediction for each image, in the order given; `error` is set where it cannot be read.

        Raises:
            UserError: `top` or `batch_size` is below 1, or the memory is too small for an image.
        """
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        one_array = isinstance(sources, np.ndarray) and sources.ndim < 4
        if isinstance(sources, (str, bytes, PathLike, Image.Image)) or one_array:
            sources = [sources]  # type: ignore[list-item]
        elif isinstance(sources, NO_IMAGES):
            raise UserError(
                f"{type(sources).__name__} is no image and no list of images: give {KINDS}"
            )
        return self._predictions(enumerate(sources), top, batch_size)

    def _predictions(
        self, sources: Iterator[tuple[int, Source]], top: int, batch_size: int
    ) -> Iterator[Prediction]:
        with ThreadPoolExecutor(DECODERS) as pool:
            while chunk := list(itertools.islice(sources, min(batch_size, sys.maxsize))):
                images = list(pool.map(self._read, (source for _, source in chunk)))
                readable = [image for image in images if not isinstance(image, str)]
                rows = iter(self._most_probable(np.stack(readable), top) if readable else ())
                for (position, source), image in zip(chunk, images, strict=True):
                    is_path = isinstance(source, (str, PathLike))
                    name = str(source) if is_path else f"image {position}"
                    if isinstance(image, str):
                        yield Prediction(name, error=image)
                        continue
                    indices, probabilities = next(rows)
                    if np.isfinite(probabilities).all():
                        classes = tuple(self.classes[index] for index in indices)
                        yield Prediction(name, classes, tuple(probabilities))
                    else:
                        yield Prediction(name, error="the network's output is not finite")

    def _read(self, source: Source) -> Pixels | str:
        """Return the pixels that the network takes, H W C, or why there are none."""
        channels, pixel_range = self.preprocess.channels, self.preprocess.pixel_range
        try:
            if isinstance(source, (str, PathLike, bytes)):
                image = decode(
                    os.fspath(source),
                    channels=channels,
                    pixel_range=pixel_range,
                    max_pixels=self.max_pixels,
                )
            elif pixel_range and isinstance(source, np.ndarray) and source.dtype != np.uint8:
                image = from_array(source, channels=channels, pixel_range=pixel_range)
            else:
                image = from_picture(_picture(source), channels=channels, pixel_range=pixel_range)
            return self.preprocess.resize(image)
        except UserError as error:
            return error.reason if isinstance(error, DecodeError) else str(error)

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        network = with_tta(self.network, self.preprocess.tta)
        return network(self.preprocess.normalise(images))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _most_probable(self, images: Pixels, top: int) -> list[tuple[list[int], list[float]]]:
        """Return class indices and probabilities of each image, N H W C, best first."""
        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # N C H W, C last
        logits = self._bounded(batch).float()  # N K
        # Stable: among equal logits the lower class index comes first, as in the scores.
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
        probabilities = logits.softmax(dim=1).gather(1, order)
        return list(zip(order.tolist(), probabilities.tolist(), strict=True))


def _picture(source: object) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, np.ndarray):
        raise UserError(f"{type(source).__name__} is no image: give {KINDS}")
    channels = source.shape[2] if source.ndim == 3 else 1
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise UserError(
            f"an array of {source.dtype} and shape {source.shape} is no image: give uint8 H W "
            "or H W C with 1, 3 or 4 channels"
        )
    if not source.size:
        raise UserError(f"an array of shape {source.shape} has no pixels")
    return Image.fromarray(source[..., 0] if source.ndim == 3 and channels == 1 else source)
