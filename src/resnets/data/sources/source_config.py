"""Provide the options of reading a data set. This module imports neither torch nor numpy."""

from dataclasses import dataclass
from typing import Annotated

from resnets.config_fields import Range, Rule, validate


@dataclass(frozen=True)
class SourceConfig:
    """How a data set is read.

    Args:
        max_corrupt: Largest share of unreadable images.
    """

    max_corrupt: Annotated[float, Range(0, 1), Rule.FREE] = 0.01

    def __post_init__(self) -> None:
        validate(self)
