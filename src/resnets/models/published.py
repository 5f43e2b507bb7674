"""List the weights that torchvision and timm publish, each with its preprocessing.

The facts are read from the packages when they are asked for: torchvision's enums of weights, and
timm's table of pretrained configurations if timm is installed.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from resnets.errors import UserError, one_line
from resnets.models.download import TORCHVISION_NETWORKS, torchvision_tags, torchvision_weights

NO_TIMM = "timm is not installed, so its weights are not listed: pip install timm"


@dataclass(frozen=True)
class PublishedWeights:
    """Describe published weights: how `weights=` names them, and how images are prepared for them.

    Args:
        source: What `weights=` takes, such as `torchvision:IMAGENET1K_V2`.
        top1: Accuracy in % on ImageNet-1k by the publisher; None where its package does not say.
        classes: Number of classes.
        size: Height and width of the input in pixels.
        resize: Length in pixels to which the short side is resized before the crop.
        resize_mode: "crop" (keep the aspect) or "squash".
        interpolation: "bilinear" or "bicubic".
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    source: str
    top1: float | None
    classes: int
    size: int
    resize: int
    resize_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published_weights(name: str, *, timm_name: str | None) -> list[PublishedWeights]:
    """Return the published weights of a network of the table.

    Args:
        name: Its name in the table.
        timm_name: Its name in timm, if it has one.

    Returns:
        Those of torchvision, then those of timm in its order.
    """
    found = []
    if name in TORCHVISION_NETWORKS:
        found = [
            torchvision_record(name, tag) for tag in torchvision_tags(name) if tag != "DEFAULT"
        ]
    if timm_name is not None and has_timm():
        import timm

        tagged = timm.list_models(f"{timm_name}.*", pretrained=True)
        found += [timm_record(tag) for tag in tagged]
    return found


def has_timm() -> bool:
    """Return whether timm is installed."""
    return find_spec("timm") is not None


def torchvision_record(name: str, tag: str) -> PublishedWeights:
    """Return what torchvision's enum says of weights."""
    weights = torchvision_weights(name, tag)
    transforms, meta = weights.transforms(), weights.meta
    return PublishedWeights(
        source=f"torchvision:{weights.name}",
        top1=meta["_metrics"]["ImageNet-1K"]["acc@1"],
        classes=len(meta["categories"]),
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        resize_mode="crop",
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def timm_record(name: str) -> PublishedWeights:
    """Return what timm's table says of weights such as `resnet50.a1_in1k`."""
    try:
        import timm
    except ImportError:
        raise UserError(
            f"what belongs to timm:{one_line(name)} is in timm's table: pip install timm"
        ) from None
    config: Any = timm.get_pretrained_cfg(name)
    return timm_description(f"timm:{name}", {} if config is None else config.to_dict())


def timm_description(source: str, record: dict[str, object]) -> PublishedWeights:
    """Return the description in a `pretrained_cfg`, of timm's table or of a config.json.

    Raises:
        UserError: The record lacks a field, or one is of another kind.
    """
    try:
        size: int = record["input_size"][-1]  # type: ignore[index]
        crop_fraction: float = record["crop_pct"]  # type: ignore[assignment]
        squash = record.get("crop_mode", "center") == "squash"
        return PublishedWeights(
            source=source,
            top1=None,
            classes=int(record.get("num_classes", 1000)),  # type: ignore[call-overload]
            size=size,
            resize=math.floor(size / crop_fraction),  # as timm rounds
            resize_mode="squash" if squash else "crop",
            interpolation=str(record["interpolation"]),
            mean=tuple(record["mean"]),  # type: ignore[arg-type]
            std=tuple(record["std"]),  # type: ignore[arg-type]
        )
    except (KeyError, TypeError, IndexError, ValueError, ZeroDivisionError):
        raise UserError(f"{source} has a pretrained_cfg without a usable preprocessing") from None
