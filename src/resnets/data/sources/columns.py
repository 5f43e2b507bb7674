"""Provide the columns of a table of images: their usual names, and those that `--columns` gives.

This module imports neither torch nor numpy.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnets.errors import UserError, shortened, unknown

# Usual names of each column, without case, spaces and punctuation: a name of an earlier line is
# preferred, and two of one line are ambiguous.
USUAL_NAMES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "path": (
        ("path",),
        (
            *("file", "filename", "filepath", "filepaths", "relativepath"),
            *("image", "imagepath", "imagefile", "imagefilename", "imagename"),
            *("img", "imgpath", "imgfile", "imgname"),
        ),
        ("id", "imageid", "imgid", "idcode", "fileid"),
    ),
    "label": (
        ("label",),
        ("labels", "labelname", "class", "classname", "category", "categoryname", "target", "y"),
        ("species", "breed", "variety", "diagnosis", "dx"),
    ),
    "split": (("split",), ("subset", "set", "dataset", "fold", "partition", "phase")),
}
# What `--columns` says of a split that is not used.
UNUSED = "none"
ADVICE = "--columns path=COLUMN,label=COLUMN,split=COLUMN"


class MissingColumnsError(UserError):
    """A table has no column for the paths or the labels."""


@dataclass(frozen=True)
class Columns:
    """The places of the columns that are used, `split` None without one."""

    path: int
    label: int
    split: int | None
    notices: tuple[str, ...]


def parse_columns(text: str | None) -> dict[str, str]:
    """Return the columns that `--columns` names, by path, label and split.

    Raises:
        UserError: The text is not of the form path=COLUMN,label=COLUMN,split=COLUMN.
    """
    found: dict[str, str] = {}
    if text is None:
        return found
    try:
        (items,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        items = []
    for item in items or [""]:
        role, equals, name = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise UserError(f"--columns {text!r}: expected {ADVICE.removeprefix('--columns ')}")
        if role not in USUAL_NAMES:
            raise unknown("column in --columns:", role, USUAL_NAMES)
        if role in found:
            raise UserError(f"--columns {text!r}: names {role} twice")
        found[role] = name
    if len(set(found.values())) < len(found):
        raise UserError(f"--columns {text!r}: names one column for two purposes")
    return found


def choose_columns(names: Sequence[str], columns: str | None, source: str) -> Columns:
    """Choose the columns of paths, labels and splits among the names of all.

    Args:
        names: The names that the table has.
        columns: The text of `--columns`, or None.
        source: What the messages call the table.

    Raises:
        MissingColumnsError: There is no column for the paths or the labels.
        UserError: A name of `columns` does not exist, or several columns fit.
    """
    names = [name.strip() for name in names]
    given = parse_columns(columns)
    places = {
        role: _given(names, given[role], source) if role in given else _usual(names, role, source)
        for role in USUAL_NAMES
    }
    path, label, split = (places[role] for role in ("path", "label", "split"))
    if path is None or label is None:
        raise MissingColumnsError(
            f"{source} has the columns {_listed(names) or 'none'}; expected path and label, or "
            f"usual names for them such as file_name and class: pass {ADVICE}"
        )
    return Columns(path, label, split, tuple(_notices(names, places)))


def _normal(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _given(names: Sequence[str], name: str, source: str) -> int | None:
    """Return the place of a column that the user names; None for a split that is not used."""
    if name == UNUSED:
        return None
    places = [place for place, other in enumerate(names) if other == name] or [
        place for place, other in enumerate(names) if _normal(other) == _normal(name)
    ]
    if len(places) > 1:
        raise UserError(f"{source} has the column {name!r} twice; give each another name")
    if not places:
        raise unknown(f"column of {source}:", name, [other[:40] for other in names])
    return places[0]


def _usual(names: Sequence[str], role: str, source: str) -> int | None:
    """Return the place of the one column that has a usual name of this role, or None."""
    normal = [_normal(name) for name in names]
    for usual in USUAL_NAMES[role]:
        places = [place for place, name in enumerate(normal) if name in usual]
        if len({names[place] for place in places}) < len(places):
            raise UserError(
                f"{source} has the column {names[places[0]]!r} twice; give each another name"
            )
        if len(places) > 1:
            fitting = [names[place] for place in places]
            raise UserError(
                f"{source} has several columns for the {role}: {_listed(fitting)}; "
                f"choose: {ADVICE} (here {role}={fitting[0]})"
            )
        if places:
            return places[0]
    return None


def _notices(names: Sequence[str], places: Mapping[str, int | None]) -> list[str]:
    """Say which columns were taken, where their names are not the roles, and which were not."""
    used = {role: place for role, place in places.items() if place is not None}
    taken = [f"{role} = {names[place]}" for role, place in used.items()]
    other = any(names[place].lower() != role for role, place in used.items())
    # A column without a name is the index that a table was saved with.
    rest = [name for place, name in enumerate(names) if name and place not in used.values()]
    parts = [f"columns: {', '.join(taken)}"] if other else []
    parts += [f"{'' if other else 'columns '}not used: {_listed(rest)}"] if rest else []
    return ["; ".join(parts)] if parts else []


def _listed(names: Sequence[str]) -> str:
    """Return the first names, each cut to a length that a line can hold."""
    return shortened([name[:40] or "''" for name in names], shown=12)
