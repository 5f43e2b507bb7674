"""Write the report of a study: `study.html`, `figures/` and `manifest.json`."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from resnets.data.workers import usable_cpus
from resnets.device import describe_environment
from resnets.errors import UserError
from resnets.fileio import sha256, write_atomic
from resnets.inference.model_file import read_model
from resnets.parsing import read_jsonl
from resnets.report.html import render
from resnets.study.claims import read_claims
from resnets.study.report import figures_init, figures_probes, figures_train
from resnets.study.report.figure_data import networks, setting, words_of
from resnets.study.report.figure_spec import DrawnFigure, draw
from resnets.study.tables import AGAINST, PROBE, Tables, select
from resnets.study.twins.run_store import TimingRecord
from resnets.study.twins.study_config import PRESETS
from resnets.study.verdicts import ClaimResult, effect_text, judge_all

# The figures of each section, in the order of the page.
SECTIONS = {
    "training": figures_train.ROWS,
    "initialisation": figures_init.ROWS,
    "trained": figures_probes.ROWS,
}


def write_study_report(folder: Path, *, log: Callable[[str], None] | None = None) -> Path:
    """Write the page of a study, its figures and its manifest; return the path of the page.

    A figure without tables is left out. Raises UserError for a folder that holds no tables.
    """
    if not folder.is_dir():
        raise UserError(f"--out {folder}: there is no such folder; give that of a study")
    tables = Tables.read(folder)
    results = judge_all(read_claims(), tables)
    if log is not None:
        log("drawing the figures")
    sections = draw_all(tables, results)
    figures = [figure for found in sections.values() for figure in found]
    (folder / "figures").mkdir(exist_ok=True)
    for figure in figures:
        figure.save(folder / "figures")
    report = f"resnets study report --out {shlex.quote(str(folder))}"
    commands = [*(figure.command for figure in figures), report]
    manifest = _manifest(tables, list(dict.fromkeys(commands)))
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    path = folder / "study.html"
    path.write_bytes(study_page(sections, results, manifest).encode())
    return path


def draw_all(tables: Tables, results: Sequence[ClaimResult]) -> dict[str, list[DrawnFigure]]:
    """Return the figures of each section that have something to show."""
    verdicts = {found.claim.name: found.verdict for found in results}
    return {
        section: [
            figure
            for row in rows
            if (figure := draw(row, tables, verdicts, command_of(tables, row.tables[0])))
        ]
        for section, rows in SECTIONS.items()
    }


def study_page(
    sections: Mapping[str, Sequence[DrawnFigure]],
    results: Sequence[ClaimResult],
    manifest: Mapping[str, Any],
) -> str:
    """Return the page as HTML."""
    return render(
        "study.html.j2",
        package="resnets.study.report",
        charts=True,
        title=words_of("page")["title"],
        words=words_of("page"),
        figures=sections,
        results={found.claim.name: found for found in results if found.verdict != "not measured"},
        effect_text=effect_text,
        manifest=manifest,
        setting=setting,
    )


def command_of(tables: Tables, table: str) -> str:
    """Return the command that makes a table, as it can be pasted into a shell."""
    folder, plan = shlex.quote(str(tables.folder)), tables.plan
    if table in ("init", "init_backward"):
        return f"resnets study init --out {folder}"
    if not table.startswith(PROBE):
        preset, data = plan.get("name", "minutes"), plan.get("setup", {}).get("data", "")
        own = preset in PRESETS and data != PRESETS[preset].setup.data
        given = f" {shlex.quote(data)}" if own else ""  # images in place of the preset's
        return f"resnets study train{given} --preset {shlex.quote(preset)} --out {folder}"

    models = (tables.folder / "models").glob("*.safetensors")
    kept = {path.stem: shlex.quote(str(path)) for path in models}
    named = [
        [kept.get(name, "MODEL") for name in network.split(AGAINST)]
        for network in networks(tables, table.removeprefix(PROBE))
    ]
    if table == "probe_gradients" and not any("MODEL" in names for names in named):
        return f"resnets study --out {folder}"  # the plan repeats the first steps
    compared = dict.fromkeys(" --against ".join(names) for names in named)
    return "; ".join(f"resnets study probe {words} --out {folder}" for words in compared)


def _manifest(tables: Tables, commands: list[str]) -> dict[str, Any]:
    """Versions, processor, plan, seeds, images, commands and a digest of each table.

    It is equal on one machine for a study that is repeated, but for `timings`.
    """
    made = describe_environment(torch.device("cpu"))
    models = sorted((tables.folder / "models").glob("*.safetensors"))
    timings_file = tables.folder / "data" / "timings.jsonl"
    seconds = [run.seconds for run in read_jsonl(timings_file, TimingRecord)]
    own = {"vl-convert-python": version("vl-convert-python"), "python": made["python"]}
    machine = {"processor": made["device_name"], "cores": usable_cpus()}
    timings = {"training_runs": len(seconds), "training_seconds": round(sum(seconds), 1)}
    return {
        "versions": made["versions"] | own,
        "machine": {"system": made["system"], **machine},
        "threads_per_run": 1,
        "plan": tables.plan,
        "data": [read_model(path).data for path in models[:1]],
        "seeds": sorted({row["seed"] for row in select(tables.table("train"), study="train")}),
        "commands": commands,
        "models": [path.name for path in models],
        "tables": {
            path.name: {"rows": len(tables.tables[path.stem]), "sha256": sha256(path)}
            for path in sorted((tables.folder / "data").glob("*.csv"))
        },
        "timings": timings if seconds else {},
    }
