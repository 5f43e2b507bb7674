"""Test what a study of depth varies: shortcuts, scale and initialisation of residuals."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnets.errors import UserError
from resnets.models.blocks import BlockConfig, Gate, NoShortcut, make_block, make_shortcut
from resnets.models.config import ResNetConfig
from resnets.models.layers import ScalarBias, ScalarGain, ShiftedConv2d
from resnets.models.resnet import ResNet

FLOAT32 = 1e-5  # a few sums of numbers near 1 in another order


def config(**ideas: object) -> ResNetConfig:
    given: dict[str, object] = {"depths": (2, 2), "widths": (8, 16), "num_classes": 5}
    given |= {"block": "basic", "stem": "small", "in_channels": 1, "shortcut": "pad"}
    return ResNetConfig(**(given | ideas))  # type: ignore[arg-type]


def network(**ideas: object) -> ResNet:
    torch.manual_seed(0)
    return ResNet(config(**ideas))


def trained_bits(model: ResNet) -> list[torch.Tensor]:
    """Weights and buffers after three steps on fixed images."""
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(8, 1, 9, 9, generator=draws)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(8) % 5).backward()
        optimizer.step()
    return list(model.state_dict().values())


@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_shortcut_of_strength_zero_is_the_plain_twin_bit_for_bit(order: str) -> None:
    plain = trained_bits(network(shortcut="none", order=order))
    zero = trained_bits(network(shortcut_strength=0, order=order))
    full = trained_bits(network(shortcut_strength=1, order=order))
    assert all(torch.equal(one, other) for one, other in zip(plain, zero, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(plain, full, strict=True))


def test_twins_start_from_the_same_tensors() -> None:
    plain, residual = network(shortcut="none"), network()
    for twin in (network(shortcut_strength=0.5), network(residual_scale=0.5), residual):
        pairs = zip(plain.state_dict().items(), twin.state_dict().items(), strict=True)
        assert all(ours == its and torch.equal(a, b) for (ours, a), (its, b) in pairs)


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_strength_and_scale_stand_in_the_equation(shortcut: str, order: str) -> None:
    usual = BlockConfig(8, 16, 16, stride=2, dilation_before=1, dilation=1, drop_path=0.0)
    torch.manual_seed(0)
    block = make_block(usual, config(shortcut=shortcut, order=order)).eval()
    torch.manual_seed(0)
    ideas = {"shortcut_strength": 0.25, "residual_scale": 0.5}
    weak = make_block(usual, config(shortcut=shortcut, order=order, **ideas)).eval()
    assert [*weak.state_dict()] == [*block.state_dict()]
    x = torch.randn(2, 8, 5, 5)
    seen = {}
    for name, part in (("shortcut", block.downsample), ("residual", block.se)):
        part.register_forward_hook(lambda *call, name=name: seen.__setitem__(name, call[-1]))
    block(x)
    expected = 0.25 * seen["shortcut"] + 0.5 * seen["residual"]
    expected = expected.relu() if order == "post" else expected
    torch.testing.assert_close(weak(x), expected, atol=FLOAT32, rtol=0)


def test_the_gate_weakens_the_shortcut_by_what_it_sees() -> None:
    same = BlockConfig(8, 8, 8, stride=1, dilation_before=1, dilation=1, drop_path=0.0)
    shortcut = make_shortcut(same, config(shortcut="gate"))
    gate = shortcut[-1]
    assert isinstance(gate, Gate)
    nn.init.zeros_(gate.conv.bias)
    x = torch.randn(2, 8, 5, 5)
    open_ = 1 - torch.sigmoid(torch.einsum("oi,nihw->nohw", gate.conv.weight[..., 0, 0], x))
    torch.testing.assert_close(shortcut(x), open_ * x, atol=FLOAT32, rtol=0)


def test_the_dropped_shortcut_drops_in_training_only() -> None:
    same = BlockConfig(8, 8, 8, stride=1, dilation_before=1, dilation=1, drop_path=0.0)
    shortcut = make_shortcut(same, config(shortcut="dropout"))
    x = torch.ones(2, 8, 50, 50)
    assert abs(float((shortcut(x) == 0).float().mean()) - 0.5) < 0.03  # eight standard errors
    assert torch.equal(shortcut.eval()(x), x)
    wider = dataclasses.replace(same, width=16, out_channels=16, stride=2)
    assert make_shortcut(wider, config(shortcut="dropout"))(x).shape == (2, 16, 25, 25)


def test_fixup_starts_at_its_shortcuts_and_shrinks_with_depth() -> None:
    ideas = {"norm": "bias", "residual_init": "fixup"}
    model, usual = network(**ideas, depths=(8, 8)), network(depths=(8, 8))
    first = model.layer1[3].conv1
    assert isinstance(first, ShiftedConv2d) and first.bias is None
    torch.testing.assert_close(first.weight, usual.layer1[3].conv1.weight / math.sqrt(16))
    zeros = [model.fc.weight, model.fc.bias, *(block.conv2.weight for block in model.layer2)]
    assert not any(tensor.any() for tensor in zeros)
    x = torch.randn(2, 8, 5, 5).relu()
    assert torch.equal(model.layer1(x), x)
    kinds = (ScalarBias, ScalarGain, ShiftedConv2d)
    scalars = [p for m in model.modules() if isinstance(m, kinds) for p in m.parameters()]
    assert sum(p.ndim == 0 for p in scalars) == 16 * 5 + 2
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_fixup_bottleneck_shrinks_by_the_fourth_root() -> None:
    ideas = {"block": "bottleneck", "depths": (8, 8), "shortcut": "conv"}
    model = network(norm="bias", residual_init="fixup", **ideas)
    ratio = model.layer1[3].conv2.weight / network(**ideas).layer1[3].conv2.weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5))


def test_dirac_is_the_identity_and_noise_of_a_tenth() -> None:
    weight = network(init="dirac", shortcut="none").layer1[1].conv1.weight.detach()
    noise = weight - nn.init.dirac_(torch.empty_like(weight))
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((8,), 0.1))


def test_orthogonal_convolutions_keep_lengths_but_for_the_factor_of_the_relu() -> None:
    layer = network(init="orthogonal", shortcut="none").layer2[1].conv1
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(layer(x).norm(dim=1), math.sqrt(2) * x.norm(dim=1))


def test_fan_in_has_the_variance_of_what_enters() -> None:
    weight = network(init="fan_in", widths=(8, 64), depths=(1, 1)).layer2[0].conv1.weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / 72), rel=0.05)  # five errors


@pytest.mark.parametrize(
    "ideas",
    [
        {"shortcut": "gate"},
        {"shortcut": "dropout"},
        {"shortcut_strength": 0.5},
        {"residual_scale": 0.5, "order": "pre"},
        {"norm": "bias", "residual_init": "fixup"},
        {"init": "dirac", "shortcut": "none"},
        {"init": "orthogonal", "shortcut": "none"},
        {"norm": "bias", "residual_init": "scalar"},
    ],
)
def test_it_learns_and_survives_json(ideas: dict[str, object]) -> None:
    model = network(**ideas)
    assert ResNetConfig(**json.loads(json.dumps(dataclasses.asdict(model.config)))) == model.config
    before = [tensor.clone() for tensor in model.state_dict().values()]
    after = trained_bits(model)
    assert all(tensor.isfinite().all() for tensor in after)
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert model.eval()(torch.randn(1, 1, 7, 7)).shape == (1, 5)


@pytest.mark.parametrize(
    ("ideas", "message"),
    [
        ({"shortcut_strength": 2}, r"shortcut_strength = 2: must be a number in \[0, 1\]"),
        ({"residual_scale": float("nan")}, "residual_scale = nan"),
        ({"shortcut": "none", "shortcut_strength": 0.5}, "nothing to weaken"),
        ({"shortcut_strength": 0, "drop_path": 0.1}, "with shortcut_strength = 0 a dropped"),
        ({"shortcut": "gate", "widths": (16, 8)}, "'gate' can only add channels"),
        ({"residual_init": "fixup"}, "needs norm = 'bias', not 'batch'"),
        ({"residual_init": "scalar", "residual_scale": 0.5}, "learns a factor of its own"),
        (
            {"residual_init": "fixup", "norm": "bias", "init": "dirac"},
            "needs init = 'fan_out'",
        ),
        ({"init": "he"}, "unknown init 'he'"),
    ],
)
def test_what_cannot_be_meant_is_refused(ideas: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**ideas)


def test_no_shortcut_is_one_thing() -> None:
    same = BlockConfig(8, 8, 8, stride=1, dilation_before=1, dilation=1, drop_path=0.0)
    for ideas in ({"shortcut": "none"}, {"shortcut_strength": 0}):
        assert isinstance(make_shortcut(same, config(**ideas)), NoShortcut)
