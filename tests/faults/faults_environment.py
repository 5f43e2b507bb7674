"""Machines that are not ideal: no home, odd variables, locales without Unicode, few descriptors."""

import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fault_harness import TINY_RUN, Fault, finished_run, interrupted_run, photos, slow

Words = Callable[[Path], Sequence[Any]]
CACHES = ("RESNETS_DATA", "XDG_CACHE_HOME", "HOME")


def _train(folder: Path) -> list[Any]:
    return ["train", photos(folder / "photos"), *TINY_RUN, "--out", folder / "run"]


def _resume(folder: Path) -> list[Any]:
    return ["train", "--resume", interrupted_run(folder)]


def _evaluate(folder: Path) -> list[Any]:
    return ["evaluate", finished_run(folder), photos(folder / "photos", each=2)]


def _predict(folder: Path) -> list[Any]:
    return ["predict", finished_run(folder), photos(folder / "photos", each=1)]


def _with(words: Words, **variables: str | None) -> Words:
    """Return a command line with environment variables; None removes one."""

    def make(folder: Path) -> Sequence[Any]:
        command = words(folder)
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None  # found again from TMPDIR
        return command

    return make


def _homeless(words: Words, prepare: Callable[[Path], object] = Path.resolve) -> Words:
    """Return a command line of a user without a home, whose temporary folder is prepared."""

    def make(folder: Path) -> Sequence[Any]:
        def no_home(*_: object) -> Path:
            raise RuntimeError("Could not determine home directory.")

        command = _with(words, **dict.fromkeys(CACHES), TMPDIR=str(folder))(folder)
        prepare(folder / f"resnets-{os.getuid()}")
        Path.home = no_home  # type: ignore[assignment]
        return command

    return make


def _cached(words: Words) -> Words:
    """Let a command cache the headers of its few images, as it does those of many."""

    def make(folder: Path) -> Sequence[Any]:
        from resnets.data.sources import header_cache

        header_cache.REMEMBERED_FROM = 1
        return words(folder)

    return make


def _private(folder: Path) -> None:
    [cache] = folder.glob("resnets-*")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700, "others can read the cache"


def _no_cache(folder: Path) -> None:
    assert not list(folder.glob("resnets-*/*")), "a folder of others was used"


