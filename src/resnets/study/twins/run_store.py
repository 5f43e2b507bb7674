"""Keep the folder of a study: its config, a row for each finished run, the models it keeps.

`plan.json`, `runs.jsonl` (one line a finished run, on the disk before the next) and tables are in
DIR/data, model files in DIR/models. Rows hold no times: a repeated study gives the same bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch

from resnets.errors import UserError
from resnets.fileio import append_jsonl, write_atomic
from resnets.inference.model_file import ModelFile, save_model
from resnets.parsing import convert, read_jsonl
from resnets.study.tables import Row, write_table
from resnets.study.twins.study_config import StudyConfig, TwinJob
from resnets.study.twins.trial import METRICS, TrialResult, dataset_of, network_config


def key_of(row: Row) -> tuple[Any, ...]:
    """Return the key of the job that made a row."""
    return tuple(row[name] for name in ("purpose", "family", "depth", "lr", "seed", "steps"))


class RunRecord(msgspec.Struct, frozen=True):
    """What every line of runs.jsonl holds; the metrics of a run are beside it."""

    purpose: str
    family: str
    depth: int
    lr: float
    seed: int
    steps: int
    status: str
    curve: list[tuple[int, float]]


class TimingRecord(msgspec.Struct, frozen=True):
    """A line of timings.jsonl: the key of a run, and its seconds."""

    key: list[str | int | float]
    seconds: float


def read_runs(path: Path) -> list[Row]:
    """Return the rows of runs.jsonl, and cut off a line that a kill left without its end."""
    rows = read_jsonl(path, dict[str, Any], repair=True)
    for number, row in enumerate(rows, 1):
        convert(row, RunRecord, name=f"{path}: line {number}")
        numbers = {name: row[name] for name in METRICS if name in row}
        convert(numbers, dict[str, float], name=f"{path}: line {number}")
    return rows


class RunStore:
    """The finished runs of a study: a run that is in it is never repeated."""

    def __init__(self, folder: Path, config: StudyConfig) -> None:
        """Open a folder; raises UserError for another config, other images or damage."""
        self.folder, self.config = folder, config
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.runs = self.data / "runs.jsonl"
        found = read_runs(self.runs)
        content = asdict(config)
        content["setup"]["recipe"] = config.setup.recipe.flat()
        plan = json.dumps(content, indent=1) + "\n"
        if not self._keep("plan.json", plan, started=bool(found)):
            raise UserError(
                f"{folder} holds a study with another plan ({self.data}/plan.json), or of another "
                "version; pass another --out, or the same preset, data and device to resume it"
            )
        images = dataset_of(config.setup)
        prints = {"train": images.train.fingerprint(), "test": images.test.fingerprint()}
        if not self._keep("images.json", json.dumps(prints) + "\n", started=bool(found)):
            raise UserError(
                f"{folder} was started with other images than {config.setup.data} holds now "
                f"({self.data}/images.json); put them back, or pass another --out"
            )
        self.rows: dict[tuple[Any, ...], Row] = {key_of(row): row for row in found}
        read_jsonl(self.data / "timings.jsonl", TimingRecord, repair=True)

    def _keep(self, name: str, text: str, *, started: bool) -> bool:
        """Write what the first run found; return whether the file holds the same now."""
        path = self.data / name
        if not started:
            write_atomic(path, text)
        return path.is_file() and path.read_bytes() == text.encode()

    def add(self, job: TwinJob, result: TrialResult) -> None:
        """Keep a finished run: its model first, so that a row has all that belongs to it."""
        if result.weights is not None:
            images = dataset_of(job.setup)
            contents = ModelFile(
                config=network_config(job),
                preprocess=images.preprocess,
                classes=images.classes,
                scores=result.test,
                recipe=job.recipe.flat(),
                data={"name": job.setup.data, "fingerprint": images.train.fingerprint()},
                weights={name: torch.from_numpy(array) for name, array in result.weights.items()},
            )
            path = model_path(self.folder, job.family, job.depth)
            path.parent.mkdir(exist_ok=True)
            save_model(path, contents)
        append_jsonl(self.runs, result.row)
        append_jsonl(self.data / "timings.jsonl", {"key": job.key, "seconds": result.seconds})
        self.rows[job.key] = result.row

    def write_table(self) -> Path:
        """Write train.csv in long form, sorted: the order in which runs ended leaves no trace."""
        path = self.data / "train.csv"
        ordered = [self.rows[key] for key in sorted(self.rows) if key[0] != "budget"]
        write_table(path, (line for row in ordered for line in long_form(row)))
        return path


def model_path(folder: Path, family: str, depth: int) -> Path:
    """Return the path of the weights of a cell's first seed, if the config keeps them."""
    return folder / "models" / f"{family}-{depth}.safetensors"


def long_form(row: Row) -> Iterator[Row]:
    """Yield one line for each number of a run, and one for each point of its curve."""
    study = "train" if row["purpose"] == "count" else row["purpose"]
    about = {"study": study} | {name: row[name] for name in ("family", "depth", "seed", "lr")}
    if row["status"]:
        judged = "val_loss" if row["purpose"] == "tune" else "train_error"
        yield about | {"metric": judged, "status": row["status"]}
    yield from (about | {"metric": name, "value": row[name]} for name in METRICS if name in row)
    for step, loss in row["curve"]:
        yield about | {"metric": "loss", "step": step, "value": loss}
