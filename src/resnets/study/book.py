"""The folder of a study: its plan, a row for each finished run, and the models it keeps.

Enters: a plan, and results as they come. Leaves: `plan.json`, `runs.jsonl` (one line a finished
run, on the disk before the next), `timings.jsonl`, `train.csv`, below DIR/data; model files below
DIR/models. A line that a kill tore off is cut away when the study goes on, and its run is done
again. Rows hold no times: on one machine a study done again gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from resnets.errors import UserError
from resnets.inference.model_file import ModelFile, save_model
from resnets.study.cells import config_of
from resnets.study.plan import Job, Plan
from resnets.study.single import METRICS, Result, Row, images_of
from resnets.study.tables import write_table

STUDIES = {"count": "train", "tune": "tune"}
"""what the column `study` of a table calls the two purposes"""


def key_of(row: Row) -> tuple[Any, ...]:
    """The key of the job that a row is of."""
    return row["purpose"], row["family"], row["depth"], row["lr"], row["seed"]


class Book:
    """The rows of a study: what is written in it is never done again."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.runs = self.data / "runs.jsonl"
        found = list(_whole_lines(self.runs))
        self._keep_plan(begun=bool(found))
        self._keep_images(begun=bool(found))
        self.rows: dict[tuple[Any, ...], Row] = {key_of(row): row for row in found}
        _whole_lines(self.data / "timings.jsonl")

    def _keep_plan(self, *, begun: bool) -> None:
        path = self.data / "plan.json"
        content = asdict(self.plan)
        content["setup"]["recipe"] = self.plan.setup.recipe.flat()
        text = json.dumps(content, indent=1) + "\n"
        if not begun:
            _write_whole(path, text)
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{self.folder} holds a study with another plan ({path}); give another --out, or "
                "the same preset, data and device to go on with it"
            )

    def _keep_images(self, *, begun: bool) -> None:
        """Which images they are, by their fingerprints: the plan only says where they lie."""
        path, images = self.data / "images.json", images_of(self.plan.setup)
        parts = {"train": images.train, "test": images.test}
        text = json.dumps({name: part.fingerprint() for name, part in parts.items()}) + "\n"
        if not begun or not path.exists():
            _write_whole(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{self.folder} was begun with other images than {self.plan.setup.data} holds now "
                f"({path}); put them back, or give another --out"
            )

    def add(self, job: Job, result: Result) -> None:
        """Keep a finished run: its model first, so that a row has all that belongs to it."""
        if result.weights is not None:
            self._save_model(job, result)
        _append(self.runs, result.row)
        _append(self.data / "timings.jsonl", {"key": job.key, "seconds": result.seconds})
        self.rows[job.key] = result.row

    def _save_model(self, job: Job, result: Result) -> None:
        assert result.weights is not None
        images = images_of(job.setup)
        contents = ModelFile(
            config=config_of(
                job.family,
                job.depth,
                widths=job.setup.widths,
                num_classes=len(images.classes),
                in_channels=images.preprocess.channels,
            ),
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

    def write_table(self) -> Path:
        """All rows in long form, sorted: the order in which runs ended leaves no trace."""
        path = self.data / "train.csv"
        ordered = [self.rows[key] for key in sorted(self.rows)]
        write_table(path, (line for row in ordered for line in long_form(row)))
        return path


def model_path(folder: Path, family: str, depth: int) -> Path:
    """Where the weights of a cell's first seed lie, if the plan keeps them."""
    return folder / "models" / f"{family}-{depth}.safetensors"


def long_form(row: Row) -> Iterator[Row]:
    """One line for each number of a run, and one for each point of its curve."""
    about = {name: row[name] for name in ("family", "depth", "seed", "lr")}
    about = {"study": STUDIES[row["purpose"]], **about}
    if row["status"]:
        judged = "train_error" if row["purpose"] == "count" else "val_loss"
        yield about | {"metric": judged, "status": row["status"]}
    yield from (about | {"metric": name, "value": row[name]} for name in METRICS if name in row)
    for step, loss in row["curve"]:
        yield about | {"metric": "loss", "step": step, "value": loss}


def _append(path: Path, record: Row) -> None:
    line = json.dumps(record, allow_nan=False) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> Iterable[Row]:
    """The records of a file, after what follows its last whole line is cut away."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        raise UserError(f"{path} is damaged; give another --out to begin anew") from None


def _write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
