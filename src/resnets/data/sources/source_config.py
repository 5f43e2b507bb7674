"""Provide the options of reading a data set. This module imports neither torch nor numpy."""

from dataclasses import dataclass
from typing import Annotated

from resnets.config_fields import Chosen, Range, Rule, validate


@dataclass(frozen=True)
class SourceConfig:
    """How a data set is read.

    Args:
        max_corrupt: Largest share of unreadable images.
        class_level: Where the class folders are: 1 for those in DATA, 2 for the folders in these.
    """

    max_corrupt: Annotated[float, Range(0, 1), Rule.FREE] = 0.01
    class_level: Annotated[
        int | None, Range(1, 9), Rule.FIXED, Chosen("from the folders' names")
    ] = None

    def __post_init__(self) -> None:
        validate(self)
