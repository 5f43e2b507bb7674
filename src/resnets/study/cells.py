"""A family and a depth enter, the `ResNetConfig` of one cell of a study leaves.

The idea: a family is a row, and differs from the residual network by the fewest words that name
its idea. Plain and residual are twins: equal parameters, equal initial values from equal seeds;
only the shortcut is there or not. All have He's plan for small images (He 2015, section 4.2): a
stem of 3x3, three stages of n units with two convolutions, a classifier: 6n + 2 layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnets.errors import UserError, unknown
from resnets.models.config import ResNetConfig

STAGES = 3
STRENGTHS = (0.25, 0.5, 0.75, 0.9)
"""doses between plain (0) and residual (1)"""


@dataclass(frozen=True)
class Family:
    """The fields of `ResNetConfig` that make a network one of this family."""

    ideas: Mapping[str, Any]
    title: str
    source: str
    shrinks: bool = False  # residuals are multiplied by 1/sqrt(units)


FAMILIES: dict[str, Family] = {
    "plain": Family({"shortcut": "none"}, "plain", "He 2015, section 4.2"),
    "residual": Family({}, "residual, option A", "He 2015, section 4.2"),
    "preact": Family({"order": "pre"}, "pre-activation", "He 2016, figure 1b"),
    "skipinit": Family(
        {"order": "pre", "norm": "none", "residual_init": "scalar"},
        "SkipInit, without norm",
        "De & Smith 2020, arXiv 2002.10444",
    ),
    "fixup": Family(
        {"norm": "bias", "residual_init": "fixup"},
        "Fixup, without norm",
        "Zhang 2019, arXiv 1901.09321",
    ),
    "scaled": Family(
        {"order": "pre", "norm": "none"},
        "residuals times 1/sqrt(units), without norm",
        "Bordelon 2023, arXiv 2309.16620",
        shrinks=True,
    ),
    "dirac": Family(
        {"shortcut": "none", "init": "dirac"},
        "plain, begun near the identity",
        "Zagoruyko 2017, arXiv 1706.00388",
    ),
    "halved": Family(
        {"shortcut_strength": 0.5, "residual_scale": 0.5},
        "shortcut and residual times 0.5",
        "He 2016, table 1",
    ),
    "gate": Family({"shortcut": "gate"}, "gate on the shortcut", "He 2016, table 1"),
    "conv": Family({"shortcut": "conv_all"}, "1x1 convolution as shortcut", "He 2016, table 1"),
    "dropout": Family({"shortcut": "dropout"}, "dropout on the shortcut", "He 2016, table 1"),
} | {
    f"strength-{strength}": Family(
        {"shortcut_strength": strength}, f"shortcut times {strength}", "He 2016, equation 6"
    )
    for strength in STRENGTHS
}

DOSES = {"plain": 0.0, **{f"strength-{s}": s for s in STRENGTHS}, "residual": 1.0}
"""families that are points of one curve: how strong the shortcut is"""


def config_of(
    family: str, depth: int, *, widths: tuple[int, ...], num_classes: int, in_channels: int
) -> ResNetConfig:
    """The network of a cell. Raises UserError for a depth that is not 6n + 2."""
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    units, rest = divmod(depth - 2, 2 * STAGES)
    if rest or units < 1 or len(widths) != STAGES:
        raise UserError(f"depth {depth} with widths {widths}: must be 6n + 2 layers in 3 stages")
    row = FAMILIES[family]
    ideas: dict[str, Any] = {"shortcut": "pad", **row.ideas}
    if row.shrinks:
        ideas["residual_scale"] = (STAGES * units) ** -0.5
    return ResNetConfig(
        (units,) * STAGES,
        "basic",
        widths,
        num_classes=num_classes,
        in_channels=in_channels,
        stem="small",
        **ideas,
    )
