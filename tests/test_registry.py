"""Test every row of the table: its sizes against print, its shapes, gradients and small images.

Networks are built on the meta device: shapes without values, in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cases import for_each
from resnets.errors import UserError
from resnets.models.config import CHOICES, PARTS
from resnets.models.registry import MODELS, create_model, list_models
from resnets.models.resnet import ResNet, ResNetConfig
from resnets.models.summary import count_parameters, layer_table

# Sizes as printed: name, parameters, MACs with the digits printed, entries of the state dict.
# G at 224 and 1000 classes, M at 32 and 10 classes.
PRINTED = """
resnet18 11,689,512 1.8141G 122
resnet34 21,797,672 3.6638G 218
plain18 11,515,688 1.7948G 104
plain34 21,623,848 3.6445G 200
resnet18_a 11,515,688 1.7948G 104
resnet34_a 21,623,848 3.6445G 200
plain50 22,780,456 3.7295G 296
resnet50 25,557,032 4.0892G 320
resnet101 44,549,160 7.8014G 626
resnet152 60,192,808 11.5136G 932
resnet50_v1 25,557,032 3.8580G 320
resnet101_v1 44,549,160 7.5702G 626
resnet152_v1 60,192,808 11.2824G 932
resnet200 64,673,832 15.007G 1220
resnext50_32x4d 25,028,904 4.2305G 320
resnext101_32x8d 88,791,336 16.4140G 626
resnext101_64x4d 83,455,272 15.4603G 626
wide_resnet50_2 68,883,240 11.398G 320
wide_resnet101_2 126,886,696 22.753G 626
resnet18d 11,708,744 2.054G 134
resnet34d 21,816,904 3.903G 230
resnet50d 25,576,264 4.329G 332
resnet50c 25,576,264 4.329G 332
resnet101d 44,568,392 8.041G 638
resnet152d 60,212,040 11.753G 944
resnet200d 64,693,064 15.247G 1232
resnet50s 25,680,808 5.444G 332
resnet50t 25,573,728 4.297G 332
resnetblur50 25,557,032 5.130G 320
seresnet18 11,779,624 1.814G 154
seresnet34 21,960,416 3.664G 282
seresnet50 28,088,024 4.092G 384
seresnet101 49,326,872 7.806G 758
seresnet152 66,821,848 11.520G 1132
resnetrs50 35,691,912 4.454G 402
resnetrs101 63,618,696 8.176G 776
resnetrs152 86,621,576 11.895G 1150
resnetrs200 93,209,992 15.391G 1502
resnetrs270 129,861,448 - 2030
resnetrs350 163,956,168 - 2602
resnetrs420 191,891,656 - 3108
preact_resnet18 11,687,720 1.8141G 107
preact_resnet34 21,795,880 3.6638G 203
preact_resnet50 25,549,352 4.0892G 300
preact_resnet101 44,541,480 7.8014G 606
preact_resnet152 60,185,128 11.5136G 912
preact_resnet200 64,666,152 15.007G 1200
resnet20 269,722 40.55M 116
resnet32 464,154 68.86M 188
resnet44 658,586 97.17M 260
resnet56 853,018 125.49M 332
resnet110 1,727,962 252.89M 656
resnet1202 19,421,274 2829.24M 7208
plain20 269,722 40.55M 116
plain32 464,154 68.86M 188
plain44 658,586 97.17M 260
plain56 853,018 125.49M 332
plain110 1,727,962 252.89M 656
plain1202 19,421,274 2829.24M 7208
resnet20_b 272,474 40.81M 128
resnet32_b 466,906 69.12M 200
resnet44_b 661,338 97.44M 272
resnet56_b 855,770 125.75M 344
resnet110_b 1,730,714 253.15M 668
resnet1202_b 19,424,026 2829.50M 7220
resnet18_cifar 11,173,962 555.4M 122
resnet34_cifar 21,282,122 1159.4M 218
resnet50_cifar 23,520,842 1297.8M 320
resnet101_cifar 42,512,970 2510.0M 626
resnet152_cifar 58,156,618 3722.1M 932
preact_resnet18_cifar 11,172,170 555.4M 107
preact_resnet110 1,730,522 253.2M 658
preact_resnet164 1,703,258 244.5M 983
preact_resnet1001 10,327,706 1487.9M 6005
resnet164 1,704,154 244.50M 998
resnet1001 10,328,602 1487.85M 6020
wrn16_4 2,748,890 0.393G 83
wrn16_8 10,961,370 1.548G 83
wrn22_8 17,158,106 2.454G 119
wrn28_2 1,467,610 0.214G 155
wrn28_10 36,479,194 5.243G 155
wrn40_4 8,949,210 1.299G 227
wrn40_10 55,841,754 8.074G 227
resnext29_8x64d 34,426,698 5.387G 188
resnext29_16x64d 68,155,210 10.689G 188
"""
ROWS = {line.split()[0]: line.split()[1:] for line in PRINTED.strip().splitlines()}
Sizes = NDArray[np.int64]
ROUNDED = 0.51  # of the last digit: a few figures were rounded twice on their way into print


def cut(config: ResNetConfig) -> ResNetConfig:
    """The same network with at most two blocks a stage: what a third one does, the second did."""
    return dataclasses.replace(config, depths=tuple(min(depth, 2) for depth in config.depths))


# Rows that differ in depth alone have one cut network, and so one test.
CUT = {cut(row.config): name for name, row in reversed(MODELS.items())}
SMALLEST = {name: config for config, name in CUT.items()}


def covering(networks: Mapping[str, ResNetConfig]) -> Iterator[str]:
    """Few names that together show every value of every choice, with and without other parts."""
    shown = {
        name: {(field, getattr(config, field)) for field in ("block", *CHOICES, *PARTS)}
        | {("se", config.se > 0), ("blur", config.blur > 0), ("groups", config.groups > 1)}
        for name, config in networks.items()
    }
    missing = set[tuple[str, object]]().union(*shown.values())
    while missing:
        name = max(shown, key=lambda name: len(shown[name] & missing))
        missing -= shown[name]
        yield name


COVER = tuple(covering(SMALLEST))


def on_meta(config: ResNetConfig) -> ResNet:
    with torch.device("meta"):
        return ResNet(config)


def smallest(config: ResNetConfig) -> int:
    """Pixels a side of the smallest image of a network."""
    return 17 if config.blur else 3 if config.stem in ("caffe", "deep_caffe") else 1


def meta_images(config: ResNetConfig, side: int) -> Tensor:
    return torch.empty(2, config.in_channels, side, side, device="meta")


@for_each(ROWS)
def test_rows_carry_the_printed_sizes(name: str) -> None:
    row, (params, macs, keys) = MODELS[name], ROWS[name]
    assert row.params == int(params.replace(",", ""))
    assert row.keys == int(keys)
    if macs != "-":
        unit = {"G": 1e9, "M": 1e6}[macs[-1]]
        last_digit = 10.0 ** -len(macs[:-1].partition(".")[2])
        assert abs(row.macs / unit - float(macs[:-1])) <= ROUNDED * last_digit


@cache
def sizes(config: ResNetConfig, side: int) -> Sizes:
    """Parameters, MACs and entries of the state dict; each layer is used once."""
    model = on_meta(config)
    layers = layer_table(model, side)
    uses = Counter(layer.name for layer in layers)
    assert set(uses.values()) == {1}
    leaves = {name for name, m in model.named_modules() if not any(m.children())}
    assert all(isinstance(model.get_submodule(name), nn.Identity) for name in leaves - set(uses))
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    params = count_parameters(model)
    assert params == sum(layer.parameters for layer in layers)
    return np.array([params, sum(layer.macs for layer in layers), len(model.state_dict())])


@for_each(
    (name for name in SMALLEST if MODELS[name].layers <= 16 or name == "resnet18"), slow=MODELS
)
def test_networks_have_the_sizes_of_their_rows(name: str) -> None:
    row = MODELS[name]
    assert sizes(row.config, row.input_size).tolist() == [row.params, row.macs, row.keys]


@for_each(COVER, slow=SMALLEST)
def test_stages_have_their_channels_and_strides_and_gradients_reach_the_stem(name: str) -> None:
    config, side = SMALLEST[name], 64
    model = on_meta(config)
    stages = tuple(range(1, len(config.depths) + 1))
    maps = model.features(meta_images(config, side), stages)
    first = config.stem_stride * config.first_stride
    strides = [first * 2**stage for stage in range(len(stages))]
    assert [tuple(x.shape[1:]) for x in maps] == [
        (width * config.expansion, side // stride, side // stride)
        for width, stride in zip(config.widths, strides, strict=True)
    ]
    maps[-1].sum().backward()
    assert next(model.parameters()).grad is not None


@for_each(COVER, slow=SMALLEST)
def test_shortcut_and_residual_have_equal_shapes_at_any_size(name: str) -> None:
    config = SMALLEST[name]
    model = on_meta(config).eval()
    seen: list[bool] = []

    def compare(block: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        shortcut = block.downsample(args[0])
        plain = shortcut.dim() == 0 and config.shortcut == "none"
        seen.append(plain or shortcut.shape == output.shape)

    for stage in model.stage_names:
        model.get_submodule(stage)[0].register_forward_hook(compare)
    sizes = sorted({smallest(config), 17, 63})
    for side in sizes:
        logits = model(meta_images(config, side))
        assert logits.shape == (2, config.num_classes or model.num_features)
    assert len(seen) == len(sizes) * len(model.stage_names)
    assert all(seen)


@for_each(COVER, slow=SMALLEST)
def test_two_images_train_down_to_a_map_of_one_pixel(name: str) -> None:
    config = SMALLEST[name]
    features = on_meta(config).forward_features(meta_images(config, smallest(config)))
    assert features.shape[2:] == (1, 1)


# Names without a number, with a wrong one, or with that of a network that was scaled up.
OTHER_NAMES = {"ecaresnetlight", "seresnextaa201d_32x8d"} | {
    f"resnet50x{factor}_clip{pool}" for factor in (4, 16, 64) for pool in ("", "_gap")
}


def test_layers_are_the_number_in_the_name() -> None:
    for name, row in MODELS.items():
        convolutions = 2 if row.config.expansion == 1 else 3
        counted = sum(row.config.depths) * convolutions + 2 + (row.config.head_width is not None)
        if name in OTHER_NAMES:
            assert row.layers == counted
            continue
        digits = "".join(c if c.isdigit() else " " for c in name.replace("res2", "res")).split()[0]
        assert str(row.layers) == digits
        rounded = name.startswith("resnetrs")
        others = 2 if "wrn" in name or "senet154" in name else 0  # projections, a deep stem
        assert counted == row.layers - others or rounded


def test_a_published_error_names_its_source() -> None:
    for row in MODELS.values():
        assert bool(row.error) == bool(row.source)
        kinds = ("torchvision ", "timm ", "He 2015 ", "imgclsmob", "counted, not published")
        assert row.counted.startswith(kinds)


def test_a_hundred_classes_of_the_wide_network_have_the_printed_size() -> None:
    with torch.device("meta"):
        assert count_parameters(create_model("wrn28_10", num_classes=100)) == 36_536_884


# create_model and list_models --------------------------------------------------------------------


def test_list_models_matches_shell_patterns_in_the_tables_order() -> None:
    assert list_models() == list(MODELS)
    assert list_models("plain??") == [
        "plain18",
        "plain34",
        "plain50",
        "plain20",
        "plain32",
        "plain44",
        "plain56",
    ]
    assert list_models("alexnet*") == []


def test_a_name_alone_gives_the_rows_own_classes_and_channels() -> None:
    assert create_model("resnet20").config == MODELS["resnet20"].config
    model = create_model("resnet20", num_classes=7, in_channels=1, drop_path=0.5)
    assert model.eval()(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert model.config.drop_path == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnt50"}, r"unknown model 'resnt50'; did you mean 'resnet50'\?"),
        ({"name": "resnet18", "num_clases": 3}, "did you mean 'num_classes'"),
        ({"name": "resnet18", "drop_pth": 0.1}, "did you mean 'drop_path'"),
        ({"name": "resnet18", "num_classes": -1}, "num_classes = -1: .* at least 0"),
        ({"name": "resnet18", "in_channels": "3"}, "in_channels is '3' .*whole number"),
        ({"name": "resnet18", "shortcut": "padd"}, "unknown shortcut 'padd'; did you mean 'pad'"),
    ],
)
def test_what_cannot_be_made_says_so(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        create_model(**arguments)
    assert "\n" not in str(caught.value)
