"""What a run folder records of its beginning, and the run that a command has begun already.

Enters: what was asked for, planned and found. Leaves: config.json, data.json, environment.json,
and under torchrun command.json. The idea of the last: torchrun restarts the command that it was
given when a rank has died, and so does a cluster when a machine has. The same command with the
same `--out` then goes on with its own run; one process alone is refused, as ever.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnets.data import NAMES, DataSet
from resnets.device import describe_environment
from resnets.training.auto_config import Plan
from resnets.training.checkpoint import RUNS, RunFolder, is_run
from resnets.training.job import Job, content_digest, fingerprint

COMMAND_FILE = "command.json"
BEGINNING = ("checkpoints", "metrics.jsonl", COMMAND_FILE, "data.json", "environment.json")
"""what a folder holds before config.json, with which the run can be gone on with"""


def launch() -> str | None:
    """The id that torchrun gave to all its processes and restarts; None without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def restarts() -> int:
    """How often torchrun has restarted the processes of this machine."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def begun(
    out: str | Path | None, command: Mapping[str, Any], *, restarted: bool
) -> RunFolder | None:
    """The unfinished run of this very command, if torchrun is to go on with one.

    Without `out` only a restart looks for it: started anew, the command means a new run.
    """
    if launch() is None or (out is None and not restarted):
        return None
    places = RUNS.glob("*") if out is None else [Path(out)]
    for place in sorted(places, key=_when_begun, reverse=True):
        if out is not None and _is_torn(place):
            shutil.rmtree(place)  # killed while it began: there is nothing to go on with
        elif _is_of(place, command, launched=out is None):
            return RunFolder(place)
    return None


def write_command(folder: RunFolder, command: Mapping[str, Any]) -> None:
    """Remember under torchrun what was asked for."""
    if launch() is not None:
        folder.write_json(COMMAND_FILE, {"launch": launch(), "command": command})


def write_start(
    folder: RunFolder, job: Job, *, data: str | Path, dataset: DataSet, verify: bool
) -> None:
    """Write what the data and the machine were."""
    named = isinstance(data, str) and data in NAMES  # before a folder of that name, as in open_data
    place = str(data) if named else str(Path(data).expanduser().absolute())
    facts = job.describe(data=place, name=dataset.name, fingerprint=fingerprint(dataset))
    content = {"content": content_digest(dataset)} if verify else {}
    folder.write_json("data.json", facts | content | {"skipped": dict(dataset.skipped)})
    environment = describe_environment(job.device) | {"ranks": job.ranks.count}
    folder.write_json("environment.json", environment)


def write_config(folder: RunFolder, current: Plan) -> None:
    """Write the resolved recipe, each value with its origin."""
    values = asdict(current.recipe)
    config = {
        k: {"value": v, "origin": current.origins.get(k, "default")} for k, v in values.items()
    }
    folder.write_json("config.json", config)


def _when_begun(place: Path) -> float:
    file = place / COMMAND_FILE
    return file.stat().st_mtime if file.is_file() else 0.0


def _is_torn(place: Path) -> bool:
    if not place.is_dir() or is_run(place):
        return False
    names = {path.name.removesuffix(".partial") for path in place.iterdir()}
    kept = (place / "checkpoints").glob("*.safetensors")
    return names <= {*BEGINNING, "config.json"} and not any(kept)


def _is_of(place: Path, command: Mapping[str, Any], *, launched: bool) -> bool:
    """Whether the unfinished run in this folder was begun by this command (and this launch)."""
    if not (is_run(place) and (place / COMMAND_FILE).is_file()):
        return False
    stored = RunFolder(place).read_json(COMMAND_FILE)
    same = stored["command"] == json.loads(json.dumps(command))
    unfinished = not (place / "scores.json").exists()
    return same and unfinished and (not launched or stored["launch"] == launch())
