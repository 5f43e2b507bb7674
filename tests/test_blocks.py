"""Test the equation and its parts: shortcuts, residual blocks, and the layers they are made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.models.attention import AttentionPool2d, EfficientChannelAttention
from resnets.models.blocks import (
    BlockConfig,
    PadShortcut,
    last_weighted_layer,
    make_block,
    make_shortcut,
)
from resnets.models.config import ResNetConfig
from resnets.models.layers import (
    BlurPool,
    Whitening,
    drop_path,
    normalisation,
    squeeze_excite,
    standardised,
)
from resnets.models.parts import BLOCKS
from resnets.models.registry import create_model
from resnets.models.resnet import ResNet

FLOAT64 = 1e-12  # the same few sums in another order


def config(**ideas: object) -> ResNetConfig:
    given = {"depths": (2, 2), "block": "basic", "widths": (8, 16), "stem": "small"}
    return ResNetConfig(**(given | ideas))  # type: ignore[arg-type]


def plan(in_channels: int = 8, width: int = 16, stride: int = 2, **rest: float) -> BlockConfig:
    given = {"out_channels": width, "dilation_before": 1, "dilation": 1, "drop_path": 0.0}
    return BlockConfig(in_channels, width, stride=stride, **(given | rest))  # type: ignore[arg-type]


# The equation ------------------------------------------------------------------------------------


def test_a_block_is_the_equation() -> None:
    for order, kind, cls in ((o, k, c) for o, table in BLOCKS.items() for k, c in table.items()):
        needed: dict[str, object] = {"splits": 2} if kind == "res2net" else {}
        needed |= {"norm": "none", "conv": "scaled"} if kind == "bottleneck_norm_free" else {}
        given = plan(out_channels=16 * getattr(cls, "expansion", 1))
        module = make_block(given, config(block=kind, order=order, **needed)).eval()
        assert isinstance(module, cls)
        terms: list[Tensor] = []
        for name in ("downsample", "drop_path"):
            layer = module.get_submodule(name)
            layer.register_forward_hook(lambda *call, terms=terms: terms.append(call[-1]))
        output = module(torch.randn(2, 8, 5, 5))
        total = terms[0] + terms[1]
        assert torch.equal(output, total.relu() if order == "post" else total)


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_with_a_residual_of_zero_a_block_is_its_shortcut(block: str, order: str) -> None:
    same = plan(16, 16, stride=1) if block == "basic" else plan(16, 4, stride=1, out_channels=16)
    module = make_block(same, config(block=block, order=order))
    nn.init.zeros_(last_weighted_layer(module).weight)
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(module(x), x.relu() if order == "post" else x)


class Off(nn.Module):
    """A shortcut switched off: its value times nothing."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(self.shortcut(x))


@pytest.mark.parametrize(
    ("residual", "plain"),
    [("resnet20", "plain20"), ("resnet56", "plain56"), ("resnet18_a", "plain18")],
)
def test_a_residual_network_without_its_shortcuts_is_the_plain_network(
    residual: str, plain: str
) -> None:
    torch.manual_seed(0)
    network = create_model(residual, num_classes=10)
    torch.manual_seed(0)
    control = create_model(plain, num_classes=10)
    weights = network.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in control.state_dict().items())
    control.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(network(images), control(images))
    for stage in network.stage_names:
        for block in network.get_submodule(stage):
            block.downsample = Off(block.downsample)
    network.load_state_dict(weights)  # as they were before the first batch
    control.load_state_dict(weights)
    assert torch.equal(network(images), control(images))


# Shortcuts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 7, 8])
@pytest.mark.parametrize("shortcut", ["conv", "pad", "conv_all", "avg_conv"])
def test_shortcuts_bring_the_shape_of_the_residual(shortcut: str, side: int) -> None:
    out = make_shortcut(plan(), config(shortcut=shortcut)).eval()(torch.randn(1, 8, side, side))
    assert out.shape == (1, 16, (side + 1) // 2, (side + 1) // 2)


@pytest.mark.parametrize("shortcut", ["conv", "pad", "avg_conv"])
def test_where_shapes_are_equal_the_shortcut_is_the_identity(shortcut: str) -> None:
    assert isinstance(make_shortcut(plan(8, 8, stride=1), config(shortcut=shortcut)), nn.Identity)
    everywhere = make_shortcut(plan(8, 8, stride=1), config(shortcut="conv_all"))
    assert [type(layer) for layer in everywhere] == [nn.Conv2d, nn.BatchNorm2d]


def test_the_pad_shortcut_is_centred_and_free() -> None:
    x = torch.randn(2, 3, 4, 6)
    shortcut = PadShortcut(3, 8, stride=2)
    out = shortcut(x)
    assert out.shape == (2, 8, 2, 3)
    assert torch.equal(out[:, 2:5], x[:, :, ::2, ::2])
    assert out[:, :2].abs().sum() == out[:, 5:].abs().sum() == 0
    assert not list(shortcut.parameters())


def test_a_pre_activation_projection_shares_the_first_activation_and_has_no_norm() -> None:
    block = make_block(plan(), config(order="pre")).eval()
    assert [type(layer) for layer in block.downsample] == [nn.Conv2d]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), block.downsample(block.bn1(x).relu()))


