"""The run folder: what a run writes, and how it is found again.

    config.json        every resolved value with its origin
    environment.json   versions, device, threads
    data.json          classes, split, fingerprint
    metrics.jsonl      one record a line, training and validation
    checkpoints/       state-<step>.safetensors (the last two), best.safetensors, the lock
    model.safetensors  the model file; scores.json, report.html, figures/ lie beside it

A checkpoint is one safetensors file: tensors by name, and one JSON text with the scalars and a
SHA-256 over both. It is written to a temporary file, flushed to the disk, read back, and renamed;
the generation before it stays until then.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resnets.errors import UserError
from resnets.training.lock import locked

MODEL_FILE = "model.safetensors"
KEPT_GENERATIONS = 2
RUNS = Path("runs")
"""where runs go that were given no folder"""


class NotSavedError(Exception):
    """A checkpoint could not be written; the generation before it stands."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors and JSON scalars: all that a run must remember."""

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run."""

    path: Path
    written: bool = True
    """False on all ranks but the first: whatever they would write is not"""
    waiting: list[str] = field(default_factory=list, repr=False, compare=False)
    """lines of metrics.jsonl that a full disk refused"""

    @staticmethod
    def check(out: str | Path | None) -> None:
        """Refuse a place that cannot become a new run folder."""
        path = RUNS if out is None else Path(out)
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise UserError(f"--out {path}: {existing} is a file; give a new or empty folder")
        if not os.access(existing, os.W_OK):
            raise UserError(f"--out {path}: {existing} cannot be written to; give another folder")
        if out is not None and path.is_dir() and any(path.iterdir()):
            hint = f"; to go on with that run: --resume {out}" if is_run(path) else ""
            raise UserError(f"--out {out}: the folder is not empty; give a new one{hint}")

    @classmethod
    def create(cls, out: str | Path | None, *, name: str) -> RunFolder:
        """A new folder: `out`, which must be empty or new, or the next `runs/NAME-NNN`."""
        cls.check(out)
        if out is None:
            return cls(_next_numbered(RUNS, name))
        path = Path(out)
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        (path / "metrics.jsonl").touch()  # with config.json it tells a run folder from a class
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder."""
        if not is_run(Path(path)):
            what = "no such folder" if not Path(path).exists() else "not a run folder"
            raise UserError(f"--resume {path}: {what} (a run folder holds config.json)")
        return cls(Path(path))

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder; raises UserError when one is in it."""
        return locked(self.path / "checkpoints" / "lock", folder=self.path)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files, whole or not at all."""
        if not self.written:
            return
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        _write_whole(self.path / name, text.encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the folder's JSON files."""
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name}: cannot be read ({error})") from None
        return content

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl; what a full disk refuses goes with the next one."""
        if not self.written:
            return
        self.waiting.append(json.dumps(record) + "\n")
        path = self.path / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(self.waiting))
            self.waiting.clear()
        except OSError:
            os.truncate(path, size)  # half a line would hide those after it

    def history(self) -> list[dict[str, Any]]:
        """All records; a last line torn by a kill is left out."""
        return list(_records(self.path / "metrics.jsonl"))

    def seconds(self) -> float:
        """How long the run has trained, as of its last record."""
        return max((float(record.get("seconds", 0)) for record in self.history()), default=0.0)

    def forget_after(self, step: int, *, validated: int) -> None:
        """Drop the records of steps, and of the validation, that a resumed run will do again."""
        if not self.written:
            return
        last = {"validation": validated}  # a validation may be owed; all else came with its step
        kept = [r for r in self.history() if r["step"] <= last.get(r["kind"], step)]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        _write_whole(self.path / "metrics.jsonl", text.encode())

    def save(self, checkpoint: Checkpoint, *, step: int) -> None:
        """Write a new generation, verify it, then drop the oldest ones. Raises NotSavedError."""
        if not self.written:
            return
        path = self.path / "checkpoints" / f"state-{step:08d}.safetensors"
        _save_or_tell(path, checkpoint)
        generations = self._generations()
        # Later steps than this one are damaged, or the run would have gone on from there.
        newest = generations.index(path)
        torn = path.parent.glob("*.partial")  # by a kill inside an earlier write
        for old in (*generations[:newest], *generations[newest + KEPT_GENERATIONS :], *torn):
            old.unlink()

    def load(self, passed_over: Callable[[str], None] | None = None) -> Checkpoint | None:
        """The newest valid checkpoint, or None when the run has none yet.

        `passed_over` hears of each newer one, why it was not taken.
        """
        for path in self._generations():
            try:
                return load_checkpoint(path)
            except UserError as error:  # damaged: the generation before it is whole
                if passed_over is not None:
                    passed_over(str(error))
        return None

    def save_best(self, weights: dict[str, Tensor], *, step: int, score: float) -> None:
        """Keep the weights of the best validation. Raises NotSavedError."""
        if not self.written:
            return
        best = Checkpoint(weights, {"step": step, "score": score})
        _save_or_tell(self.path / "checkpoints" / "best.safetensors", best)

    def load_best(self) -> Checkpoint:
        """The weights of the best validation."""
        return load_checkpoint(self.path / "checkpoints" / "best.safetensors")

    def _generations(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("state-*.safetensors"), reverse=True)


def is_run(path: Path) -> bool:
    """Whether the path is a run folder."""
    return (path / "config.json").is_file()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write, flush, read back, rename."""
    # A clone of its own for each tensor: safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in checkpoint.tensors.items()
    }
    scalars = json.dumps(checkpoint.scalars, sort_keys=True)
    metadata = {"scalars": scalars, "sha256": _digest(tensors, scalars)}
    temporary = path.with_suffix(".partial")
    # As bytes, so that a full disk is an OSError like everywhere.
    _write_flushed(temporary, save(tensors, metadata))
    load_checkpoint(temporary)
    temporary.replace(path)
    _flush_folder(path.parent)


def _save_or_tell(path: Path, checkpoint: Checkpoint) -> None:
    try:
        save_checkpoint(path, checkpoint)
    except (OSError, UserError) as error:  # a full disk, or one that read back something else
        path.with_suffix(".partial").unlink(missing_ok=True)  # half of it fills the disk further
        reason = error.strerror if isinstance(error, OSError) else error
        raise NotSavedError(f"{path}: not saved ({reason})") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify its digest."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {path}: cannot be read ({error})") from None
    scalars = metadata.get("scalars", "")
    if metadata.get("sha256") != _digest(tensors, scalars):
        raise UserError(f"checkpoint {path}: damaged (its SHA-256 differs)")
    return Checkpoint(tensors, json.loads(scalars))


def _digest(tensors: Mapping[str, Tensor], scalars: str) -> str:
    digest = hashlib.sha256(scalars.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _next_numbered(parent: Path, name: str) -> Path:
    """Make `parent/name-001`, or the first number that is free."""
    number = 1
    while True:
        path = parent / f"{name}-{number:03d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        (path / "checkpoints").mkdir()
        (path / "metrics.jsonl").touch()
        return path


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    _write_flushed(temporary, content)
    temporary.replace(path)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and a rename needs no flush
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
