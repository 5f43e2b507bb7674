"""All probes together: on foreign networks, and as a command on a run and on its model file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from resnets.cli.main import main
from resnets.errors import UserError
from resnets.study.probes.adapters import take_apart
from resnets.study.probes.probe_suite import Prober, compare, networks_of_run, probe
from resnets.study.tables import read_table
from resnets.training.run_dir import RunDir
from tiny_chains import FEW, K, network, sample, trained
from tiny_runs import quick_runs


def test_a_probe_of_a_foreign_network_repeats_itself() -> None:
    images, targets = sample(32, side=32)
    model = trained(timm.create_model("test_resnet", num_classes=K))
    said: list[str] = []
    tables = probe(model, images, targets, log=said.append, config=FEW)
    again = probe(model, images, targets, config=FEW)
    assert tables == again and said and all(tables.values())
    chains = take_apart(model), take_apart(network())
    across = compare(*chains, images, images, config=FEW)
    assert len(across) == (len(chains[0].blocks) + 1) * 5
    assert {(row["metric"], row["family"]) for row in across} == {("cka_across", "residual")}
    assert {row["family"] for rows in tables.values() for row in rows} == {"residual"}


def test_what_cannot_be_probed_is_said() -> None:
    images, targets = sample(16)
    with pytest.raises(UserError, match="3 images: a probe needs at least 4"):
        probe(network(), images[:3], targets[:3])
    broken = network()
    nn.init.constant_(broken.fc.weight, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        probe(broken, images, targets)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of 12 steps on noise with a colour for each class."""
    home = tmp_path_factory.mktemp("probe")
    draws = np.random.default_rng(0)
    targets = np.arange(60) % 3
    pixels = draws.integers(0, 100, (60, 12, 12, 3)).astype(np.uint8)
    pixels[np.arange(60), :, :, targets] += 100
    np.savez(home / "noise.npz", x_train=pixels, y_train=targets)
    flags = "--model tiny --size 12 --batch-size 8 --steps 12 --precision fp32 --threads 1"
    flags += " --tune off --workers 0 --quiet --val-fraction 0.4"
    with pytest.MonkeyPatch.context() as patch:
        quick_runs(patch)
        words = ["train", str(home / "noise.npz"), "--out", str(home / "run"), *flags.split()]
        assert main(words) == 0
        yield home / "run"  # a probe repeats the run, and so needs its network


@pytest.mark.slow
def test_the_command_on_a_run_and_on_its_model_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "probe", str(run), "--out", str(tmp_path), "--quiet"]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    tables = {path.name: read_table(path) for path in printed}
    assert all(path.parent == tmp_path / "data" for path in printed) and len(tables) == 7
    gradients = tables["probe_gradients_run.csv"]
    assert {row.get("step") for row in gradients} == {None, 0, 1, 10, 12}
    assert {row["depth"] for rows in tables.values() for row in rows} == {6}
    alone = tmp_path / "model.safetensors"
    shutil.copy(run / "model.safetensors", alone)
    words = ["study", "probe", str(alone), "--out", str(tmp_path / "b"), "--quiet"]
    assert main([*words, "--data", str(run.parent / "noise.npz"), "--against", str(run)]) == 0
    across = Path(capsys.readouterr().out.splitlines()[-1])
    assert across.name == "probe_across_model-against-run.csv"
    rows = {(row["unit"], row["x"]): row["value"] for row in read_table(across)}
    assert len(rows) == 3**2 and all(rows[u, u] == pytest.approx(1) for u in range(3))


def test_a_probe_again_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        paths = Prober(tmp_path / name, "cpu", print, config=FEW).probe(run)
        tables.append({path.name: path.read_bytes() for path in paths})
    assert tables[0] == tables[1] and len(tables[0]) == 7


def test_the_steps_are_those_of_the_run(run: Path) -> None:
    """Replayed to the last step, the weights are the checkpoint's to the last bit."""
    folder = RunDir(run)
    steps = {step: young.state_dict() for step, young in networks_of_run(folder, (0, 1, 10))}
    assert sorted(steps) == [0, 1, 10, 12]
    (step, replayed), *more = networks_of_run(folder, (12,))
    assert step == 12 and not more
    for name, tensor in replayed.state_dict().items():
        assert torch.equal(tensor, steps[12][name]), name
    assert not torch.equal(steps[0]["fc.weight"], steps[1]["fc.weight"])


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("environment.json", {"ranks": 2}, "it ran on 2 ranks"),
        ("environment.json", {"forced": [{"step": 3, "changes": []}]}, "was resumed with --force"),
        ("data.json", {"fingerprint": "other"}, "are not those of the run"),
    ],
)
def test_a_run_that_cannot_be_repeated_says_why(
    run: Path, tmp_path: Path, file: str, entry: dict[str, Any], message: str
) -> None:
    other = RunDir(Path(shutil.copytree(run, tmp_path / "run")))
    other.write_json(file, other.read_json(file) | entry)
    with pytest.raises(UserError, match=message):
        next(networks_of_run(RunDir(tmp_path / "run"), (0,)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--out", "{file}"], "is a file; pass a folder"),
        (["{file}"], "pass --data, a folder of images or a name"),
        (["{file}", "--data", "nowhere/"], "nowhere/ does not exist"),
        (["missing"], "there is no model file missing"),
        ([], "MODEL"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(run / "model.safetensors", file)
    told = [word.format(run=run, file=file) for word in words]
    assert main(["study", "probe", *told]) == 2
    assert message in capsys.readouterr().err


def test_the_group_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    assert "study probe " in capsys.readouterr().out
    assert main(["study", "prboe"]) == 2
    assert "did you mean 'study probe'?" in capsys.readouterr().err
