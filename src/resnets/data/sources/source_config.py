"""Provide the options of reading a data set. This module imports neither torch nor numpy."""

from dataclasses import dataclass
from typing import Annotated

from resnets.config_fields import Chosen, Range, Rule, validate
from resnets.data.sources.columns import parse_columns


@dataclass(frozen=True)
class SourceConfig:
    """How a data set is read.

    Args:
        max_corrupt: Largest share of unreadable images.
        class_level: Where the class folders are: 1 for those in DATA, 2 for the folders in these.
        columns: Columns of a table, as path=image_id,label=breed,split=fold; split=none ignores
            a column of splits.
        allow_outside: Read images that a table names outside its own folder.
    """

    max_corrupt: Annotated[float, Range(0, 1), Rule.FREE] = 0.01
    class_level: Annotated[
        int | None, Range(1, 9), Rule.FIXED, Chosen("from the folders' names")
    ] = None
    columns: Annotated[str | None, Chosen("by their usual names")] = None
    allow_outside: Annotated[bool, Rule.FREE] = False

    def __post_init__(self) -> None:
        validate(self)
        parse_columns(self.columns)
