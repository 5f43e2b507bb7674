"""The documents are true: quotations are in the source, code runs, paths, links and flags exist.

Each ```python block of `docs/` and CONTRIBUTING has a mark in the line above it:

    <!-- from PATH -->        occurs in that file, except for its indentation
    <!-- from PATH, runs -->  the same, and is run
    <!-- runs -->             runs; a ```text block right below is what it prints
    <!-- raises -->           ends with the error in the ```text block right below
    <!-- takes minutes -->    is compiled only

The blocks of one document run in their order and share their names, as in a notebook. The commands
and the Python of README are run by `test_readme.py`.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import resnets
from resnets.cli.main import main

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "resnets"
DOCS = ROOT / "docs"
MARKED = [ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
DOCUMENTS = [ROOT / "README.md", *MARKED]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```python\n(?P<code>.*?)```\n(?:```text\n(?P<text>.*?)```)?",
    re.DOTALL,
)
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([\w./-]+)`")
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")
# A path of ours begins with one of these, or ends with one of the suffixes. Other spans with a
# slash are the reader's own folders.
FOLDERS = ("src", "tests", "docs", "benchmarks", "scripts", "examples", ".ci", ".github")
FOLDERS += ("data", "models", "training", "inference", "evaluation", "report", "cli", "study")
SUFFIXES = (".py", ".toml", ".ipynb")
# Files that documents name as the reader's own, or that a run writes.
OWN_FILES = {"photos.toml"}
# Flags of torchrun, srun, sbatch, docker, pip, git and of the scripts in benchmarks/ and examples/.
FOREIGN = {"nproc-per-node", "nnodes", "max-restarts", "rdzv-backend", "rdzv-endpoint", "rdzv-id"}
FOREIGN |= {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "requeue"}
FOREIGN |= {"open-mode", "kill-on-bad-exit", "export", "shm-size", "strict", "save"}
FOREIGN |= {"tyro-print-completion", "version", "help"}
COMMANDS = ("check", "train", "evaluate", "predict", "show", "models")
COMMANDS += ("study train", "study init", "study probe", "study report", "study check")


@dataclass(frozen=True)
class Block:
    """One piece of Python in a document."""

    document: str
    line: int
    mark: str
    code: str
    text: str | None

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def kind(self) -> str:
        return "runs" if self.mark.endswith("runs") else self.mark.split(" ")[0]

    def run(self, names: dict[str, Any]) -> None:
        """Execute the code; a failure names the document."""
        exec(compile(self.code, self.name, "exec", dont_inherit=True), names)


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    return [
        Block(
            path.name,
            text[: match.start()].count("\n") + 1,
            match["mark"] or "",
            match["code"],
            match["text"],
        )
        for match in BLOCK.finditer(text)
    ]


BLOCKS = {path: blocks_of(path) for path in MARKED}
ALL_BLOCKS = [block for blocks in BLOCKS.values() for block in blocks]


def occurs(code: str, source: str) -> bool:
    return any(textwrap.indent(code, " " * pad).strip("\n") in source for pad in (0, 4, 8, 12, 16))


def test_each_block_is_marked() -> None:
    marks = r"from [^\s,]+(, runs)?|runs|raises|takes minutes"
    assert [block.name for block in ALL_BLOCKS if not re.fullmatch(marks, block.mark)] == []
    fences = sum(path.read_text("utf-8").count("```python") for path in MARKED)
    assert len(ALL_BLOCKS) == fences


def test_quotations_are_in_the_source() -> None:
    quoted = [block for block in ALL_BLOCKS if block.mark.startswith("from ")]
    assert quoted
    for block in quoted:
        path = ROOT / re.split(r"[ ,]", block.mark)[1]
        assert path.exists(), f"{block.name} quotes {path.name}, which does not exist"
        assert occurs(block.code, path.read_text("utf-8")), f"{block.name} differs from {path.name}"


def test_a_changed_quotation_is_noticed() -> None:
    source = (PACKAGE / "models" / "blocks.py").read_text("utf-8")
    assert occurs("return self.activation(shortcut + residual)\n", source)
    assert not occurs("return self.activation(residual + shortcut)\n", source)


RUNNING = [path for path in MARKED if {"runs", "raises"} & {b.kind for b in BLOCKS[path]}]


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.stem)
def test_code_runs_and_prints(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCKS[path]:
        if block.kind == "raises":
            with pytest.raises(Exception) as caught:  # noqa: PT011 (its name is compared below)
                block.run(names)
            assert f"{caught.type.__name__}: {caught.value}\n" == block.text, block.name
        elif block.kind == "runs":
            block.run(names)
        printed = capsys.readouterr().out
        if block.kind == "runs" and block.text is not None:
            assert printed == block.text, block.name


def test_long_code_compiles() -> None:
    for block in ALL_BLOCKS:
        if block.kind == "takes":
            ast.parse(block.code, block.name)


def notebook_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tour_notebook", DOCS / "tour_notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_the_executed_tour() -> None:
    written = json.loads((DOCS / "tour.ipynb").read_text("utf-8"))
    expected = notebook_module().cells((DOCS / "tour.md").read_text("utf-8"))
    kept = ("cell_type", "source", "metadata")
    assert [[cell[name] for name in kept] for cell in written["cells"]] == [
        [cell[name] for name in kept] for cell in expected
    ], "run `make notebook`"
    codes = [cell for cell in written["cells"] if cell["cell_type"] == "code"]
    assert len(codes) == sum(block.kind in ("runs", "raises") for block in BLOCKS[DOCS / "tour.md"])
    for number, cell in enumerate(codes, start=1):
        assert cell["execution_count"] == number
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert bool(errors) == ("raises-exception" in cell["metadata"].get("tags", ()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text("utf-8"))
    places = [target.split("#")[0] for target in targets if "://" not in target]
    assert [place for place in places if place and not (document.parent / place).exists()] == []


def paths_named(text: str) -> set[str]:
    """Spans that name a file or folder of the repository, from its root or from the package's."""
    return {
        span
        for span in SPAN.findall(text)
        if span.endswith(SUFFIXES) or ("/" in span and span.split("/")[0] in FOLDERS)
    }


