"""The same study on a Dask cluster of two workers, one of which is killed on the way."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnets.errors import UserError
from resnets.study.executors import on_a_cluster
from resnets.study.twins.job_queue import run_jobs
from resnets.study.twins.run_store import RunStore
from resnets.study.twins.study_config import Group
from tiny_study import Inline, fill, tiny_plan, write_images

distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
pytestmark = pytest.mark.filterwarnings("default")  # what Dask warns of is not our business


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            host="127.0.0.1",
        ) as started:  # fmt: skip
            yield started


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_repeats_nothing(cluster: Any, tmp_path: Path) -> None:
    plan = tiny_plan(
        write_images(tmp_path / "rows.npz"), reserve=0,
        groups=(Group(("plain", "residual"), (8,), (0, 1)),),
    )  # fmt: skip
    here = fill(tmp_path / "here", plan, Inline())
    book = RunStore(tmp_path / "there", plan)
    pids = _workers(cluster)
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            os.kill(pids[0], signal.SIGKILL)

    with on_a_cluster(cluster.scheduler_address) as executor:
        run_jobs(book, executor=executor, log=tell)
    assert len(pids) == 2 and pids[0] not in _workers(cluster)
    assert len(said) == len(book.rows) == len(here.rows)
    assert len(book.runs.read_bytes().splitlines()) == len(book.rows)
    assert book.write_table().read_bytes() == here.write_table().read_bytes()


def _workers(cluster: Any) -> list[int]:
    """Their process ids."""
    with distributed.Client(cluster) as client:
        return [*client.run(os.getpid).values()]


def test_an_address_where_nobody_answers() -> None:
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with (
            pytest.raises(UserError, match="no Dask scheduler answers"),
            on_a_cluster(address, seconds=0.2),
        ):
            pass
