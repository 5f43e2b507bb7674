"""Signals let a step or a save finish, and end at once what leaves no trace.

The first SIGINT, SIGTERM or SIGHUP is remembered; inside `breaks()`, where the loop waits for a
batch or images are scored, it raises `Interrupted` on the spot. A second one stops at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(BaseException):
    """A signal came where nothing of the state was changing."""


class Interruption:
    """Context in which signals are remembered; the former handlers come back at its end."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._breaking = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays ignored: nohup asks for that.
            heard = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            self._former = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def received(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    @contextmanager
    def breaks(self) -> Iterator[None]:
        """Context that a signal leaves at once; one that came before does not let it begin."""
        self._breaking = True
        try:
            if self.received():
                raise Interrupted
            yield
        finally:
            self._breaking = False

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self._breaking:
            raise Interrupted
