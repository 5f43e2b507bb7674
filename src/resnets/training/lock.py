"""One process a run folder: a lock that the system itself releases when its owner dies.

It is a record lock (`lockf`), which belongs to the process that took it and not, as one of `flock`,
to every child that inherited the open file: the loader's workers outlive a killed run by seconds,
and do not keep its folder from being gone on with.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resnets.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(path: Path, *, folder: Path) -> Iterator[None]:
    """Hold the lock file `path` of a run folder.

    Raises UserError, naming the owner, when another process holds it.
    """
    if fcntl is None:
        yield
        return
    with path.open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                file.seek(0)
                owner = file.read().decode().strip() or "another process"
                raise UserError(
                    f"{folder}: {owner} is training in this folder; wait for it, or end it first"
                ) from None
            # Anything else is a file system without locks, where nobody can be refused.
        with suppress(OSError):  # who it is helps; on a full disk the lock holds without it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
