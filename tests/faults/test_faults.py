"""Every fault ends in its exit code and one line: nothing in silence, no hang, no traceback.

`make test` runs every fourth fault of each kind, `make slow` the others, and `benchmarks/faults.py`
all of them.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_harness import Fault, all_faults, run, templates


@pytest.fixture(scope="session", autouse=True)
def _without_templates() -> Iterator[None]:
    """Remove the runs that cases copy: a worker of pytest-xdist ends without its exit handlers."""
    yield
    if templates.cache_info().currsize:
        shutil.rmtree(templates(), ignore_errors=True)


def cases() -> Iterator[Any]:
    """Yield every fault; those that `make test` leaves out are marked as slow."""
    numbers = Counter[str]()
    for fault in all_faults():
        kind = fault.name.partition("/")[0]
        left_out = fault.slow or numbers[kind] % 4 > 0
        numbers[kind] += not fault.slow
        yield pytest.param(fault, marks=[pytest.mark.slow] if left_out else [], id=fault.name)


@pytest.mark.parametrize("fault", list(cases()))
def test_fault(fault: Fault, tmp_path: Path) -> None:
    outcome = run(fault, tmp_path / "case")
    assert outcome.verdict == "handled", outcome.detail
