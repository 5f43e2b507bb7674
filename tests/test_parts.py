"""Test the tables of parts: a part of one's own is registered, checked and used like ours."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.models import parts
from resnets.models.blocks import BlockConfig
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet
from resnets.models.summary import layer_table


@pytest.fixture(autouse=True)
def own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test has registered."""
    tables = (*parts.BLOCKS.values(), parts.STEMS, parts.SHORTCUTS)
    tables += (parts.NORMS, parts.ACTIVATIONS, parts.ATTENTIONS)
    for table in tables:
        len(table)  # imports ours
        monkeypatch.setattr(table, "_parts", dict(table._parts))


class WideGelu(nn.Module):
    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(block.in_channels, block.width, 5, block.stride, padding=2)
        self.conv2 = nn.Conv2d(block.width, block.out_channels, 5, padding=2)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.downsample(x) + self.conv2(F.gelu(self.conv1(x))))


def config(**fields: object) -> ResNetConfig:
    given = {"depths": (1, 2), "block": "basic", "widths": (8, 16), "stem": "small"}
    return ResNetConfig(**(given | fields))  # type: ignore[arg-type]


def test_a_block_of_ten_lines_makes_a_network() -> None:
    parts.register_block("wide_gelu")(WideGelu)
    own = config(block="wide_gelu", num_classes=3)
    network = ResNet(own)
    assert network(torch.randn(2, 3, 9, 9)).shape == (2, 3)
    assert [map.shape[1] for map in network.features(torch.randn(2, 3, 9, 9))] == [8, 16]
    assert sum(row.type == "Conv2d" for row in layer_table(network, 9)) == 8
    assert ResNetConfig(**json.loads(json.dumps(asdict(own)))) == own


def test_a_field_that_a_block_does_not_know_is_refused() -> None:
    parts.register_block("wide_gelu")(WideGelu)
    for fields in ({"drop_path": 0.1}, {"se": 0.25}, {"groups": 2}, {"residual_scale": 0.5}):
        (name,) = fields
        with pytest.raises(UserError, match=f"{name} = .* needs block = .*; with 'wide_gelu' it"):
            config(block="wide_gelu", **fields)
    WideGelu.uses = {"residual_scale"}
    assert config(block="wide_gelu", residual_scale=0.5).residual_scale == 0.5
    del WideGelu.uses


def test_a_block_for_one_order() -> None:
    parts.register_block("wide_gelu", order="post")(WideGelu)
    with pytest.raises(UserError, match="block = 'wide_gelu' is not defined for order = 'pre'"):
        config(block="wide_gelu", order="pre")


def test_each_kind_of_part_is_used() -> None:
    class Negative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x

    def small(given: ResNetConfig) -> tuple[nn.Module, nn.Module]:
        return nn.Conv2d(given.in_channels, given.stem_channels, 1), nn.AvgPool2d(2)

    parts.register_stem("one", stride=2)(small)
    parts.register_shortcut("minus")(lambda block, given: Negative())
    parts.register_norm("tanh")(lambda channels, given: nn.Tanh())
    parts.register_activation("elu")(nn.ELU)
    parts.register_attention("half")(lambda channels, given: nn.Hardsigmoid())
    own = config(stem="one", norm="tanh", activation="elu", attention="half", widths=(8, 8))
    types = {type(module) for module in ResNet(own).modules()}
    assert {nn.Tanh, nn.ELU, nn.Hardsigmoid, nn.AvgPool2d} <= types
    assert nn.ReLU not in types
    assert own.natural_stride == 4
    minus = ResNet(config(shortcut="minus", depths=(1,), widths=(8,)))
    assert isinstance(minus.layer1[0].downsample, Negative)


def test_a_name_has_one_part() -> None:
    with pytest.raises(UserError, match="the block 'basic' is registered already; choose another"):
        parts.register_block("basic")(WideGelu)
    for name in ("", "5x5", None):
        with pytest.raises(UserError, match="is no name for a norm"):
            parts.register_norm(name)(lambda channels, given: nn.Identity())
    parts.register_norm("own")(lambda channels, given: nn.Identity())
    with pytest.raises(UserError, match="the norm 'own' is registered already"):
        parts.register_norm("own")(lambda channels, given: nn.Tanh())
    with pytest.raises(UserError, match="unknown order 'before'; allowed: post, pre"):
        parts.register_block("wide_gelu", order="before")
    for _ in range(2):  # a cell of a notebook is run twice
        parts.register_block("wide_gelu")(WideGelu)
    with pytest.raises(UserError, match="unknown activation 'gleu'; did you mean 'gelu'"):
        config(activation="gleu")


def test_registration_is_for_both_orders_or_for_none() -> None:
    parts.register_block("own", order="pre")(nn.Identity)
    with pytest.raises(UserError, match="registered already"):
        parts.register_block("own")(WideGelu)
    assert "own" not in parts.BLOCKS["post"]


def test_groups_of_the_norm() -> None:
    network = ResNet(config(norm="group", norm_groups=8))
    groups = [module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert set(groups) == {8}
    with pytest.raises(UserError, match="norm_groups = 3 does not divide a layer of 8 channels"):
        ResNet(config(norm="group", norm_groups=3))
    with pytest.raises(UserError, match="norm_groups = 8 needs norm = 'group'"):
        config(norm_groups=8)


def test_se_and_another_attention_are_not_mixed() -> None:
    parts.register_attention("half")(lambda channels, given: nn.Hardsigmoid())
    with pytest.raises(UserError, match=r"se = 0\.25 and attention = 'half': choose one"):
        config(se=0.25, attention="half")


VALUES: dict[str, object] = {
    **{"stride_on": "1x1", "halving": "max_pool", "groups": 2, "group_width": 128, "splits": 2},
    **{"group_size": 4, "se": 0.25, "attention": "eca", "blur": 3, "residual_init": "scalar"},
    **{"residual_scale": 0.5, "drop_path": 0.5, "output_stride": 8},
}


@pytest.mark.parametrize("order", parts.ORDERS)
def test_a_field_that_a_block_says_it_knows_of_has_an_effect(order: str) -> None:
    assert set(VALUES) == set(parts.BLOCK_FIELDS)
    base = {"depths": (1, 2, 2), "widths": (16, 16, 32), "stem": "imagenet", "order": order}
    for name, block in parts.BLOCKS[order].items():
        needed = {"norm": "none", "conv": "scaled"} if name == "bottleneck_norm_free" else {}
        needed = {"splits": 3} if name == "res2net" else needed
        usual = signature(config(**base, block=name, **needed))
        for field in block.uses:
            changed = {**base, "block": name, **needed, field: VALUES[field]}
            assert signature(config(**changed)) != usual, (name, field)


def signature(given: ResNetConfig) -> tuple[str, list[tuple[str, float]]]:
    """All modules with their arguments, and a sum of each tensor at the start."""
    torch.manual_seed(0)
    network = ResNet(given)
    sums = [(key, float(value.double().sum())) for key, value in network.state_dict().items()]
    return repr(network), sums
