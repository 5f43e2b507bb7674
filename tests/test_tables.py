"""Tables of a study: what is written is read again, bit for bit, and nothing strange gets in."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from resnets.study.tables import read_table, write_table

ROWS = [
    {
        "study": "init",
        "family": "plain",
        "depth": 100,
        "unit": 3,
        "metric": "variance",
        "value": 0.1 + 0.2,
    },
    {
        "study": "init",
        "family": "plain",
        "depth": 100,
        "metric": "slope",
        "status": "overflow at 9",
    },
    {"study": "probe", "x": 1e-300, "seed": 0, "metric": "share", "value": 5.0},
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data" / "init.csv"
    write_table(path, ROWS)
    first = path.read_bytes()
    assert read_table(path) == ROWS
    write_table(path, read_table(path))
    assert path.read_bytes() == first


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_is_finite(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="belongs in `status`"):
        write_table(tmp_path / "init.csv", [{"metric": "slope", "value": value}])
    assert not list(tmp_path.iterdir())


def test_a_column_is_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer"):
        write_table(tmp_path / "init.csv", [{"metric": "slope", "layer": 1}])
