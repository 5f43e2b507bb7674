# ruff: noqa: E501 (one network, one line)
"""A name enters, a network leaves; the table between them is the zoo.

The idea: facts are data. A network is one row, its description beside what is known about it, so
that tests and listings loop over rows and a new network is a new line. Each row reads

    name: config, input side, layers, parameters, multiply-accumulates, entries of the state dict,
          published error in % (top-1 or top-1/top-5), where that was read, who else counts the sizes

Layers are the number in the network's name: weighted layers from image to logits, but where its
authors count otherwise (a wide network's 28 include three projections and not the classifier;
ResNet-RS rounds).
Errors are of the paper or of the oldest trustworthy weights, not of the best recipe since; an
empty one was not found in print. Sizes count convolutions and linear layers at the input side;
those of "torchvision" and "timm" are compared with that library's own network, "imgclsmob" prints
the same parameters, "rounded" means that the paper's fewer digits agree.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from resnets.errors import UserError, unknown
from resnets.models.config import FIELDS, ResNetConfig
from resnets.models.resnet import ResNet


@dataclass(frozen=True)
class Row:
    """One network and what is known about it."""

    config: ResNetConfig
    input_size: int  # pixels a side
    layers: int
    params: int
    macs: int
    keys: int
    error: str
    source: str
    counted: str


def _cifar(
    depths: tuple[int, ...], block: str, widths: tuple[int, ...] = (16, 32, 64), **ideas: object
) -> ResNetConfig:
    """He's plan for 32 x 32 images: a 3x3 stem of stride 1, three narrow stages unless told."""
    return ResNetConfig(depths, block, widths, **{"num_classes": 10, "stem": "small"} | ideas)  # type: ignore[arg-type]


def _fast(widths: tuple[int, ...], shortcut: str = "avg_conv") -> ResNetConfig:
    """One unit a stage behind a whitened stem, halved by maxima."""
    return _cifar(
        (1, 1, 1), "basic", widths, stem="whitened", halving="max_pool", shortcut=shortcut
    )


