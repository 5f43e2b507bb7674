"""README's commands and Python run as they stand, except for paths and lengths of training."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from resnets.cli.main import main
from resnets.models.download import LocalFile

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.startswith("resnets ")
]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]
# A run of ten minutes ends at the first validation that is no better: a shorter time would not
# always hold start-up and the last evaluation on a busy machine.
EARLY = {"evaluate_every": 1, "patience": 1}
SHORT = {"--epochs": "0.1"}
# What takes more than three seconds: `resnets study` takes minutes. `home` trains quickly.
SLOW = [line for line in COMMANDS if re.match(r"resnets (study|train (?!--resume))", line)]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's paths in it: photos, held-out photos, one trained run."""
    home = tmp_path_factory.mktemp("readme")
    draws = np.random.default_rng(0)
    for folder, count in (("photos", 12), ("held-out", 3)):
        for number, name in enumerate(("cat", "dog", "fish")):
            for index in range(count):
                pixels = draws.integers(0, 90, (40, 56, 3)).astype(np.uint8)
                pixels[..., number] += 120
                place = home / folder / name / f"{index}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place)
    shutil.copytree(home / "photos" / "cat", home / "new-photos")
    shutil.copy(home / "new-photos" / "0.jpg", home / "new-photos" / "one.jpg")
    run = home / "runs" / "photos-001"
    arguments = ["--model", "resnet20", "--size", "16", "--epochs", "1", "--batch-size", "8"]
    arguments += ["--tune", "off", "--workers", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)  # nobody looks at the page
        assert main(["train", str(home / "photos"), "--out", str(run), *arguments]) == 0
    return home


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def shortened(command: str) -> list[str]:
    """Return the words after `resnets`, with less to do for the flags that take long."""
    words = shlex.split(command, comments=True)[1:]
    if "--time" in words:
        words += [f"--{name.replace('_', '-')}={value}" for name, value in EARLY.items()]
    return [SHORT.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def test_readme_shows_both_make_commands_first() -> None:
    assert BLOCKS[0][0] == "sh"
    commands = [line.split("#")[0].strip() for line in BLOCKS[0][1].splitlines()]
    assert commands == ["make demo", "make test"]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in SLOW])
def test_readme_command(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)[1:]
    if "--resume" in words:  # an unfinished run is one without its final scores
        Path("runs/photos-001/scores.json").unlink()
        monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(words) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_readme_command_that_trains(command: str, folder: Path) -> None:
    assert main(shortened(command)) == 0


@pytest.mark.parametrize("snippet", [text for text in SNIPPETS if "time=" not in text])
def test_readme_snippet(
    snippet: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "resnet50.pth"
    if "IMAGENET1K" in snippet:  # stands in for the download of the same tensors
        torch.save(torchvision.models.resnet50().state_dict(), weights)
        local = LocalFile(weights, weights.name)
        monkeypatch.setattr("resnets.models.pretrained.local_file", lambda *_, **__: local)
    exec(snippet, {})


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [text for text in SNIPPETS if "time=" in text])
def test_readme_snippet_that_trains(snippet: str, folder: Path) -> None:
    exec(snippet.replace('time="10m"', 'time="10m", **EARLY'), {"EARLY": EARLY})
