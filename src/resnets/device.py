"""Choose the device, memory format and precision of a computation, and describe the machine."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import Any, TypeVar

import torch
from torch import nn

from resnets.errors import UserError, unknown

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

# glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (-1: never) and M_TOP_PAD, in bytes.
MALLOPT = {-3: 1 << 30, -1: -1, -2: 1 << 27}

Network = TypeVar("Network", bound=nn.Module)


def choose_device(name: str | torch.device) -> torch.device:
    """Return the torch device; auto takes CUDA, then MPS, then the CPU."""
    name = str(name)
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise unknown("--device", name, DEVICES)
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    present = {"cuda": cuda, "mps": mps, "cpu": True}
    if kind == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    if not present[kind]:
        raise UserError(f"--device {name}: not available on this machine; use auto or cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: write {kind} or {kind}:0") from None


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return the content of environment.json: versions, device and threads."""
    packages = ("resnets", "torch", "torchvision", "numpy", "pillow", "safetensors")
    name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "versions": {package: version(package) for package in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the rest of the process; without glibc do nothing.

    Otherwise every large activation is mapped, zeroed and unmapped again in each step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in MALLOPT.items():
        mallopt(parameter, value)


@contextmanager
def restore_num_threads() -> Iterator[None]:
    """Restore the number of CPU threads on exit: a run may choose another."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Let cuDNN take only kernels that repeat their bits, so that a resumed run does."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def place(model: Network, *, device: torch.device, memory_format: str) -> Network:
    """Move a network to the device, in the memory format of a recipe."""
    model.to(device=device, memory_format=FORMATS[memory_format])  # type: ignore[call-overload]
    return model


def autocast(device: torch.device, precision: str) -> Any:
    """Return the autocast context of a forward pass."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])
