"""Check that a type checker finds users' mistakes and does not report correct lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORRECT = """\
from pathlib import Path

import resnets
import torch
from torch import Tensor, nn

model = resnets.create_model("resnet18", num_classes=10, drop_path=0.1)
images = torch.randn(2, 3, 64, 64)
logits: Tensor = model(images)
maps: tuple[Tensor, ...] = model.features(images, stages=(1, 4))
block: nn.Module = model.layer4[0]
width: int = model.fc.in_features
model.fc = nn.Linear(width, 3)
model.layer4.register_forward_hook(lambda module, inputs, output: None)
body = nn.Sequential(*list(model.children())[:-1])
names: list[str] = resnets.list_models("resnet18*")
config = resnets.ResNetConfig(depths=(2, 2), block="basic", widths=(16, 32))
predictor = resnets.load_model(Path("run"))
"""
# Each line has one mistake.
MISTAKES = """\
resnets.creat_model("resnet18")
resnets.create_model("resnet18", num_class=10)
resnets.create_model("resnet18", depht=(2, 2, 2, 2))
resnets.create_model("resnet18", output_strid=8)
resnets.create_model("resnet18", blur="3")
resnets.create_model(18)
resnets.list_models(["resnet18"])
model(images).softmaxx(1)
model.layer4[0].forward(images) + model.layer4.lenght
model.features(images, stages="4")
model.reset_classifier("5")
resnets.ResNetConfig(depths=(2, 2), blok="basic")
"""
# What PyTorch's `Sequential` hides: any name may be that of a submodule.
HIDDEN = 1


@pytest.mark.slow
def test_mypy_finds_mistakes_and_reports_no_correct_line(tmp_path: Path) -> None:
    path = tmp_path / "user.py"
    path.write_text(CORRECT + MISTAKES, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(path)],
        cwd=ROOT,  # for its configuration, and its cache of PyTorch
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stderr == ""
    found = {int(line) for line in re.findall(r"user\.py:(\d+): error", done.stdout, re.M)}
    first = CORRECT.count("\n") + 1
    assert [line for line in found if line < first] == [], done.stdout
    planted = range(first, first + MISTAKES.count("\n"))
    assert len(found & set(planted)) >= len(planted) - HIDDEN, done.stdout
