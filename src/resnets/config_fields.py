"""Describe the fields of configuration classes (flag, range, rules on resume) and check them."""

import math
import types
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from resnets.errors import UserError, unknown


class Rule(Enum):
    """What a field means for a resumed run and for the model file; others are checked on resume."""

    FREE = "may change on resume: it decides no bit"
    FIXED = "cannot change on resume, even with --force"
    LOCAL = "stays out of the model file: it depends on the machine"


@dataclass(frozen=True)
class Range:
    """The least and the largest value of a number."""

    low: float
    high: float


class Flag(str):
    """The name of the command-line flag, where it is not that of the field."""


class Chosen(str):
    """How an open value (None or "auto") is chosen, as the help shows it."""


@dataclass(frozen=True)
class FieldInfo:
    """One field of a configuration; its flag, with underscores, is unique among all groups.

    `group` is the field of the recipe that holds the configuration, "" for the recipe itself;
    `hint` is the type, and `chosen` says how an open value is chosen, if it may be open.
    """

    flag: str
    group: str
    name: str
    hint: Any
    range: Range | None
    rules: frozenset[Rule]
    chosen: str


@cache
def fields_of(config: type, group: str = "") -> tuple[FieldInfo, ...]:
    """Return the fields of a configuration class, without those that are configurations."""
    hints, found = get_type_hints(config, include_extras=True), []
    for field in fields(config):
        hint = hints[field.name]
        hint, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        mark: dict[type, Any] = {type(mark): mark for mark in marks}
        if not is_dataclass(hint):
            info = FieldInfo(
                flag=str(mark.get(Flag, field.name)),
                group=group,
                name=field.name,
                hint=hint,
                range=mark.get(Range),
                rules=frozenset(mark for mark in marks if isinstance(mark, Rule)),
                chosen=mark.get(Chosen, ""),
            )
            found.append(info)
    return tuple(found)


def validate(config: Any) -> None:
    """Check the types, choices and ranges of a configuration.

    Raises:
        UserError: A value is not allowed; the message names the flag and what is allowed.
    """
    for info in fields_of(config.__class__):
        value, flag = getattr(config, info.name), flag_of(info.flag)
        _check_type(flag, info.hint, value)
        if info.range is not None and value is not None:
            low, high = info.range.low, info.range.high
            if not low <= value <= high:
                most = "any number" if high == math.inf else f"{high:,}"
                raise UserError(f"{flag} {value}: must be between {low:g} and {most}")


def flag_of(name: str) -> str:
    """Return a name as it is typed on the command line."""
    return f"--{name.replace('_', '-')}"


def _check_type(flag: str, hint: Any, value: object) -> None:
    if get_origin(hint) is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            raise unknown(flag, str(value), get_args(hint))
        return
    union = get_origin(hint) in (Union, types.UnionType)
    allowed = tuple(get_origin(kind) or kind for kind in (get_args(hint) if union else (hint,)))
    if float in allowed:
        allowed += (int,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(k.__name__ for k in allowed if k is not type(None))
        raise UserError(f"{flag} {value!r}: expected {names}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag} {value}: expected a finite number")