def _foreign(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def _linked(place: Path) -> None:
    (place.parent / "elsewhere").mkdir(mode=0o700)
    place.symlink_to("elsewhere")


def _gone(folder: Path) -> list[Any]:
    """Work in a folder that is deleted."""
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()
    return ["train", "photos", *TINY_RUN]


def _few_descriptors(folder: Path) -> list[Any]:
    command = [*_train(folder), "--workers", "2"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    return command


def _dark_umask(folder: Path) -> list[Any]:
    command = _train(folder)
    os.umask(0o777)
    return command


def _undecodable(name: bytes) -> Words:
    def make(folder: Path) -> Sequence[Any]:
        place = folder / os.fsdecode(name)
        return ["train", photos(place), *TINY_RUN, "--out", folder / "run"]

    return make


def _undecodable_out(folder: Path) -> list[Any]:
    return [*_train(folder)[:-1], folder / "run\udcff"]


def _locale(name: str, variables: str, words: str, code: str, message: str) -> Fault:
    """Return a case of a process of its own in a locale, with names beyond ASCII."""

    def make(folder: Path) -> Callable[[], None]:
        photos(folder / "фото", classes=("кот", "пёс ☃"), each=2)
        shutil.move(finished_run(folder), folder / "модель")

        def case() -> None:
            line = f"env {variables} {sys.executable} -m resnets {words}; echo code $?"
            done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=100)
            text = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
            print(text)
            assert f"code {code}" in text, text

        return case

    return Fault(f"environment/locale-{name}", make, message, code=0, cpu_seconds=30)


NOTICE = r"notice: no home folder .*caches are in"
C = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
FAULTS = [
    Fault("environment/home-train", _homeless(_train), "top-1", code=0),
    Fault("environment/home-evaluate", _homeless(_evaluate), "top-1", code=0),
    Fault("environment/home-resume", _homeless(_resume), "top-1", code=0),
    Fault("environment/home-cached", _homeless(_cached(_evaluate)), NOTICE, code=0, check=_private),
    Fault(
        "environment/home-foreign-cache",
        _homeless(_cached(_evaluate), _foreign),
        "could not be cached",
        code=0,
        check=_no_cache,
    ),
    Fault(
        "environment/home-linked-cache",
        _homeless(_cached(_evaluate), _linked),
        "could not be cached",
        code=0,
        check=_no_cache,
    ),
    Fault(
        "environment/home-file-for-cache",
        _homeless(_cached(_evaluate), Path.touch),
        "could not be cached",
        code=0,
    ),
    Fault(
        "environment/home-download",
        _homeless(lambda _: ["train", "cifar10"], _foreign),
        "RESNETS_DATA",
    ),
    Fault(
        "environment/home-tilde", _homeless(lambda _: ["train", "~no-such-user/x"]), "no such home"
    ),
    Fault(
        "environment/data-is-a-file",
        _with(_cached(_evaluate), RESNETS_DATA="/dev/null"),
        "could not be cached",
        code=0,
    ),
    Fault(
        "environment/data-of-nobody",
        _with(_cached(_evaluate), RESNETS_DATA="~no-such-user/x"),
        "could not be cached",
        code=0,
    ),
    Fault(
        "environment/data-is-a-file-download",
        _with(lambda _: ["train", "cifar10"], RESNETS_DATA="/dev/null"),
        "could not download cifar10",
    ),
    Fault(
        "environment/xdg-is-a-file",
        _with(_cached(_evaluate), RESNETS_DATA=None, XDG_CACHE_HOME="/dev/null"),
        "could not be cached",
        code=0,
    ),
    Fault(
        "environment/torchrun-id-alone", _with(_train, TORCHELASTIC_RUN_ID="job"), "top-1", code=0
    ),
    Fault(
        "environment/torchrun-id-alone-resume",
        _with(_resume, TORCHELASTIC_RUN_ID="job", GROUP_WORLD_SIZE="x"),
        "top-1",
        code=0,
    ),
    Fault(
        "environment/torchrun-restarts",
        _with(_train, TORCHELASTIC_RUN_ID="job", TORCHELASTIC_RESTART_COUNT="many"),
        "top-1",
        code=0,
    ),
    *(
        Fault(
            f"environment/ranks-{number}",
            _with(_train, RANK=rank, WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            message,
        )
        for number, (rank, size, port, message) in enumerate(
            [
                ("0", "two", "29500", "WORLD_SIZE='two' in the environment: expected a whole"),
                ("first", "2", "29500", "RANK='first' in the environment"),
                ("-1", "2", "29500", "RANK='-1' in the environment"),
                ("5", "2", "29500", "RANK=5 in the environment must be below WORLD_SIZE=2"),
                ("0", "2", None, "MASTER_PORT in the environment"),
                ("0", "2", "http", "MASTER_PORT='http' in the environment"),
                ("0", "", "29500", "WORLD_SIZE='' in the environment"),
            ]
        )
    ),
    Fault(
        "environment/one-rank",
        _with(_train, RANK="0", WORLD_SIZE="1", MASTER_ADDR="x"),
        "top-1",
        code=0,
    ),
    Fault(
        "environment/columns-1-help",
        _with(lambda _: ["train", "--help"], COLUMNS="1"),
        "--model",
        code=0,
    ),
    Fault(
        "environment/columns-1-mistake",
        _with(lambda _: ["train", "--x"], COLUMNS="1"),
        "unknown option --x",
    ),
    Fault("environment/columns-1-train", _with(_train, COLUMNS="1"), "top-1", code=0),
    Fault(
        "environment/columns-1-terminal",
        _with(_evaluate, COLUMNS="1", FORCE_COLOR="1"),
        "top-1",
        code=0,
    ),
    Fault("environment/columns-odd", _with(_evaluate, COLUMNS="many", LINES="-1"), "top-1", code=0),
    Fault(
        "environment/dumb-terminal",
        _with(_train, TERM="dumb", FORCE_COLOR="1", NO_COLOR="1"),
        "top-1",
        code=0,
    ),
    Fault("environment/no-temporary-folder", _with(_train, TMPDIR="/nowhere"), "top-1", code=0),
    Fault("environment/time-zone", _with(_train, TZ=":/nonsense"), "top-1", code=0),
    Fault("environment/folder-gone", _gone, "working folder does not exist"),
    Fault("environment/few-descriptors", _few_descriptors, "top-1", code=0),
    Fault("environment/umask", _dark_umask, "top-1|ermission", code=0),
    Fault("environment/folder-not-utf8", _undecodable(b"bad\xff"), r"DATA .*bad\\xff: .*not UTF-8"),
    Fault("environment/out-not-utf8", _undecodable_out, r"--out .*run\\xff: .*not UTF-8"),
    _locale("c-train", C, "train фото --out run", "2", "PYTHONUTF8=1"),
    _locale("c-predict", C, "predict модель фото", "0", "000.png"),
    _locale("c-coerced", "LC_ALL=C", "predict модель фото", "0", "фото/кот/000.png"),
    _locale(
        "ascii-output", "PYTHONIOENCODING=ascii:strict", "predict модель фото", "0", r"\\u043a"
    ),
    _locale("threads", "OMP_NUM_THREADS=abc LANG=", "predict модель фото", "0", "000.png"),
]

FAULTS = slow(
    FAULTS,
    "environment/dumb-terminal",
    "environment/few-descriptors",
    "environment/home-resume",
    "environment/locale-ascii-output",
    "environment/locale-c-coerced",
    "environment/locale-c-predict",
    "environment/locale-threads",
)
