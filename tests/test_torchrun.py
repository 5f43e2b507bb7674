"""torchrun as a user types it: a rank dies, torchrun starts all again, the run ends in its bits."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnets import api
from resnets.cli.main import main
from resnets.errors import UserError
from resnets.training import trainer
from resnets.training.distributed import DistContext
from resnets.training.run_dir import RunDir, find_restarted_run
from some_ranks import on_ranks
from tiny_runs import quick_runs

STEPS = 24
FIELDS: dict[str, Any] = {
    "model": "resnet20",
    "size": 12,
    "steps": STEPS,
    "batch_size": 8,
    "tune": "off",
    "threads": 1,
    "precision": "fp32",
    "workers": 0,
    "crop": "shift",
    "auto_augment": "none",
    "mixup": 0.2,
    "dropout": 0.1,
    "drop_path": 0.2,
    "ema": 0.8,
    "evaluate_every": 2.0,
    "checkpoint_every": 0.0,
}
# The same of two blocks, for runs of this process.
SHORT = FIELDS | {"model": "tiny"}
PATIENCE = 600.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    draws = np.random.default_rng(0)
    images = {
        part: draws.integers(0, 256, (n, 12, 12, 1), dtype=np.uint8)
        for part, n in (("train", 40), ("val", 10))
    }
    labels = {part: np.arange(len(found)) % 2 for part, found in images.items()}
    np.savez(
        path,
        x_train=images["train"],
        y_train=labels["train"],
        x_val=images["val"],
        y_val=labels["val"],
    )
    return path


def flags(**values: Any) -> list[str]:
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in values.items())
    return [word for pair in pairs for word in pair]


def trained(ranks: DistContext, data: Path, out: Path) -> None:
    trainer.write_report = lambda *_, **__: None  # type: ignore[assignment]
    api.train(data, out=out, device="cpu", **FIELDS)


def sha(path: Path) -> str:
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a rank in /proc")
@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_the_run_ends_in_the_same_bits(
    data: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    out = (tmp_path / "out.txt").open("wb")
    torchrun = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--max-restarts=1",
            "-m",
            "resnets",
            "train",
            str(data),
            "--out",
            str(killed),
            "--device",
            "cpu",
            *flags(**FIELDS),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=out,
        stderr=out,
    )
    try:
        wait_for_step(killed, torchrun)
        os.kill(pid_of_rank(1, torchrun.pid), signal.SIGKILL)
        assert not (killed / "scores.json").exists(), "killed too late"
        assert torchrun.wait(PATIENCE) == 0, (tmp_path / "out.txt").read_text()
    finally:
        torchrun.terminate()
        out.close()
    said = (tmp_path / "out.txt").read_text()
    assert f"resuming {killed} at step" in said
    assert said.count("top-1") == 1  # rank 0 speaks
    assert json.loads((killed / "environment.json").read_text())["ranks"] == 2
    assert on_ranks(2, trained, data, whole, folder=tmp_path) == [None, None]
    assert sha(killed) == sha(whole)
    assert (killed / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def wait_for_step(folder: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not list((folder / "checkpoints").glob("state-*[1-9].safetensors")):
        assert process.poll() is None and time.monotonic() < end, "nothing came"
        time.sleep(0.002)


def pid_of_rank(rank: int, parent: int) -> int:
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                born_of = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
                names = (place / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if born_of == parent and f"RANK={rank}".encode() in names:
                return int(place.name)
    raise AssertionError(f"no rank {rank}")


# --- which run the same command goes on with


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One process under torchrun."""
    for name, value in (("RUN_ID", "night"), ("RESTART_COUNT", "0")):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    quick_runs(monkeypatch)
    return monkeypatch


def stop_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """A process that dies when it has saved this step."""
    real = RunDir.save

    def save(folder: RunDir, *arguments: Any, **rest: Any) -> None:
        real(folder, *arguments, **rest)
        if rest["step"] == step:
            raise KeyboardInterrupt

    patch.setattr(RunDir, "save", save)


def test_the_same_command_goes_on_with_its_own_run(
    data: Path, tmp_path: Path, torchrun: pytest.MonkeyPatch
) -> None:
    fields, said = SHORT | {"steps": 9}, list[str]()
    api.train(data, out=tmp_path / "whole", **fields)
    with torchrun.context() as patch:
        stop_after(5, patch)
        assert api.train(data, out=tmp_path / "run", **fields).scores is None
    with pytest.raises(UserError, match="not empty"):  # another command
        api.train(data, out=tmp_path / "run", **fields | {"seed": 1})
    with torchrun.context() as patch:  # the same, but not torchrun's
        patch.delenv("TORCHELASTIC_RUN_ID")
        with pytest.raises(UserError, match="not empty"):
            api.train(data, out=tmp_path / "run", **fields)
    api.train(data, out=tmp_path / "run", log=lambda r: said.append(r.get("text", "")), **fields)
    assert any("at step 5" in text for text in said)
    assert sha(tmp_path / "run") == sha(tmp_path / "whole")
    with pytest.raises(UserError, match="not empty"):  # finished
        api.train(data, out=tmp_path / "run", **fields)


@pytest.mark.slow
def test_without_out_only_a_restart_goes_on(
    data: Path, tmp_path: Path, torchrun: pytest.MonkeyPatch
) -> None:
    torchrun.chdir(tmp_path)
    fields = SHORT | {"steps": 6}
    with torchrun.context() as patch:
        stop_after(2, patch)
        api.train(data, **fields)
        api.train(data, **fields)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["noise-001", "noise-002"]
    torchrun.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert api.train(data, **fields).folder == Path("runs/noise-002")
    torchrun.setenv("TORCHELASTIC_RUN_ID", "another night")
    assert api.train(data, **fields).folder == Path("runs/noise-003")


def test_what_died_while_it_began_is_begun_anew(
    tmp_path: Path, torchrun: pytest.MonkeyPatch
) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    folder.write_json("command.json", {})
    assert find_restarted_run(folder.path, {}, restarted=True) is None
    assert not folder.path.exists()
    (folder.path / "cats").mkdir(parents=True)
    assert find_restarted_run(folder.path, {}, restarted=True) is None
    assert folder.path.exists()  # somebody's images


def test_a_stopped_run_says_how_torchrun_goes_on(
    data: Path, tmp_path: Path, torchrun: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_after(2, torchrun)
    out = str(tmp_path / "run")
    arguments = ["train", str(data), "--out", out, "--quiet", *flags(**SHORT)]
    assert main(arguments) == 128 + signal.SIGINT
    said = f"torchrun --nnodes=1 --nproc-per-node=1 -m resnets train --resume {out}"
    assert said in capfd.readouterr().err


def test_another_number_of_ranks_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        quick_runs(patch)
        stop_after(2, patch)
        api.train(data, out=tmp_path / "run", **SHORT)
    run_dir = RunDir(tmp_path / "run")
    run_dir.write_json("environment.json", run_dir.read_json("environment.json") | {"ranks": 8})
    with pytest.raises(UserError, match="the number of ranks changed from 8 to 1"):
        api.train(resume=tmp_path / "run")


if not torch.distributed.is_available():
    pytest.skip("no torch.distributed", allow_module_level=True)
