"""Provide `weights_preprocess`: the preprocessing that published weights were evaluated with."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from resnets.arguments import checked
from resnets.data.transforms import Preprocess
from resnets.errors import UserError, public_name
from resnets.inference.model_file import read_model
from resnets.models.download import (
    canonical_source,
    hub_config,
    is_url,
    local_file,
    timm_source,
)
from resnets.models.published import (
    PublishedWeights,
    has_timm,
    timm_description,
    timm_record,
    torchvision_record,
)
from resnets.models.registry import MODELS, split_tag, unknown_model


@checked(weights="a text, a path or weights of torchvision's enums")
def weights_preprocess(
    name: str, weights: str | Path | Mapping[str, Any] | Enum | None = None
) -> Preprocess:
    """Return the preprocessing that belongs to weights, as their publisher states it.

    Args:
        name: The network, as for `create_model`.
        weights: The weights, as for `create_model`: `torchvision:IMAGENET1K_V2` or the tag alone,
            a member of torchvision's enums, `timm:resnet50.a1_in1k`, `hub:owner/name` with timm's
            config.json, or a model file or run folder of this package.

    Returns:
        Size, crop, interpolation, mean and standard deviation.

    Raises:
        UserError: The weights do not exist, or state no preprocessing.
    """
    name, weights = split_tag(name, weights)
    if name not in MODELS:
        raise unknown_model(name)
    if weights is None or isinstance(weights, Mapping):
        what = "no weights are given" if weights is None else "a state_dict has none"
        raise UserError(f"which preprocessing: {what}; name the weights, as timm:resnet50.a1_in1k")
    source = canonical_source(weights, name=name)
    shown = public_name(source)
    if source.startswith("torchvision:"):
        return _preprocess(torchvision_record(name, source.removeprefix("torchvision:")))
    if source.startswith("timm:"):
        tagged = source.removeprefix("timm:")
        source = timm_source(tagged)  # raises if timm does not have it
        if has_timm():
            return _preprocess(timm_record(tagged))
    config: dict[str, Any] = {}
    if source.startswith("hub:"):
        config = hub_config(source.removeprefix("hub:"))
    elif not is_url(source):
        local = local_file(source, name=name, check=lambda part: None)
        config = local.config
        if not config:
            return read_model(local.path).preprocess
    record = config.get("pretrained_cfg")
    if not isinstance(record, dict):
        raise UserError(f"{shown} states no preprocessing: build a Preprocess with its author's")
    return _preprocess(timm_description(shown, record))


def _preprocess(facts: PublishedWeights) -> Preprocess:
    return Preprocess(
        size=facts.size,
        mean=facts.mean,
        std=facts.std,
        resize_mode=facts.resize_mode,
        crop_fraction=facts.size / facts.resize,
        interpolation=facts.interpolation,
    )
