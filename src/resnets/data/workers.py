"""Provide `WorkerPool`, persistent processes that answer requests in their order.

Workers have no state, so their number does not change the result. Each has a socket of its own, so
that images need no shared memory, of which a container has 64 MB, and no lock that dies with it.
"""

import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from resnets.errors import StoppedError, is_out_of_memory

# Requests that a worker has at a time.
AHEAD = 2
# Seconds in which a worker ends that was asked to, and in which one that was killed is gone.
ENDS_WITHIN = 0.3
# First byte of a message of a worker: it is alive, or its answer follows.
ALIVE, ANSWER = b".", b"="
_ADVICE = "pass fewer --workers, or --workers 0"
# Without it, as on Windows, a worker may wait for the main process when it says that it is alive.
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)


class WorkerError(StoppedError):
    """A worker process was killed, is stopped, or could not be started."""


def usable_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def init_worker(_: int) -> None:
    """Leave signals to the main process, which ends the workers when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: os._exit(0))
    threading.Thread(target=exit_with_parent, daemon=True).start()
    sys.excepthook = hide_broken_connection


def exit_with_parent() -> None:
    """End a worker when the main process is gone, however it was started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def hide_broken_connection(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print no traceback where the main process ended while a worker sent it an answer."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


class WorkerPool:
    """Answer requests in order, in `count` persistent processes, or in this one if 0.

    An answer is `reader[request]`, a tuple that begins with a tensor of uint8. The reader is a
    dataclass with a field `tick`, a function that it calls after each image. The processes start
    with the first request and end with `close()`, with the last reference to this object, or with
    this process. WorkerError: one was lost, or did not get on.
    """

    # Seconds without a single image from a worker, after which it is taken for hung.
    patience: ClassVar[float] = 60.0

    def __init__(self, reader: Any, *, count: int, device: torch.device) -> None:
        self.reader, self.count, self.device = reader, count, device
        self.turn = 0
        self.processes: _Processes | None = None

    def map(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Yield the answers in order; a new call ends an unfinished older one."""
        self.turn += 1
        turn = self.turn
        answers = self.start(iter(requests))
        while turn == self.turn:
            try:
                answer = next(answers)
            except StopIteration:
                return
            except WorkerError:
                self.close()
                raise
            yield answer
        raise RuntimeError("these batches were ended by a newer call of batches(), or by close()")

    def start(self, requests: Iterator[Any]) -> Iterator[Any]:
        """Send the first requests to the processes, or answer them in this one."""
        if self.count == 0:
            return map(self.reader.__getitem__, requests)
        if self.processes is None:
            pinned = self.device.type == "cuda"
            self.processes = _Processes(self.reader, count=self.count, pinned=pinned)
            weakref.finalize(self, self.processes.end)
        processes = self.processes
        processes.forget()
        for request in itertools.islice(requests, AHEAD * self.count):
            processes.send(request)
        return self._answers(processes, requests)

    def _answers(self, processes: "_Processes", requests: Iterator[Any]) -> Iterator[Any]:
        while processes.num_waiting:
            answer = processes.receive(self.patience)
            for request in itertools.islice(requests, 1):
                processes.send(request)
            yield answer

    def close(self) -> None:
        """End the processes."""
        self.turn += 1
        if self.processes is not None:
            self.processes.end()
        self.processes = None


class _Processes:
    """The processes of a pool. Request number k is for process k modulo their number.

    A thread receives the answers in that order, so that they are at hand when they are needed.
    """

    def __init__(self, reader: Any, *, count: int, pinned: bool) -> None:
        self.owner, self.pinned = os.getpid(), pinned
        self.workers: list[tuple[multiprocessing.Process, socket.socket]] = []
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.num_sent = self.num_received = 0
        self.first = 0  # number of the first request that still counts
        self.signs = 0  # signs of life received
        self.thread = threading.Thread(target=self._receive_all, daemon=True)
        try:
            for _ in range(count):
                ours, theirs = socket.socketpair()
                with suppress(OSError, AttributeError):  # a stopped worker reads no requests
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 60, 0))
                process = multiprocessing.Process(target=_serve, args=(reader, theirs), daemon=True)
                self.workers.append((process, ours))
                with theirs:  # from here on its end is open in the worker only
                    process.start()
            self.thread.start()
        except (OSError, RuntimeError) as error:  # no memory, processes, threads or files left
            self.end()
            raise WorkerError(f"cannot start a worker process ({error}): {_ADVICE}") from error

    @property
    def num_waiting(self) -> int:
        """Number of requests that have no answer yet."""
        return self.num_sent - max(self.num_received, self.first)

    def forget(self) -> None:
        """Ignore the answers to all requests so far."""
        self.first = self.num_sent

    def send(self, request: Any) -> None:
        """Send a request to the next process."""
        _, link = self.workers[self.num_sent % len(self.workers)]
        content = pickle.dumps(request, pickle.HIGHEST_PROTOCOL)
        self.num_sent += 1
        # That a worker is gone or stopped is noticed when its answer is due.
        with suppress(ConnectionError, BlockingIOError):
            link.sendall(len(content).to_bytes(8, "little") + content)

    def receive(self, patience: float) -> Any:
        """Return the next answer; raise what a worker raised, or WorkerError."""
        signs, silence = self.signs, 0.0
        while True:
            # It counts waits, not clocks: a computer may sleep, and a run be stopped by its user.
            wait = min(1.0, patience)
            try:
                answer = self.answers.get(timeout=wait)
            except queue.Empty:
                silence = silence + wait if signs == self.signs else 0.0
                signs = self.signs
                if silence >= patience:
                    raise WorkerError(
                        f"a worker process has not read an image for {patience:.0f} s, stopped or "
                        f"waiting for its disk: continue it, or pass --workers 0"
                    ) from None
                continue
            if isinstance(answer, multiprocessing.Process):
                raise _lost(answer, at_start=not self.signs and not self.num_received)
            self.num_received += 1
            if self.num_received <= self.first:
                continue
            if isinstance(answer, _Raised):
                answer.again()
            return answer

    def _receive_all(self) -> None:
        """Receive the answers in the order of the requests, until a worker is gone."""
        for process, link in itertools.cycle(self.workers):
            try:
                self.answers.put(self._receive(link))
            except OSError:
                self.answers.put(process)
                return
            except Exception as error:
                self.answers.put(_Raised(error))
                return

    def _receive(self, link: socket.socket) -> Any:
        while _read(link, 1) == ALIVE:
            self.signs += 1
        order, shape, rest = pickle.loads(_read(link, int.from_bytes(_read(link, 8), "little")))
        if order is None:
            return rest
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)
        _fill(link, _memory(images))
        self.signs += 1
        return images.permute(*map(order.index, range(len(order)))), *rest

    def end(self) -> None:
        """End the processes: asked first, then killed."""
        if os.getpid() != self.owner:  # a process that was forked from this one
            return
        started = [process for process, _ in self.workers if process.pid is not None]
        for process in started:
            process.terminate()
        deadline = time.monotonic() + ENDS_WITHIN
        for process in started:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in started:
            if process.exitcode is None:
                process.kill()
                process.join(ENDS_WITHIN)
        for _, link in self.workers:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)  # ends the thread
        if self.thread.ident is not None:
            self.thread.join(ENDS_WITHIN)
        for _, link in self.workers:
            link.close()
        self.workers = []


class _Raised:
    """An exception of a worker, with its traceback."""

    def __init__(self, error: Exception) -> None:
        self.error, self.trace = error, traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")

    def again(self) -> None:
        """Raise it in the main process."""
        if is_out_of_memory(self.error):
            raise WorkerError(f"out of memory in a worker process: {_ADVICE}") from self.error
        raise self.error from RuntimeError(f"in a worker process:\n{self.trace}")


def _lost(process: multiprocessing.Process, *, at_start: bool) -> WorkerError:
    """Return the error for a worker that has ended, `at_start` before it did anything."""
    process.join(ENDS_WITHIN)
    exitcode = process.exitcode
    if at_start and exitcode == 1 and multiprocessing.get_start_method() != "fork":
        # The new process has imported the main script, which starts processes itself.
        return WorkerError(
            "a worker process cannot start: put what your script runs under "
            'if __name__ == "__main__":, or pass --workers 0'
        )
    if exitcode == -signal.SIGKILL:
        cause = "was killed, as the system does when memory is exhausted"
    elif exitcode is not None and exitcode < 0:
        cause = f"was killed by signal {-exitcode}"
    else:
        cause = "has ended"
    return WorkerError(f"a worker process {cause}: {_ADVICE}")


def _serve(reader: Any, link: socket.socket) -> None:
    """Answer requests in a worker process, as long as the main process exists."""
    init_worker(0)
    torch.set_num_threads(1)
    sending, last = threading.Lock(), 0.0
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def tick() -> None:
        nonlocal last
        if time.monotonic() - last < 1 or not sending.acquire(blocking=False):
            return  # an answer on its way is a sign of life too
        try:
            last = time.monotonic()
            with suppress(OSError):  # nobody listens at present
                link.send(ALIVE, _AT_ONCE)
        finally:
            sending.release()

    def send_answers() -> None:
        with suppress(OSError):  # the main process is gone
            while True:
                answer = answers.get()
                with sending:
                    _send(link, answer)

    threading.Thread(target=send_answers, daemon=True).start()
    reader = replace(reader, tick=tick)
    with suppress(OSError):
        while True:
            request = pickle.loads(_read(link, int.from_bytes(_read(link, 8), "little")))
            tick()
            try:
                answers.put(reader[request])
            except Exception as error:
                answers.put(_Raised(error))


def _send(link: socket.socket, answer: Any) -> None:
    """Send an answer: its tensor as it lies in memory, so that its strides stay."""
    if isinstance(answer, tuple):
        tensor, *rest = answer
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        images = tensor.permute(order).contiguous()
        head: Any = order, tuple(images.shape), rest
    else:
        images, head = None, (None, None, answer)
    content = pickle.dumps(head, pickle.HIGHEST_PROTOCOL)
    link.sendall(ANSWER + len(content).to_bytes(8, "little") + content)
    if images is not None:
        link.sendall(_memory(images))


def _memory(images: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    content: Any = images.numpy().reshape(-1)
    return memoryview(content)


def _read(link: socket.socket, size: int) -> bytes:
    """Return the next `size` bytes; raise ConnectionError if the other side is gone."""
    content = bytearray(size)
    _fill(link, memoryview(content))
    return bytes(content)


def _fill(link: socket.socket, place: memoryview) -> None:
    """Fill the memory with the next bytes; raise ConnectionError if the other side is gone."""
    filled = 0
    while filled < len(place):
        num = link.recv_into(place[filled:])
        if num == 0:
            raise ConnectionError("the other process is gone")
        filled += num
