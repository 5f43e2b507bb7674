"""Print results on standard output and messages on standard error; every line passes through here.

A line can hold names that strangers chose: of files, of classes, in model files, in the answers of
servers. Their control characters are escaped, so that no name moves the cursor, forges a line or
reverses the text. A stream that is closed, full or a pipe without a reader ends no run.
"""

import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from resnets.errors import visible

if TYPE_CHECKING:
    from rich.console import Console

# Columns of a file or a pipe: tables in them are never wrapped.
WIDE = 1000


def print_result(line: object = "") -> None:
    """Print one line of a result on standard output."""
    print(visible(str(line)))


def print_message(line: object) -> None:
    """Print one line on standard error."""
    print(visible(str(line)), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on standard output."""
    print(json.dumps(value).replace("\x7f", "\\u007f"))  # JSON escapes all others itself


def printer() -> "Console":
    """Return a console for results on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def print_table(
    titles: Sequence[str], justify: str, rows: Iterable[Sequence[str]], *, title: str | None = None
) -> None:
    """Print rows with a bold header; a letter a column: l text, n a name in one line, r number."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for title, letter in zip(titles, justify, strict=True):
        table.add_column(title, justify="right" if letter == "r" else "left", no_wrap=letter != "l")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    printer().print(table)


class StandardStream(io.TextIOWrapper):
    """A standard stream that is written to the null device once it has failed.

    A failure is raised while `required` holds, and kept in `failure` otherwise.
    """

    required = False
    failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text."""
        if self.failure is None:
            try:
                return super().write(text)
            except OSError as error:
                self._give_up(error)
        self._complain()
        return len(text)

    def flush(self) -> None:
        """Write what is waiting."""
        if self.failure is None:
            try:
                return super().flush()
            except OSError as error:
                self._give_up(error)
        self._complain()

    def _give_up(self, error: OSError) -> None:
        self.failure = OSError(error.errno, error.strerror, "standard output")
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        super().flush()

    def _complain(self) -> None:
        if self.required and self.failure is not None:
            raise self.failure


@contextmanager
def standard_streams() -> Iterator[None]:
    """Provide standard streams that are open, print every name, and do not end a command.

    A closed descriptor becomes the null device: otherwise the next file to be opened would take its
    number, and what is printed would go into that file. Only the interpreter's own streams are
    replaced. A warning is one line on standard error.
    """
    before, show = (sys.stdin, sys.stdout, sys.stderr), warnings.showwarning
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    sys.stdin = _readable(sys.stdin)
    sys.stdout, sys.stderr = _writable(sys.stdout, 1), _writable(sys.stderr, 2)
    require_stdout(True)
    warnings.showwarning = lambda text, *_, **__: print_message(
        f"notice: {' '.join(str(text).split())}"
    )
    try:
        yield
    finally:
        require_stdout(False)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before
        warnings.showwarning = show


def require_stdout(required: bool) -> None:
    """Say whether a command fails where standard output does: its result is there alone."""
    if isinstance(sys.stdout, StandardStream):
        sys.stdout.required = required


def stdout_failure() -> OSError | None:
    """Return why standard output could not be written; None where a reader has just left."""
    failure = getattr(sys.stdout, "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure


def _writable(stream: TextIO | None, number: int) -> Any:
    if stream is None:
        made = StandardStream(_raw(number), "utf-8")
        made.failure = OSError(errno.EBADF, "is closed", "standard output")
        return made
    if type(stream) is not io.TextIOWrapper:  # of a test or a notebook
        return stream
    stream.flush()
    return StandardStream(
        _raw(stream.fileno()),
        stream.encoding,
        "backslashreplace",  # names of files and classes print everywhere
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(number: int) -> io.BufferedWriter:
    return io.BufferedWriter(io.FileIO(number, "wb", closefd=False))


def _readable(stream: TextIO | None) -> Any:
    """Return standard input as the paths that it names: any bytes."""
    if stream is None:
        return open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    if type(stream) is io.TextIOWrapper:
        stream.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
    return stream