# fmt: off
MODELS: dict[str, Row] = {
    # ImageNet, He 2015 with the stride on the 3x3 ("v1.5")
    "resnet18": Row(ResNetConfig((2, 2, 2, 2), "basic"), 224, 18, 11_689_512, 1_814_073_344, 122, "30.43", "fb.resnet.torch, 1 crop", "torchvision resnet18"),
    "resnet34": Row(ResNetConfig((3, 4, 6, 3), "basic"), 224, 34, 21_797_672, 3_663_761_408, 218, "26.73", "fb.resnet.torch, 1 crop", "torchvision resnet34"),
    "resnet50": Row(ResNetConfig((3, 4, 6, 3), "bottleneck"), 224, 50, 25_557_032, 4_089_184_256, 320, "24.01", "fb.resnet.torch, 1 crop", "torchvision resnet50"),
    "resnet101": Row(ResNetConfig((3, 4, 23, 3), "bottleneck"), 224, 101, 44_549_160, 7_801_405_440, 626, "22.44", "fb.resnet.torch, 1 crop", "torchvision resnet101"),
    "resnet152": Row(ResNetConfig((3, 8, 36, 3), "bottleneck"), 224, 152, 60_192_808, 11_513_626_624, 932, "22.16", "fb.resnet.torch, 1 crop", "torchvision resnet152"),
    "resnet200": Row(ResNetConfig((3, 24, 36, 3), "bottleneck"), 224, 200, 64_673_832, 15_007_481_856, 1220, "21.66", "fb.resnet.torch, 1 crop", "timm resnet200"),
    # as the paper has it: stride on the first 1x1 ("v1"); shortcuts of option A
    "resnet50_v1": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", stride_on="1x1"), 224, 50, 25_557_032, 3_857_973_248, 320, "24.7/7.8", "He 2015 release, 1 crop", "He 2015 table 1, rounded"),
    "resnet101_v1": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", stride_on="1x1"), 224, 101, 44_549_160, 7_570_194_432, 626, "23.6/7.1", "He 2015 release, 1 crop", "He 2015 table 1, rounded"),
    "resnet152_v1": Row(ResNetConfig((3, 8, 36, 3), "bottleneck", stride_on="1x1"), 224, 152, 60_192_808, 11_282_415_616, 932, "23.0/6.7", "He 2015 release, 1 crop", "He 2015 table 1, rounded"),
    "resnet18_a": Row(ResNetConfig((2, 2, 2, 2), "basic", shortcut="pad"), 224, 18, 11_515_688, 1_794_805_760, 104, "27.88", "He 2015 table 2, 10 crops", "He 2015 table 1, rounded"),
    "resnet34_a": Row(ResNetConfig((3, 4, 6, 3), "basic", shortcut="pad"), 224, 34, 21_623_848, 3_644_493_824, 200, "25.03/7.76", "He 2015 table 3, 10 crops", "He 2015 table 1, rounded"),
    # plain networks
    "plain18": Row(ResNetConfig((2, 2, 2, 2), "basic", shortcut="none"), 224, 18, 11_515_688, 1_794_805_760, 104, "27.94", "He 2015 table 2, 10 crops", "He 2015 table 1, rounded"),
    "plain34": Row(ResNetConfig((3, 4, 6, 3), "basic", shortcut="none"), 224, 34, 21_623_848, 3_644_493_824, 200, "28.54/10.02", "He 2015 table 3, 10 crops", "He 2015 table 1, rounded"),
    "plain50": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", shortcut="none"), 224, 50, 22_780_456, 3_729_522_688, 296, "31.2", "Xie 2017 section 5.1, 1 crop", "counted, not published"),
    # C, D, S and T: deep stems, averaged shortcuts (He 2019)
    "resnet50c": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", stem="deep"), 224, 50, 25_576_264, 4_328_824_832, 332, "21.98", "timm gluon_in1k, 224", "timm resnet50c"),
    "resnet101c": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", stem="deep"), 224, 101, 44_568_392, 8_041_046_016, 638, "", "", "timm resnet101c"),
    "resnet152c": Row(ResNetConfig((3, 8, 36, 3), "bottleneck", stem="deep"), 224, 152, 60_212_040, 11_753_267_200, 944, "", "", "timm resnet152c"),
    "resnet18d": Row(ResNetConfig((2, 2, 2, 2), "basic", stem="deep", shortcut="avg_conv"), 224, 18, 11_708_744, 2_053_713_920, 134, "23.99", "timm ra4_e3600, 288", "timm resnet18d"),
    "resnet34d": Row(ResNetConfig((3, 4, 6, 3), "basic", stem="deep", shortcut="avg_conv"), 224, 34, 21_816_904, 3_903_401_984, 230, "", "", "timm resnet34d"),
    "resnet50d": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", stem="deep", shortcut="avg_conv"), 224, 50, 25_576_264, 4_328_824_832, 332, "20.92", "timm gluon_in1k, 224", "timm resnet50d"),
    "resnet101d": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", stem="deep", shortcut="avg_conv"), 224, 101, 44_568_392, 8_041_046_016, 638, "19.53", "timm gluon_in1k, 224", "timm resnet101d"),
    "resnet152d": Row(ResNetConfig((3, 8, 36, 3), "bottleneck", stem="deep", shortcut="avg_conv"), 224, 152, 60_212_040, 11_753_267_200, 944, "19.52", "timm gluon_in1k, 224", "timm resnet152d"),
    "resnet200d": Row(ResNetConfig((3, 24, 36, 3), "bottleneck", stem="deep", shortcut="avg_conv"), 224, 200, 64_693_064, 15_247_122_432, 1232, "", "", "timm resnet200d"),
    "resnet50s": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", stem="deep", stem_width=128), 224, 50, 25_680_808, 5_444_337_664, 332, "", "", "timm resnet50s"),
    "resnet101s": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", stem="deep", stem_width=128), 224, 101, 44_672_936, 9_156_558_848, 638, "", "", "timm resnet101s"),
    "resnet152s": Row(ResNetConfig((3, 8, 36, 3), "bottleneck", stem="deep", stem_width=128), 224, 152, 60_316_584, 12_868_780_032, 944, "", "", "timm resnet152s"),
    "resnet50t": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", stem="deep_tiered", shortcut="avg_conv"), 224, 50, 25_573_728, 4_297_213_952, 332, "", "", "timm resnet50t"),
    # squeeze-and-excitation (Hu 2018)
    "seresnet18": Row(ResNetConfig((2, 2, 2, 2), "basic", se=1 / 16), 224, 18, 11_779_624, 1_814_161_408, 154, "", "", "timm seresnet18"),
    "seresnet34": Row(ResNetConfig((3, 4, 6, 3), "basic", se=1 / 16), 224, 34, 21_960_416, 3_663_920_128, 282, "", "", "timm seresnet34"),
    "seresnet50": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", se=1 / 16), 224, 50, 28_088_024, 4_091_699_200, 384, "23.29/6.62", "Hu 2018, 1 crop", "timm seresnet50"),
    "seresnet101": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", se=1 / 16), 224, 101, 49_326_872, 7_806_148_608, 758, "22.38/6.07", "Hu 2018, 1 crop", "timm seresnet101"),
    "seresnet152": Row(ResNetConfig((3, 8, 36, 3), "bottleneck", se=1 / 16), 224, 152, 66_821_848, 11_520_204_800, 1132, "21.34", "Hu 2018 release, 1 crop", "timm seresnet152"),
    # ResNet-RS (Bello 2021)
    "resnetrs50": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", stem="deep_conv", shortcut="avg_conv", se=0.25), 224, 50, 35_691_912, 4_454_490_112, 402, "21.2", "Bello 2021 release, 160", "timm resnetrs50"),
    "resnetrs101": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", stem="deep_conv", shortcut="avg_conv", se=0.25), 224, 101, 63_618_696, 8_175_624_192, 776, "18.8", "Bello 2021 release, 192", "timm resnetrs101"),
    "resnetrs152": Row(ResNetConfig((3, 8, 36, 3), "bottleneck", stem="deep_conv", shortcut="avg_conv", se=0.25), 224, 152, 86_621_576, 11_895_185_408, 1150, "17.0", "Bello 2021 release, 256", "timm resnetrs152"),
    "resnetrs200": Row(ResNetConfig((3, 24, 36, 3), "bottleneck", stem="deep_conv", shortcut="avg_conv", se=0.25), 224, 200, 93_209_992, 15_391_137_792, 1502, "16.6", "Bello 2021 release, 256", "timm resnetrs200"),
    "resnetrs270": Row(ResNetConfig((4, 29, 53, 4), "bottleneck", stem="deep_conv", shortcut="avg_conv", se=0.25), 224, 270, 129_861_448, 20_643_618_816, 2030, "16.2", "Bello 2021 release, 256", "timm resnetrs270"),
    "resnetrs350": Row(ResNetConfig((4, 36, 72, 4), "bottleneck", stem="deep_conv", shortcut="avg_conv", se=0.25), 224, 350, 163_956_168, 26_332_012_544, 2602, "15.8", "Bello 2021 release, 320", "timm resnetrs350"),
    "resnetrs420": Row(ResNetConfig((4, 44, 87, 4), "bottleneck", stem="deep_conv", shortcut="avg_conv", se=0.25), 224, 420, 191_891_656, 31_363_342_336, 3108, "15.6", "Bello 2021 release, 320", "timm resnetrs420"),
    # ResNeXt (Xie 2017)
    "resnext50_32x4d": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", groups=32, group_width=4), 224, 50, 25_028_904, 4_230_479_872, 320, "22.2", "Xie 2017 table 3, 1 crop", "torchvision resnext50_32x4d"),
    "resnext101_32x4d": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", groups=32, group_width=4), 224, 101, 44_177_704, 7_969_996_800, 626, "21.2", "Xie 2017 table 3, 1 crop", "timm resnext101_32x4d"),
    "resnext101_32x8d": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", groups=32, group_width=8), 224, 101, 88_791_336, 16_414_015_488, 626, "20.69/5.47", "torchvision IMAGENET1K_V1", "torchvision resnext101_32x8d"),
    "resnext101_64x4d": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", groups=64, group_width=4), 224, 101, 83_455_272, 15_460_270_080, 626, "20.4/5.3", "Xie 2017 table 4, 1 crop", "torchvision resnext101_64x4d"),
    # Wide ResNet, ImageNet (Zagoruyko 2016)
    "wide_resnet50_2": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", group_width=128), 224, 50, 68_883_240, 11_398_021_120, 320, "21.9/6.03", "Zagoruyko 2016 release, 1 crop", "torchvision wide_resnet50_2"),
    "wide_resnet101_2": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", group_width=128), 224, 101, 126_886_696, 22_753_050_624, 626, "21.15/5.72", "torchvision IMAGENET1K_V1", "torchvision wide_resnet101_2"),
    # blur-pool (Zhang 2019), group norm (Wu 2018)
    "resnetblur18": Row(ResNetConfig((2, 2, 2, 2), "basic", blur=3), 224, 18, 11_689_512, 2_334_298_112, 122, "", "", "timm resnetblur18"),
    "resnetblur50": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", blur=3), 224, 50, 25_557_032, 5_129_633_792, 320, "19.75", "timm bt_in1k, 288", "timm resnetblur50"),
    "resnet50_gn": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", norm="group"), 224, 50, 25_557_032, 4_089_184_256, 161, "18.78", "timm a1h_in1k, 288", "timm resnet50_gn"),
    # pre-activation, ImageNet (He 2016)
    "preact_resnet18": Row(ResNetConfig((2, 2, 2, 2), "basic", order="pre"), 224, 18, 11_687_720, 1_814_073_344, 107, "", "", "timm resnetv2_18"),
    "preact_resnet34": Row(ResNetConfig((3, 4, 6, 3), "basic", order="pre"), 224, 34, 21_795_880, 3_663_761_408, 203, "", "", "timm resnetv2_34"),
    "preact_resnet50": Row(ResNetConfig((3, 4, 6, 3), "bottleneck", order="pre"), 224, 50, 25_549_352, 4_089_184_256, 300, "18.59", "timm resnetv2_50 a1h, 288", "timm resnetv2_50"),
    "preact_resnet101": Row(ResNetConfig((3, 4, 23, 3), "bottleneck", order="pre"), 224, 101, 44_541_480, 7_801_405_440, 606, "17.00", "timm resnetv2_101 a1h, 288", "timm resnetv2_101"),
    "preact_resnet152": Row(ResNetConfig((3, 8, 36, 3), "bottleneck", order="pre"), 224, 152, 60_185_128, 11_513_626_624, 912, "21.1", "He 2016 table 5, 320", "timm resnetv2_152"),
    "preact_resnet200": Row(ResNetConfig((3, 24, 36, 3), "bottleneck", order="pre"), 224, 200, 64_666_152, 15_007_481_856, 1200, "20.7", "He 2016 table 5, 320", "counted, not published"),
    # CIFAR, He 2015: option A, option B, plain
    "resnet20": Row(_cifar((3, 3, 3), "basic", shortcut="pad"), 32, 20, 269_722, 40_551_040, 116, "8.75", "He 2015 table 6, CIFAR-10", "He 2015 table 6, rounded"),
    "resnet32": Row(_cifar((5, 5, 5), "basic", shortcut="pad"), 32, 32, 464_154, 68_862_592, 188, "7.51", "He 2015 table 6, CIFAR-10", "He 2015 table 6, rounded"),
    "resnet44": Row(_cifar((7, 7, 7), "basic", shortcut="pad"), 32, 44, 658_586, 97_174_144, 260, "7.17", "He 2015 table 6, CIFAR-10", "He 2015 table 6, rounded"),
    "resnet56": Row(_cifar((9, 9, 9), "basic", shortcut="pad"), 32, 56, 853_018, 125_485_696, 332, "6.97", "He 2015 table 6, CIFAR-10", "He 2015 table 6, rounded"),
    "resnet110": Row(_cifar((18, 18, 18), "basic", shortcut="pad"), 32, 110, 1_727_962, 252_887_680, 656, "6.61", "He 2015 table 6, CIFAR-10, mean of 5", "He 2015 table 6, rounded"),
    "resnet1202": Row(_cifar((200, 200, 200), "basic", shortcut="pad"), 32, 1202, 19_421_274, 2_829_238_912, 7208, "7.93", "He 2015 table 6, CIFAR-10", "He 2015 table 6, rounded"),
    "resnet20_b": Row(_cifar((3, 3, 3), "basic"), 32, 20, 272_474, 40_813_184, 128, "7.40", "chenyaofo, CIFAR-10", "imgclsmob"),
    "resnet32_b": Row(_cifar((5, 5, 5), "basic"), 32, 32, 466_906, 69_124_736, 200, "6.47", "chenyaofo, CIFAR-10", "counted, not published"),
    "resnet44_b": Row(_cifar((7, 7, 7), "basic"), 32, 44, 661_338, 97_436_288, 272, "5.99", "chenyaofo, CIFAR-10", "counted, not published"),
    "resnet56_b": Row(_cifar((9, 9, 9), "basic"), 32, 56, 855_770, 125_747_840, 344, "5.63", "chenyaofo, CIFAR-10", "imgclsmob"),
    "resnet110_b": Row(_cifar((18, 18, 18), "basic"), 32, 110, 1_730_714, 253_149_824, 668, "3.69", "imgclsmob, CIFAR-10", "imgclsmob"),
    "resnet1202_b": Row(_cifar((200, 200, 200), "basic"), 32, 1202, 19_424_026, 2_829_501_056, 7220, "3.53", "imgclsmob, CIFAR-10", "imgclsmob"),
    "plain20": Row(_cifar((3, 3, 3), "basic", shortcut="none"), 32, 20, 269_722, 40_551_040, 116, "9.78", "nabla0001, CIFAR-10, mean of 5", "He 2015 table 6, rounded"),
    "plain32": Row(_cifar((5, 5, 5), "basic", shortcut="none"), 32, 32, 464_154, 68_862_592, 188, "", "", "He 2015 table 6, rounded"),
    "plain44": Row(_cifar((7, 7, 7), "basic", shortcut="none"), 32, 44, 658_586, 97_174_144, 260, "", "", "He 2015 table 6, rounded"),
    "plain56": Row(_cifar((9, 9, 9), "basic", shortcut="none"), 32, 56, 853_018, 125_485_696, 332, "12.95", "nabla0001, CIFAR-10, mean of 5", "He 2015 table 6, rounded"),
    "plain110": Row(_cifar((18, 18, 18), "basic", shortcut="none"), 32, 110, 1_727_962, 252_887_680, 656, "> 60", "He 2015 section 4.2, CIFAR-10", "He 2015 table 6, rounded"),
    "plain1202": Row(_cifar((200, 200, 200), "basic", shortcut="none"), 32, 1202, 19_421_274, 2_829_238_912, 7208, "", "", "He 2015 table 6, rounded"),
    # CIFAR, bottlenecks and pre-activation (He 2016)
    "resnet164": Row(_cifar((18, 18, 18), "bottleneck"), 32, 164, 1_704_154, 247_646_720, 998, "5.93", "He 2016 table 3, CIFAR-10", "counted, not published"),
    "resnet1001": Row(_cifar((111, 111, 111), "bottleneck"), 32, 1001, 10_328_602, 1_490_995_712, 6020, "7.61", "He 2016 table 3, CIFAR-10", "counted, not published"),
    "preact_resnet110": Row(_cifar((18, 18, 18), "basic", order="pre"), 32, 110, 1_730_522, 253_149_824, 658, "6.37", "He 2016 table 3, CIFAR-10", "imgclsmob"),
    "preact_resnet164": Row(_cifar((18, 18, 18), "bottleneck", order="pre", stride_on="1x1"), 32, 164, 1_703_258, 244_500_992, 983, "5.46", "He 2016 table 3, CIFAR-10", "imgclsmob"),
    "preact_resnet1001": Row(_cifar((111, 111, 111), "bottleneck", order="pre", stride_on="1x1"), 32, 1001, 10_327_706, 1_487_849_984, 6005, "4.92", "He 2016 table 4, CIFAR-10, median of 5", "imgclsmob"),
    # CIFAR, wide (Zagoruyko 2016) and grouped (Xie 2017)
    "wrn16_4": Row(_cifar((2, 2, 2), "basic", (64, 128, 256), order="pre", stem_width=16), 32, 16, 2_748_890, 392_612_352, 83, "", "", "counted, not published"),
    "wrn16_8": Row(_cifar((2, 2, 2), "basic", (128, 256, 512), order="pre", stem_width=16), 32, 16, 10_961_370, 1_548_145_664, 83, "4.27", "Zagoruyko 2016, CIFAR-10", "counted, not published"),
    "wrn22_8": Row(_cifar((3, 3, 3), "basic", (128, 256, 512), order="pre", stem_width=16), 32, 22, 17_158_106, 2_454_115_328, 119, "", "", "counted, not published"),
    "wrn28_2": Row(_cifar((4, 4, 4), "basic", (32, 64, 128), order="pre", stem_width=16), 32, 28, 1_467_610, 214_353_152, 155, "", "", "counted, not published"),
    "wrn28_10": Row(_cifar((4, 4, 4), "basic", (160, 320, 640), order="pre", stem_width=16), 32, 28, 36_479_194, 5_243_328_768, 155, "4.00", "Zagoruyko 2016, CIFAR-10", "imgclsmob"),
    "wrn40_4": Row(_cifar((6, 6, 6), "basic", (64, 128, 256), order="pre", stem_width=16), 32, 40, 8_949_210, 1_298_582_016, 227, "4.53", "Zagoruyko 2016, CIFAR-10", "counted, not published"),
    "wrn40_10": Row(_cifar((6, 6, 6), "basic", (160, 320, 640), order="pre", stem_width=16), 32, 40, 55_841_754, 8_074_483_968, 227, "3.8", "Zagoruyko 2016, CIFAR-10, dropout", "counted, not published"),
    "resnext29_8x64d": Row(_cifar((3, 3, 3), "bottleneck", (64, 128, 256), groups=8), 32, 29, 34_426_698, 5_387_266_048, 188, "3.65", "Xie 2017 table 7, CIFAR-10, mean of 10", "counted, not published"),
    "resnext29_16x64d": Row(_cifar((3, 3, 3), "bottleneck", (64, 128, 256), groups=16), 32, 29, 68_155_210, 10_688_866_304, 188, "3.58", "Xie 2017 table 7, CIFAR-10, mean of 10", "imgclsmob"),
    # the ImageNet layout with a 3x3 stem, for small images; resnet18_cifar is the article's network
    "resnet18_cifar": Row(_cifar((2, 2, 2, 2), "basic", (64, 128, 256, 512)), 32, 18, 11_173_962, 555_422_720, 122, "6.98", "kuangliu README, CIFAR-10", "counted, not published"),
    "resnet34_cifar": Row(_cifar((3, 4, 6, 3), "basic", (64, 128, 256, 512)), 32, 34, 21_282_122, 1_159_402_496, 218, "4.66", "mmpretrain, CIFAR-10", "counted, not published"),
    "resnet50_cifar": Row(_cifar((3, 4, 6, 3), "bottleneck", (64, 128, 256, 512)), 32, 50, 23_520_842, 1_297_829_888, 320, "6.38", "kuangliu README, CIFAR-10", "counted, not published"),
    "resnet101_cifar": Row(_cifar((3, 4, 23, 3), "bottleneck", (64, 128, 256, 512)), 32, 101, 42_512_970, 2_509_983_744, 626, "", "", "counted, not published"),
    "resnet152_cifar": Row(_cifar((3, 8, 36, 3), "bottleneck", (64, 128, 256, 512)), 32, 152, 58_156_618, 3_722_137_600, 932, "", "", "counted, not published"),
    "preact_resnet18_cifar": Row(_cifar((2, 2, 2, 2), "basic", (64, 128, 256, 512), order="pre"), 32, 18, 11_172_170, 555_422_720, 107, "4.89", "kuangliu README, CIFAR-10", "counted, not published"),
    # half the width or fewer units, for short runs on few cores: what `resnets train` chooses from
    "resnet18_half": Row(ResNetConfig((2, 2, 2, 2), "basic", (32, 64, 128, 256)), 224, 18, 3_055_880, 483_149_824, 122, "", "", "counted, not published"),
    "resnet10_half_cifar": Row(_cifar((1, 1, 1, 1), "basic", (32, 64, 128, 256)), 32, 10, 1_228_970, 63_801_856, 74, "", "", "counted, not published"),
    # whitened stem, pooled halving; the first has the widths of airbench94, arXiv 2404.00498, the recipe `fast` trains the widest
    "resnet8_fast": Row(_fast((64, 256, 256)), 32, 8, 2_057_122, 149_064_192, 58, "", "", "counted, not published"),
    "resnet8_fast_half": Row(_fast((32, 128, 128)), 32, 8, 519_650, 41_125_120, 58, "", "", "counted, not published"),
    "resnet8_fast_wide": Row(_fast((128, 384, 384)), 32, 8, 4_807_714, 376_999_680, 58, "", "", "counted, not published"),
    "plain8_fast_wide": Row(_fast((128, 384, 384), shortcut="none"), 32, 8, 4_606_242, 370_708_224, 40, "", "", "counted, not published"),
    "resnet18_half_cifar": Row(_cifar((2, 2, 2, 2), "basic", (32, 64, 128, 256)), 32, 18, 2_797_610, 139_299_328, 122, "", "", "counted, not published"),
}
# fmt: on


