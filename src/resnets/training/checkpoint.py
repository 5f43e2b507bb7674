"""Save and load checkpoints: safetensors files with tensors, JSON scalars and a digest of both."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resnets.errors import UserError
from resnets.fileio import atomic_writer


class NotSavedError(Exception):
    """A checkpoint could not be written; the checkpoint before it is untouched."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors, and scalars that JSON can hold."""

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, read it back, and only then replace the file; or raise NotSavedError."""
    # Each tensor gets its own memory: safetensors refuses tensors that share it.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in checkpoint.tensors.items()
    }
    scalars = json.dumps(checkpoint.scalars, sort_keys=True)
    metadata = {"scalars": scalars, "sha256": _digest(tensors, scalars)}
    try:
        with atomic_writer(path) as file:
            file.write(save(tensors, metadata))
            file.flush()
            load_checkpoint(Path(file.name))
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NotSavedError(f"{path}: not saved ({reason})") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint; raise UserError if it cannot be read, or its digest differs."""
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
