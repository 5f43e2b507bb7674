"""Provide the types of options that several commands share, and the options of a recipe."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args

import tyro
from docstring_parser import parse

from resnets.config_fields import FieldInfo
from resnets.errors import UserError, public_name, visible
from resnets.training.recipe import FIELDS, GROUPS, Recipe


def default(text: str, help: str | None = None) -> Any:
    """Return the mark of an option whose default the help states in words."""
    return tyro.conf.arg(help=help, help_behavior_hint=f"(default: {text})")


Device = Literal["auto", "cpu", "cuda", "mps"]
ModelPath = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help="model file or run folder")
]
# A flag that is off when left out, without its opposite --no-NAME.
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]

# The ten options that the help of `resnets train` shows first.
MOST_USED = (
    "model",
    "weights",
    "size",
    "epochs",
    "batch_size",
    "optimizer",
    "learning_rate",
    "auto_augment",
    "workers",
    "seed",
)


def find_model(path: Path) -> None:
    """Raise UserError where there is no model; reading one waits for torch."""
    if not path.exists():
        raise UserError(f"there is no model file {public_name(str(path))}")


def recipe_flags(shown: Recipe) -> Any:
    """Return the options of a recipe as a TypedDict of boxes, the most used ones first.

    The help shows the values of `shown` as defaults. Parsed, each box holds only what was typed, so
    an option that equals its default is still known to be typed.
    """
    boxes = {"most used": _box("most used", "", MOST_USED, shown)}
    for group, config in GROUPS.items():
        names = [n for n, info in FIELDS.items() if info.group == group and n not in MOST_USED]
        summary = (parse(config.__doc__ or "").short_description or "").strip()
        boxes[f"advanced: {group}"] = _box(f"advanced: {group}", summary, names, shown)
    return _typed_dict("Flags", boxes)


def typed_values(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe fields that were typed."""
    return {name: value for box in flags.values() for name, value in box.items()}


def _box(title: str, summary: str, names: Iterable[str], shown: Recipe) -> Any:
    values, hints = shown.flat(), {}
    for name in names:
        info = FIELDS[name]
        mark = default(_default_text(info, values[name]), _help_text(info))
        hints[name] = Annotated[_without_none(info.hint), mark]
    made = _typed_dict(title, hints)
    made.__doc__ = summary
    return made


def _typed_dict(name: str, hints: dict[str, Any]) -> Any:
    make: Any = TypedDict
    return make(name, hints, total=False)


def _without_none(hint: Any) -> Any:
    """Return the type of a typed value: an option that is left out is None."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in get_args(hint) else hint


def _help_text(info: FieldInfo) -> str:
    documented = parse((GROUPS[info.group] if info.group else Recipe).__doc__ or "").params
    texts = {one.arg_name: one.description or "" for one in documented}
    return " ".join(texts[info.name].split())


def _default_text(info: FieldInfo, value: Any) -> str:
    if value is None or (value == "auto" and info.chosen):
        return info.chosen
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return visible(str(value))  # of a run folder, which strangers may have written