def list_models(pattern: str = "*") -> list[str]:
    """The names that a shell pattern such as `resnet*_cifar` matches, in the table's order."""
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def unknown_model(name: str) -> UserError:
    """The error for a name that no row has."""
    return UserError(f"{unknown('model', str(name), MODELS)}; `resnets models` lists all")


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    **overrides: object,
) -> ResNet:
    """The network of a row, on the CPU and in training mode.

    Without further arguments it has the row's own classes and channels; `overrides` are fields of
    `ResNetConfig`, as `create_model("resnet50", blur=3)`. `weights` is a path, a URL, `hub:owner/name` or
    `torchvision:IMAGENET1K_V1`; if their classes or channels differ, an explicit `num_classes`
    asks for a fresh classifier and an explicit `in_channels` for an adapted first convolution.
    An unknown name, field or value raises `UserError`.
    """
    if name not in MODELS:
        raise unknown_model(name)
    for field in overrides:
        if field not in FIELDS:
            raise unknown("field of ResNetConfig", field, FIELDS)
    config = MODELS[name].config
    explicit = {"num_classes": num_classes, "in_channels": in_channels}
    changes = {field: value for field, value in explicit.items() if value is not None}
    model = ResNet(dataclasses.replace(config, **changes, **overrides))  # type: ignore[arg-type]
    if weights is not None:
        from resnets.models.pretrained import load_weights

        fresh_head = num_classes is not None
        adapt_channels = in_channels is not None
        load_weights(
            model, weights, name=name, fresh_head=fresh_head, adapt_channels=adapt_channels
        )
    return model
