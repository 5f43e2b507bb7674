"""Guards of the whole: who imports whom, what an import costs, the public names, the files."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import resnets

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "resnets"
FILES = sorted(SOURCE.rglob("*.py"))

# CONTRIBUTING's table: a room, and the rooms or modules that it may import besides itself.
TABLE = re.findall(
    r"^\| `(\w+)` \|(.*)\|$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE
)
MAY_IMPORT = {room: set(re.findall(r"`([\w.]+)`", allowed)) for room, allowed in TABLE} | {
    "errors": set(),
    "__main__": {"cli"},
    "__init__": {"api", "data", "deploy", "evaluation", "models", "training"},
}

# Inside a wing, the same for its files; those that are not named may import the whole wing.
INSIDE = {
    "data.decode": set(),
    "data.keyed": set(),
    "data.preprocess": set(),
    "data.views": set(),
    "data.augment": {"data.keyed"},
    "data.sources": {"data.decode"},
    "models.config": set(),
    "models.layers": {"models.config"},
    "models.shortcuts": {"models.layers", "models.config"},
    "models.blocks": {"models.layers", "models.shortcuts", "models.config"},
    "models.initial": {"models.blocks", "models.config"},
    "models.resnet": {
        "models.blocks",
        "models.initial",
        "models.layers",
        "models.shortcuts",
        "models.config",
    },
    "models.download": set(),
    "models.weights": {"models.download", "models.resnet", "models.config"},
    "models.families": {"models.resnet", "models.config", "models.weights"},
    "models.measure": set(),
    "training.recipes": set(),
    "training.named": {"training.recipes"},
    "training.lock": set(),
    "training.finite": set(),
    "training.interrupt": set(),
    "training.checkpoints": {"training.lock"},
    "training.environment": set(),
    "training.muon": set(),
    "training.optim": {"training.muon", "training.recipes"},
    "training.meeting": set(),
    "training.distributed": {"training.interrupt", "training.meeting"},
    "training.syncnorm": {"training.distributed"},
    "training.state": {
        "training.optim",
        "training.recipes",
        "training.checkpoints",
        "training.environment",
    },
    "training.loop": {
        "training.optim",
        "training.recipes",
        "training.checkpoints",
        "training.distributed",
        "training.environment",
        "training.finite",
        "training.interrupt",
        "training.state",
        "training.shares",
    },
    "training.probe": {"training.environment"},
    "training.planning": {"training.optim", "training.probe", "training.recipes"},
    "training.shares": {"training.planning", "training.probe", "training.recipes"},
}


def module(path: Path) -> str:
    """`data.sources.index` for src/resnets/data/sources/index.py; a package has its own name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    inside_package = len(parts) > 1 and parts[-1] == "__init__"
    return ".".join(parts[:-1] if inside_package else parts)


MODULES = {module(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            base = node.module or ""
            found |= {
                f"{base}.{alias.name}"
                if f"{base}.{alias.name}".removeprefix("resnets.") in MODULES
                else base
                for alias in node.names
            }
    ours = {name for name in found if name.split(".")[0] == "resnets"}
    return {name.removeprefix("resnets").removeprefix(".") or "__init__" for name in ours}


def is_in(name: str, rooms: set[str]) -> bool:
    """Whether a module is one of the rooms or lies in one."""
    return any(name == room or name.startswith(room + ".") for room in rooms)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_run_downward(path: Path) -> None:
    name = module(path)
    room = name.split(".")[0]
    assert room in MAY_IMPORT, f"{room} is a new room: say here what it may import"
    allowed = MAY_IMPORT[room] | {"errors", room}
    if room in ("cli", "commands"):  # the version, and `from resnets import api`
        allowed |= {"__init__"}
    assert {other for other in imports(path) if not is_in(other, allowed)} == set()


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_inside_a_wing_run_downward(path: Path) -> None:
    name = module(path)
    wing = name.split(".")[0]
    place = next((part for part in INSIDE if is_in(name, {part})), None)
    if place is None:
        return
    inside = {other for other in imports(path) if is_in(other, {wing})}
    assert {other for other in inside if not is_in(other, INSIDE[place] | {place})} == set()


def test_the_guard_sees_every_kind_of_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import resnets.data.loader as b\nfrom resnets import api\nimport numpy\n"
        "def f():\n    from resnets.models import families\n    import resnets.errors\n"
    )
    assert imports(file) == {"data.batches", "api", "models.families", "errors"}


def test_there_is_no_circle() -> None:
    # Lazily resolved names (`__getattr__` of a package) do not import: their package is left out.
    graph = {
        module(path): imports(path) - {"__init__", "data.sources"}
        for path in FILES
        if path.name != "__init__.py"
    }
    order = tuple(TopologicalSorter(graph).static_order())  # raises CycleError on a circle
    assert order.index("errors") < order.index("data.decode") < order.index("api")


def test_no_room_is_a_drawer() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "base"}
    assert [name for name in MODULES if drawers & set(name.split("."))] == []


def test_files_are_short() -> None:
    lines = {module(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_a_file_says_what_it_is() -> None:
    trees = {module(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


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
        "import resnets.data, resnets.data.sources, resnets.models, resnets.deploy",
        "import resnets.training.recipes, resnets.report, resnets.commands",
    ],
)
def test_light_things_stay_light(statement: str) -> None:
    assert loaded_after(statement).isdisjoint({"torch", "numpy", "torchvision", "PIL", "altair"})


def test_the_public_names() -> None:
    names = [
        "create_model", "list_models", "load_model", "ResNet", "ResNetConfig", "Preprocess", "Recipe",
        "Scores", "Predictor", "train", "evaluate", "predict",
    ]  # fmt: skip
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
