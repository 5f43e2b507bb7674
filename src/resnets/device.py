"""Choose the device, memory format and precision of a computation, and describe the machine."""

import ctypes
import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from resnets.errors import UserError, is_out_of_memory, unknown

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


def return_freed_memory() -> None:
    """Give the freed memory of the CPU back to the system, after it was exhausted.

    What glibc keeps lies in pieces, none of which may be large enough for the next attempt.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


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


class MemoryBound:
    """Call a network without gradients on as many images at a time as the memory allows.

    Whole batches are tried first; where they do not fit, this and all later ones are halved.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self.most: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network's answer, N C H W -> N K; UserError: one image is too much."""
        while True:
            num = min(self.most or len(images), len(images))
            try:
                if num == len(images):
                    return self.network(images)
                return torch.cat([self.network(piece) for piece in images.split(num)])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if num == 1:
                    size = f"{images.shape[-1]} x {images.shape[-2]} pixels"
                    raise UserError(
                        f"out of memory with a single image of {size}: give it more memory, or "
                        "take a smaller network"
                    ) from error
            self.most = num // 2  # outside `except` the memory of the attempt is free
            return_freed_memory()


def autocast(device: torch.device, precision: str) -> Any:
    """Return the autocast context of a forward pass."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])
