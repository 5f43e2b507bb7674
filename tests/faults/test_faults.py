"""Every fault ends in its exit code and one line: nothing in silence, no hang, no traceback."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_harness import Fault, all_faults, run, templates


@pytest.fixture(scope="session", autouse=True)
def _without_templates() -> Iterator[None]:
    """Remove the runs that cases copy: a worker of pytest-xdist ends without its exit handlers."""
    yield
    if templates.cache_info().currsize:
        shutil.rmtree(templates(), ignore_errors=True)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.slow] if fault.slow else [], id=fault.name)
        for fault in all_faults()
    ],
)
def test_fault(fault: Fault, tmp_path: Path) -> None:
    outcome = run(fault, tmp_path / "case")
    assert outcome.verdict == "handled", outcome.detail
