"""A changed byte anywhere in a run folder is refused, or changes nothing of the result."""

import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnets import api
from resnets.errors import UserError
from resnets.training.run_dir import RunDir
from tiny_runs import quick_runs

FIELDS: dict[str, Any] = {
    "model": "tiny",
    "size": 12,
    "steps": 6,
    "batch_size": 12,
    "precision": "fp32",
    "threads": 1,
    "workers": 0,
    "tune": "off",
    "evaluate_every": 0.4,
    "checkpoint_every": 0.0,
}
FILES = (
    *("config.json", "data.json", "environment.json", "digests.json", "metrics.jsonl"),
    *("checkpoints/best.safetensors", "checkpoints/state-*.safetensors"),
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was stopped after four of six steps."""
    place = tmp_path_factory.mktemp("flips")
    noise = np.random.default_rng(0).integers(0, 255, (40, 12, 12, 3)).astype(np.uint8)
    np.savez(place / "noise.npz", x_train=noise, y_train=np.arange(40) % 2)
    real = RunDir.save

    def save(folder: RunDir, *arguments: Any, **rest: Any) -> None:
        real(folder, *arguments, **rest)
        if rest["step"] == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        quick_runs(patch)
        with pytest.MonkeyPatch.context() as stop:
            stop.setattr(RunDir, "save", save)
            api.train(place / "noise.npz", out=place / "run", **FIELDS)
        yield place / "run"


def result_of(folder: Path) -> str:
    """Resume a run; return a digest of its model file and scores."""
    api.train(resume=folder)
    files = (folder / name for name in ("model.safetensors", "scores.json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def flip(path: Path, chance: random.Random) -> str:
    """Change one bit, or the whole of a byte; return what was done."""
    content = bytearray(path.read_bytes())
    # Of a checkpoint mostly the header, where a byte can mean anything.
    reach = 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else 0
    last = reach if reach and chance.random() < 0.5 else len(content)
    position, mask = chance.randrange(last), chance.choice([1 << chance.randrange(8), 255])
    content[position] ^= mask
    path.write_bytes(content)
    return f"{path.name}: byte {position} of {len(content)}, mask {mask}"


@pytest.mark.parametrize("times", [14, pytest.param(200, marks=pytest.mark.slow)])
def test_a_flip_in_a_run_folder_is_refused_or_without_consequence(
    stopped: Path, tmp_path: Path, times: int
) -> None:
    chance, folder = random.Random(times), tmp_path / "run"
    shutil.copytree(stopped, folder)
    expected, refused = result_of(folder), 0
    for number in range(times):
        shutil.rmtree(folder)
        shutil.copytree(stopped, folder)
        done = flip(sorted(folder.glob(FILES[number % len(FILES)]))[-1], chance)
        try:
            found = result_of(folder)
        except UserError as error:
            found, refused = str(error), refused + 1
        assert found == expected or ("\n" not in found and len(found) != len(expected)), done
    assert refused >= times // 3


@pytest.mark.parametrize("times", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_flip_in_a_model_file_is_refused(stopped: Path, tmp_path: Path, times: int) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    result_of(tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    whole, chance = path.read_bytes(), random.Random(times)
    for _ in range(times):
        path.write_bytes(whole)
        done = flip(path, chance)
        with pytest.raises(UserError) as refused:
            api.load_model(path)
        assert "\n" not in str(refused.value), done
