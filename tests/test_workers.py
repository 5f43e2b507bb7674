"""Worker processes answer in order, through sockets, and their loss is an error in one line."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from resnets.data.decode import DecodeError
from resnets.data.workers import WorkerError, WorkerPool
from resnets.errors import is_out_of_memory
from tiny_runs import CPU

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def nothing() -> None:
    """Give no sign of life."""


@dataclass(frozen=True)
class Reader:
    """Answers with a tensor of numbers and what was asked; negative numbers are faults."""

    tick: Callable[[], None] = nothing

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        if number == -1:
            raise DecodeError("damaged", "a.png")
        if number == -2:
            raise MemoryError
        if number == -3:
            raise RuntimeError(lambda: "cannot be pickled")
        if number <= -10:  # in pieces of a tenth of a second
            for _ in range(-number):
                time.sleep(0.1)
                self.tick()
        images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5) + number
        if number % 2:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, number, {number: "reason"}


@pytest.fixture(params=["fork", "spawn"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    if request.param not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {request.param} here")
    context: Any = multiprocessing.get_context(request.param)
    monkeypatch.setattr(multiprocessing, "Process", context.Process)
    with closing(WorkerPool(Reader(), count=2, device=CPU)) as made:
        yield made


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    context: Any = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "Process", context.Process)
    with closing(WorkerPool(Reader(), count=2, device=CPU)) as made:
        yield made


def test_answers_are_those_of_the_reader_in_order(pool: WorkerPool) -> None:
    for number, (images, *rest) in enumerate(pool.map(iter(range(11)))):
        expected, *others = Reader()[number]
        assert torch.equal(images, expected)
        assert images.stride() == expected.stride()
        assert rest == others
    assert number == 10


def test_a_newer_call_forgets_what_an_older_one_asked_for(forked: WorkerPool) -> None:
    assert next(forked.map(iter(range(100, 200))))[1] == 100
    assert [answer[1] for answer in forked.map(iter(range(9)))] == list(range(9))
    assert list(forked.map(iter([]))) == []
    assert [answer[1] for answer in forked.map(iter([5]))] == [5]


def test_what_a_reader_raises_is_raised_here(forked: WorkerPool) -> None:
    with pytest.raises(DecodeError, match=r"cannot read a\.png: damaged"):
        list(forked.map(iter([0, 1, -1, 2])))
    assert [answer[1] for answer in forked.map(iter([3]))] == [3]
    with pytest.raises(WorkerError, match="out of memory in a worker process: pass fewer") as lost:
        list(forked.map(iter([-2])))
    assert lost.value.exit_code == 4
    with pytest.raises(RuntimeError, match="RuntimeError: <function"):
        list(forked.map(iter([-3])))


@posix
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_lost_worker_is_an_error_and_others_take_its_place(
    number: signal.Signals, forked: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerPool, "patience", 1.5)
    answers = forked.map(iter(range(100)))
    next(answers)
    processes = multiprocessing.active_children()
    os.kill(processes[0].pid or 0, number)
    with pytest.raises(WorkerError, match="--workers 0"):
        list(answers)
    assert not any(process.is_alive() for process in processes)
    assert [answer[1] for answer in forked.map(iter([7]))] == [7]


def test_a_slow_batch_is_waited_for_as_long_as_images_come(
    forked: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(forked.map(iter([1])))  # the processes have started
    monkeypatch.setattr(WorkerPool, "patience", 1.5)
    assert [answer[1] for answer in forked.map(iter([-30]))] == [-30]


@posix
def test_stopped_workers_end_at_once(forked: WorkerPool) -> None:
    next(forked.map(iter(range(100))))
    processes = multiprocessing.active_children()
    for process in processes:
        os.kill(process.pid or 0, signal.SIGSTOP)
    begin = time.monotonic()
    forked.close()
    assert time.monotonic() - begin < 5
    assert not any(process.is_alive() for process in processes)


def test_processes_that_cannot_start_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.Process, "start", refused)
    with pytest.raises(WorkerError, match=r"cannot start .* unavailable\): pass fewer --workers"):
        next(WorkerPool(Reader(), count=2, device=CPU).map(iter([1])))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_exhausted_memory_is_recognised(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one