# Places of stride, dilation and dropout ----------------------------------------------------------


def strides(block: nn.Module) -> list[int]:
    return [layer.stride[0] for layer in block.children() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("order", ["post", "pre"])
def test_stride_is_where_the_config_puts_it(order: str) -> None:
    place = plan(8, 8, out_channels=32)
    assert strides(make_block(plan(), config(order=order))) == [2, 1]
    assert strides(make_block(place, config(block="bottleneck", order=order))) == [1, 2, 1]
    early = config(block="bottleneck", order=order, stride_on="1x1")
    assert strides(make_block(place, early)) == [2, 1, 1]


@pytest.mark.parametrize(
    ("block", "order", "inside"),
    [("basic", "pre", True), ("bottleneck", "pre", False), ("basic", "post", False)],
)
def test_dropout_is_inside_wide_blocks_and_else_before_the_classifier(
    block: str, order: str, inside: bool
) -> None:
    model = create_model("resnet20", block=block, order=order, dropout=0.3)
    rates = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p}
    assert set(rates.values()) == {0.3}
    assert list(rates) == (
        [f"layer{i}.{j}.dropout" for i in (1, 2, 3) for j in range(3)] if inside else ["dropout"]
    )


# Layers ------------------------------------------------------------------------------------------


def test_squeeze_and_excitation_scales_channels_by_their_gates() -> None:
    layer = squeeze_excite(32, config(se=1 / 4)).double()
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64)
    first, second = (c.weight.flatten(1) for c in (layer.fc1, layer.fc2))
    means = x.flatten(2).mean(2)
    hidden = F.relu(means @ first.T + layer.fc1.bias)
    gates = torch.sigmoid(hidden @ second.T + layer.fc2.bias)
    assert torch.allclose(layer(x), x * gates[:, :, None, None], atol=FLOAT64)
    assert squeeze_excite(64, config(se=1 / 16)).fc1.out_channels == 8  # 4, rounded as timm does


