"""The families of trained networks, and the errors in print that they are compared with.

Plain and residual are twins: equal parameters, equal initial values from equal seeds. All follow
He's plan for small images (He 2015, section 4.2): a stem of 3x3, three stages of n blocks with two
convolutions, a classifier: 6n + 2 layers.
"""

from dataclasses import dataclass
from typing import Any

from resnets.errors import UserError, unknown
from resnets.models.config import ResNetConfig

STAGES = 3
# Factors of the shortcut between plain (0) and residual (1).
STRENGTHS = (0.25, 0.5, 0.75, 0.9)


# The config fields that make a network one of a family.
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none"},  # He 2015, section 4.2
    "residual": {},  # He 2015, section 4.2, option A
    "preact": {"order": "pre"},  # He 2016, figure 1b
    # De & Smith 2020, arXiv 2002.10444
    "skipinit": {"order": "pre", "norm": "none", "residual_init": "scalar"},
    "fixup": {"norm": "bias", "residual_init": "fixup"},  # Zhang 2019, arXiv 1901.09321
    # Bordelon 2023, arXiv 2309.16620; `config_of` multiplies its residuals by 1/sqrt(blocks).
    "scaled": {"order": "pre", "norm": "none"},
    "dirac": {"shortcut": "none", "init": "dirac"},  # Zagoruyko 2017, arXiv 1706.00388
    "halved": {"shortcut_strength": 0.5, "residual_scale": 0.5},  # He 2016, table 1
    "gate": {"shortcut": "gate"},  # He 2016, table 1
    "conv": {"shortcut": "conv_all"},  # He 2016, table 1
    "dropout": {"shortcut": "dropout"},  # He 2016, table 1
    # He 2016, equation 6
    **{f"strength-{strength}": {"shortcut_strength": strength} for strength in STRENGTHS},
}

# Families that differ by the factor of the shortcut alone.
SHORTCUT_STRENGTH = {"plain": 0.0, **{f"strength-{s}": s for s in STRENGTHS}, "residual": 1.0}


def config_of(
    family: str, depth: int, *, widths: tuple[int, ...], num_classes: int, in_channels: int
) -> ResNetConfig:
    """Return a network's config; raises UserError for a depth that is not 6n + 2."""
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    blocks, rest = divmod(depth - 2, 2 * STAGES)
    if rest or blocks < 1 or len(widths) != STAGES:
        raise UserError(f"depth {depth} with widths {widths}: must be 6n + 2 layers in 3 stages")
    fields = {"shortcut": "pad", **FAMILIES[family]}
    if family == "scaled":
        fields["residual_scale"] = (STAGES * blocks) ** -0.5
    return ResNetConfig(
        (blocks,) * STAGES,
        "basic",
        widths,
        num_classes=num_classes,
        in_channels=in_channels,
        stem="small",
        **fields,
    )


@dataclass(frozen=True)
class PublishedError:
    """One error in print, in % of the test images of CIFAR-10."""

    family: str
    depth: int
    error: float
    source: str
    exceeds: bool = False  # the source says only that the error is more than this


# Comparable with a run of the preset `cifar` in full and with nothing smaller. He 2016 gives
# medians of five runs; its dropout 0.5 failed to converge. He 2015 prints no error of its other
# plain networks.
PUBLISHED = (
    PublishedError("residual", 20, 8.75, "He 2015, table 6"),
    PublishedError("residual", 32, 7.51, "He 2015, table 6"),
    PublishedError("residual", 44, 7.17, "He 2015, table 6"),
    PublishedError("residual", 56, 6.97, "He 2015, table 6"),
    PublishedError("residual", 110, 6.61, "He 2015, table 6"),
    PublishedError("plain", 110, 60.0, "He 2015, section 4.2", exceeds=True),
    PublishedError("plain", 20, 9.78, "github.com/nabla0001/resnet"),
    PublishedError("plain", 56, 12.95, "github.com/nabla0001/resnet"),
    PublishedError("halved", 110, 12.35, "He 2016, table 1"),
    PublishedError("gate", 110, 12.86, "He 2016, table 1"),
    PublishedError("conv", 110, 12.22, "He 2016, table 1"),
)
