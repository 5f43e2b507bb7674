"""Provide stems: the layers from the image to the first block.

A stem is two modules, around the first norm and activation of the network.

Shapes: N images, C channels, H height, W width, C1 channels of the stem's output.
"""

from torch import nn

from resnets.models.config import ResNetConfig
from resnets.models.layers import Whitening, activation, blur_pool, convolution, normalisation
from resnets.models.parts import STEMS, register_stem

Stem = tuple[nn.Module, nn.Module]


def make_stem(config: ResNetConfig) -> Stem:
    """Return what precedes the first norm, and what follows the first activation."""
    return STEMS[config.stem].make(config)


@register_stem("imagenet", stride=4)
def imagenet_stem(config: ResNetConfig) -> Stem:
    """Return a 7x7 of stride 2, then a pool (He 2015): N C H W -> N C1 H/2 W/2 -> N C1 H/4 W/4."""
    width = config.stem_channels
    return convolution(config.in_channels, width, kernel=7, config=config, stride=2), _pool(config)


@register_stem("imagenet_zero_pad", stride=4)
def imagenet_zero_pad_stem(config: ResNetConfig) -> Stem:
    """Return the 7x7 and a pool that takes the border for zeros: BiT (arXiv 1912.11370)."""
    conv, _ = imagenet_stem(config)
    return conv, nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, stride=2))


@register_stem("small", stride=1)
def small_stem(config: ResNetConfig) -> Stem:
    """Return a 3x3 for small images (He 2015, section 4.2): N C H W -> N C1 H W."""
    width = config.stem_channels
    return convolution(config.in_channels, width, kernel=3, config=config), nn.Identity()


@register_stem("whitened", stride=1)
def whitened_stem(config: ResNetConfig) -> Stem:
    """Return measured 2x2 filters: N C H W -> N 8C H W."""
    return Whitening(config.in_channels), nn.Identity()


@register_stem("deep", stride=4)
def deep_stem(config: ResNetConfig) -> Stem:
    """Return three 3x3 for the 7x7, then a pool: ResNet-C of He 2019 (arXiv 1812.01187)."""
    return _three_convolutions(config, first=config.stem_channels // 2), _pool(config)


@register_stem("deep_tiered", stride=4)
def deep_tiered_stem(config: ResNetConfig) -> Stem:
    """Return the deep stem with widths that rise, which are timm's."""
    return _three_convolutions(config, first=config.stem_channels // 8 * 3), _pool(config)


@register_stem("deep_tiered_strided", stride=4)
def deep_tiered_strided_stem(config: ResNetConfig) -> Stem:
    """Return the tiered stem with a stride on its last convolution, as in timm's 33ts."""
    return _three_convolutions(config, first=config.stem_channels // 8 * 3, last=2), nn.Identity()


@register_stem("deep_conv", stride=4)
def deep_conv_stem(config: ResNetConfig) -> Stem:
    """Return the deep stem with a strided 3x3 for the pool: ResNet-RS (arXiv 2103.07579)."""
    width = config.stem_channels
    pool = nn.Sequential(
        convolution(width, width, kernel=3, config=config, stride=2),
        normalisation(width, config=config),
        activation(config),
    )
    return _three_convolutions(config, first=width // 2), pool


def _three_convolutions(config: ResNetConfig, *, first: int, last: int = 1) -> nn.Sequential:
    """Return three 3x3, the first of stride 2 and the third of stride `last`."""
    width = config.stem_channels
    return nn.Sequential(
        convolution(config.in_channels, first, kernel=3, config=config, stride=2),
        normalisation(first, config=config),
        activation(config),
        convolution(first, width // 2, kernel=3, config=config),
        normalisation(width // 2, config=config),
        activation(config),
        convolution(width // 2, width, kernel=3, config=config, stride=last),
    )


def _pool(config: ResNetConfig) -> nn.Module:
    """Return the second subsampling: N C1 H W -> N C1 H/2 W/2."""
    if config.blur == 2:  # as in timm, the average is in the place of the maximum
        return blur_pool(config.blur)
    if config.blur:
        return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), blur_pool(config.blur))
    return nn.MaxPool2d(3, stride=2, padding=1)
