"""What all tests share: one thread a process, and no long timing before a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

# Before anything imports torch, and for every process that a test starts: `pytest -n 2` then fills
# two cores without fighting over them. The process that only hands out the tests needs no torch.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def quick_timing() -> Iterator[None]:
    """Time a training step for a moment only; users' runs time it for two seconds."""
    from resnets.training.trainer import Trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "measure_seconds", 0.01)
        yield


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra `report` were not installed: quick, where a test is not about charts."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)
