"""Compare with timm's variants: weights load unchanged, logits agree, sizes are equal."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
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
KINDS += ["preact_resnet50x1_bit", "resnet50_clip", "nf_ecaresnet26", "gcresnext26ts"]
# One of each part that only timm has, to be compared with one block a stage.
PARTS = [
    *("ecaresnet26t", "resnetaa34d", "preact_resnet50d_gn", "preact_resnet50x1_bit"),
    *("resnet50_clip", "nf_ecaresnet26", "gcresnext26ts", "resnet33ts"),
]
FLOAT64 = 1e-10  # the same sums in another order


@torch.no_grad()
def with_statistics(model: nn.Module) -> nn.Module:
    """A model as training leaves it: a fresh norm, bias or gain would hide one left out."""
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.1, 0.1)
        elif tensor.is_floating_point() and tensor.numel() > 1 and not bool(tensor.std()):
            tensor.uniform_(0.5, 1.5)
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


def with_one_block_a_stage(name: str) -> nn.Module:
    """A network of timm; without norms, a block depends on how many were before it."""
    if name.startswith("nf_"):
        return with_statistics(timm.create_model(name, depths=(1, 1, 1, 1)))
    model = timm.create_model(name)
    for path, module in model.named_modules():
        if re.fullmatch(r"layer\d|stages\.\d(\.blocks)?", path) and isinstance(
            module, nn.Sequential
        ):
            del module[1:]
    return with_statistics(model)


@for_each(PARTS, slow=TWINS)
def test_networks_of_timm_load_through_create_model_and_logits_agree(name: str) -> None:
    theirs = with_one_block_a_stage(MODELS[name].counted.removeprefix("timm "))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({key: tensor.float() for key, tensor in theirs.state_dict().items()}, path)
        ours = create_model(name, weights=path, depths=(1, 1, 1, 1))
    assert worst(ours, theirs, side=64) < FLOAT64


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


def test_dilated_average_shortcuts_sample_the_strided_network_and_timms_do_not() -> None:
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    strided = with_statistics(timm.create_model("resnet18d", zero_init_last=False))
    theirs = timm.create_model("resnet18d", output_stride=8).double().eval()
    ours = create_model("resnet18d", output_stride=8).double().eval()
    errors = []
    with torch.no_grad():
        expected = strided.forward_features(images)
        for dilated in (ours, theirs):
            dilated.load_state_dict(strided.state_dict())
            dense = dilated.forward_features(images)
            errors.append(float((dense[..., ::4, ::4] - expected).abs().max() / expected.max()))
    assert errors[0] < FLOAT64
    assert errors[1] > 1e-2


@for_each(KINDS, slow=TWINS)
def test_sizes_are_those_of_timms_twin(name: str) -> None:
    row = MODELS[name]
    with torch.device("meta"):
        theirs = timm.create_model(row.counted.removeprefix("timm "))
    assert count_parameters(theirs) == row.params
    if (
        not row.config.attention_pool
    ):  # timm's pool has a query for each pixel, of which one is used
        assert count_macs(theirs, row.input_size) == row.macs
    assert len(theirs.state_dict()) == row.keys
