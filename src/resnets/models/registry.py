# ruff: noqa: E501 (a network is one line)
"""Provide the table of networks, `create_model` and `list_models`.

A network is one row: its configuration and what is known about it. Tests and listings loop over
the rows, so a new network is a new row.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from resnets.arguments import checked
from resnets.errors import UserError, unknown
from resnets.models.config import ResNetConfig
from resnets.models.overrides import ResNetFields, check_fields
from resnets.models.pretrained import load_weights
from resnets.models.published import published_weights
from resnets.models.resnet import ResNet

if sys.version_info >= (3, 11):
    from typing import Unpack
else:
    from typing_extensions import Unpack  # torch depends on it

# What `weights=` takes.
Source: TypeAlias = str | Path | Mapping[str, Any] | Enum


@dataclass(frozen=True)
class ModelEntry:
    """Hold a network of the table and what is known about it.

    Sizes count convolutions and linear layers for one image of `input_size`.
    """

    config: ResNetConfig
    input_size: int  # pixels a side
    # Weighted layers from image to logits, the number in the name. Authors who count otherwise are
    # followed: wrn28 includes three projections and not the classifier, ResNet-RS rounds.
    layers: int
    params: int
    macs: int  # multiply-accumulates
    keys: int  # entries of the state dict
    error: str  # published, in %: top-1 or top-1/top-5; empty where none was found in print
    source: str  # of the error: the paper or the oldest trustworthy weights, not the best recipe
    # Who else counts the sizes: tests compare with the networks of "torchvision" and "timm".
    # "imgclsmob" prints the same parameters, "rounded": the paper's fewer digits agree.
    counted: str


COUNTED = "counted, not published"


def _entry(
    family: dict[str, Any],
    source: str,
    counted: str,
    name: str,
    shape: dict[str, Any],
    layers: int,
    params: int,
    macs: int,
    keys: int,
    error: str = "",
    own_source: str | None = None,
    own_counted: str | None = None,
) -> tuple[str, ModelEntry]:
    """Return the row of a network; it may name other sources than its family."""
    config = ResNetConfig(**family | shape)
    side = 32 if config.stem_stride == 1 else 224
    source = (own_source or source) if error else ""
    counted = own_counted or counted
    if counted in ("torchvision", "timm"):
        counted = f"{counted} {name.replace('preact_resnet', 'resnetv2_')}"
    return name, ModelEntry(config, side, layers, params, macs, keys, error, source, counted)


def _each(depth: int) -> dict[str, Any]:
    return {"depths": (depth, depth, depth)}


def _wide(depth: int, factor: int) -> dict[str, Any]:
    return _each(depth) | {"widths": (16 * factor, 32 * factor, 64 * factor)}


def _grouped(groups: int, width: int) -> dict[str, Any]:
    return {"groups": groups, "group_width": width}


def _times(factor: float) -> dict[str, Any]:
    return {"widths": tuple(int(factor * width) for width in (64, 128, 256, 512))}


def _res2net(shape: dict[str, Any], width: int, scale: int, *, groups: int = 1) -> dict[str, Any]:
    parts = {"groups": groups, "group_width": width, "splits": scale}
    return shape | {"block": "res2net"} | parts


# fmt: off
_18: dict[str, Any] = {"block": "basic", "depths": (2, 2, 2, 2)}
_32: dict[str, Any] = {"depths": (2, 3, 3, 2), "widths": (64, 128, 384, 384), "stem": "deep_tiered_strided"}
_34: dict[str, Any] = {"block": "basic", "depths": (3, 4, 6, 3)}
_50: dict[str, Any] = {"block": "bottleneck", "depths": (3, 4, 6, 3)}
_26 = _50 | {"depths": (2, 2, 2, 2)}
_101 = _50 | {"depths": (3, 4, 23, 3)}
_152 = _50 | {"depths": (3, 8, 36, 3)}
_200 = _50 | {"depths": (3, 24, 36, 3)}
_269 = _50 | {"depths": (3, 30, 48, 8)}
# He 2019: a deep stem and averaged shortcuts; the tiered stem has timm's widths.
_D: dict[str, Any] = {"stem": "deep", "shortcut": "avg_conv"}
_T: dict[str, Any] = {"stem": "deep_tiered", "shortcut": "avg_conv"}
_GN32: dict[str, Any] = {"norm": "group", "norm_groups": 32}
_SMALL_INPUT: dict[str, Any] = {"stem": "small", "num_classes": 10}
# He's layout for 32 x 32 images: a 3x3 stem of stride 1, three narrow stages.
_CIFAR = _SMALL_INPUT | {"block": "basic", "widths": (16, 32, 64)}

# Families: what their networks share, the source of the errors, and who else counts the sizes.
_V15 = partial(_entry, {}, "fb.resnet.torch, 1 crop", "torchvision")
_V1 = partial(_entry, {"stride_on": "1x1"}, "He 2015 release, 1 crop", "He 2015 table 1, rounded")
_OPTION_A = partial(_entry, {"shortcut": "pad"}, "He 2015 table 2, 10 crops", "He 2015 table 1, rounded")
_PLAIN = partial(_entry, {"shortcut": "none"}, "He 2015 table 2, 10 crops", "He 2015 table 1, rounded")
_DEEP_STEM = partial(_entry, {"stem": "deep"}, "timm gluon_in1k, 224", "timm")
_RESNET_D = partial(_entry, _D, "timm gluon_in1k, 224", "timm")
_WIDE_STEM = partial(_entry, {"stem": "deep", "stem_width": 128}, "timm gluon_in1k, 224", "timm")
_TIERED_STEM = partial(_entry, _T, "", "timm")
_SE = partial(_entry, {"se": 1 / 16}, "Hu 2018, 1 crop", "timm")
_ECA = partial(_entry, {"attention": "eca"}, "", "timm")
_RESNET_RS = partial(_entry, {"stem": "deep_conv", "shortcut": "avg_conv", "se": 0.25}, "Bello 2021 release, 256", "timm")
_RESNEXT = partial(_entry, {}, "Xie 2017 table 3, 1 crop", "torchvision")
_WIDE = partial(_entry, {"group_width": 128}, "Zagoruyko 2016 release, 1 crop", "torchvision")
_BLUR = partial(_entry, {"blur": 3}, "timm bt_in1k, 288", "timm")
_AA = partial(_entry, {"blur": 2}, "", "timm")
_GN = partial(_entry, {"norm": "group"}, "timm a1h_in1k, 288", "timm")
_PREACT = partial(_entry, {"order": "pre"}, "He 2016 table 5, 320", "timm")
_BIT = partial(_entry, _GN32 | {"order": "pre", "stem": "imagenet_zero_pad", "conv": "standardised"}, "", "timm")
_CLIP = partial(_entry, _D | {"blur": 2}, "", "timm")
_NF = partial(_entry, {"block": "bottleneck_norm_free", "order": "pre", "norm": "none", "conv": "scaled", "residual_scale": 0.2, "shortcut": "avg_conv"}, "", "timm")
_TS = partial(_entry, {"block": "bottleneck_inner_attention", "stem": "deep_tiered", "activation": "silu"}, "", "timm")
_CIFAR_A = partial(_entry, _CIFAR | {"shortcut": "pad"}, "He 2015 table 6, CIFAR-10", "He 2015 table 6, rounded")
_CIFAR_B = partial(_entry, _CIFAR, "chenyaofo, CIFAR-10", "imgclsmob")
_CIFAR_PLAIN = partial(_entry, _CIFAR | {"shortcut": "none"}, "nabla0001, CIFAR-10, mean of 5", "He 2015 table 6, rounded")
_CIFAR_BOTTLENECK = partial(_entry, _CIFAR | {"block": "bottleneck", "stride_on": "1x1"}, "He 2016 table 3, CIFAR-10", COUNTED)
_PREACT_BASIC = partial(_entry, _CIFAR | {"order": "pre"}, "He 2016 table 3, CIFAR-10", "imgclsmob")
_PREACT_BOTTLENECK = partial(_entry, _CIFAR | {"block": "bottleneck", "order": "pre", "stride_on": "1x1"}, "He 2016 table 3, CIFAR-10", "imgclsmob")
_WRN = partial(_entry, _CIFAR | {"order": "pre", "stem_width": 16}, "Zagoruyko 2016, CIFAR-10", COUNTED)
_RESNEXT29 = partial(_entry, _CIFAR | {"block": "bottleneck", "widths": (64, 128, 256)}, "Xie 2017 table 7, CIFAR-10, mean of 10", COUNTED)
_SMALL = partial(_entry, _SMALL_INPUT, "kuangliu README, CIFAR-10", COUNTED)
_SMALL_HALF = partial(_entry, _SMALL_INPUT | {"widths": (32, 64, 128, 256)}, "", COUNTED)
_FAST = partial(_entry, _CIFAR | {"depths": (1, 1, 1), "stem": "whitened", "halving": "max_pool", "shortcut": "avg_conv"}, "", COUNTED)
_RES2NET = partial(_entry, {}, "Gao 2019 release, 1 crop", "timm")
_RES2NET_D = partial(_entry, {"stem": "deep", "shortcut": "avg_conv"}, "timm in1k, 224", "timm")
_RESNEST = partial(_entry, {"block": "resnest", "splits": 2, "stem": "deep", "shortcut": "avg_conv"}, "Zhang 2020 release, 224", "timm")
_SKNET = partial(_entry, {}, "timm ra_in1k, 224", "timm")
_SENET = partial(_entry, {"depths": (3, 8, 36, 3), "block": "senet", "groups": 64, "group_width": 4, "stem": "deep", "stem_width": 128, "shortcut": "conv_3x3", "se": 1 / 16}, "timm gluon_in1k, 224", "timm")
_CAFFE_SE = partial(_entry, {"stem": "caffe", "se": 1 / 16}, "Hu 2018 release, 1 crop", "timm")
_ONE_IMAGE = partial(_entry, {"order": "pre", "stem": "deep", "shortcut": "avg_conv"}, "timm ah_in1k, 288", "timm")

MODELS: dict[str, ModelEntry] = dict([
    # ImageNet, He 2015 with the stride on the 3x3 ("v1.5")
    _V15("resnet18", _18, 18, 11_689_512, 1_814_073_344, 122, "30.43"),
    _V15("resnet26", _26, 26, 15_995_176, 2_342_256_640, 176, "23.62", "timm bt_in1k, 288", "timm"),
    _V15("resnet34", _34, 34, 21_797_672, 3_663_761_408, 218, "26.73"),
    _V15("resnet50", _50, 50, 25_557_032, 4_089_184_256, 320, "24.01"),
    _V15("resnet101", _101, 101, 44_549_160, 7_801_405_440, 626, "22.44"),
    _V15("resnet152", _152, 152, 60_192_808, 11_513_626_624, 932, "22.16"),
    _V15("resnet200", _200, 200, 64_673_832, 15_007_481_856, 1220, "21.66", None, "timm"),
    # As the paper has it: stride on the first 1x1 ("v1")
    _V1("resnet50_v1", _50, 50, 25_557_032, 3_857_973_248, 320, "24.7/7.8"),
    _V1("resnet101_v1", _101, 101, 44_549_160, 7_570_194_432, 626, "23.6/7.1"),
    _V1("resnet152_v1", _152, 152, 60_192_808, 11_282_415_616, 932, "23.0/6.7"),
    # Shortcuts of option A
    _OPTION_A("resnet18_a", _18, 18, 11_515_688, 1_794_805_760, 104, "27.88"),
    _OPTION_A("resnet34_a", _34, 34, 21_623_848, 3_644_493_824, 200, "25.03/7.76", "He 2015 table 3, 10 crops"),
    # Plain networks
    _PLAIN("plain18", _18, 18, 11_515_688, 1_794_805_760, 104, "27.94"),
    _PLAIN("plain34", _34, 34, 21_623_848, 3_644_493_824, 200, "28.54/10.02", "He 2015 table 3, 10 crops"),
    _PLAIN("plain50", _50, 50, 22_780_456, 3_729_522_688, 296, "31.2", "Xie 2017 section 5.1, 1 crop", COUNTED),
    # C, D, S and T: deep stems, averaged shortcuts (He 2019)
    _DEEP_STEM("resnet50c", _50, 50, 25_576_264, 4_328_824_832, 332, "21.98"),
    _DEEP_STEM("resnet101c", _101, 101, 44_568_392, 8_041_046_016, 638, "20.46"),
    _DEEP_STEM("resnet152c", _152, 152, 60_212_040, 11_753_267_200, 944, "20.10"),
    _RESNET_D("resnet18d", _18, 18, 11_708_744, 2_053_713_920, 134, "23.99", "timm ra4_e3600, 288"),
    _RESNET_D("resnet26d", _26, 26, 16_014_408, 2_581_897_216, 188, "22.58", "timm bt_in1k, 288"),
    _RESNET_D("resnet34d", _34, 34, 21_816_904, 3_903_401_984, 230, "21.56", "timm ra2_in1k, 288"),
    _RESNET_D("resnet50d", _50, 50, 25_576_264, 4_328_824_832, 332, "20.92"),
    _RESNET_D("resnet101d", _101, 101, 44_568_392, 8_041_046_016, 638, "19.53"),
    _RESNET_D("resnet152d", _152, 152, 60_212_040, 11_753_267_200, 944, "19.52"),
    _RESNET_D("resnet200d", _200, 200, 64_693_064, 15_247_122_432, 1232, "16.02", "timm ra2_in1k, 320"),
    _WIDE_STEM("resnet50s", _50, 50, 25_680_808, 5_444_337_664, 332, "21.29"),
    _WIDE_STEM("resnet101s", _101, 101, 44_672_936, 9_156_558_848, 638, "19.72"),
    _WIDE_STEM("resnet152s", _152, 152, 60_316_584, 12_868_780_032, 944, "18.95"),
    _TIERED_STEM("resnet10t", {"block": "basic", "depths": (1, 1, 1, 1)}, 10, 5_435_488, 1_097_259_008, 86, "31.65", "timm c3_in1k, 224"),
    _TIERED_STEM("resnet14t", {"block": "bottleneck", "depths": (1, 1, 1, 1)}, 14, 10_081_632, 1_676_822_528, 116, "27.76", "timm c3_in1k, 224"),
    _TIERED_STEM("resnet26t", _26, 26, 16_011_872, 2_550_286_336, 188, "21.67", "timm ra2_in1k, 320"),
    _TIERED_STEM("resnet50t", _50, 50, 25_573_728, 4_297_213_952, 332),
    # Squeeze-and-excitation (Hu 2018)
    _SE("seresnet18", _18, 18, 11_779_624, 1_814_161_408, 154),
    _SE("seresnet34", _34, 34, 21_960_416, 3_663_920_128, 282),
    _SE("seresnet50", _50, 50, 28_088_024, 4_091_699_200, 384, "23.29/6.62"),
    _SE("seresnet101", _101, 101, 49_326_872, 7_806_148_608, 758, "22.38/6.07"),
    _SE("seresnet152", _152, 152, 66_821_848, 11_520_204_800, 1132, "21.34", "Hu 2018 release, 1 crop"),
    _SE("seresnet50t", _50 | _T, 50, 28_104_720, 4_299_728_896, 396),
    _SE("seresnet152d", _152 | _D, 152, 66_841_080, 11_759_845_376, 1144, "15.66", "timm ra2_in1k, 320"),
    _SE("seresnet200d", _200 | _D, 200, 71_855_096, 15_254_224_896, 1496),
    _SE("seresnet269d", _269 | _D, 269, 113_672_760, 20_281_032_704, 2002),
    _SE("seresnext26d_32x4d", _26 | _D | _grouped(32, 4), 26, 16_809_512, 2_711_740_416, 220, "21.18", "timm bt_in1k, 288"),
    _SE("seresnext26t_32x4d", _26 | _T | _grouped(32, 4), 26, 16_806_976, 2_680_129_536, 220, "21.26", "timm bt_in1k, 288"),
    _SE("seresnext50_32x4d", _50 | _grouped(32, 4), 50, 27_559_896, 4_232_994_816, 384, "20.08", "timm gluon_in1k, 224"),
    _SE("seresnext101_32x4d", _101 | _grouped(32, 4), 101, 48_955_416, 7_974_739_968, 758, "19.11", "timm gluon_in1k, 224"),
    _SE("seresnext101_32x8d", _101 | _grouped(32, 8), 101, 93_569_048, 16_418_758_656, 758, "15.81", "timm ah_in1k, 288"),
    _SE("seresnext101_64x4d", _101 | _grouped(64, 4), 101, 88_232_984, 15_465_013_248, 758, "19.12", "timm gluon_in1k, 224"),
    _SE("seresnext101d_32x8d", _101 | _D | _grouped(32, 8), 101, 93_588_280, 16_658_399_232, 770, "15.62", "timm ah_in1k, 288"),
    # Efficient channel attention (Wang 2019)
    _ECA("ecaresnet26t", _26 | _T, 26, 16_011_916, 2_550_286_336, 196, "20.10", "timm ra2_in1k, 320"),
    _ECA("ecaresnet50d", _50 | _D, 50, 25_576_350, 4_328_824_832, 348, "18.35", "timm miil_in1k, 288"),
    _ECA("ecaresnet50t", _50 | _T, 50, 25_573_814, 4_297_213_952, 348, "17.63", "timm ra2_in1k, 320"),
    _ECA("ecaresnet101d", _101 | _D, 101, 44_568_563, 8_041_046_016, 671, "16.99", "timm miil_in1k, 288"),
    _ECA("ecaresnet200d", _200 | _D, 200, 64_693_400, 15_247_122_432, 1298),
    _ECA("ecaresnet269d", _269 | _D, 269, 102_093_077, 20_269_539_328, 1735, "15.03", "timm ra2_in1k, 352"),
    _ECA("ecaresnetlight", _50 | {"depths": (1, 1, 11, 3), "shortcut": "avg_conv"}, 50, 30_162_046, 4_089_184_256, 336, "18.57", "timm miil_in1k, 288"),
    _ECA("ecaresnext26t_32x4d", _26 | _T | _grouped(32, 4), 26, 15_406_220, 2_678_736_896, 196),
    _ECA("ecaresnext50t_32x4d", _50 | _T | _grouped(32, 4), 50, 25_045_686, 4_438_509_568, 348),
    # ResNet-RS (Bello 2021)
    _RESNET_RS("resnetrs50", _50, 50, 35_691_912, 4_454_490_112, 402, "21.2", "Bello 2021 release, 160"),
    _RESNET_RS("resnetrs101", _101, 101, 63_618_696, 8_175_624_192, 776, "18.8", "Bello 2021 release, 192"),
    _RESNET_RS("resnetrs152", _152, 152, 86_621_576, 11_895_185_408, 1150, "17.0"),
    _RESNET_RS("resnetrs200", _200, 200, 93_209_992, 15_391_137_792, 1502, "16.6"),
    _RESNET_RS("resnetrs270", _50 | {"depths": (4, 29, 53, 4)}, 270, 129_861_448, 20_643_618_816, 2030, "16.2"),
    _RESNET_RS("resnetrs350", _50 | {"depths": (4, 36, 72, 4)}, 350, 163_956_168, 26_332_012_544, 2602, "15.8", "Bello 2021 release, 320"),
    _RESNET_RS("resnetrs420", _50 | {"depths": (4, 44, 87, 4)}, 420, 191_891_656, 31_363_342_336, 3108, "15.6", "Bello 2021 release, 320"),
    # ResNeXt (Xie 2017)
    _RESNEXT("resnext50_32x4d", _50 | _grouped(32, 4), 50, 25_028_904, 4_230_479_872, 320, "22.2"),
    _RESNEXT("resnext50d_32x4d", _50 | _D | _grouped(32, 4), 50, 25_048_136, 4_470_120_448, 332, "19.32", "timm bt_in1k, 288", "timm"),
    _RESNEXT("resnext101_32x4d", _101 | _grouped(32, 4), 101, 44_177_704, 7_969_996_800, 626, "21.2", None, "timm"),
    _RESNEXT("resnext101_32x8d", _101 | _grouped(32, 8), 101, 88_791_336, 16_414_015_488, 626, "20.69/5.47", "torchvision IMAGENET1K_V1"),
    _RESNEXT("resnext101_32x16d", _101 | _grouped(32, 16), 101, 194_026_792, 36_163_289_088, 626, "15.83", "timm fb_wsl_ig1b_ft_in1k, 224", "timm"),
    _RESNEXT("resnext101_32x32d", _101 | _grouped(32, 32), 101, 468_530_472, 87_106_781_184, 626, "14.91", "timm fb_wsl_ig1b_ft_in1k, 224", "timm"),
    _RESNEXT("resnext101_64x4d", _101 | _grouped(64, 4), 101, 83_455_272, 15_460_270_080, 626, "20.4/5.3", "Xie 2017 table 4, 1 crop"),
    # Wide ResNet, ImageNet (Zagoruyko 2016)
    _WIDE("wide_resnet50_2", _50, 50, 68_883_240, 11_398_021_120, 320, "21.9/6.03"),
    _WIDE("wide_resnet101_2", _101, 101, 126_886_696, 22_753_050_624, 626, "21.15/5.72", "torchvision IMAGENET1K_V1"),
    # Blur pooling (Zhang 2019), group norm (Wu 2018)
    _BLUR("resnetblur18", _18, 18, 11_689_512, 2_334_298_112, 122),
    _BLUR("resnetblur50", _50, 50, 25_557_032, 5_129_633_792, 320, "19.75"),
    _BLUR("resnetblur50d", _50 | _D, 50, 25_576_264, 5_369_274_368, 332),
    _BLUR("resnetblur101d", _101 | _D, 101, 44_568_392, 9_081_495_552, 638),
    # Averages of 2x2 pixels before each subsampling
    _AA("resnetaa34d", _34 | _D, 34, 21_816_904, 4_423_626_752, 230),
    _AA("resnetaa50", _50, 50, 25_557_032, 5_129_633_792, 320, "18.38", "timm a1h_in1k, 288"),
    _AA("resnetaa50d", _50 | _D, 50, 25_576_264, 5_369_274_368, 332),
    _AA("resnetaa101d", _101 | _D, 101, 44_568_392, 9_081_495_552, 638),
    _AA("seresnetaa50d", _50 | _D | {"se": 1 / 16}, 50, 28_107_256, 5_371_789_312, 396),
    _AA("seresnextaa101d_32x8d", _101 | _D | _grouped(32, 8) | {"se": 1 / 16}, 101, 93_588_280, 17_178_624_000, 770, "15.42", "timm ah_in1k, 288"),
    _AA("seresnextaa201d_32x8d", _200 | _D | _grouped(32, 8) | {"depths": (3, 24, 36, 4), "stem_width": 128, "se": 1 / 16}, 203, 149_394_904, 34_276_270_080, 1518),
    _GN("resnet50_gn", _50, 50, 25_557_032, 4_089_184_256, 161, "18.78"),
    # Pre-activation, ImageNet (He 2016)
    _PREACT("preact_resnet18", _18, 18, 11_687_720, 1_814_073_344, 107, "24.64", "timm resnetv2_18 ra4_e3600, 288"),
    _PREACT("preact_resnet34", _34, 34, 21_795_880, 3_663_761_408, 203, "20.93", "timm resnetv2_34 ra4_e3600, 288"),
    _PREACT("preact_resnet50", _50, 50, 25_549_352, 4_089_184_256, 300, "18.59", "timm resnetv2_50 a1h, 288"),
    _PREACT("preact_resnet101", _101, 101, 44_541_480, 7_801_405_440, 606, "17.00", "timm resnetv2_101 a1h, 288"),
    _PREACT("preact_resnet152", _152, 152, 60_185_128, 11_513_626_624, 912, "21.1"),
    _PREACT("preact_resnet200", _200, 200, 64_666_152, 15_007_481_856, 1200, "20.7", None, COUNTED),
    _PREACT("preact_resnet18d", _18 | _D, 18, 11_706_952, 2_053_713_920, 119, "23.94", "timm resnetv2_18d ra4_e3600_r224_in1k, 288"),
    _PREACT("preact_resnet34d", _34 | _D, 34, 21_815_112, 3_903_401_984, 215, "20.39", "timm resnetv2_34d ra4_e3600_r224_in1k, 288"),
    _PREACT("preact_resnet50d", _50 | _D, 50, 25_568_584, 4_328_824_832, 312),
    _PREACT("preact_resnet50t", _50 | _T, 50, 25_566_048, 4_297_213_952, 312),
    _PREACT("preact_resnet101d", _101 | _D, 101, 44_560_712, 8_041_046_016, 618),
    _PREACT("preact_resnet152d", _152 | _D, 152, 60_204_360, 11_753_267_200, 924),
    _PREACT("preact_resnet50d_gn", _50 | _D | _GN32, 50, 25_568_584, 4_328_824_832, 159, "18.04", "timm resnetv2_50d_gn ah_in1k, 288"),
    # Big Transfer (Kolesnikov 2019): group norm, standardised filters
    _BIT("preact_resnet50x1_bit", _50, 50, 25_549_352, 4_089_184_256, 153, "19.61", "timm resnetv2_50x1_bit goog_in21k_ft_in1k, 448"),
    _BIT("preact_resnet50x3_bit", _50 | _times(3), 50, 217_319_080, 36_082_286_592, 153, "16.02", "timm resnetv2_50x3_bit goog_in21k_ft_in1k, 448"),
    _BIT("preact_resnet101x1_bit", _101, 101, 44_541_480, 7_801_405_440, 306, "17.67", "timm resnetv2_101x1_bit goog_in21k_ft_in1k, 448"),
    _BIT("preact_resnet101x3_bit", _101 | _times(3), 101, 387_934_888, 69_492_277_248, 306, "15.57", "timm resnetv2_101x3_bit goog_in21k_ft_in1k, 448"),
    _BIT("preact_resnet152x2_bit", _152 | _times(2), 152, 236_335_208, 45_814_382_592, 459, "15.53", "timm resnetv2_152x2_bit goog_in21k_ft_in1k, 448"),
    _BIT("preact_resnet152x4_bit", _152 | _times(4), 152, 936_533_224, 182_777_282_560, 459, "15.06", "timm resnetv2_152x4_bit goog_in21k_ft_in1k, 480"),
    # CLIP (Radford 2021): images to embeddings, by an attention pool or ("gap") the mean
    _CLIP("resnet50_clip", _50 | {"attention_pool": 7, "num_classes": 1024}, 50, 38_316_896, 5_792_948_224, 339),
    _CLIP("resnet50_clip_gap", _50 | {"num_classes": 0}, 50, 23_527_264, 5_367_226_368, 330),
    _CLIP("resnet101_clip", _101 | {"attention_pool": 7, "num_classes": 512}, 101, 56_259_936, 9_504_120_832, 645),
    _CLIP("resnet101_clip_gap", _101 | {"num_classes": 0}, 101, 42_519_392, 9_079_447_552, 636),
    _CLIP("resnet50x4_clip", _50 | _times(1.25) | {"depths": (4, 6, 10, 6), "attention_pool": 9, "num_classes": 640}, 80, 87_137_080, 12_458_424_320, 519),
    _CLIP("resnet50x4_clip_gap", _50 | _times(1.25) | {"depths": (4, 6, 10, 6), "num_classes": 0}, 80, 65_619_640, 11_794_872_320, 510),
    _CLIP("resnet50x16_clip", _50 | _times(1.5) | {"depths": (6, 8, 18, 8), "attention_pool": 12, "num_classes": 768}, 122, 167_328_912, 24_815_407_104, 771),
    _CLIP("resnet50x16_clip_gap", _50 | _times(1.5) | {"depths": (6, 8, 18, 8), "num_classes": 0}, 122, 136_202_640, 23_859_892_224, 762),
    _CLIP("resnet50x64_clip", _50 | _times(2) | {"depths": (3, 15, 36, 10), "attention_pool": 14, "num_classes": 1024}, 194, 420_380_352, 65_072_185_344, 1203),
    _CLIP("resnet50x64_clip_gap", _50 | _times(2) | {"depths": (3, 15, 36, 10), "num_classes": 0}, 194, 365_034_176, 63_373_492_224, 1194),
    # Without norms (Brock 2021)
    _NF("nf_resnet26", {"depths": (2, 2, 2, 2)}, 26, 15_995_176, 2_342_256_640, 89),
    _NF("nf_resnet50", {"depths": (3, 4, 6, 3)}, 50, 25_557_032, 4_089_184_256, 161, "19.34", "timm ra2_in1k, 288"),
    _NF("nf_resnet101", {"depths": (3, 4, 23, 3)}, 101, 44_549_160, 7_801_405_440, 314),
    _NF("nf_seresnet26", {"depths": (2, 2, 2, 2), "se": 1 / 16}, 26, 17_395_976, 2_343_649_280, 121),
    _NF("nf_seresnet50", {"depths": (3, 4, 6, 3), "se": 1 / 16}, 50, 28_088_024, 4_091_699_200, 225),
    _NF("nf_seresnet101", {"depths": (3, 4, 23, 3), "se": 1 / 16}, 101, 49_326_872, 7_806_148_608, 446),
    _NF("nf_ecaresnet26", {"depths": (2, 2, 2, 2), "attention": "eca"}, 26, 15_995_220, 2_342_256_640, 97),
    _NF("nf_ecaresnet50", {"depths": (3, 4, 6, 3), "attention": "eca"}, 50, 25_557_118, 4_089_184_256, 177),
    _NF("nf_ecaresnet101", {"depths": (3, 4, 23, 3), "attention": "eca"}, 101, 44_549_331, 7_801_405_440, 347),
    # timm's SiLU networks, with attention inside the block
    _TS("resnext26ts", {"depths": (2, 2, 2, 2), "group_size": 32}, 26, 10_297_952, 1_842_202_624, 188, "22.81", "timm ra2_in1k, 288"),
    _TS("seresnext26ts", {"depths": (2, 2, 2, 2), "group_size": 32, "se": 1 / 16}, 26, 10_388_064, 1_842_290_688, 220, "21.71", "timm ch_in1k, 288"),
    _TS("eca_resnext26ts", {"depths": (2, 2, 2, 2), "group_size": 32, "attention": "eca"}, 26, 10_297_988, 1_842_202_624, 196, "21.98", "timm ch_in1k, 288"),
    _TS("gcresnext26ts", {"depths": (2, 2, 2, 2), "group_size": 32, "attention": "global_context"}, 26, 10_476_600, 1_843_129_344, 252, "21.56", "timm ch_in1k, 288"),
    _TS("gcresnext50ts", {"depths": (3, 4, 6, 3), "group_size": 32, "attention": "global_context"}, 50, 15_667_320, 2_846_614_016, 460, "18.76", "timm ch_in1k, 288"),
    _TS("gcresnet50t", {"depths": (3, 4, 6, 3), "stem": "deep_tiered_strided", "activation": "relu", "attention": "global_context"}, 50, 25_897_080, 4_125_499_904, 460, "18.54", "timm ra2_in1k, 288"),
    _TS("resnet32ts", _32, 32, 17_963_616, 3_527_604_224, 224, "20.61", "timm ra2_in1k, 288"),
    _TS("resnet33ts", _32 | {"head_width": 1280}, 33, 19_676_256, 3_623_686_144, 230, "20.29", "timm ra2_in1k, 288"),
    _TS("seresnet33ts", _32 | {"head_width": 1280, "se": 1 / 16}, 33, 19_779_200, 3_623_786_496, 270, "19.19", "timm ra2_in1k, 288"),
    _TS("eca_resnet33ts", _32 | {"head_width": 1280, "attention": "eca"}, 33, 19_676_302, 3_623_686_144, 240, "19.28", "timm ra2_in1k, 288"),
    _TS("gcresnet33ts", _32 | {"head_width": 1280, "attention": "global_context"}, 33, 19_880_698, 3_624_850_688, 310, "19.41", "timm ra2_in1k, 288"),
    # CIFAR, He 2015: option A, option B, plain
    _CIFAR_A("resnet20", _each(3), 20, 269_722, 40_551_040, 116, "8.75"),
    _CIFAR_A("resnet32", _each(5), 32, 464_154, 68_862_592, 188, "7.51"),
    _CIFAR_A("resnet44", _each(7), 44, 658_586, 97_174_144, 260, "7.17"),
    _CIFAR_A("resnet56", _each(9), 56, 853_018, 125_485_696, 332, "6.97"),
    _CIFAR_A("resnet110", _each(18), 110, 1_727_962, 252_887_680, 656, "6.61", "He 2015 table 6, CIFAR-10, mean of 5"),
    _CIFAR_A("resnet1202", _each(200), 1202, 19_421_274, 2_829_238_912, 7208, "7.93"),
    _CIFAR_B("resnet20_b", _each(3), 20, 272_474, 40_813_184, 128, "7.40"),
    _CIFAR_B("resnet32_b", _each(5), 32, 466_906, 69_124_736, 200, "6.47", None, COUNTED),
    _CIFAR_B("resnet44_b", _each(7), 44, 661_338, 97_436_288, 272, "5.99", None, COUNTED),
    _CIFAR_B("resnet56_b", _each(9), 56, 855_770, 125_747_840, 344, "5.63"),
    _CIFAR_B("resnet110_b", _each(18), 110, 1_730_714, 253_149_824, 668, "3.69", "imgclsmob, CIFAR-10"),
    _CIFAR_B("resnet1202_b", _each(200), 1202, 19_424_026, 2_829_501_056, 7220, "3.53", "imgclsmob, CIFAR-10"),
    _CIFAR_PLAIN("plain20", _each(3), 20, 269_722, 40_551_040, 116, "9.78"),
    _CIFAR_PLAIN("plain32", _each(5), 32, 464_154, 68_862_592, 188),
    _CIFAR_PLAIN("plain44", _each(7), 44, 658_586, 97_174_144, 260),
    _CIFAR_PLAIN("plain56", _each(9), 56, 853_018, 125_485_696, 332, "12.95"),
    _CIFAR_PLAIN("plain110", _each(18), 110, 1_727_962, 252_887_680, 656, "> 60", "He 2015 section 4.2, CIFAR-10"),
    _CIFAR_PLAIN("plain1202", _each(200), 1202, 19_421_274, 2_829_238_912, 7208),
    # CIFAR, bottlenecks and pre-activation (He 2016); the paper rounds 1,001 layers to 10.2 M parameters
    _CIFAR_BOTTLENECK("resnet164", _each(18), 164, 1_704_154, 244_500_992, 998, "5.93"),
    _CIFAR_BOTTLENECK("resnet1001", _each(111), 1001, 10_328_602, 1_487_849_984, 6020, "7.61"),
    _PREACT_BASIC("preact_resnet110", _each(18), 110, 1_730_522, 253_149_824, 658, "6.37"),
    _PREACT_BOTTLENECK("preact_resnet164", _each(18), 164, 1_703_258, 244_500_992, 983, "5.46"),
    _PREACT_BOTTLENECK("preact_resnet1001", _each(111), 1001, 10_327_706, 1_487_849_984, 6005, "4.92", "He 2016 table 4, CIFAR-10, median of 5"),
    # CIFAR, wide (Zagoruyko 2016) and grouped (Xie 2017)
    _WRN("wrn16_4", _wide(2, 4), 16, 2_748_890, 392_612_352, 83),
    _WRN("wrn16_8", _wide(2, 8), 16, 10_961_370, 1_548_145_664, 83, "4.27"),
    _WRN("wrn22_8", _wide(3, 8), 22, 17_158_106, 2_454_115_328, 119),
    _WRN("wrn28_2", _wide(4, 2), 28, 1_467_610, 214_353_152, 155),
    _WRN("wrn28_10", _wide(4, 10), 28, 36_479_194, 5_243_328_768, 155, "4.00", None, "imgclsmob"),
    _WRN("wrn40_4", _wide(6, 4), 40, 8_949_210, 1_298_582_016, 227, "4.53"),
    _WRN("wrn40_10", _wide(6, 10), 40, 55_841_754, 8_074_483_968, 227, "3.8", "Zagoruyko 2016, CIFAR-10, dropout"),
    _RESNEXT29("resnext29_8x64d", _each(3) | {"groups": 8}, 29, 34_426_698, 5_387_266_048, 188, "3.65"),
    _RESNEXT29("resnext29_16x64d", _each(3) | {"groups": 16}, 29, 68_155_210, 10_688_866_304, 188, "3.58", None, "imgclsmob"),
    # ImageNet layout with a 3x3 stem for small images; resnet18_cifar is the article's network
    _SMALL("resnet18_cifar", _18, 18, 11_173_962, 555_422_720, 122, "6.98"),
    _SMALL("resnet34_cifar", _34, 34, 21_282_122, 1_159_402_496, 218, "4.66", "mmpretrain, CIFAR-10"),
    _SMALL("resnet50_cifar", _50, 50, 23_520_842, 1_297_829_888, 320, "6.38"),
    _SMALL("resnet101_cifar", _101, 101, 42_512_970, 2_509_983_744, 626),
    _SMALL("resnet152_cifar", _152, 152, 58_156_618, 3_722_137_600, 932),
    _SMALL("preact_resnet18_cifar", _18 | {"order": "pre"}, 18, 11_172_170, 555_422_720, 107, "4.89", "kuangliu README, CIFAR-10, without the final norm and ReLU"),
    # Half the width or fewer blocks, for short runs on few cores: `resnets train` chooses from these
    _V15("resnet18_half", _18 | {"widths": (32, 64, 128, 256)}, 18, 3_055_880, 483_149_824, 122, "", None, COUNTED),
    _SMALL_HALF("resnet10_half_cifar", {"block": "basic", "depths": (1, 1, 1, 1)}, 10, 1_228_970, 63_801_856, 74),
    # Whitened stem, pooled halving; resnet8_fast has the widths of airbench94 (arXiv 2404.00498)
    _FAST("resnet8_fast", {"widths": (64, 256, 256)}, 8, 2_057_122, 149_064_192, 58),
    _FAST("resnet8_fast_half", {"widths": (32, 128, 128)}, 8, 519_650, 41_125_120, 58),
    _FAST("resnet8_fast_wide", {"widths": (128, 384, 384)}, 8, 4_807_714, 376_999_680, 58),
    _FAST("plain8_fast_wide", {"widths": (128, 384, 384), "shortcut": "none"}, 8, 4_606_242, 370_708_224, 40),
    _SMALL_HALF("resnet18_half_cifar", _18, 18, 2_797_610, 139_299_328, 122),
    # Res2Net (Gao 2019)
    _RES2NET("res2net50_48w_2s", _res2net(_50, 48, 2), 50, 25_287_304, 4_159_832_064, 320, "22.68/6.47"),
    _RES2NET("res2net50_26w_4s", _res2net(_50, 26, 4), 50, 25_699_120, 4_255_166_464, 512, "22.01/6.15"),
    _RES2NET("res2net50_14w_8s", _res2net(_50, 14, 8), 50, 25_059_816, 4_178_898_944, 896, "21.86/6.14"),
    _RES2NET("res2net50_26w_6s", _res2net(_50, 26, 6), 50, 37_051_448, 6_295_523_328, 704, "21.42/5.87"),
    _RES2NET("res2net50_26w_8s", _res2net(_50, 26, 8), 50, 48_403_776, 8_335_880_192, 896, "20.80/5.63"),
    _RES2NET("res2net101_26w_4s", _res2net(_101, 26, 4), 101, 45_206_688, 8_066_974_464, 1022, "20.81/5.57"),
    _RES2NET("res2next50", _res2net(_50, 4, 4, groups=8), 50, 24_671_464, 4_172_677_120, 512, "21.76/6.09"),
    _RES2NET_D("res2net50d", _res2net(_50, 26, 4), 50, 25_718_352, 4_494_807_040, 524, "19.72"),
    _RES2NET_D("res2net101d", _res2net(_101, 26, 4), 101, 45_225_920, 8_306_615_040, 1034, "18.76"),
    # ResNeSt (Zhang 2020)
    _RESNEST("resnest14d", {"depths": (1, 1, 1, 1)}, 14, 10_611_688, 2_749_405_184, 152, "24.48", "timm gluon_in1k, 224"),
    _RESNEST("resnest26d", {"depths": (2, 2, 2, 2)}, 26, 17_069_448, 3_623_391_232, 260, "21.52", "timm gluon_in1k, 224"),
    _RESNEST("resnest50d", {"depths": (3, 4, 6, 3)}, 50, 27_483_240, 5_371_160_576, 476, "18.97"),
    _RESNEST("resnest101e", {"depths": (3, 4, 23, 3), "stem_width": 128}, 101, 48_275_016, 10_200_565_760, 935, "17.17", "Zhang 2020 release, 256"),
    _RESNEST("resnest200e", {"depths": (3, 24, 36, 3), "stem_width": 128}, 200, 70_201_544, 17_408_411_648, 1826, "16.16", "Zhang 2020 release, 320"),
    _RESNEST("resnest269e", {"depths": (3, 30, 48, 8), "stem_width": 128}, 269, 110_929_480, 22_434_121_728, 2447, "15.46", "Zhang 2020 release, 416"),
    _RESNEST("resnest50d_4s2x40d", _50 | {"block": "resnest_fast", "groups": 2, "group_width": 40, "splits": 4}, 50, 30_417_592, 4_369_060_736, 476, "19.14"),
    _RESNEST("resnest50d_1s4x24d", _50 | {"block": "resnest_fast", "groups": 4, "group_width": 24, "splits": 1}, 50, 25_677_000, 4_399_827_456, 476, "19.01"),
    # SKNet (Li 2019): the last is the paper's SKNet-50
    _SKNET("skresnet18", _18 | {"block": "sk_basic", "splits": 2}, 18, 11_958_056, 1_814_337_536, 226, "26.98"),
    _SKNET("skresnet34", _34 | {"block": "sk_basic", "splits": 2}, 34, 22_282_376, 3_664_237_568, 426, "23.04"),
    _SKNET("skresnet50", _50 | {"block": "sk_bottleneck", "splits": 2}, 50, 25_803_160, 4_089_422_336, 528),
    _SKNET("skresnet50d", _50 | {"block": "sk_bottleneck", "splits": 2, "stem": "deep", "shortcut": "avg_conv"}, 50, 25_822_392, 4_329_062_912, 540),
    _SKNET("skresnext50_32x4d", _50 | {"block": "sk_bottleneck", "groups": 32, "group_width": 4}, 50, 27_479_784, 4_462_710_784, 528, "20.79", "Li 2019 table 2, 1 crop"),
    # SENet (Hu 2018), and with Caffe's pool as the authors' weights have it ("legacy")
    _SENET("senet154", {}, 154, 115_088_984, 20_688_363_520, 1144, "18.74"),
    _SENET("legacy_senet154", {"stem": "deep_caffe", "dropout": 0.2}, 154, 115_088_984, 20_688_363_520, 1144, "18.68/4.47", "Hu 2018 release, 1 crop"),
    _CAFFE_SE("legacy_seresnet18", _18 | {"block": "legacy_se_basic"}, 18, 11_778_592, 1_814_160_384, 154, "28.26", "timm in1k, 224"),
    _CAFFE_SE("legacy_seresnet34", _34 | {"block": "legacy_se_basic"}, 34, 21_958_868, 3_663_918_592, 282, "25.21", "timm in1k, 224"),
    _CAFFE_SE("legacy_seresnet50", _50 | {"stride_on": "1x1"}, 50, 28_088_024, 3_860_488_192, 384, "22.37/6.36"),
    _CAFFE_SE("legacy_seresnet101", _101 | {"stride_on": "1x1"}, 101, 49_326_872, 7_574_937_600, 758, "21.75/5.72"),
    _CAFFE_SE("legacy_seresnet152", _152 | {"stride_on": "1x1"}, 152, 66_821_848, 11_288_993_792, 1132, "21.34/5.54"),
    _CAFFE_SE("legacy_seresnext26_32x4d", {"block": "bottleneck", "depths": (2, 2, 2, 2), "groups": 32, "group_width": 4}, 26, 16_790_280, 2_472_099_840, 208, "22.90", "timm in1k, 224"),
    _CAFFE_SE("legacy_seresnext50_32x4d", _50 | {"groups": 32, "group_width": 4}, 50, 27_559_896, 4_232_994_816, 384, "20.97/5.54"),
    _CAFFE_SE("legacy_seresnext101_32x4d", _101 | {"groups": 32, "group_width": 4}, 101, 48_955_416, 7_974_739_968, 758, "19.81/4.96"),
    # Norms of one image that contain the activation (Liu 2020, Singh 2019)
    _ONE_IMAGE("preact_resnet50d_evos", _50 | {"norm": "evo", "norm_groups": 32}, 50, 25_591_368, 4_328_824_832, 210, "17.98"),
    _ONE_IMAGE("preact_resnet50d_frn", _50 | {"norm": "filter_response"}, 50, 25_591_368, 4_328_824_832, 210),
])
# fmt: on


@checked()
def list_models(pattern: str = "*", *, weights: bool = False) -> list[str]:
    """Return the names of the networks that match a shell pattern, in the table's order.

    Args:
        pattern: Pattern such as `resnet*_cifar`; the default matches every network.
        weights: Whether to return only networks with published weights: those of torchvision, and
            those of timm if timm is installed. `resnets models --weights` shows them.

    Returns:
        The names, as `create_model` takes them.
    """
    names = [name for name in MODELS if fnmatchcase(name, pattern)]
    if weights:
        names = [name for name in names if published_weights(name, timm_name=timm_name(name))]
    return names


def timm_name(name: str) -> str | None:
    """Return timm's name of a network of the table, if it has one."""
    package, _, theirs = MODELS[name].counted.partition(" ")
    return theirs if package in ("timm", "torchvision") else None