def test_paths_named_exist() -> None:
    wrong = {
        f"{document.name}: {path}"
        for document in DOCUMENTS
        for path in paths_named(document.read_text("utf-8")) - OWN_FILES
        if not any((root / path).exists() for root in (ROOT, PACKAGE))
    }
    assert wrong == set()
    assert "training/trainer.py" in paths_named((DOCS / "tour.md").read_text("utf-8"))


def test_flags_named_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    known = set(FOREIGN)
    for command in COMMANDS:
        assert main([*command.split(), "--help"]) == 0
        known |= set(FLAG.findall(capsys.readouterr().out))
    known |= {flag.removeprefix("no-") for flag in known}
    wrong = {
        f"{document.name}: --{flag}"
        for document in DOCUMENTS
        for flag in FLAG.findall(document.read_text("utf-8"))
        if flag not in known
    }
    assert wrong == set()


def commands_shown() -> list[str]:
    """Return the command lines of the pages that need no file to be parsed."""
    lines: list[str] = []
    for document in DOCUMENTS:
        for script in SHELL.findall(document.read_text("utf-8")):
            lines += re.findall(r"^resnets [^#|>\n]*", script.replace("\\\n", " "), re.MULTILINE)
    skipped = ("--resume", "--recipe-file", "--tyro", "--version")
    return [line for line in lines if not any(word in line for word in skipped)]


def test_commands_shown_are_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("check", "train", "evaluate", "predict", "show", "models", "study"):
        module = importlib.import_module(f"resnets.cli.{name}")
        for value in vars(module).values():
            if inspect.isclass(value) and hasattr(value, "run"):
                monkeypatch.setattr(value, "run", lambda self, started: 0)
    assert len(commands_shown()) > 20
    for command in commands_shown():
        assert main(shlex.split(command)[1:]) == 0, command + capsys.readouterr().err


