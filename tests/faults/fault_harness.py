"""Run a fault in a process of its own and judge what the package made of it.

Each `faults_KIND.py` beside this file holds the table of one kind: a list FAULTS of `Fault`.
`test_faults.py` runs them all, `benchmarks/faults.py` prints them as a table.
"""

import atexit
import ctypes
import importlib
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# The tables of faults, and what the server imports from which each case is forked.
TABLES = sorted(path.stem for path in Path(__file__).parent.glob("faults_*.py"))
PRELOADED = ["fault_preload", *TABLES]
# The server finds the tables by the environment: it ignores the path of its parent.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# Flags of unshare(2) and mount(2).
_NEW_MOUNTS, _NEW_USER, _PRIVATE = 0x00020000, 0x10000000, 0x44000
# The options of a run that takes a second: a step is timed for a moment only (`_child`).
TINY_RUN = [
    *("--model", "resnet20", "--size", "16", "--epochs", "1"),
    *("--batch-size", "4", "--tune", "off"),
]


@dataclass(frozen=True)
class Fault:
    """One fault: how to make it, and what must come of it.

    Args:
        name: Unique, as "npz/encrypted"; the part before the slash is the kind.
        make: Writes the input into the empty folder that it gets, which is also the working folder.
            Returns the words of a command line, or a function of the Python API to call.
        message: Regular expression that the one line of the error matches, or, where `code` is 0,
            anything that was printed.
        code: The exit code; 2 is a mistake of the user. A function must raise UserError for 2.
        check: Called with the folder after all; an AssertionError makes the case silent.
        cpu_seconds, megabytes: Most that may be spent before it is refused.
        wall_seconds: From which it hangs.
        slow: Left to `make slow`.
        catalogue: The ids of the fault catalogue that this case answers, as "D3 T4".
    """

    name: str
    make: Callable[[Path], Any]
    message: str
    code: int = 2
    check: Callable[[Path], None] | None = None
    cpu_seconds: float = 10.0
    megabytes: int = 1024
    wall_seconds: float = 120.0
    slow: bool = False
    catalogue: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """What came of a fault: `verdict` is handled, silent, traceback, hang, cost or message."""

    verdict: str
    detail: str
    code: int | None
    seconds: float
    cpu_seconds: float
    megabytes: float


def all_faults() -> list[Fault]:
    """Return the faults of every table beside this file, by name."""
    folder = Path(__file__).parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    faults = [fault for name in TABLES for fault in importlib.import_module(name).FAULTS]
    assert len({fault.name for fault in faults}) == len(faults), "two faults of one name"
    return sorted(faults, key=lambda fault: fault.name)


def slow(faults: Sequence[Fault], *names: str) -> list[Fault]:
    """Return the faults; these, neighbours of quicker ones, are left to `make slow`."""
    assert set(names) <= {fault.name for fault in faults}, "no fault has this name"
    return [replace(fault, slow=fault.slow or fault.name in names) for fault in faults]


# Inputs ------------------------------------------------------------------------------------------


def photos(
    folder: Path, *, classes: Sequence[str] = ("cat", "dog"), each: int = 8, side: int = 16
) -> Path:
    """Write PNGs of noise, brighter by class, as folder/CLASS/000.png; return the folder."""
    for position, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture(position, number, side=side).save(folder / name / f"{number:03d}.png")
    return folder


def picture(position: int, number: int, *, side: int = 16) -> Image.Image:
    """Return the picture of noise `number` of the class at `position`."""
    noise = np.random.default_rng((position, number)).integers(0, 128, (side, side, 3))
    return Image.fromarray((noise + 100 * (position % 2)).astype(np.uint8))


def finished_run(folder: Path) -> Path:
    """Copy a finished run of two classes into `folder`/run; return the copy."""
    return Path(shutil.copytree(Path(os.environ["TEMPLATES"]) / "finished", folder / "run"))


def interrupted_run(folder: Path) -> Path:
    """Copy a run that was stopped between its checkpoints into `folder`/run; return the copy.

    Its images stay where they are: a case that changes images trains a run of its own.
    """
    return Path(shutil.copytree(Path(os.environ["TEMPLATES"]) / "stopped", folder / "run"))


@cache
def may_mount() -> bool:
    """Return whether a process here may have mounts of its own; in some containers none may."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def mount_memory(place: Path, *, size: str, flags: int = 0) -> None:
    """Mount a file system of this size in memory; this process alone and its children see it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    spaces = _NEW_MOUNTS if user == 0 else _NEW_USER | _NEW_MOUNTS
    assert libc.unshare(spaces) == 0, os.strerror(ctypes.get_errno())
    if user != 0:  # who is not root is root in a space of users of its own
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    libc.mount(b"none", b"/", None, _PRIVATE, None)
    options = f"size={size}".encode()
    failed = libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, options)
    assert not failed, os.strerror(ctypes.get_errno())


