"""The lock of a run folder: who is refused, and what a dead owner leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnets.errors import UserError
from resnets.training.run_dir import locked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no fcntl")

# Holds the lock, and has a child that inherited the open file, as the loader's workers do.
OWNER = """
import os, sys, time
from pathlib import Path
from resnets.training.run_dir import locked
with locked(Path(sys.argv[1]), folder=Path("run")):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_another_process_is_refused_and_a_dead_one_forgotten(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    with (
        pytest.raises(UserError, match=rf"^run: process {owner.pid} on .* is training in this"),
        locked(tmp_path / "lock", folder=Path("run")),
    ):
        pass
    owner.kill()
    owner.wait()
    with locked(tmp_path / "lock", folder=Path("run")):  # though its child lives on
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "lock", folder=tmp_path):
            pass
