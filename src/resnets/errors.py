"""Provide the error for mistakes of the user, and suggestions for misspelt names.

The command line prints the message as one line and exits with 2. Any other exception that escapes
is a bug of this package and keeps its traceback.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

# Similarity of difflib from which a name is suggested: "trian" (0.8) finds "train", and "depths"
# (0.67) does not find "epochs".
MIN_SIMILARITY = 0.7
# The allowed names are listed up to this many.
MAX_LISTED = 12


class UserError(ValueError):
    """A mistake in a request: the message says what was given, what is allowed and what to do."""

    def __str__(self) -> str:
        """Return the message in one line, whatever the values in it look like."""
        return " ".join(filter(None, map(str.strip, super().__str__().splitlines())))


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name outside a list, with the nearest spelling or a short list."""
    names = list(allowed)
    near = nearest(given, names)
    hint = f"; did you mean {near!r}?" if near else ";"
    listing = f" allowed: {', '.join(names)}" if len(names) <= MAX_LISTED else ""
    return UserError(f"unknown {kind} {given!r}{hint}{listing}".removesuffix(";"))


def nearest(given: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant, or None.

    A name that looks the same comes first, then one that differs in its numbers only, with the
    nearest number ("resnet21" finds "resnet20"), then a longer name, then the nearest spelling.
    """
    similar = {_normalise(name): name for name in names}
    given = _normalise(given)
    same_words = [name for name in similar if _words(name) == _words(given)]
    if same_words:
        return similar[min(same_words, key=lambda name: _distance(name, given))]
    near = [name for name in similar if len(given) > 3 and name.startswith(given)]
    near = near or get_close_matches(given, similar, n=1, cutoff=MIN_SIMILARITY)
    return similar[near[0]] if near else None


def _normalise(name: str) -> str:
    """Replace what eyes and fingers mix up: case, O and 0, l and 1, - and _."""
    return name.lower().translate(str.maketrans("ol-", "01_"))


def _words(name: str) -> list[str]:
    return re.split(r"\d+", name)


def _distance(one: str, other: str) -> int:
    pairs = zip(re.findall(r"\d+", one), re.findall(r"\d+", other), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)
