"""Parse JSON and TOML from a disk or a wire into records whose types msgspec checks, within limits.

A text is refused before it costs memory: by its length, by the depth of its nesting, and by numbers
that no field can hold. JSON that two readers could take for different values is refused too: a key
that occurs twice, NaN and Infinity.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, overload

import msgspec

from resnets.errors import UserError, unknown
from resnets.fileio import open_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

# Bytes of one JSON text, and levels of lists and tables in it.
MAX_BYTES = 2**26
# Bytes of one line of a file of JSON lines, and of a TOML file, which people write.
MAX_LINE = 2**22
MAX_TOML = 2**18
MAX_DEPTH = 32
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"
# Digits of a whole number: 64 bits have 20.
MAX_DIGITS = 20
# A key of TOML with more dots than levels are read: their cost is the square of their number.
_DOTTED = re.compile(rb"""(?<!["'\w-])(?:["'\w-]+[ \t]*\.[ \t]*){%d}""" % (MAX_DEPTH + 1))
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# To keep the brackets of a text alone, as those of lists.
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


@overload
def parse_json(text: bytes | str, *, name: str, max_bytes: int = ...) -> Any: ...
@overload
def parse_json(text: bytes | str, kind: type[T], *, name: str, max_bytes: int = ...) -> T: ...
def parse_json(text: bytes | str, kind: Any = Any, *, name: str, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value of a JSON text as a `kind`: a msgspec.Struct, a dataclass or a plain type.

    Raises:
        UserError: The text, which the message calls `name`, is not JSON of this kind.
    """
    content = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(content) > max_bytes:
        raise UserError(f"{name} has {len(content):,} bytes; at most {max_bytes:,} are read")
    try:
        value = _DECODER.decode(content.decode())
        if b"\\u" in content:
            msgspec.json.encode(value)  # raises for half of a surrogate pair, which is no text
    except RecursionError:
        raise UserError(f"{name} {TOO_DEEP}") from None
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON: {error}") from None
    _check_depth(content, name)
    return value if kind is Any else convert(value, kind, name=name)


@overload
def read_json(path: Path, *, name: str, max_bytes: int = ...) -> Any: ...
@overload
def read_json(path: Path, kind: type[T], *, name: str, max_bytes: int = ...) -> T: ...
def read_json(path: Path, kind: Any = Any, *, name: str, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value of a JSON file as a `kind`; raise UserError as `parse_json` does."""
    with _opened(path, name) as file:
        content = file.read(max_bytes + 1)
    return parse_json(content, kind, name=name, max_bytes=max_bytes)


def read_lines(path: Path, *, name: str) -> Iterator[bytes]:
    """Yield the lines of a file, each with its end; one beyond MAX_LINE bytes comes in pieces."""
    with _opened(path, name) as file:
        while line := file.readline(MAX_LINE):
            yield line


@overload
def read_jsonl(path: Path, *, repair: bool = ...) -> list[Any]: ...
@overload
def read_jsonl(path: Path, kind: type[T], *, repair: bool = ...) -> list[T]: ...
def read_jsonl(path: Path, kind: Any = Any, *, repair: bool = False) -> list[Any]:
    """Return the records of all whole lines of JSON; a file that does not exist has none.

    A killed process may leave a last line without its end; `repair` cuts it off the file. Any other
    line that is not JSON of this kind raises UserError.
    """
    records: list[Any] = []
    whole = 0
    for number, line in enumerate(read_lines(path, name=str(path)) if path.exists() else (), 1):
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            if repair:
                os.truncate(path, whole)
            break
        records.append(parse_json(line, kind, name=f"{path}: line {number}"))
        whole += len(line)
    return records


def read_toml(path: Path, *, name: str) -> dict[str, Any]:
    """Return the content of a TOML file; raise UserError, which calls it `name`, if it has none."""
    with _opened(path, name) as file:
        content = file.read(MAX_TOML + 1)
    if len(content) > MAX_TOML:
        raise UserError(f"{name}: has more than the {MAX_TOML:,} bytes that are read")
    try:
        if _DOTTED.search(content):
            raise RecursionError
        return tomllib.loads(content.decode())
    except RecursionError:
        raise UserError(f"{name}: {TOO_DEEP}") from None
    except ValueError as error:  # no UTF-8, no TOML, or a number of thousands of digits
        raise UserError(f"{name}: not readable as TOML ({error})") from None


def convert(value: object, kind: type[T], *, name: str) -> T:
    """Return a value of JSON, TOML or metadata as a `kind`, or raise UserError with its place.

    A dataclass takes no key that is not a field of it; what its `__post_init__` raises is passed
    on.
    """
    if is_dataclass(kind) and isinstance(value, dict):
        known = [field.name for field in fields(kind)]
        for key in value:
            if key not in known:
                raise UserError(f"{name} is not valid: {unknown('field', str(key), known)}")
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise UserError(f"{name} is not valid: {error}") from None


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file to read it; a failure raises UserError, which calls the file `name`."""
    try:
        with open_file(path) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None


def _check_depth(content: bytes, name: str) -> None:
    """Refuse valid JSON that is nested too deep; here a loop a character would cost seconds."""
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:  # nearly always
        return
    brackets = _STRING.sub(b"", content).translate(_AS_LISTS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    if brackets:
        raise UserError(f"{name} {TOO_DEEP}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return table


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:30]} is out of range")
    return value


# Made once: json.loads with these arguments makes one for each text, which takes three times as
# long as to parse a short line.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_constant=_refuse_constant,
    parse_int=_whole,
    parse_float=_finite,
)
