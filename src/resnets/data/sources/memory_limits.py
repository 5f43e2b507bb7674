"""Provide `check_size`: whether what a file promises may be unpacked on this machine."""

import os
from pathlib import Path

from resnets.errors import UserError

# Up to this many bytes anything is unpacked; beyond it only what is at most MAX_RATIO times as
# large as its file (photos: 1, drawings as arrays: 20) and fits into the memory that is free.
SMALL, MAX_RATIO = 2**28, 50


def check_size(num_bytes: int, packed: int, source: str) -> None:
    """Refuse to unpack `num_bytes` from a file of `packed` bytes.

    Raises:
        UserError: It is more than the machine has, or than images can be packed.
    """
    if num_bytes <= SMALL:
        return
    if num_bytes > MAX_RATIO * packed:
        raise UserError(
            f"{source} promises {_size(num_bytes)}, {num_bytes // max(packed, 1):,} times its own "
            f"size; images are packed at most {MAX_RATIO} times"
        )
    free = available_memory()
    if free is not None and num_bytes > free:
        raise UserError(
            f"{source} takes {_size(num_bytes)} of memory and {_size(free)} is free; save it as "
            "image files in a folder, which are read one by one"
        )


def available_memory() -> int | None:
    """Return the bytes of memory that a process may still take, or None if unknown."""
    found: list[int] = []
    try:
        text = Path("/proc/meminfo").read_text()
        found.append(int(text.partition("MemAvailable:")[2].split()[0]) * 1024)
    except (OSError, ValueError, IndexError):
        try:
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (AttributeError, OSError, ValueError):
            return None
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container
        try:
            found.append(int(Path("/sys/fs/cgroup", limit).read_text()))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return min(found)


def reason_of(error: Exception) -> str:
    """Return in one line why a parser failed: in the words of the system, or that it is damaged."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"damaged ({' '.join(str(error).split())[:200] or type(error).__name__})"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 10**9 else f"{num_bytes / 1e6:,.0f} MB"
