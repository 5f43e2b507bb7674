"""Compare with timm's variants: weights load unchanged, logits agree, sizes are equal."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import Tensor, nn

from cases import for_each
from resnets.models.registry import MODELS, create_model
from resnets.models.summary import count_macs, count_parameters

UNCHANGED = [
    "resnet18d",
    "resnet34d",
    "resnet50d",
    "resnet50c",
    "resnet50s",
    "resnet50t",
    "seresnet50",
    "resnetrs50",
    "resnetblur50",
    "resnet50_gn",
]
TWINS = [name for name, row in MODELS.items() if row.counted.startswith("timm ")]
# One of each kind, to be compared layer by layer; `make slow` takes all.
KINDS = ["resnet18d", "seresnet18", "resnetblur18", "preact_resnet18", "resnetrs50", "resnet50_gn"]
FLOAT64 = 1e-10  # the same sums in another order


def with_statistics(model: nn.Module) -> nn.Module:
    """A model as training leaves it: fresh statistics would hide a norm left out."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.double().eval()


def worst(ours: nn.Module, theirs: nn.Module, side: int = 49) -> float:
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        expected: Tensor = theirs(images)
        return float((ours.double().eval()(images) - expected).abs().max() / expected.abs().max())


@for_each(["resnet18d", "resnetrs50", "resnetblur50"], slow=UNCHANGED)
def test_weights_load_unchanged_and_logits_agree(name: str) -> None:
    theirs = with_statistics(timm.create_model(name, zero_init_last=False))
    ours = create_model(name)
    ours.load_state_dict(theirs.state_dict())
    assert worst(ours, theirs) < FLOAT64


def converted(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Timm's resnetv2 names in ours; its classifier is a 1x1 convolution."""

    def rename(key: str) -> str:
        key = re.sub(r"stages\.(\d)\.blocks", lambda found: f"layer{int(found[1]) + 1}", key)
        key = re.sub(r"\.norm(\d)", r".bn\1", key)
        key = key.replace("downsample.conv", "downsample.0").replace("head.fc", "fc")
        return key.replace("stem.conv", "conv1")

    flat = {rename(key): value for key, value in weights.items()}
    return flat | {"fc.weight": flat["fc.weight"].flatten(1)}


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_converted_pre_activation_logits_agree(depth: int) -> None:
    theirs = with_statistics(timm.create_model(f"resnetv2_{depth}"))
    ours = create_model(f"preact_resnet{depth}")
    ours.load_state_dict(converted(theirs.state_dict()))
    assert worst(ours, theirs) < FLOAT64


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnet18", 8), pytest.param("resnet50", 16, marks=pytest.mark.slow)],
)
def test_dilated_networks_agree(name: str, output_stride: int) -> None:
    theirs = timm.create_model(name, output_stride=output_stride, zero_init_last=False)
    theirs = with_statistics(theirs)
    ours = create_model(name, output_stride=output_stride)
    ours.load_state_dict(theirs.state_dict())
    assert worst(ours, theirs) < FLOAT64


@for_each(KINDS, slow=TWINS)
def test_sizes_are_those_of_timms_twin(name: str) -> None:
    row = MODELS[name]
    with torch.device("meta"):
        theirs = timm.create_model(row.counted.removeprefix("timm "))
    assert count_parameters(theirs) == row.params
    assert count_macs(theirs, row.input_size) == row.macs
    assert len(theirs.state_dict()) == row.keys
