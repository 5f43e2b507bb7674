"""Provide the configuration of augmentation, which needs neither numpy nor torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnets.config_fields import Range, validate
from resnets.errors import UserError


@dataclass(frozen=True)
class Augment:
    """How training images are changed; the default changes nothing.

    Args:
        crop: shift pads the image and cuts out a part; resized cuts out a random part and resizes
            it; auto takes shift for small images and resized for photos.
        crop_padding: Pixels of padding for crop shift.
        fill: What the padding of crop shift holds: black, or the mirror image.
        min_area: Least share of the image that crop resized keeps.
        flip: Mirror left to right half of the time; alternating shows each image both ways in two
            epochs.
        erasing: Probability of blanking a random rectangle.
        mixup: Alpha of the beta distribution that blends pairs of images; 0 is off.
        cutmix: Alpha of the beta distribution that pastes rectangles between images; 0 is off.
        auto_augment: Distortions of colour and shape; auto takes trivialaugment for photos.
    """

    crop: Literal["auto", "none", "shift", "resized"] = "none"
    crop_padding: Annotated[int, Range(0, 64)] = 4
    fill: Literal["zero", "reflect"] = "zero"
    min_area: Annotated[float, Range(0.01, 1)] = 0.35
    flip: Literal["none", "random", "alternating"] = "none"
    erasing: Annotated[float, Range(0, 1)] = 0.0
    mixup: Annotated[float, Range(0, 10)] = 0.0
    cutmix: Annotated[float, Range(0, 10)] = 0.0
    auto_augment: Literal["auto", "none", "randaugment", "trivialaugment"] = "none"

    def __post_init__(self) -> None:
        validate(self)
        if self.crop == "shift" and not self.crop_padding:
            raise UserError("--crop-padding 0: crop shift needs at least 1 pixel")

    @property
    def padding(self) -> int:
        """Pixels on each side that the images are padded with."""
        return self.crop_padding if self.crop == "shift" else 0

    @property
    def mixes(self) -> bool:
        """Whether targets become shares of classes."""
        return self.mixup > 0 or self.cutmix > 0
