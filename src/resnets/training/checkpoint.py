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
from resnets.fileio import atomic_writer, open_file, why_not_written
from resnets.models.weights_file import read_header
from resnets.parsing import parse_json

# Version of the format. Version 1 has neither a version nor the name of the run.
FORMAT = 2


class NotSavedError(Exception):
    """A checkpoint could not be written; the one before it is untouched. `advice`: what to do."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class DamagedCheckpointError(UserError):
    """A checkpoint cannot be read, or does not match its digest."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors, and scalars that JSON can hold.

    Args:
        tensors: The tensors.
        scalars: The scalars.
        run: Name of the run that it belongs to, or "".
        source: What messages call it.
    """

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]
    run: str = ""
    source: str = "the checkpoint"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, read it back, and only then replace the file; or raise NotSavedError."""
    # Each tensor gets its own memory: safetensors refuses tensors that share it.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in checkpoint.tensors.items()
    }
    scalars = json.dumps(checkpoint.scalars, sort_keys=True)
    metadata = {"format": str(FORMAT), "run": checkpoint.run, "scalars": scalars}
    metadata["sha256"] = _digest(tensors, metadata)
    try:
        with atomic_writer(path) as file:
            file.write(save(tensors, metadata))
            file.flush()
            load_checkpoint(Path(file.name))
    except OSError as error:
        _, advice = why_not_written(error)
        raise NotSavedError(f"{path}: not saved ({error.strerror or error})", advice) from error
    except UserError as error:  # what was read back is not what was written
        raise NotSavedError(f"{path}: not saved ({error})", "check the disk") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify its digest.

    Raises:
        DamagedCheckpointError: It cannot be read, or its digest differs.
        UserError: It was written by a newer version, or holds no scalars.
    """
    source = f"checkpoint {path}"
    try:
        with open_file(path) as opened:
            metadata = read_header(opened).metadata
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, UserError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DamagedCheckpointError(f"{source}: cannot be read ({reason})") from None
    version = metadata.get("format", "1")[:9]
    if version.isdecimal() and int(version) > FORMAT:
        raise UserError(
            f"{source}: has format {version}, this version reads up to {FORMAT}: upgrade resnets, "
            "or resume with the version that wrote it"
        )
    if metadata.get("sha256") != _digest(tensors, metadata):
        raise DamagedCheckpointError(f"{source}: damaged (its SHA-256 differs)")
    scalars = parse_json(metadata.get("scalars", ""), dict[str, Any], name=source)
    return Checkpoint(tensors, scalars, run=metadata.get("run", ""), source=source)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors and metadata, as the version in the metadata defines it."""
    digest = hashlib.sha256()
    if "format" in metadata:
        others = {name: text for name, text in metadata.items() if name != "sha256"}
        digest.update(json.dumps(others, sort_keys=True).encode())
    else:
        digest.update(metadata.get("scalars", "").encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
