"""What a study was made with enters, `manifest.json` leaves.

Versions, processor, plan, seeds, images, commands and a digest of each table: equal on one machine
for a study that is done again. Times are kept apart, under `timings`, since they are not.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from resnets.device import describe_environment
from resnets.inference.model_file import read_model
from resnets.study.executors import num_cores
from resnets.study.report.evidence import Evidence

Manifest = dict[str, Any]


def manifest_of(evidence: Evidence, *, commands: list[str]) -> Manifest:
    """The manifest of a folder."""
    made = describe_environment(torch.device("cpu"))
    made["versions"] |= {name: version(name) for name in ("altair", "vl-convert-python")}
    tables = sorted((evidence.folder / "data").glob("*.csv"))
    models = sorted((evidence.folder / "models").glob("*.safetensors"))
    return {
        "versions": made["versions"] | {"python": made["python"]},
        "machine": {
            "system": made["system"], "processor": made["device_name"], "cores": num_cores(),
        },
        "threads_per_run": 1,
        "plan": evidence.plan,
        "data": [read_model(path).data for path in models[:1]],
        "seeds": sorted({r["seed"] for r in evidence.table("train") if r["study"] == "train"}),
        "commands": commands,
        "models": [path.name for path in models],
        "tables": {
            path.name: {
                "rows": len(evidence.tables[path.stem]),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in tables
        },
        "timings": _timings(evidence.folder / "data" / "timings.jsonl"),
    }  # fmt: skip


def write_manifest(path: Path, manifest: Manifest) -> None:
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _timings(path: Path) -> dict[str, float]:
    """Seconds of training, all runs together."""
    if not path.exists():
        return {}
    seconds = [json.loads(line)["seconds"] for line in path.read_text("utf-8").splitlines()]
    return {"training_runs": len(seconds), "training_seconds": round(sum(seconds), 1)}
