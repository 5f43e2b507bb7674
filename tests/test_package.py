"""Test the package as a whole: what an import costs, the public names, the names of the files."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import resnets

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "resnets"


def test_no_two_modules_share_a_stem() -> None:
    # A command and the package that it calls may have one name: cli/train.py, cli/study.py.
    stems = Counter(
        path.stem
        for path in SOURCE.rglob("*.py")
        if path.stem not in ("__init__", "__main__") and path.parent.name != "cli"
    )
    assert stems["resnet"] == 1
    assert [stem for stem, count in stems.items() if count > 1] == []


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "statement",
    [
        "import resnets",
        "from resnets.cli.main import main; main(['--help'])",
        "from resnets.cli.main import main; main(['train', '--help'])",
        "from resnets.cli.main import main; main(['trian'])",
        "import resnets.data, resnets.data.sources, resnets.models, resnets.inference",
        "import resnets.training.recipes, resnets.report, resnets.evaluation",
    ],
)
def test_light_things_stay_light(statement: str) -> None:
    heavy = {"torch", "numpy", "torchvision", "PIL", "vl_convert"}
    assert loaded_after(statement).isdisjoint(heavy)


def test_the_public_names() -> None:
    names = [
        "create_model",
        "list_models",
        "load_model",
        "ResNet",
        "ResNetConfig",
        "Preprocess",
        "Recipe",
        "Scores",
        "Predictor",
        "train",
        "evaluate",
        "predict",
        "check_data",
        "CheckReport",
        "weights_preprocess",
    ]
    assert sorted(resnets.__all__) == sorted(names)
    assert set(names) <= set(dir(resnets))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = resnets.tarin


@pytest.mark.parametrize("name", resnets.__all__)
def test_a_public_name_resolves_and_is_documented(name: str) -> None:
    thing = getattr(resnets, name)
    assert thing.__name__ == name
    doc = inspect.getdoc(thing)
    assert doc and not doc.startswith(f"{name}(")  # dataclasses write such a one by themselves


TEXTS = sorted(
    path
    for folder in ("src", "tests", "docs", "benchmarks", "scripts", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".toml", ".sh", "") and path.is_file()
) + [path for path in ROOT.glob("*") if path.suffix in (".md", ".toml") or path.name == "Makefile"]

# Written in two pieces, so that this file does not find itself.
OF_ONE_MACHINE = ["/" + "work/", "/" + "home/", "/" + "root/", "/" + "Users/"]


def test_nothing_points_to_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in TEXTS
        for word in OF_ONE_MACHINE
        if word in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert len(TEXTS) > 60 and found == []
