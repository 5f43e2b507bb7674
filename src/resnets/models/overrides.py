"""Provide the keyword arguments of `create_model`, and what those of torchvision and timm are here.

`ResNetFields` has the fields of `ResNetConfig`, so that type checkers and editors know them.
"""

from typing import TypedDict

from resnets.errors import UserError, unknown
from resnets.models.config import FIELDS


class ResNetFields(TypedDict, total=False):
    """The fields of `ResNetConfig` but `num_classes` and `in_channels`, which have their own."""

    depths: tuple[int, ...] | list[int]
    block: str
    widths: tuple[int, ...] | list[int]
    stem: str
    stem_width: int | None
    shortcut: str
    shortcut_strength: float
    order: str
    conv: str
    stride_on: str
    halving: str
    groups: int
    group_width: int
    group_size: int | None
    splits: int
    se: float
    attention: str
    attention_pool: int
    head_width: int | None
    norm: str
    norm_groups: int | None
    activation: str
    residual_init: str
    residual_scale: float
    init: str
    drop_path: float
    dropout: float
    blur: int
    output_stride: int | None


# Arguments of torchvision's and timm's networks, and how the same is said here.
FOREIGN = {
    "pretrained": "weights='IMAGENET1K_V1' of torchvision or weights='timm:resnet50.a1_in1k'",
    "pretrained_cfg": "weights='timm:NETWORK.TAG'",
    "checkpoint_path": "weights=PATH",
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "drop_block_rate": "drop_path or dropout; there is no DropBlock",
    "features_only": "model.features(images)",
    "out_indices": "model.features(images, stages=(1, 2, 3, 4))",
    "global_pool": "model.forward_features(images), the map before the pool",
    "zero_init_residual": "residual_init='zero'",
    "zero_init_last": "residual_init='zero'",
    "replace_stride_with_dilation": "output_stride=16 or output_stride=8",
    "norm_layer": "norm='batch' or norm='group'",
    "act_layer": "activation",
    "aa_layer": "blur",
    "layers": "depths",
    "channels": "widths",
    "cardinality": "groups",
    "base_width": "group_width",
    "width_per_group": "group_width",
    "stem_type": "stem",
    "avg_down": "shortcut='avg_conv'",
    "block_args": "se or attention",
    "attn_layer": "se or attention",
    "progress": "nothing: a download shows its progress on a terminal",
}


def check_fields(given: dict[str, object]) -> None:
    """Refuse a keyword that is no field of ResNetConfig, with the name that it has here."""
    for name in given:
        if name in FIELDS:
            continue
        if name in FOREIGN:
            raise UserError(
                f"{name!r} is a name of torchvision or timm; here it is {FOREIGN[name]}"
            )
        raise unknown("field of ResNetConfig", name, FIELDS)
