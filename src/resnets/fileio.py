"""Write files whole or not at all, append JSON lines, open and hash files, find the cache."""

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from resnets.errors import UserError

SPECIAL_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name only after its last byte has reached the disk.

    A reader, and a process that is killed, finds the old content or the new one; an exception in
    the block leaves the old one. Of several processes that write the same path the last one wins.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, so that new ones survive a power cut."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Make a folder and those above it, on the disk when this returns."""
    made = [place for place in (path, *path.absolute().parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for place in made:
        sync_folder(place.absolute().parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file by this content (text as UTF-8), whole or not at all."""
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def why_not_written(error: OSError) -> tuple[str, str]:
    """Return which file could not be written and why, and what to do about it."""
    place = error.filename2 or error.filename  # of a file that is renamed, its new name
    reason = error.strerror or str(error)
    if isinstance(error, IsADirectoryError):
        advice = "move that folder away"
    elif isinstance(error, FileExistsError | NotADirectoryError):
        advice = "move that file away"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some disk space"
    else:
        advice = "make it writable"
    return (f"{place}: {reason}" if place else reason), advice


def check_can_make(folder: Path, *, flag: str) -> None:
    """Make a folder, write into it and remove what was made; raise UserError where that fails.

    `flag` is named in the message. Permissions alone do not tell: /proc refuses even root.
    """
    made: list[Path] = []
    try:
        if re.match(r"[A-Za-z][\w+.-]+:[/\\]", str(folder)):  # a letter alone is a drive
            raise OSError("it is an address, not a folder of this machine")
        places = (folder, *folder.absolute().parents)
        existing = next(number for number, place in enumerate(places) if place.exists())
        if not places[existing].is_dir():
            raise OSError(f"{places[existing]} is a file")
        for place in reversed(places[:existing]):
            place.mkdir(exist_ok=True)
            made.append(place)
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL
        reason = getattr(error, "strerror", None) or error
        shown = str(folder) if len(str(folder)) < 200 else f"{str(folder)[:200]}..."
        raise UserError(
            f"{flag} {shown}: cannot be written ({reason}); give another folder"
        ) from None
    finally:
        for place in reversed(made):
            with suppress(OSError):  # another process uses it
                place.rmdir()


def open_file(path: Path | str) -> BinaryIO:
    """Open a regular file to read its bytes.

    A pipe, a socket, a device and a folder raise OSError, as does a path that no file can have: to
    open a pipe would wait for ever, and a device may have no end.
    """
    try:
        # O_NONBLOCK: to open a pipe does not wait for its writer.
        number = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except ValueError as error:  # a NUL, or a character that no name of a file can have
        raise OSError(errno.EINVAL, f"not a path ({error})", str(path)) from None
    status = os.fstat(number)
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        os.close(number)
        what = SPECIAL_FILES.get(kind, "a special file")
        raise OSError(errno.EINVAL, f"it is {what}, not a file", str(path))
    # A size for the buffer spares a call that asks for a terminal.
    return open(number, "rb", buffering=max(getattr(status, "st_blksize", 0), 8192))


def append_jsonl(path: Path, record: Any) -> None:
    """Append one record as a line of JSON, on the disk when this returns."""
    line = json.dumps(record, allow_nan=False) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def sha256(source: Path | bytes) -> str:
    """Return the SHA-256 of a file, read in pieces, or of bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    if isinstance(source, bytes):
        digest.update(source)
    else:
        with source.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def expanded(path: Path | str) -> Path:
    """Return a path with its `~` replaced by the home folder of that user, or raise UserError."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        if Path(path).exists():  # a folder that begins with ~
            return Path(path)
        raise UserError(f"{path}: there is no such home folder; write the whole path") from None


def cache_dir(*names: str) -> Path:
    """Return the folder for downloads and indexes, or one below it; it may not exist yet.

    It is RESNETS_DATA where that is set, else `resnets` in XDG_CACHE_HOME or ~/.cache. Where there
    is no home, or nothing can be written into it, it is a folder of this user in the temporary
    directory, and a warning says so. Raises UserError where there is none at all.
    """
    if given := os.environ.get("RESNETS_DATA"):
        return expanded(given).joinpath(*names)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches, "resnets", *names)
    with suppress(RuntimeError):  # of a user without a home
        place = Path.home() / ".cache" / "resnets"
        nearest = next(folder for folder in (place, *place.parents) if os.path.isdir(folder))
        if nearest == place or os.access(nearest, os.W_OK | os.X_OK):
            return place.joinpath(*names)
    return _temporary_cache().joinpath(*names)


def _temporary_cache() -> Path:
    """Return a folder in the temporary directory that belongs to this user and to nobody else."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    advice = "set RESNETS_DATA to a folder for caches"
    try:
        place = Path(tempfile.gettempdir(), f"resnets-{user}")
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError as error:
        raise UserError(
            f"there is no home folder and no temporary one ({error}); {advice}"
        ) from None
    own = (found.st_uid == user and not found.st_mode & 0o077) or os.name == "nt"
    if not (stat.S_ISDIR(found.st_mode) and own):
        raise UserError(f"{place}: other users can write into it, so it is no cache; {advice}")
    warnings.warn(
        f"no home folder that can be written: caches are in {place}", stacklevel=1
    )  # once
    return place
