"""On a signal, finish the current step or save; stop waiting and evaluation at once.

The first SIGINT, SIGTERM or SIGHUP is remembered; inside `interruptible()` it raises
`Interrupted` at once. A second one raises KeyboardInterrupt. Of several ranks none stops by
itself: a signal counts when all ranks have agreed on it.
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(BaseException):
    """A signal came where no state was changing."""


class SignalHandler:
    """Context in which signals are remembered; on exit the former handlers come back.

    In a single process a signal counts at once, without the agreement of other ranks.
    """

    def __init__(self, *, single_process: bool = True) -> None:
        self.single_process = single_process
        self.received = 0  # the signal that this process has received
        self.number: int | None = None  # the signal that stops the run
        self._interruptible = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            # An ignored signal stays ignored: nohup asks for that.
            handled = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            self._former = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def should_stop(self) -> bool:
        """Return whether the run is to stop."""
        return self.number is not None

    def agree(self, received: Iterable[float]) -> bool:
        """Take over the signals of all ranks; return whether the run is to stop."""
        self.number = int(max(received)) or self.number
        return self.should_stop()

    def leave_ranks(self) -> None:
        """From here on no other rank waits for this one, so a signal counts at once."""
        self.single_process, self.number = True, self.number or self.received or None

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context that a signal leaves at once, also one that came before it."""
        self._interruptible = self.single_process
        try:
            if self.should_stop():
                raise Interrupted
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        if self.single_process:
            self.number = number
        if self._interruptible:
            raise Interrupted
