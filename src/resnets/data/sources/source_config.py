"""Provide the options of reading a data set. This module imports neither torch nor numpy."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from resnets.config_fields import Chosen, Range, Rule, validate
from resnets.data.file_limits import LARGEST_VALUE, MAX_PIXELS
from resnets.data.sources.columns import parse_columns
from resnets.errors import UserError


@dataclass(frozen=True)
class SourceConfig:
    """How a data set is read.

    Args:
        max_corrupt: Largest share of unreadable images.
        class_level: Where the class folders are: 1 for those in DATA, 2 for the folders in these.
        columns: Columns of a table, as path=image_id,label=breed,split=fold; split=none ignores
            a column of splits.
        allow_outside: Read images that a table names outside its own folder.
        pixel_range: The values of 16-bit, 32-bit and float pixels that become black and white:
            auto measures them, full takes the depth of the format, LOW,HIGH gives them, such as
            --pixel-range=-1000,3000.
        max_pixels: Most pixels of an image; larger JPEGs are decoded at a part of their size.
    """

    max_corrupt: Annotated[float, Range(0, 1), Rule.FREE] = 0.01
    class_level: Annotated[
        int | None, Range(1, 9), Rule.FIXED, Chosen("from the folders' names")
    ] = None
    columns: Annotated[str | None, Chosen("by their usual names")] = None
    allow_outside: Annotated[bool, Rule.FREE] = False
    pixel_range: Annotated[str, Rule.FIXED] = "auto"
    max_pixels: Annotated[int, Range(1024, 2**36)] = MAX_PIXELS

    def __post_init__(self) -> None:
        validate(self)
        parse_columns(self.columns)
        self.given_range()

    def given_range(self) -> tuple[float, float] | None:
        """Return LOW and HIGH of `pixel_range`, or None for auto and full."""
        if self.pixel_range in ("auto", "full"):
            return None
        with suppress(ValueError):  # not two numbers: the error below says what is expected
            low, high = map(float, self.pixel_range.split(","))
            if -LARGEST_VALUE <= low < high <= LARGEST_VALUE:
                return low, high
        raise UserError(
            f"--pixel-range {self.pixel_range!r}: expected auto, full, or two rising numbers "
            "LOW,HIGH such as 0,4095"
        )
