"""Worker processes that die, stop or cannot start, small shared memory, and memory that is full."""

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fault_harness import Fault, finished_run, may_mount, mount_memory, photos, slow

SAVED = r"; the run is saved at step \d+; resume with: resnets train --resume \S*/new"
# A flag of mount(2).
READ_ONLY = 1
# Address space that a small computation needs beyond what is loaded, in bytes.
ROOM = 700 * 2**20


# Workers -----------------------------------------------------------------------------------------


def _training(folder: Path, **options: Any) -> Callable[[], Any]:
    """Return a training of 40 steps whose images are read by two workers."""
    from resnets import api

    # The cases themselves are processes of a server, whose start of a process takes seconds.
    multiprocessing.set_start_method("fork", force=True)
    photos(folder / "data")
    values: dict[str, Any] = {"model": "resnet20", "size": 16, "steps": 40, "batch_size": 4}
    values |= {"tune": "off", "cache_mb": 0, "workers": 2, "evaluate_every": 2.0}
    return partial(api.train, folder / "data", out=folder / "new", **values | options)


def _at_validation(act: Callable[[], None], folder: Path, **options: Any) -> Callable[[], Any]:
    """Return such a training; `act` is called after its first validation."""
    waiting = [act]

    def log(record: Any) -> None:
        if record["kind"] == "validation" and waiting:
            waiting.pop()()

    return _training(folder, log=log, **options)


def _workers() -> list[Any]:
    return multiprocessing.active_children()


def _send(number: signal.Signals, count: int | None) -> None:
    for process in _workers()[:count]:
        os.kill(process.pid, number)


def _signalled(number: signal.Signals, count: int | None, folder: Path) -> Callable[[], Any]:
    from resnets.data.workers import WorkerPool

    WorkerPool.patience = 2.0  # type: ignore[misc]
    return _at_validation(partial(_send, number, count), folder)


def _terminated_with_stopped_workers(folder: Path) -> Callable[[], None]:
    """SIGTERM comes while the run waits for workers that do not answer."""
    sent: list[float] = []

    def terminate() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def stop_workers() -> None:
        _send(signal.SIGSTOP, None)
        threading.Timer(1.0, terminate).start()

    training = _at_validation(stop_workers, folder)

    def run() -> None:
        result = training()
        print(f"signal {result.signal}, ended within {time.monotonic() - sent[0]:.0f} s")

    return run


def _saved(folder: Path) -> None:
    assert list((folder / "new" / "checkpoints").glob("state-*")), "no checkpoint"
    assert not _workers(), "workers are left"


def _resumed(folder: Path) -> list[str]:
    """The run whose worker was killed goes on, without workers, to its end."""
    from resnets.errors import StoppedError

    try:
        _signalled(signal.SIGKILL, 1, folder)()
    except StoppedError:
        return ["train", "--resume", str(folder / "new"), "--workers", "0"]
    raise AssertionError("not stopped")


def _in_reader(act: Callable[[], None], folder: Path, **options: Any) -> Callable[[], Any]:
    """Return a training in whose workers `act` is called for each batch."""
    from resnets.data.loader import TrainReader

    main, read = os.getpid(), TrainReader.__getitem__

    def reading(self: Any, request: Any) -> Any:
        if os.getpid() != main:
            act()
        return read(self, request)

    TrainReader.__getitem__ = reading  # type: ignore[method-assign]
    return _training(folder, **options)


def _exhaust() -> None:
    raise MemoryError


def _few_files(folder: Path) -> Callable[[], Any]:
    """More workers than sockets can be opened."""
    training = _training(folder, workers=64)
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
    return training


def _evaluated(number: signal.Signals, folder: Path) -> Callable[[], Any]:
    """A worker is lost while a model file is scored on images that do not fit in memory."""
    from resnets import api
    from resnets.data import loader
    from resnets.data.workers import WorkerPool
    from resnets.evaluation import evaluator

    class Watched(evaluator.Mistakes):
        def __call__(self, batch: Any, logits: Any) -> None:
            _send(number, None)

    api.Mistakes = Watched  # type: ignore[misc]
    api.BATCH_SIZE = 1  # type: ignore[misc]
    loader.fits = lambda *_: False
    WorkerPool.patience = 2.0  # type: ignore[misc]
    multiprocessing.set_start_method("fork", force=True)
    photos(folder / "data")
    return partial(api.evaluate, finished_run(folder), folder / "data", report=folder / "page")


# Shared memory -----------------------------------------------------------------------------------


def _with_shm(size: str, flags: int, options: list[str], folder: Path) -> list[str]:
    """Give this process a /dev/shm of its own, and return a training by workers."""
    mount_memory(Path("/dev/shm"), size=size, flags=flags)
    multiprocessing.set_start_method("fork", force=True)
    photos(folder / "data", each=16)
    words = ["train", str(folder / "data"), "--model", "resnet20", "--steps", "4", "--tune", "off"]
    return [*words, "--cache-mb", "0", "--workers", "2", "--out", str(folder / "new"), *options]


# Memory ------------------------------------------------------------------------------------------


