"""The documents tell the truth: quotations are in the source, code runs, paths and links exist.

Every ```python block of `docs/` and CONTRIBUTING carries a mark in the line above it:

    <!-- from PATH -->        occurs in that file, but for its indentation
    <!-- runs -->             runs; a ```text block right below is what it prints
    <!-- raises -->           ends with the error in the ```text block right below
    <!-- takes minutes -->    is compiled only

README's code is the business of `test_readme.py`; its paths and links are checked here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from resnets.cli.train import Train
from resnets.training.recipe import Recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "resnets"
MARKED = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [ROOT / "README.md", *MARKED]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```python\n(?P<code>.*?)```\n(?:```text\n(?P<text>.*?)```)?",
    re.DOTALL,
)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([\w./-]+)`")
# What a path of ours begins or ends with; other spans with a slash are the reader's own folders.
ROOMS = ("src", "tests", "docs", "benchmarks", "scripts", ".ci", "data", "models", "training")
ROOMS += ("deploy", "report", "commands")
SUFFIXES = (".py", ".md", ".toml")
# Flags of torchrun, srun and sbatch.
FOREIGN = ("nproc-per-node", "nnodes", "max-restarts", "rdzv-backend", "rdzv-endpoint", "rdzv-id")
FOREIGN += ("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "requeue")
FOREIGN += ("open-mode", "kill-on-bad-exit")
INDENTATIONS = [" " * count for count in (0, 4, 8, 12, 16)]


@dataclass(frozen=True)
class Block:
    """One piece of Python in a document."""

    document: str
    line: int
    mark: str | None
    code: str
    text: str | None

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(text: str, document: str) -> list[Block]:
    return [
        Block(document, text[: match.start()].count("\n") + 1, *match.group("mark", "code", "text"))
        for match in BLOCK.finditer(text)
    ]


BLOCKS = [block for path in MARKED for block in blocks_of(path.read_text("utf-8"), path.name)]


def marked(mark: str) -> list[object]:
    """The blocks whose mark begins so, for `parametrize`."""
    chosen = [block for block in BLOCKS if (block.mark or "").split(" ")[0] == mark]
    assert chosen, f"no document has a block marked {mark}"
    return [pytest.param(block, id=block.name) for block in chosen]


def run(block: Block) -> None:
    # The line numbers of a failure are then those of the block.
    exec(compile(block.code, block.name, "exec", dont_inherit=True), {"__name__": "__main__"})


def occurs(code: str, source: str) -> bool:
    return any(textwrap.indent(code, pad).strip("\n") in source for pad in INDENTATIONS)


def test_every_block_is_marked() -> None:
    marks = r"from \S+|runs|raises|takes minutes"
    assert [block.name for block in BLOCKS if not re.fullmatch(marks, block.mark or "")] == []
    fences = sum(path.read_text("utf-8").count("```python") for path in MARKED)
    assert len(BLOCKS) == fences


@pytest.mark.parametrize("block", marked("from"))
def test_quotations_are_in_the_source(block: Block) -> None:
    assert block.mark is not None
    source = (ROOT / block.mark.removeprefix("from ")).read_text("utf-8")
    assert occurs(block.code, source)


def test_a_changed_quotation_is_noticed() -> None:
    source = (PACKAGE / "models" / "blocks.py").read_text("utf-8")
    assert occurs("return self.activation(shortcut + residual)\n", source)
    assert not occurs("return self.activation(residual + shortcut)\n", source)


@pytest.mark.parametrize("block", marked("runs"))
def test_code_runs_and_prints(
    block: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run(block)
    if block.text is not None:
        assert capsys.readouterr().out == block.text


@pytest.mark.parametrize("block", marked("raises"))
def test_defects_end_with_the_error_shown(block: Block) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (its name is compared below)
        run(block)
    assert f"{caught.type.__name__}: {caught.value}\n" == block.text


@pytest.mark.parametrize("block", marked("takes"))
def test_long_code_compiles(block: Block) -> None:
    compile(block.code, block.name, "exec", dont_inherit=True)


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
        if span.endswith(SUFFIXES) or ("/" in span and span.split("/")[0] in ROOMS)
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_named_exist(document: Path) -> None:
    named = paths_named(document.read_text("utf-8"))
    assert named
    assert {
        path for path in named if not any((r / path).exists() for r in (ROOT, PACKAGE))
    } == set()


SHELL = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "scale.md").read_text("utf-8"), re.DOTALL)
SCRIPTS = [*SHELL, (ROOT / "benchmarks" / "two_hosts.sh").read_text("utf-8")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda text: text.split("\n")[0][:40])
def test_shell_scripts_are_well_formed(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_sbatch_script_starts_torchrun_on_every_machine() -> None:
    scripts = [text for text in SHELL if text.startswith("#!/bin/bash\n#SBATCH")]
    assert len(scripts) == 1
    for word in ("srun", "torchrun", "-m resnets train", "--max-restarts", "--requeue", "--out"):
        assert word in scripts[0]
    words = [word for text in SHELL for word in re.findall(r"--[a-z][a-z-]+", text)]
    known = {f"--{field.name.replace('_', '-')}" for field in fields(Train)}
    known |= {f"--{field.name.replace('_', '-')}" for field in fields(Recipe)}
    ours = [word for word in words if word.removeprefix("--") not in FOREIGN]
    assert ours and set(ours) <= known


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        assert set(re.findall(r"(?:`|^)make (\w+)", text, re.MULTILINE)) <= targets
