"""The figures in print that a study of training is drawn beside, each with its table.

Enters: nothing. Leaves: rows that were read in the source named; the unit is % of the test images
of CIFAR-10. They are comparable with a run of the preset `cifar` in full and with nothing smaller.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One error in print."""

    family: str
    depth: int
    error: float  # % of the test images
    source: str
    spread: float | None = None  # standard deviation over its runs
    runs: int = 1
    exceeds: bool = False  # the source says only that the error is more than this


PUBLISHED = (
    Published("residual", 20, 8.75, "He 2015, table 6"),
    Published("residual", 32, 7.51, "He 2015, table 6"),
    Published("residual", 44, 7.17, "He 2015, table 6"),
    Published("residual", 56, 6.97, "He 2015, table 6"),
    Published("residual", 110, 6.61, "He 2015, table 6", spread=0.16, runs=5),
    Published("plain", 110, 60.0, "He 2015, section 4.2", exceeds=True),
    # The paper prints no error of its other plain networks.
    Published("plain", 20, 9.78, "github.com/nabla0001/resnet", spread=0.13, runs=5),
    Published("plain", 56, 12.95, "github.com/nabla0001/resnet", spread=0.22, runs=5),
    Published("halved", 110, 12.35, "He 2016, table 1", runs=5),
    Published("gate", 110, 12.86, "He 2016, table 1", runs=5),
    Published("conv", 110, 12.22, "He 2016, table 1", runs=5),
)
"""He 2016 gives medians of five; its dropout 0.5 failed to converge."""