def test_public_names_are_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    named = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(resnets.__all__)


def test_extras_named_exist() -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(project["optional-dependencies"])
    texts = [path.read_text("utf-8") for path in DOCUMENTS]
    named = {extra for text in texts for extra in re.findall(r"pip install '\.\[([\w,]+)\]'", text)}
    assert {name for extras in named for name in extras.split(",")} <= set(rows)


SCALE = SHELL.findall((DOCS / "scale.md").read_text("utf-8"))
SCRIPTS = [*SCALE, (ROOT / "benchmarks" / "two_hosts.sh").read_text("utf-8")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_shell_scripts_are_well_formed() -> None:
    for script in SCRIPTS:
        command = ["bash", "-n"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr) == (0, ""), script[:60]


def test_the_sbatch_script_starts_torchrun_on_every_machine() -> None:
    scripts = [text for text in SCALE if text.startswith("#!/bin/bash\n#SBATCH")]
    assert len(scripts) == 1
    for word in ("srun", "torchrun", "-m resnets train", "--max-restarts", "--requeue", "--out"):
        assert word in scripts[0]


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    for document in [*DOCUMENTS, *workflows]:
        text = document.read_text("utf-8")
        assert set(re.findall(r"(?:`|^|run: )make (\w+)", text, re.MULTILINE)) <= targets


def test_no_document_names_a_package_index_or_this_machine() -> None:
    files = [*DOCUMENTS, *ROOT.glob(".github/**/*.*"), DOCS / "tour.ipynb", ROOT / "CITATION.cff"]
    for path in files:
        text = path.read_text("utf-8")
        assert not re.search(r"pypi|anaconda|/(home|root)/\w|site-packages", text, re.IGNORECASE)


def public_callables() -> dict[str, Any]:
    """Return the public functions, classes and their public methods by their full names."""
    found: dict[str, Any] = {}
    for name in resnets.__all__:
        value = getattr(resnets, name)
        found[name] = value
        if not inspect.isclass(value):
            continue
        for attribute, member in vars(value).items():
            member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(member) and (attribute[0] != "_" or attribute == "__call__"):
                found[f"{name}.{attribute}"] = member
    return found


def missing_sections(name: str, value: Any) -> list[str]:
    """Return which parameters and sections the Google-style docstring lacks."""
    text = inspect.getdoc(value) or ""
    first = text.split("\n")[0]
    wrong = [] if first.endswith(".") and len(first) <= 100 else ["a first line that is a sentence"]
    signature = inspect.signature(value)
    names = [n for n in signature.parameters if n not in ("self", "cls")]
    if dataclasses.is_dataclass(value):
        section = "Attributes" if "Attributes:" in text else "Args"
        names = [field.name for field in dataclasses.fields(value)]
        # A recipe's fields carry their texts themselves, since the help is made of them.
        names = [] if value is resnets.Recipe else names
    else:
        section = "Args"
    # From one tensor to one tensor, a Shape section says both.
    shaped = "Shape:" in text and len(names) == 1
    names = [] if shaped and f"{section}:" not in text else names
    if names and f"{section}:" not in text:
        wrong.append(f"{section}:")
    wrong += [n for n in names if not re.search(rf"^ +\**{n}( \(.*\))?:", text, re.MULTILINE)]
    returns = str(signature.return_annotation)
    if not inspect.isclass(value) and returns not in ("None", "<class 'inspect._empty'>"):
        # Without parameters, a first line that says what is returned is enough.
        returned = shaped or (not names and first.startswith("Return"))
        returned = returned or re.search(r"^(Returns|Yields):", text, re.MULTILINE)
        wrong += [] if returned else ["Returns:"]
    return wrong


def test_each_public_name_is_documented() -> None:
    wrong = {name: missing_sections(name, value) for name, value in public_callables().items()}
    assert {name: parts for name, parts in wrong.items() if parts} == {}
