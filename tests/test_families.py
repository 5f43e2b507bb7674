"""Compare Res2Net, ResNeSt, SKNet and SENet with timm, and test the rules of their blocks."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
from torch import Tensor, nn

from cases import for_each
from resnets.errors import UserError
from resnets.models.blocks import BlockConfig, last_weighted_layer, make_block
from resnets.models.config import ResNetConfig
from resnets.models.layers import DilatedMean
from resnets.models.parts import BLOCKS
from resnets.models.registry import MODELS, create_model
from resnets.models.resnet import ResNet

OWN = ("res2net", "resnest", "resnest_fast", "sk_basic", "sk_bottleneck", "senet")
NAMES = [
    name
    for name, row in MODELS.items()
    if row.config.block in (*OWN, "legacy_se_basic") or row.config.stem == "caffe"
]
# One of each kind.
KINDS = [
    "res2net50_26w_4s",
    "res2next50",
    "resnest50d",
    "resnest50d_4s2x40d",
    "resnest50d_1s4x24d",
    "skresnet18",
    "skresnet50",
    "skresnext50_32x4d",
    "senet154",
]
LEGACY = ["legacy_seresnet18", "legacy_senet154"]
FLOAT64 = 1e-10  # the same sums in another order


def randomised(model: nn.Module) -> nn.Module:
    """Give every norm values that show where it is left out or in another place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def worst(ours: nn.Module, theirs: nn.Module) -> float:
    images = torch.randn(2, 3, 65, 49, dtype=torch.float64)
    with torch.no_grad():
        expected: Tensor = theirs.double().eval()(images)
        return float((ours.double().eval()(images) - expected).abs().max() / expected.abs().max())


@for_each(KINDS)
def test_logits_agree_with_timms_at_small_widths(name: str) -> None:
    widths, depths = (32, 64, 64, 128), (2, 2, 1, 2)
    theirs = randomised(timm.create_model(name, layers=depths, channels=widths))
    stem_width = MODELS[name].config.stem_channels
    ours = create_model(
        name, weights=theirs.state_dict(), depths=depths, widths=widths, stem_width=stem_width
    )
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert worst(ours, theirs) < FLOAT64


@for_each(LEGACY)
def test_logits_agree_with_timms_legacy_networks_at_few_blocks(name: str) -> None:
    theirs = randomised(timm.create_model(name, layers=(1, 1, 1, 1)))
    assert (
        worst(create_model(name, weights=theirs.state_dict(), depths=(1, 1, 1, 1)), theirs)
        < FLOAT64
    )


@for_each([], slow=NAMES)
def test_logits_agree_with_timms(name: str) -> None:
    theirs = randomised(timm.create_model(name))
    assert worst(create_model(name, weights=theirs.state_dict()), theirs) < FLOAT64


def test_weights_of_caffes_networks_fit_no_other_stem() -> None:
    theirs = timm.create_model("legacy_seresnet50", layers=(1, 1, 1, 1)).state_dict()
    with pytest.raises(UserError, match="stem = 'caffe', this network has stem = 'imagenet'"):
        create_model("seresnet50", depths=(1, 1, 1, 1), stride_on="1x1", weights=theirs)


# The rules of the blocks -------------------------------------------------------------------------


