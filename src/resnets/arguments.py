"""Check the arguments of public functions against their annotations.

A wrong kind of argument would otherwise end as a TypeError or AttributeError deep inside.
"""

import errno
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from resnets.errors import UserError, one_line

P = ParamSpec("P")
R = TypeVar("R")

# How a message calls a type; other types have their own names.
WORDS: dict[Any, str] = {
    None: "None",
    type(None): "None",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Mapping: "a dictionary",
    Callable: "a function",
    Iterable: "an iterable of these",
}
# Values of these types are shown in a message, others by their type.
SHOWN = (str, bytes, int, float)


def checked(**expected: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that checks the kinds of all arguments of a public function.

    Args:
        **expected: What is allowed, in words, for the arguments whose annotation says too little.

    Returns:
        The decorator. The function raises UserError for an argument that its annotation excludes,
        for a path longer than the system allows, and Python's own TypeError for an argument that
        it does not have. Where Path is allowed, any os.PathLike is, and becomes a Path.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            hints, given = _hints(function), signature.bind(*args, **kwargs)
            for argument, value in given.arguments.items():
                kind = signature.parameters[argument].kind
                if kind is inspect.Parameter.VAR_KEYWORD or argument not in hints:
                    continue
                if not _fits(value, hints[argument]):
                    allowed = expected.get(argument) or _words(hints[argument])
                    raise UserError(f"{name}: {argument} is {_shown(value)}; expected {allowed}")
                if isinstance(value, PathLike) and not isinstance(value, Path):
                    given.arguments[argument] = Path(value)
            try:
                return function(*given.args, **given.kwargs)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                path = one_line(error.filename, length=80)
                raise UserError(f"{name}: {path}: {error.strerror}") from None

        return call

    return decorate


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function)


def _fits(value: object, hint: Any) -> bool:
    """Return whether a value is of the kind of an annotation; of its content only keys count."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint in (int, float):  # numbers of NumPy too
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    kind = PathLike if hint is Path else origin or hint  # of any library
    if kind is Mapping and isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value)
    return isinstance(value, kind)


def _words(hint: Any) -> str:
    """Return what an annotation allows, in words."""
    if get_origin(hint) in (Union, types.UnionType):
        words = list(dict.fromkeys(_words(part) for part in get_args(hint)))
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    kind = get_origin(hint) or hint
    return WORDS.get(kind) or kind.__name__


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    text = repr(value) if isinstance(value, SHOWN) else ""
    kind = type(value).__name__
    return f"{text} ({kind})" if 0 < len(text) <= 60 else f"of the type {kind}"
