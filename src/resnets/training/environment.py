"""Where a run happens: the device that was asked for, and the versions that were found."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from resnets.errors import UserError, unknown

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The torch device; auto takes CUDA, then MPS, then the CPU."""
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise unknown("--device", name, DEVICES)
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if kind == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    if not present[kind]:
        raise UserError(f"--device {name}: not available on this machine; use auto or cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: write {kind} or {kind}:0") from None


def describe_environment(device: torch.device) -> dict[str, Any]:
    """The content of environment.json."""
    packages = ("resnets", "torch", "torchvision", "numpy", "pillow", "safetensors")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "versions": {package: version(package) for package in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(device),
        "device_name": name or platform.machine(),
        "threads": torch.get_num_threads(),
    }
