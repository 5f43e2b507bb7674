"""A model file and images enter; for each image the likeliest classes leave, in order.

The model file alone says what to do: the pixels come through the one decoder, the tensor through
the `Preprocess` that training used. Memory does not grow with the number of images: one batch of
them is held, at the size the network takes. An image that cannot be read is reported in its place.

Shapes: N images, K classes, C H W channels, height, width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode import DecodeError, decode, from_picture
from resnets.errors import UserError
from resnets.inference.model_file import ModelFile, read_model
from resnets.inference.tta import with_tta

Source = str | Path | bytes | NDArray[Any] | Image.Image
Pixels = NDArray[np.uint8]
DECODERS = 2  # threads; Pillow lets others run while it decodes


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, best first; none and an `error` if there are none."""

    source: str  # the path, or "image 3" for the fourth of the sources that have none
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


class Predictor:
    """A trained network, ready for images.

    `model` is a model file's path, a run folder, or the contents of a model file. Safe to share
    between threads. Raises ModelFileError for an unusable file, UserError for an unusable device.
    """

    def __init__(
        self, model: str | Path | ModelFile, *, device: str | torch.device = "cpu"
    ) -> None:
        contents = model if isinstance(model, ModelFile) else read_model(model)
        self.classes = contents.classes
        self.preprocess = contents.preprocess
        network = contents.build()
        try:
            self.device = torch.device(device)
            self.network = network.to(self.device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the device {str(device)!r} cannot be used here: {reason}") from None

    def __call__(self, source: Source, *, top: int = 5) -> Prediction:
        """The likeliest `top` classes of one image: a path, bytes, an array or a Pillow image."""
        return next(self.predict([source], top=top, batch_size=1))

    def predict(
        self, sources: Iterable[Source], *, top: int = 5, batch_size: int = 64
    ) -> Iterator[Prediction]:
        """One prediction a source, in the order given, computed as they are asked for.

        Arrays are uint8, H W or H W C with 1 (grey), 3 (red, green, blue) or 4 (and alpha)
        channels. `top` beyond the number of classes gives all of them.
        """
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        one_array = isinstance(sources, np.ndarray) and sources.ndim < 4
        if isinstance(sources, (str, bytes, Path, Image.Image)) or one_array:
            raise UserError(
                "predict takes several images, in a list for example; "
                "for a single one call the predictor itself: predictor(image)"
            )
        return self._predictions(enumerate(sources), top, batch_size)

    def _predictions(
        self, sources: Iterator[tuple[int, Source]], top: int, batch_size: int
    ) -> Iterator[Prediction]:
        with ThreadPoolExecutor(DECODERS) as pool:
            while chunk := list(itertools.islice(sources, batch_size)):
                images = list(pool.map(self._read, (source for _, source in chunk)))
                names = [_name(position, source) for position, source in chunk]
                yield from self._classify(names, images, top)

    def _read(self, source: Source) -> Pixels | str:
        """The pixels that the network takes, H W C, or why there are none."""
        channels = self.preprocess.channels
        try:
            if isinstance(source, (str, Path, bytes)):
                image = decode(source, channels=channels)
            else:
                image = from_picture(_picture(source), channels=channels)
            return self.preprocess.resize(image)
        except DecodeError as error:
            return error.reason
        except UserError as error:
            return str(error)

    def _classify(
        self, names: list[str], images: list[Pixels | str], top: int
    ) -> Iterator[Prediction]:
        readable = [image for image in images if not isinstance(image, str)]
        answers = iter(self._likeliest(np.stack(readable), top) if readable else ())
        for name, image in zip(names, images, strict=True):
            if isinstance(image, str):
                yield Prediction(name, error=image)
                continue
            indices, probabilities = next(answers)
            if not np.isfinite(probabilities).all():
                yield Prediction(name, error="the network's answer is not finite")
                continue
            classes = tuple(self.classes[index] for index in indices)
            yield Prediction(name, classes, tuple(probabilities))

    @torch.inference_mode()
    def _likeliest(self, images: Pixels, top: int) -> list[tuple[list[int], list[float]]]:
        """N H W C -> for each image the class indices and the probabilities, best first."""
        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # N C H W, C last
        network = with_tta(self.network, self.preprocess.tta)
        logits = network(self.preprocess.normalise(batch)).float()  # N K
        # Stable: among equal logits the lower class index comes first, as in the scores.
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
        probabilities = logits.softmax(dim=1).gather(1, order)
        return list(zip(order.tolist(), probabilities.tolist(), strict=True))


def _name(position: int, source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"image {position}"


def _picture(source: object) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, np.ndarray):
        raise UserError(
            f"{type(source).__name__} is no image: give a path, the file's bytes, a uint8 array "
            "or a Pillow image"
        )
    channels = source.shape[2] if source.ndim == 3 else 1
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise UserError(
            f"an array of {source.dtype} and shape {source.shape} is no image: "
            "uint8 H W or H W C with 1, 3 or 4 channels is needed"
        )
    if not source.size:
        raise UserError(f"an array of shape {source.shape} has no pixels")
    return Image.fromarray(source[..., 0] if source.ndim == 3 and channels == 1 else source)
