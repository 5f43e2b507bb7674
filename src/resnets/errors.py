"""The one kind of error that speaks to the user: what was given, what is allowed, what to do.

Every room may raise it; the command line prints its message as one line and exits with 2.
Anything else that escapes is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in what was asked for; the message is the whole answer."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """The error for a name outside a list, with the nearest spelling."""
    names = list(allowed)
    near = nearest(given, names)
    hint = f"did you mean {near!r}?" if near else ""
    listing = f"allowed: {', '.join(names)}" if len(names) <= 12 else ""
    return UserError("; ".join(filter(None, [f"unknown {kind} {given!r}", hint, listing])))


def nearest(given: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: one that looks the same, or else the nearest spelling."""
    looks = {_look(name): name for name in names}
    near = get_close_matches(_look(given), looks, n=1)
    return looks[near[0]] if near else None


def _look(name: str) -> str:
    """The name without what eyes and fingers mix up: case, O and 0, l and 1, - and _."""
    return name.lower().translate(str.maketrans("ol-", "01_"))
