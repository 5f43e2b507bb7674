"""Test our networks in place of torchvision's ten: key by key, bit by bit."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cases import for_each
from resnets.models.registry import MODELS, create_model
from resnets.models.summary import count_macs, count_parameters

TEN = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
SMALL = ["resnet18", "resnet50", "resnext50_32x4d"]  # one of each kind; `make slow` takes all
FLOAT64 = 1e-10  # the same sums in another order


def logits_and_gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    logits = model(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    return logits.detach(), gradient


def worst(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


@for_each(SMALL, slow=TEN)
def test_a_seed_gives_torchvisions_initial_weights(name: str) -> None:
    torch.manual_seed(5)
    theirs = getattr(torchvision.models, name)().state_dict()
    torch.manual_seed(5)
    ours = create_model(name).state_dict()
    assert list(ours) == list(theirs)
    different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert not different


@for_each(["resnet18", "resnet50"], slow=TEN)
def test_logits_and_input_gradients_agree(name: str) -> None:
    theirs = getattr(torchvision.models, name)().double().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would hide a norm left out
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.device("meta"):
        ours = create_model(name).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    images = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    logits, gradient = logits_and_gradient(ours, images)
    expected_logits, expected_gradient = logits_and_gradient(theirs, images)
    assert worst(logits, expected_logits) < FLOAT64
    assert worst(gradient, expected_gradient) < FLOAT64


@for_each(SMALL, slow=TEN)
def test_sizes_agree_with_torchvision_and_its_published_figures(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    row = MODELS[name]
    assert row.counted == f"torchvision {name}"
    assert count_parameters(theirs) == row.params
    assert count_macs(theirs, row.input_size) == row.macs
    published = next(iter(torchvision.models.get_model_weights(name))).meta
    assert published["num_params"] == row.params
    assert published["_ops"] == pytest.approx(row.macs / 1e9, abs=6e-4)


@pytest.mark.parametrize(
    ("replace", "output_stride"),
    [
        ((False, True, True), 8),
        pytest.param((False, False, True), 16, marks=pytest.mark.slow),
    ],
)
def test_output_stride_follows_torchvisions_dilation(
    replace: tuple[bool, ...], output_stride: int
) -> None:
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=list(replace))
    ours = create_model("resnet50", output_stride=output_stride)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert worst(ours.double().eval()(images), theirs.double().eval()(images)) < FLOAT64


def test_zero_init_follows_torchvision() -> None:
    torch.manual_seed(2)
    theirs = torchvision.models.resnet50(zero_init_residual=True).state_dict()
    torch.manual_seed(2)
    ours = create_model("resnet50", residual_init="zero").state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert ours["layer1.0.bn3.weight"].abs().sum() == 0