def foreign_names() -> dict[str, tuple[str, ResNetConfig]]:
    """Return timm's and torchvision's names of networks, each with the name and config here."""
    names = {timm_name(name): (name, entry.config) for name, entry in MODELS.items()}
    return {theirs: ours for theirs, ours in names.items() if theirs is not None}


def unknown_model(name: str) -> UserError:
    """Return the error for a name that is not in the table."""
    base, _, tag = name.partition(".")
    row, _ = foreign_names().get(base, ("", None))
    if row:
        what = f"{row!r} with weights='timm:{name}'" if tag else repr(row)
        return UserError(f"timm's {name} is {what} here")
    error = str(unknown("model", base, MODELS))
    return UserError(f"{error}{'' if error.endswith('?') else ';'} `resnets models` lists all")


@checked(weights="a text, a path, a state_dict or weights of torchvision's enums")
def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | Mapping[str, Any] | Enum | None = None,
    **overrides: Unpack[ResNetFields],
) -> ResNet:
    """Create a network of the table, on the CPU and in training mode.

    Args:
        name: A name from `list_models()`, or timm's name with a tag, such as `resnet50.a1_in1k`:
            that network with timm's weights.
        num_classes: Number of classes. Given together with `weights` for another number of
            classes, or without a classifier, it asks for a new one. None is the network's own
            number, 0 a network without a classifier.
        in_channels: Channels of the images. Given together with `weights` for another number of
            channels, it asks to adapt the first convolution. None is the network's own number.
        weights: A path, an http(s) URL, `hub:owner/name`, `timm:resnet50.a1_in1k`,
            `torchvision:IMAGENET1K_V1` or the tag alone, a member of torchvision's enums such as
            `ResNet50_Weights.DEFAULT`, or a state_dict. `weights_preprocess` returns the
            preprocessing that belongs to them. None draws initial weights from torch's global
            generator.
        **overrides: Fields of `ResNetConfig`, as in `create_model("resnet50", blur=3)`.

    Returns:
        The network.

    Raises:
        UserError: The name, a field or a value is unknown, or the weights do not fit.

    Warns:
        UserWarning: The weights have parts that are left out, such as a projection head, or no
            classifier.
    """
    name, weights = split_tag(name, weights)
    if name not in MODELS:
        raise unknown_model(name)
    fields: dict[str, Any] = {**overrides}
    check_fields(fields)
    explicit = {"num_classes": num_classes, "in_channels": in_channels}
    fields |= {field: value for field, value in explicit.items() if value is not None}
    model = ResNet(replace(MODELS[name].config, **fields))
    if weights is not None:
        load_weights(
            model,
            weights,
            name=name,
            fresh_head=num_classes is not None,
            adapt_channels=in_channels is not None,
            foreign=foreign_names(),
        )
    return model


def split_tag(name: str, weights: Source | None) -> tuple[str, Source | None]:
    """Return the name in the table and the weights of `resnet50.a1_in1k`; other names as given."""
    base, _, tag = name.partition(".")
    row, _ = foreign_names().get(base, ("", None))
    if not tag or not row:
        return name, weights
    if weights is not None:
        raise UserError(f"{name!r} names its weights already: leave out weights=, or use {row!r}")
    return row, f"timm:{name}"