@pytest.mark.parametrize("size", [3, 5])
def test_blur_keeps_constants_and_slopes_and_halves(size: int) -> None:
    row = torch.arange(8.0).expand(1, 1, 8, 8)
    out = BlurPool(size)(row)
    assert out.shape == (1, 1, 4, 4)
    assert torch.equal(out[..., 1:-1], row[..., ::2, 2:-2:2])  # a symmetric filter keeps a slope
    assert torch.equal(BlurPool(size)(torch.ones(1, 2, 6, 6)), torch.ones(1, 2, 3, 3))
    assert not BlurPool(size).state_dict()
    with pytest.raises(UserError, match="too small for blur"):
        BlurPool(size)(torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_and_of_variance_one(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, channels, 12, 12, generator=generator)
    images = noise + 2 * noise.roll(1, 3) + noise.mean(1, keepdim=True)  # neighbours alike
    layer = Whitening(channels)
    nn.init.zeros_(layer.bias)
    layer.fit(images)
    assert not layer.weight.requires_grad and "weight" in layer.state_dict()
    maps = layer(images)
    assert maps.shape == (200, 8 * channels, 12, 12)
    positive, negative = maps[:, :, :-1, :-1].chunk(2, dim=1)  # without the padded border
    torch.testing.assert_close(negative, -positive)
    patches = positive.detach().movedim(1, 0).flatten(1)
    covariance = patches @ patches.T / patches.shape[1]
    # The smallest variance here is 0.1, to which 5e-4 is added.
    torch.testing.assert_close(covariance, torch.eye(4 * channels), atol=0.02, rtol=0)


def test_a_maximum_halves_before_the_first_norm() -> None:
    torch.manual_seed(0)
    model = create_model("resnet8_fast").eval()
    block, x = model.layer2[0], torch.randn(2, 64, 9, 9)
    halved = F.max_pool2d(block.conv1(x), 2, ceil_mode=True)
    residual = block.bn2(block.conv2(F.relu(block.bn1(halved))))
    assert residual.shape[2:] == (5, 5)
    assert torch.equal(block(x), F.relu(block.downsample(x) + residual))


def test_group_norm_has_32_groups_or_two_channels_in_each() -> None:
    groups = {
        c: normalisation(c, config=config(norm="group")).num_groups for c in (256, 64, 16, 10, 9)
    }
    assert groups == {256: 32, 64: 32, 16: 8, 10: 1, 9: 1}


def test_standardised_filters_have_mean_zero_and_variance_one() -> None:
    filters = standardised(5 + 3 * torch.randn(6, 4, 3, 3), epsilon=1e-8)
    assert filters.mean((1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(filters.var((1, 2, 3), unbiased=False), torch.ones(6))


def test_without_norms_a_block_knows_the_variance_of_its_input() -> None:
    # Wide enough that the drawn filters give nearly the expected variance.
    torch.manual_seed(0)
    network = ResNet(
        ResNetConfig(
            depths=(3, 3),
            widths=(64, 64),
            block="bottleneck_norm_free",
            **{"order": "pre", "norm": "none", "conv": "scaled"},
            **{"shortcut": "avg_conv", "residual_scale": 0.5},
        )
    )
    deviations = [block.deviation**2 for block in (*network.layer1, *network.layer2)]
    assert deviations == pytest.approx([1, 1.25, 1.5, 1.75, 1.25, 1.5])
    x, measured = torch.randn(4, 64, 16, 16), []
    for block in network.layer1:
        measured.append(float(x.detach().var()))
        x = block(x)
    assert measured == pytest.approx(deviations[:3], rel=0.1)


def test_channel_attention_reaches_further_in_wider_layers() -> None:
    widths = (16, 64, 128, 256, 2048)
    kernels = [EfficientChannelAttention(channels).conv.kernel_size[0] for channels in widths]
    assert kernels == [3, 3, 5, 5, 7]  # k of the paper's equation 12, at least 3


def test_an_attention_pool_of_equal_pixels_returns_their_value() -> None:
    pool = AttentionPool2d(64, 3)
    nn.init.zeros_(pool.pos_embed)
    pixel = torch.randn(2, 64, 1, 1)
    expected = pool.v(pixel.flatten(1))
    for height, width in ((3, 3), (1, 4)):
        pooled = pool(pixel.expand(2, 64, height, width))
        assert pooled.shape == (2, 64, 1, 1)
        torch.testing.assert_close(pooled.flatten(1), expected)


def test_positions_of_an_attention_pool_are_exact_at_its_own_size() -> None:
    pool = AttentionPool2d(64, 4)
    torch.testing.assert_close(pool.positions(4, 4), pool.pos_embed, rtol=0, atol=1e-7)
    assert pool.positions(2, 7).shape == (15, 64)


def test_drop_path_keeps_the_expectation_and_drops_whole_images() -> None:
    torch.manual_seed(0)
    layer, x = drop_path(0.25), torch.ones(20_000, 2, 1, 1)
    out = layer(x)
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert torch.equal(out[:, 0], out[:, 1])
    assert abs(out.mean() - 1) < 0.02  # five standard errors
    assert torch.equal(layer.eval()(x), x)


def test_drop_path_rates_rise_linearly_from_zero() -> None:
    model = create_model("resnet20", drop_path=0.4)
    blocks = [block for stage in model.stage_names for block in model.get_submodule(stage)]
    rates = [block.drop_path.p for block in blocks[1:]]
    assert rates == pytest.approx([0.05 * i for i in range(1, 9)])
    assert isinstance(blocks[0].drop_path, nn.Identity)


def test_draws_inside_the_network_follow_the_global_seed() -> None:
    model, images = create_model("resnet20", drop_path=0.5, dropout=0.5), torch.randn(4, 3, 32, 32)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(images)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


# Initial values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet18_cifar", "resnet50"])
def test_convolutions_start_with_hes_variance(name: str) -> None:
    for module in create_model(name).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2 // module.groups
            weight = module.weight.detach()
            six_errors = 6 * (2 / weight.numel()) ** 0.5  # of the variance of so many numbers
            assert float(weight.var()) * fan_out / 2 == pytest.approx(1, abs=six_errors)
            assert module.bias is None


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("start", ["zero", "scalar"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_residuals_that_start_at_zero_leave_the_shortcuts_alone(
    start: str, order: str, norm: str
) -> None:
    model = create_model("resnet20", residual_init=start, order=order, norm=norm).eval()
    shortcuts: list[Callable[[Tensor], Tensor]] = [model.conv1, model.bn1, model.relu]
    shortcuts += [block.downsample for s in model.stage_names for block in model.get_submodule(s)]
    x = torch.randn(2, 3, 32, 32)
    expected = x
    for shortcut in shortcuts:
        expected = shortcut(expected)
    assert torch.equal(model.features(x, (3,))[0], expected)
    scalars = [name for name, p in model.named_parameters() if p.dim() == 0]
    assert len(scalars) == (9 if start == "scalar" else 0)


def test_without_norm_convolutions_have_biases_that_start_at_zero() -> None:
    model = create_model("resnet20", norm="none", residual_init="scalar")
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(biases) == 19
    assert all(bias is not None and bias.abs().sum() == 0 for bias in biases)
    assert len([key for key in model.state_dict() if "bn" in key or "running" in key]) == 0