def _limit(spare: int) -> None:
    """Allow this process so much more address space than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))


def _train_in(
    spare: int, size: int, batch_size: int, folder: Path, *, each: int = 8
) -> Callable[[], Any]:
    from resnets import api

    photos(folder / "data", each=each)
    values: dict[str, Any] = {"model": "resnet20", "size": size, "steps": 1, "tune": "off"}
    values |= {"batch_size": batch_size, "workers": 0, "threads": 1, "max_corrupt": 0.0}
    values |= {"log": lambda record: print(record.get("text", ""))}
    _limit(spare)
    return partial(api.train, folder / "data", out=folder / "new", **values)


def _large_model(folder: Path, size: int) -> Any:
    """Return the contents of a model file of the finished run, for larger images."""
    from dataclasses import replace

    from resnets.inference.model_file import read_model

    file = read_model(finished_run(folder))
    return replace(file, preprocess=replace(file.preprocess, size=size))


def _score_in(spare: int, size: int, num: int, folder: Path) -> Callable[[], Any]:
    from resnets import api

    file = _large_model(folder, size)
    photos(folder / "data", each=num)
    _limit(spare)

    def run() -> None:
        print(f"{api.evaluate(file, folder / 'data', workers=0).num_images} images")

    return run


def _predict_in(spare: int, size: int, num: int, folder: Path) -> Callable[[], Any]:
    from resnets import api

    file = _large_model(folder, size)
    images = sorted(map(str, photos(folder / "data", each=num).rglob("*.png")))
    _limit(spare)

    def run() -> None:
        found = list(api.predict(file, images))
        print(f"{sum(one.error is None for one in found)} images")

    return run


FAULTS = [
    *(
        Fault(
            f"workers/{name}",
            partial(_signalled, number, count),
            message + SAVED,
            code=4,
            check=_saved,
            catalogue="T4 T5",
        )
        for name, number, count, message in (
            ("killed", signal.SIGKILL, 1, "a worker process was killed.*--workers 0"),
            ("all-killed", signal.SIGKILL, None, "a worker process was killed.*--workers 0"),
            ("aborted", signal.SIGABRT, 1, "a worker process was killed by signal 6.*--workers 0"),
            ("bus-error", signal.SIGBUS, 1, "a worker process was killed by signal 7.*--workers 0"),
            ("asked-to-end", signal.SIGTERM, 1, "a worker process has ended.*--workers 0"),
            ("stopped", signal.SIGSTOP, None, "a worker process has not read.*--workers 0"),
        )
    ),
    Fault(
        "workers/terminated-while-they-are-stopped",
        _terminated_with_stopped_workers,
        r"signal 15, ended within [0-5] s",
        code=0,
        check=_saved,
        catalogue="T5 T8",
    ),
    Fault("workers/resumed-after-a-kill", _resumed, "top-1", code=0, catalogue="T4"),
    Fault(
        "workers/exit",
        partial(_in_reader, partial(os._exit, 3)),
        r"a worker process has ended: pass fewer --workers, or --workers 0",
        code=4,
        catalogue="T4",
    ),
    Fault(
        "workers/out-of-memory",
        partial(_in_reader, _exhaust),
        r"out of memory in a worker process: pass fewer --workers",
        code=4,
        catalogue="T4",
    ),
    Fault(
        "workers/too-many-files",
        _few_files,
        r"cannot start a worker process \(.*Too many open files\): pass fewer --workers",
        code=4,
    ),
    Fault(
        "workers/killed-in-evaluation",
        partial(_evaluated, signal.SIGKILL),
        "a worker process was killed.*--workers 0",
        code=4,
        catalogue="T4",
    ),
    Fault(
        "workers/stopped-in-evaluation",
        partial(_evaluated, signal.SIGSTOP),
        "a worker process has not read.*--workers 0",
        code=4,
        catalogue="T5",
    ),
    *(
        Fault(
            f"memory/{name}",
            make,
            message,
            code=code,
            megabytes=4096,
            cpu_seconds=60,
            catalogue=ids,
        )
        for name, make, message, code, ids in (
            (
                "train-refused",
                partial(_train_in, ROOM, 768, 4),
                "out of memory with micro",
                2,
                "T2",
            ),
            ("cache", partial(_train_in, ROOM // 4, 1024, 4, each=40), "--cache-mb", 2, "T2"),
            ("evaluate-in-parts", partial(_score_in, ROOM, 128, 16), "32 images", 0, "T3"),
            (
                "evaluate-refused",
                partial(_score_in, ROOM, 2400, 2),
                "out of memory with a",
                2,
                "T3",
            ),
            ("predict-in-parts", partial(_predict_in, ROOM, 128, 16), "32 images", 0, ""),
            ("predict-refused", partial(_predict_in, ROOM, 2400, 2), "out of memory with a", 2, ""),
        )
    ),
]
# In some containers no process may mount anything: there these cases do not exist.
FAULTS += [
    Fault(f"shm/{name}", partial(_with_shm, size, flags, options), "top-1", code=0, catalogue="T4")
    for name, size, flags, options in (
        ("64-kilobytes", "64k", 0, ["--size", "64", "--batch-size", "8"]),
        ("read-only", "64k", READ_ONLY, ["--size", "16", "--batch-size", "8"]),
    )
    if may_mount()
]

FAULTS = slow(
    FAULTS,
    "memory/evaluate-in-parts",
    "memory/predict-in-parts",
    "shm/64-kilobytes",
    "workers/aborted",
    "workers/all-killed",
    "workers/resumed-after-a-kill",
    "workers/stopped-in-evaluation",
    "workers/too-many-files",
)
