"""Signals let a step or a save finish, and end at once what leaves no trace.

The first SIGINT, SIGTERM or SIGHUP is remembered; inside `breaks()`, where the loop waits for a
batch or images are scored, it raises `Interrupted` on the spot. A second one stops at once.
Of several ranks none stops by itself: a signal counts from where all have agreed on it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(BaseException):
    """A signal came where nothing of the state was changing."""


class SignalHandler:
    """Context in which signals are remembered; the former handlers come back at its end."""

    def __init__(self, *, alone: bool = True) -> None:
        self.alone = alone
        self.heard = 0
        self.number: int | None = None
        """the signal that stops the run"""
        self._breaking = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> SignalHandler:
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

    def agree(self, heard: Iterable[float]) -> bool:
        """Take over what any rank has heard; returns whether the run is to stop."""
        self.number = int(max(heard)) or self.number
        return self.received()

    def leave(self) -> None:
        """From here on no other rank waits for this one."""
        self.alone, self.number = True, self.number or self.heard or None

    @contextmanager
    def breaks(self) -> Iterator[None]:
        """Context that a signal leaves at once; one that came before does not let it begin."""
        self._breaking = self.alone
        try:
            if self.received():
                raise Interrupted
            yield
        finally:
            self._breaking = False

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.heard:
            raise KeyboardInterrupt
        self.heard = number
        if self.alone:
            self.number = number
        if self._breaking:
            raise Interrupted
