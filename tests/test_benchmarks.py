"""Run the benchmark scripts, with their smallest arguments, so that none falls behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
SMALLEST = {
    "overhead.py": "--pairs 1 --steps 2 --batch-size 8",
    "resume.py": "--model resnet20 --times 1",
    "large_images.py": "--images 8 --workers 1 --rounds 1",
    "large_index.py": "OUT --images 3000 --rounds 1",
}


def run(script: str, arguments: list[str], tmp_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", [path.name for path in SCRIPTS])
def test_a_benchmark_shows_its_help(script: str, tmp_path: Path) -> None:
    assert script in run(script, ["--help"], tmp_path)


# The other scripts take minutes with their smallest arguments: their help imports all they need.
@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_runs(script: str, tmp_path: Path) -> None:
    arguments = SMALLEST[script].replace("OUT", str(tmp_path / "out")).split()
    assert run(script, arguments, tmp_path).strip()