def config(block: str, **fields: object) -> ResNetConfig:
    given = {"depths": (2, 2, 2), "widths": (16, 16, 32), "stem": "small", "num_classes": 3}
    needed = {"splits": 2} if block == "res2net" else {}
    return ResNetConfig(block=block, **(given | needed | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "res2net", "splits": 1}, "needs splits of at least 2, not 1; .* 'bottleneck'"),
        ({"block": "resnest", "splits": 3}, "splits = 3 does not divide a group of 16 channels"),
        ({"block": "sk_basic", "splits": 3}, "splits = 3: block = 'sk_basic' has 2 paths; use 1"),
        ({"block": "sk_basic", "splits": 2, "widths": (16, 16, 15)}, "does not divide 15 channels"),
        (
            {"block": "senet", "groups": 2, "group_width": 4},
            "groups = 2 does not divide the 1 ch",
        ),
        ({"block": "bottleneck", "splits": 2}, "splits = 2 needs block = 'res2net' or 'resnest'"),
        (
            {"block": "sk_basic", "groups": 2},
            "groups = 2 needs block = .*; with 'sk_basic' it",
        ),
        ({"block": "resnest", "blur": 3}, "blur = 3 needs block = 'basic' or 'bottleneck'"),
        ({"block": "resnest", "order": "pre"}, "'resnest' is not defined for order = 'pre'"),
        ({"block": "legacy_se_basic", "attention": "half"}, "unknown attention 'half'"),
        *(
            ({"block": block, "residual_init": "fixup", "norm": "bias"}, f"for block = '{block}'")
            for block in OWN[:-1]
        ),
    ],
)
def test_a_block_refuses_what_it_cannot_be(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config(**fields)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@for_each(OWN)
def test_any_numbers_make_a_block_or_are_refused(block: str) -> None:
    made = 0
    for groups, group_width, splits in itertools.product((1, 2), (8, 64), (1, 2, 3)):
        fields = {"groups": groups, "group_width": group_width, "splits": splits, "norm": "group"}
        try:
            given = config(block, depths=(1,), widths=(24,), **fields)
        except UserError:
            continue
        with torch.device("meta"):
            assert ResNet(given)(torch.empty(2, 3, 9, 9)).shape == (2, 3)
        made += 1
    assert made >= 2


@for_each(OWN)
def test_with_a_residual_of_zero_a_block_is_its_shortcut(block: str) -> None:
    network = ResNet(config(block, residual_init="zero"))
    for stage in (network.layer1, network.layer2):
        x = torch.randn(2, network.config.widths[0] * network.config.expansion, 5, 5)
        assert torch.equal(stage[1](x), x.relu())
        assert float(last_weighted_layer(stage[1]).weight.detach().abs().max()) == 0


@for_each(OWN)
def test_a_dilated_network_computes_the_strided_one_at_more_places(block: str) -> None:
    fields = {"stem": "imagenet", "depths": (1, 2, 2, 2), "widths": (16, 16, 16, 32)}
    strided = randomised(ResNet(config(block, **fields))).double().eval()
    dilated = ResNet(config(block, **fields, output_stride=8)).double().eval()
    dilated.load_state_dict(strided.state_dict())
    for network in (strided, dilated):
        for name, layer in network.named_modules():
            if name.endswith((".fc2", ".fc_select")):
                nn.init.zeros_(layer.weight)  # equal attention: its mean is over another map
    images = torch.randn(1, 3, 97, 65, dtype=torch.float64)
    with torch.no_grad():
        few, many = strided.features(images)[-1], dilated.features(images)[-1]
    assert torch.allclose(few, many[:, :, ::4, ::4], rtol=0, atol=FLOAT64 * few.abs().max())


def test_a_dilated_mean_is_that_of_the_pixels_between() -> None:
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    dilated = DilatedMean(2)(x)
    for row, column in itertools.product((0, 1), (0, 1)):
        part = nn.AvgPool2d(3, 1, padding=1)(x[:, :, row::2, column::2])
        assert torch.allclose(dilated[:, :, row::2, column::2], part)


@for_each(OWN)
def test_weights_are_counted_by_arithmetic(block: str) -> None:
    cls = BLOCKS["post"][block]
    splits = 1 if block == "senet" else 2
    given = config(block, widths=(64, 128, 256), splits=splits, shortcut="none")
    plan = BlockConfig(256, 128, 128 * cls.expansion, 1, 1, 1, 0.0)
    layers = make_block(plan, given).modules()
    counted = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))
    assert cls.count_weights(256, 128, given) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("shortcut", ["conv", "avg_conv", "conv_3x3"])
def test_dilation_between_stages_of_equal_width_keeps_the_projection(shortcut: str) -> None:
    fields = {"stem": "imagenet", "widths": (16, 16, 16), "shortcut": shortcut}
    with torch.device("meta"):
        strided, dilated = (
            ResNet(config("basic", **fields, output_stride=stride)) for stride in (None, 8)
        )
    assert strided.state_dict().keys() == dilated.state_dict().keys()


@for_each(["preact_resnet50d_evos", "preact_resnet50d_frn"])
def test_norms_that_contain_the_activation_agree_with_timms(name: str) -> None:
    theirs = timm.create_model(MODELS[name].counted.removeprefix("timm "), layers=(1, 1, 1, 1))
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.5, 1.5)
    ours = create_model(name, weights=theirs.state_dict(), depths=(1, 1, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", lambda self: self)  # it computes its variance in float32
        assert worst(ours, theirs) < FLOAT64


def test_norms_that_contain_the_activation_are_for_one_order() -> None:
    for fields in ({"order": "post"}, {"order": "pre", "activation": "gelu"}):
        with pytest.raises(UserError, match="norm = 'evo' contains an activation: it needs"):
            config("basic", norm="evo", **fields)
    network = ResNet(config("basic", norm="filter_response", order="pre"))
    assert not any(isinstance(module, nn.ReLU) for module in network.modules())
