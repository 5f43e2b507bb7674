"""Run the benchmark scripts, with their smallest arguments, so that none falls behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALLEST = {
    "audit.py": "OUT --images 700",
    "bottleneck.py": "OUT",
    "coverage.py": "resnet18 ecaresnet26t",
    "faults.py": "run-folder --fast",
    "fast.py": "DATA OUT --seeds 1 --arms fast",
    "finetune.py": "DATA OUT --base-time 12s --time 12s --seeds 1",
    "gpu.py": "OUT --tiny --device cpu --parts repeat",
    "inference.py": "--pairs 1 --size 32",
    "kill.py": "--kills 1",
    "kuangliu.py": "DATA --rounds 1 --steps 1",
    "large_images.py": "--images 8 --workers 1 --rounds 1",
    "large_index.py": "OUT --images 3000 --rounds 1",
    "memory.py": "OUT --images 300 --epochs 2 --workers 1",
    "overhead.py": "--pairs 1 --steps 2 --batch-size 8",
    "resume.py": "--model resnet20 --times 1",
    "throughput.py": "--rounds 1 --steps 1",
    "cifar10_jpeg.py": "--help",  # it downloads CIFAR-10
}
# These take a minute or more, or a time that a busy machine misses: `make benchmarks` runs them.
LONG = {
    *("audit.py", "bottleneck.py", "fast.py", "finetune.py", "gpu.py", "kuangliu.py", "resume.py"),
    "throughput.py",
}
# Exits with 1 where fine-tuning is not better, as it may be on so few images.
VERDICTS = {"finetune.py"}
CASES = [
    pytest.param(path.name, marks=pytest.mark.benchmark if path.name in LONG else pytest.mark.slow)
    for path in sorted(FOLDER.glob("*.py"))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 32 pixels of six classes, as many of each as the scripts draw."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 8)):
        for shade in range(6):
            folder = root / split / f"class{shade}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(40 * shade, 40 * shade + 50, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("script", CASES)
def test_a_benchmark_runs(script: str, data: Path, tmp_path: Path) -> None:
    places = {"DATA": str(data), "OUT": str(tmp_path / "out")}
    done = subprocess.run(
        [sys.executable, FOLDER / script, *(places.get(w, w) for w in SMALLEST[script].split())],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode in ({0, 1} if script in VERDICTS else {0}), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
