"""Write the report of a study: `study.html`, `figures/` and `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from resnets.device import describe_environment
from resnets.errors import UserError
from resnets.inference.model_file import read_model
from resnets.report.html import render
from resnets.study.executors import num_cores
from resnets.study.plan import PRESETS
from resnets.study.report import figures_init, figures_probes, figures_train
from resnets.study.report.claims import STORED, read_claims
from resnets.study.report.evidence import PROBE, select
from resnets.study.report.evidence import Evidence as Tables
from resnets.study.report.figure_data import networks
from resnets.study.report.figure_row import DrawnFigure, draw, words_of
from resnets.study.report.judging import Judged as ClaimResult
from resnets.study.report.judging import judge_all
from resnets.study.report.page import effect_text
from resnets.study.tables import AGAINST

# The figures of each section, in the order of the page.
SECTIONS = {
    "training": figures_train.ROWS,
    "initialisation": figures_init.ROWS,
    "trained": figures_probes.ROWS,
}
ANSWERS = {"supported": "Yes.", "contradicted": "No.", "inconclusive": "Unclear."}


def write_study_report(folder: Path) -> Path:
    """Write the page of a study, its figures and its manifest.

    Args:
        folder: Of the study; its tables are in `folder/data`. A figure without tables is left out.

    Returns:
        The path of the page.

    Raises:
        UserError: The folder holds no tables, or cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"--out {folder}: there is no such folder; give that of a study")
    tables = Tables.read(folder)
    results = judge_all(read_claims(STORED), tables)
    sections = draw_all(tables, results)
    figures = [figure for found in sections.values() for figure in found]
    (folder / "figures").mkdir(exist_ok=True)
    for figure in figures:
        figure.save(folder / "figures")
    commands = [*(figure.command for figure in figures), f"resnets study report --out {folder}"]
    manifest = _manifest(tables, list(dict.fromkeys(commands)))
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
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
    words = words_of("page")
    judged = {found.claim.name: found for found in results if found.verdict != "not measured"}
    counts = {
        verdict: sum(found.verdict == verdict for found in judged.values())
        for verdict in ("supported", "contradicted", "inconclusive")
    }
    plan = manifest.get("plan")
    recipe = plan["setup"]["recipe"] if plan else {}
    return render(
        "study.html.j2",
        package="resnets.study.report",
        charts=True,
        title=words["title"],
        conditions=f"small networks for {recipe['steps']} steps on small images" if recipe else "",
        answers=[
            {
                "question": question["words"],
                "word": ANSWERS[judged[question["claim"]].verdict],
                "effect": effect_text(judged[question["claim"]]),
            }
            for question in words["question"]
            if question["claim"] in judged
        ],
        sections=[
            section | {"figures": sections[section["id"]]}
            for section in words["section"]
            if sections.get(section["id"])
        ],
        results=[
            {
                "claim": found.claim,
                "verdict": found.verdict,
                "effect": effect_text(found).split("; "),
            }
            for found in judged.values()
        ],
        counts=", ".join(f"{count} {verdict}" for verdict, count in counts.items()),
        limits=[(limit["words"], limit["links"]) for limit in words["limit"]],
        terms=[(term["term"], term["meaning"]) for term in words["term"]],
        facts=[(name, value) for name, value in _facts(manifest) if value],
    )


def command_of(tables: Tables, table: str) -> str:
    """Return the command that makes a table."""
    if table.startswith("init") and table != "initial_gradients":
        return f"resnets study init --out {tables.folder}"
    if not table.startswith(PROBE):
        preset = tables.plan.get("name", "minutes")
        data = tables.plan.get("setup", {}).get("data", "")
        own = preset in PRESETS and data != PRESETS[preset].setup.data
        given = f" {data}" if own else ""  # images in place of the preset's
        return f"resnets study train{given} --preset {preset} --out {tables.folder}"
    found = list(networks(tables, table.removeprefix(PROBE)))
    kept = {
        name: tables.folder / "models" / f"{name}.safetensors"
        for network in found
        for name in network.split(AGAINST)
    }
    if table == "probe_gradients" and all(path.exists() for path in kept.values()):
        return f"resnets study --out {tables.folder}"  # the plan repeats the first steps
    models = (
        " --against ".join(
            str(kept[name]) if kept[name].exists() else "MODEL" for name in network.split(AGAINST)
        )
        for network in found
    )
    commands = (f"resnets study probe {model} --out {tables.folder}" for model in models)
    return "; ".join(dict.fromkeys(commands))


def _manifest(tables: Tables, commands: list[str]) -> dict[str, Any]:
    """Versions, processor, plan, seeds, images, commands and a digest of each table.

    It is equal on one machine for a study that is repeated, but for `timings`.
    """
    made = describe_environment(torch.device("cpu"))
    versions = {name: version(name) for name in ("altair", "vl-convert-python")}
    models = sorted((tables.folder / "models").glob("*.safetensors"))
    counted = select(tables.table("train"), study="train")
    timings = tables.folder / "data" / "timings.jsonl"
    lines = timings.read_text("utf-8").splitlines() if timings.exists() else []
    seconds = [json.loads(line)["seconds"] for line in lines]
    return {
        "versions": made["versions"] | versions | {"python": made["python"]},
        "machine": {
            "system": made["system"],
            "processor": made["device_name"],
            "cores": num_cores(),
        },
        "threads_per_run": 1,
        "plan": tables.plan,
        "data": [read_model(path).data for path in models[:1]],
        "seeds": sorted({row["seed"] for row in counted}),
        "commands": commands,
        "models": [path.name for path in models],
        "tables": {
            path.name: {
                "rows": len(tables.tables[path.stem]),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted((tables.folder / "data").glob("*.csv"))
        },
        "timings": {"training_runs": len(seconds), "training_seconds": round(sum(seconds), 1)}
        if seconds
        else {},
    }


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not manifest:
        return []
    plan, machine = manifest["plan"], manifest["machine"]
    facts = [("commands", "; ".join(manifest["commands"]))]
    if plan:
        recipe, setup = plan["setup"]["recipe"], plan["setup"]
        steps = f"{recipe['steps']} steps of {recipe['batch_size']} images"
        facts += [
            ("plan", f"{plan['name']}: {steps}"),
            ("images", f"{setup['data']}, {setup['side']} pixels a side"),
            ("seeds", ", ".join(map(str, manifest["seeds"]))),
            ("learning rates tried", ", ".join(f"{rate:g}" for rate in plan["rates"])),
        ]
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    facts.append(("machine", f"{machine['processor']}, {cores}, one thread a run"))
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())))
    return facts
