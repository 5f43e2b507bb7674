"""Provide the error for mistakes of the user, and suggestions for misspelt names.

The command line prints the message as one line and exits with the error's code. Any other exception
that escapes is a bug of this package and keeps its traceback.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, ClassVar

# Similarity of difflib from which a name is suggested: "trian" (0.8) finds "train", and "depths"
# (0.67) does not find "epochs".
MIN_SIMILARITY = 0.7
# The allowed names are listed up to this many.
MAX_LISTED = 12
# Characters of a value that a message shows.
MAX_SHOWN = 80
# Unicode categories that are escaped: control, format (such as bidirectional overrides), half of a
# surrogate pair, separators of lines and paragraphs.
UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters that words and emoji need: zero width non-joiner and joiner.
JOINERS = "\u200c\u200d"


class UserError(ValueError):
    """A mistake in a request: the message says what was given, what is allowed and what to do."""

    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        """Return the message in one line without passwords, whatever the values in it look like."""
        return public_text(" ".join(filter(None, map(str.strip, super().__str__().splitlines()))))


class StoppedError(UserError):
    """Work that ended early through no mistake in the request; what was saved before is whole."""

    exit_code: ClassVar[int] = 4
    # What was computed before; None where there is nothing.
    result: Any = None


# Words of the errors by which torch, its libraries and the system say that memory is exhausted.
_NO_MEMORY = (
    *("out of memory", "allocate memory", "DefaultCPUAllocator", "bad_alloc"),
    # Of oneDNN, of a library that is loaded, of the stack of a thread.
    *("could not create a primitive", "failed to map segment", "can't start new thread"),
)

# Words of the errors by which torch and its libraries say that a GPU failed.
_LOST_DEVICE = (
    *("CUDA error", "CUDA driver error", "HIP error", "CUDNN_STATUS_", "CUBLAS_STATUS_"),
    *("CUSOLVER_STATUS_", "NVML"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is exhausted: on a GPU, or on the CPU.

    torch has a class for the former only; on the CPU it raises a RuntimeError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | ImportError) and any(
        text in str(error) for text in _NO_MEMORY
    )


def is_lost_device(error: BaseException) -> bool:
    """Return whether an error says that a GPU failed: nothing on it can be read any more.

    A failed assertion on the device is a bug of a program, not of the GPU.
    """
    return (
        isinstance(error, RuntimeError)
        and any(text in str(error) for text in _LOST_DEVICE)
        and "device-side assert" not in str(error)
    )


@contextmanager
def out_of_memory_advice(advice: str) -> Iterator[None]:
    """Raise UserError with this advice where memory is exhausted inside the context."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"out of memory: {advice} ({reason})") from error


def unknown(kind: str, given: object, allowed: Iterable[str]) -> UserError:
    """Return the error for a name outside a list, with the nearest spelling or a short list."""
    names = list(allowed)
    given = given if isinstance(given, str) else shown(given)
    near = nearest(given[:MAX_SHOWN], names)
    hint = f"; did you mean {near!r}?" if near else ";"
    listing = f" allowed: {', '.join(names)}" if len(names) <= MAX_LISTED else ""
    return UserError(f"unknown {kind} {shown(given)}{hint}{listing}".removesuffix(";"))


def shortened(
    names: Sequence[str], *, shown: int = 5, separator: str = ", ", total: int | None = None
) -> str:
    """Return the first names and how many follow of `total`, by default the number of names."""
    more = (len(names) if total is None else total) - shown
    last = separator.strip().rstrip(",")
    return separator.join(names[:shown]) + (f"{last} and {more:,} more" if more > 0 else "")


def shown(value: object) -> str:
    """Return a value as a message shows it: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # a number of thousands of digits, or a list of them
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


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


def one_line(text: object, *, length: int = 300) -> str:
    """Return a text from a file or a server as one short line, control characters escaped."""
    line = " ".join(str(text).split()) or type(text).__name__
    return visible(line[:length]) + ("..." if len(line) > length else "")


def visible(text: str) -> str:
    r"""Return the text in one line, its control characters escaped as in Python: \n, \x1b."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in UNSAFE and character not in JOINERS
        else character
        for character in text
    )


# An address in a text; a Path has one slash. What ends a clause is not part of it.
_ADDRESS = re.compile(
    r"""(?:[\w+.-]+://|(?:https?|ftps?|s3|gs):/)[^\s'"<>]+?(?=[:;,.)]*(?:[\s'"<>]|$))"""
)


def public_text(text: str) -> str:
    """Return a text with every address in it as `public_name` returns it."""
    return _ADDRESS.sub(lambda found: public_name(found[0]), text) if ":/" in text else text


def public_name(source: str) -> str:
    """Return a source as messages show it: an address without password and query string."""
    address = re.fullmatch(r"([A-Za-z][\w+.-]+:/+)(.*)", source, re.DOTALL)
    if address is None:  # a letter alone is a drive; a Path has one slash
        return source
    scheme, rest = address.groups()
    shown = re.split(r"[?#]", rest)[0]
    host = shown.partition("/")[0]
    if not re.fullmatch(r"(\[[^\]@]*\]|[^:@\[\]]*)(:\d*)?", host) and "@" in rest:
        # A password may hold a slash, or what looks like the start of a query.
        shown = shown.rpartition("@")[2] if "@" in shown else "..."
    return one_line(scheme + shown)
