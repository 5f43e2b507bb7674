"""Provide `Preprocess`, the one way in which pixels become the input of a network.

It is stored in the model file, so training, evaluation and prediction agree. The geometry is that
of ImageNet results (short side to size / crop_fraction, then the centre), or a plain resize.
N C H W: images, channels, height, width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from resnets.data.decode import Array
from resnets.data.wide_pixels import PixelRange, checked_range
from resnets.errors import UserError, shown, unknown

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Statistics of ImageNet's training images; for one channel the mean of the three.
_MEANS = {1: (0.449,), 3: (0.485, 0.456, 0.406)}
_STDS = {1: (0.226,), 3: (0.229, 0.224, 0.225)}
# Beyond these a stored preprocessing is damaged: it would cost gigabytes, or return infinities.
MAX_SIZE = 4096
MIN_CROP_FRACTION = 0.1
MIN_STD, LARGEST = 1e-6, 1e6


@dataclass(frozen=True)
class Preprocess:
    """Turn images into the input of a network: resize, crop, normalise.

    Lists are accepted for tuples, so `Preprocess(**json.loads(text))` restores what
    `dataclasses.asdict` wrote.

    Args:
        size: Height and width of the input, in pixels.
        channels: 1 (grey) or 3 (colour).
        mean: Mean of each channel, in 0..1; empty is ImageNet's.
        std: Standard deviation of each channel, in 0..1; empty is ImageNet's.
        resize_mode: "crop" (keep the aspect, crop the centre) or "squash" (change the aspect).
        crop_fraction: Part of the resized short side that the crop keeps, in (0, 1].
        interpolation: "bilinear" or "bicubic".
        tta: Test-time augmentation: "none", or "mirror" or "six" for images of low confidence.
        pixel_range: The values of wide pixels (16-bit, 32-bit, float) that become 0 and 255; None
            where the training images have 8 bits. Images of 8 bits keep their values in any case.

    Raises:
        UserError: A value is outside its range.

    Shape:
        - `resize`: uint8 H W C -> uint8 size size C.
        - `normalise`: uint8 N C H W -> float32 N C H W.
    """

    size: int
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize_mode: str = "crop"
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    tta: str = "none"
    pixel_range: PixelRange | None = None

    def __post_init__(self) -> None:
        _check_count(
            "size", self.size, range(1, MAX_SIZE + 1), f"a whole number from 1 to {MAX_SIZE}"
        )
        _check_count("channels", self.channels, (1, 3), "1 (grey) or 3 (colour)")
        for kind, given, choices in (
            ("resize_mode", self.resize_mode, ("crop", "squash")),
            ("Preprocess interpolation", self.interpolation, tuple(_FILTERS)),
            ("tta", self.tta, ("none", "mirror", "six")),
        ):
            if not isinstance(given, str) or given not in choices:
                raise unknown(kind, str(given), choices)
        _check_number("crop_fraction is", self.crop_fraction, MIN_CROP_FRACTION, 1)
        for name, defaults, least in (("mean", _MEANS, -LARGEST), ("std", _STDS, MIN_STD)):
            values = getattr(self, name)
            if not isinstance(values, list | tuple):
                raise UserError(f"Preprocess {name} is {values!r}; it must be a list of numbers")
            values = tuple(values) or defaults[self.channels]
            if len(values) != self.channels:
                raise UserError(
                    f"Preprocess {name} has {len(values)} values for {self.channels} channel(s); "
                    "give one per channel"
                )
            for value in values:
                _check_number(f"{name} holds", value, least, LARGEST)
            object.__setattr__(self, name, tuple(map(float, values)))
        if self.pixel_range is not None:
            object.__setattr__(self, "pixel_range", checked_range(self.pixel_range))

    def resize(self, image: Array) -> Array:
        """Resize and crop an image, antialiased.

        Only the part that the crop keeps is computed.

        Args:
            image: uint8 H W C.

        Returns:
            uint8 size size C; the image itself if it has that size already.

        Raises:
            ValueError: The image is not uint8 H W C with `channels` channels.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != self.channels:
            raise ValueError(
                f"expected uint8 H W {self.channels}, got {image.dtype} of shape {image.shape}"
            )
        height, width, _ = image.shape
        if height == width == self.size and self.crop_fraction == 1:
            return image
        picture = Image.fromarray(image[..., 0] if self.channels == 1 else image)
        resized = picture.resize(
            (self.size, self.size), _FILTERS[self.interpolation], box=self._box(width, height)
        )
        return np.array(resized).reshape(self.size, self.size, self.channels)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom of the part of the source that is kept."""
        side = round(self.size / self.crop_fraction)
        if self.resize_mode == "squash":
            new_width = new_height = side
        elif width <= height:
            new_width, new_height = side, int(side * height / width)
        else:
            new_width, new_height = int(side * width / height), side
        left, top = round((new_width - self.size) / 2), round((new_height - self.size) / 2)
        x, y = width / new_width, height / new_height  # source pixels per pixel of the output
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images, on their device and in their memory format.

        Args:
            images: uint8 N C H W.

        Returns:
            float32 N C H W.
        """
        row = images[:1, :, :1]  # 1 C 1 W: laid out as the images, so that whole rows are vectors
        mean, std = (
            torch.empty_like(row, dtype=torch.float32).copy_(
                to_device(torch.tensor(values), row.device).view(1, -1, 1, 1)
            )
            for values in (self.mean, self.std)
        )
        # In one new tensor: for a batch the memory costs more than the arithmetic.
        return images.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from the CPU to the device, on CUDA without waiting for the queued work."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _check_number(what: str, value: object, low: float, high: float) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None or not low <= number <= high:  # as NaN
        allowed = f"a number from {low:g} to {high:g}"
        raise UserError(f"Preprocess {what} {shown(value)}; it must be {allowed}")


def _check_count(name: str, value: object, allowed: range | tuple[int, ...], words: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        raise UserError(f"Preprocess {name} is {shown(value)}; it must be {words}")