# Running -----------------------------------------------------------------------------------------


def run(fault: Fault, folder: Path) -> Outcome:
    """Make the fault in `folder`, run its command in a process of its own, and judge it."""
    printed = folder.with_name(f"{folder.name}.out")
    work = _child, fault.name, folder, printed, templates()
    code, wall = _in_process(*work, patience=fault.wall_seconds)
    assert printed.exists(), f"the input of {fault.name} could not be made"
    text = printed.read_text(errors="replace")
    spent = peak = 0.0
    if numbers := re.search(r"\n\x00([\d.]+) ([\d.]+)\n$", text):
        spent, peak = float(numbers[1]), float(numbers[2])
        text = text[: numbers.start()]

    def outcome(verdict: str, detail: str) -> Outcome:
        return Outcome(verdict, detail, code, wall, spent, peak)

    if code is None:
        return outcome("hang", text[-2000:])
    if code < 0:
        return outcome("traceback", f"killed by signal {-code}: {text[-2000:]}")
    if "Traceback (most recent call last)" in text:
        return outcome("traceback", text[-3000:])
    if code != fault.code:
        return outcome("silent" if code == 0 else "message", f"exit code {code}: {text[-2000:]}")
    if not re.search(fault.message, text):
        return outcome("silent" if code == 0 else "message", text[-2000:])
    if fault.check is not None:
        try:
            fault.check(folder)
        except AssertionError as error:
            return outcome("silent", f"{error!r}: {text[-2000:]}")
    if spent > fault.cpu_seconds or peak > fault.megabytes:
        return outcome("cost", f"{spent:.1f} s of processor time, {peak:.0f} MB: {text[-2000:]}")
    return outcome("handled", text.strip().splitlines()[-1] if text.strip() else "")


def _child(name: str, folder: Path, printed: Path, templates: Path) -> None:
    """Make a fault by its name, run it, and write what it printed and cost."""
    os.environ["TEMPLATES"] = str(templates)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.setpgid(0, 0)  # what it starts ends with it
    fault = next(fault for fault in all_faults() if fault.name == name)
    made = fault.make(folder)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from resnets.errors import UserError
    from resnets.training.trainer import Trainer

    Trainer.measure_seconds = 0.01
    if callable(made) or made[0] != "study":  # a page without pictures: quick
        sys.modules["vl_convert"] = None  # type: ignore[assignment]
    before, base = _cpu_seconds(), _reset_peak()
    try:
        if callable(made):
            made()
            code = 0
        else:
            from resnets.cli.main import main

            code = main([str(word) for word in made])
    except UserError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    # The streams may be closed, which is a fault of some cases.
    os.write(file, f"\n\0{_cpu_seconds() - before:.2f} {_peak() - base:.0f}\n".encode())
    os._exit(code)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def _reset_peak() -> float:
    """Begin to measure the peak of memory anew; return what is used now, in megabytes."""
    with suppress(OSError):  # without Linux the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_process(
    work: Callable[..., None], *arguments: Any, patience: float = 300.0
) -> tuple[int | None, float]:
    """Run `work` in a process forked from a server that has imported torch.

    Returns:
        The exit code, None where it did not end in time, and the seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    begin = time.monotonic()
    process = context.Process(target=work, args=arguments)
    process.start()
    process.join(patience)
    code = process.exitcode
    if code is None:
        assert process.pid is not None
        for kill in (os.killpg, os.kill):
            try:
                kill(process.pid, signal.SIGKILL)
            except OSError:
                continue
        process.join()
    return code, time.monotonic() - begin


@cache
def templates() -> Path:
    """Train one run to its end and stop another, once in a process; return their folder."""
    place = Path(tempfile.mkdtemp(prefix="resnets-faults-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    photos(place / "photos")
    for name in ("finished", "stopped"):
        code, _ = _in_process(_train_template, place, name)
        assert code == 0, f"the run for the cases could not be trained: {code}"
    return place


def _train_template(place: Path, name: str) -> None:
    from resnets import api
    from resnets.training.trainer import Trainer

    Trainer.measure_seconds = 0.01
    sys.modules["vl_convert"] = None  # type: ignore[assignment]

    def stop(record: Mapping[str, Any]) -> None:
        if record["kind"] == "validation":
            os.kill(os.getpid(), signal.SIGTERM)

    result = api.train(
        place / "photos",
        out=place / name,
        log=stop if name == "stopped" else None,
        **{"model": "resnet20", "size": 16, "epochs": 4, "batch_size": 4, "tune": "off"},
    )
    assert (result.signal is not None) == (name == "stopped")
