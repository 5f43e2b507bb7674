"""The lock of a run folder: who is refused, and what a dead owner leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from resnets.errors import UserError
from resnets.training.run_dir import locked
from some_ranks import loaded_server

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no fcntl")


def own(place: Path, answer: Connection) -> None:
    """Hold the lock, and have a child that inherits the open file, as the loader's workers do."""
    with locked(place, folder=Path("run")):
        child = os.fork()
        if child != 0:
            answer.send(child)
        time.sleep(60)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[BaseProcess]:
    context = loaded_server()
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=own, args=(tmp_path / "lock", sending))
    process.start()
    child = receiving.recv()
    try:
        yield process
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.join()


def test_another_process_is_refused_and_a_dead_one_forgotten(
    owner: BaseProcess, tmp_path: Path
) -> None:
    with (
        pytest.raises(UserError, match=rf"^run: process {owner.pid} on .* is training in this"),
        locked(tmp_path / "lock", folder=Path("run")),
    ):
        pass
    owner.kill()
    owner.join()
    with locked(tmp_path / "lock", folder=Path("run")):  # though its child lives on
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "lock", folder=tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
