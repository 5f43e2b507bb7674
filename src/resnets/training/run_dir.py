"""Read and write the files of a run, lock its folder, and find the run that a restart resumes.

config.json        every resolved value with its origin
environment.json   versions, device, threads
data.json          classes, split, fingerprint
digests.json       digests of these three, by which a file that was edited is noticed
metrics.jsonl      one record a line, training and validation
checkpoints/       state-<step>.safetensors (the last two), best.safetensors, the lock
model.safetensors  the model file; beside it scores.json, report.html and figures/
"""

import errno
import json
import os
import platform
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from resnets.errors import UserError
from resnets.fileio import check_can_make, make_folder, sha256, write_atomic
from resnets.parsing import convert, parse_json, read_json, read_lines
from resnets.training.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from resnets.training.run_records import (
    COMMAND_FILE,
    CONFIG_FILE,
    DATA_FILE,
    DECIDING,
    DIGESTS_FILE,
    ENVIRONMENT_FILE,
    RECORDS,
    DigestsRecord,
    MetricsRecord,
    digest_of,
)

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

MODEL_FILE, BEST_FILE, LOCK_FILE = "model.safetensors", "best.safetensors", "lock"
# Files that a resumed run writes, apart from its checkpoints.
WRITTEN_FILES = (
    *(*DECIDING, DIGESTS_FILE, "metrics.jsonl", "scores.json"),
    *(MODEL_FILE, "report.html"),
)
# Folder of runs for which no other is given.
RUNS = Path("runs")
# Files that are written before config.json. Without config.json a run cannot be resumed.
FIRST_FILES = (
    *("checkpoints", "metrics.jsonl", COMMAND_FILE, DATA_FILE, ENVIRONMENT_FILE),
    DIGESTS_FILE,
)


@dataclass(frozen=True)
class RunDir:
    """The folder of one run."""

    path: Path
    writable: bool = True  # False on all ranks but the first: their writes do nothing
    generations: int = 2  # checkpoints to keep
    # Lines of metrics.jsonl that a full disk refused; they are written with the next one.
    waiting: list[str] = field(default_factory=list, repr=False, compare=False)

    @staticmethod
    def check(out: str | Path | None) -> None:
        """Raise UserError for a path that cannot become a new run folder."""
        path = RUNS if out is None else Path(out)
        check_can_make(path, flag="--out")
        if out is not None and path.is_dir() and any(path.iterdir()):
            hint = f"; to resume that run: --resume {out}" if is_run(path) else ""
            raise UserError(f"--out {out}: the folder is not empty; give a new one{hint}")

    @classmethod
    def create(
        cls, out: str | Path | None, *, name: str, command: Mapping[str, Any] | None = None
    ) -> "RunDir":
        """Make a new folder: `out`, which must be empty or new, or the next `runs/NAME-NNN`.

        A restart under torchrun finds it by the `command`.
        """
        cls.check(out)
        path = _next_numbered(RUNS, name) if out is None else Path(out)
        make_folder(path / "checkpoints")
        (path / "metrics.jsonl").touch()  # with config.json it tells a run from a class folder
        run_dir = cls(path)
        if torchrun_id() is not None:
            run_dir.write_json(COMMAND_FILE, {"launch": torchrun_id(), "command": command or {}})
        return run_dir

    @classmethod
    def open(cls, path: str | Path) -> "RunDir":
        """Return an existing run folder; raise UserError if it is none."""
        if not is_run(Path(path)):
            what = "no such folder" if not Path(path).exists() else "not a run folder"
            raise UserError(f"--resume {path}: {what} (a run folder holds config.json)")
        return cls(Path(path))

    def check_places(self) -> None:
        """Raise UserError where the run cannot write its files, before hours are spent on it."""
        checkpoints = self.path / "checkpoints"
        if not checkpoints.is_dir():
            raise UserError(
                f"--resume {self.path}: its folder checkpoints, which holds the saved states, is "
                "missing; restore it, or start a new run"
            )
        places = [self.path / name for name in WRITTEN_FILES]
        places += [checkpoints / name for name in (BEST_FILE, LOCK_FILE)]
        for place in (*places, *self._checkpoints()):
            if place.is_dir():
                raise UserError(
                    f"--resume {self.path}: {place.relative_to(self.path)} is a folder where the "
                    "run has a file; move it away"
                )

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder; raise UserError if one is in it."""
        return locked(self.path / "checkpoints" / LOCK_FILE, folder=self.path)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the JSON files, whole or not at all.

        The digest of a file that decides bits is recorded before the file is replaced, beside that
        of the old content: a kill in between leaves one of the two.
        """
        if not self.writable:
            return
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        if name not in DECIDING:
            write_atomic(self.path / name, text)
            return
        old, new = self._digests(), digest_of(name, json.loads(text))
        run, files = old.run, old.files
        if not run and name == CONFIG_FILE:  # the last of the three, when a run starts
            run = sha256(json.dumps([new, files], sort_keys=True).encode())
        self._write_digests(run, files | {name: [*files.get(name, []), new]})
        write_atomic(self.path / name, text)
        self._write_digests(run, files | {name: [new]})

    def _write_digests(self, run: str, files: Mapping[str, list[str]]) -> None:
        text = json.dumps({"run": run, "files": files}, indent=2) + "\n"
        write_atomic(self.path / DIGESTS_FILE, text)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the JSON files; raise UserError if it does not hold what it must."""
        path = self.path / name
        try:
            content = read_json(path, dict[str, Any], name=str(path))
            convert(content, RECORDS.get(name, dict[str, Any]), name=str(path))
        except UserError as error:
            raise UserError(f"{error}; restore the file, or start a new run") from None
        return content

    def edited_files(self) -> list[str]:
        """Return the files that decide bits and are not as the run wrote them."""
        if not (self.path / DIGESTS_FILE).exists():
            return []  # of a version that wrote none
        files = self._digests().files
        if not files:
            return [DIGESTS_FILE]
        return [
            name
            for name in DECIDING
            if name in files and digest_of(name, self.read_json(name)) not in files[name]
        ]

    def digest_name(self) -> str:
        """Return the name that checkpoints of this run have; "" if its digests are lost."""
        return self._digests().run

    def _digests(self) -> DigestsRecord:
        """Return the content of digests.json, which is empty if it is absent or damaged."""
        with suppress(UserError):
            return convert(self.read_json(DIGESTS_FILE), DigestsRecord, name=DIGESTS_FILE)
        return DigestsRecord("", {})

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl; if the disk is full, keep it for the next call."""
        if not self.writable:
            return
        self.waiting.append(_line(record))
        path = self.path / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(self.waiting))
            self.waiting.clear()
        except OSError:
            os.truncate(path, size)  # half a line would hide those after it

    def history(self) -> list[dict[str, Any]]:
        """Return the records of metrics.jsonl, without lines that are damaged or cut off."""
        return self._history()[0]

    def _history(self) -> tuple[list[dict[str, Any]], int]:
        """Return the records, and the number of lines that are damaged."""
        records, damaged, path = list[dict[str, Any]](), 0, self.path / "metrics.jsonl"
        for line in read_lines(path, name=str(path)) if path.exists() else ():
            try:
                record = parse_json(line, dict[str, Any], name="a line")
                convert(record, MetricsRecord, name="a line")
                crc = record.pop("crc", None)  # a version before wrote none
                if crc is not None and crc != _crc(record):
                    raise UserError("a line was changed")
                records.append(record)
            except UserError:
                damaged += line.endswith(b"\n")  # else a kill has cut it off
        return records, damaged

    def seconds(self) -> float:
        """Return how long the run has trained, by its last record."""
        return max((float(record.get("seconds", 0)) for record in self.history()), default=0.0)

    def forget_after(self, step: int, *, validated: int) -> int:
        """Drop the records of steps and of the validation that a resumed run repeats.

        Returns:
            The number of damaged lines, which are dropped too.
        """
        if not self.writable:
            return 0
        last = {"validation": validated}  # a validation may be missing; all else came with its step
        records, damaged = self._history()
        kept = [r for r in records if r["step"] <= last.get(r["kind"], step)]
        for part in self.path.glob(".*.part"):  # of a write that was killed
            with suppress(OSError):
                part.unlink()
        text = "".join(map(_line, kept))
        write_atomic(self.path / "metrics.jsonl", text)
        return damaged

    def save(self, checkpoint: Checkpoint, *, step: int) -> None:
        """Write a checkpoint, verify it, then drop the oldest ones; or raise NotSavedError."""
        if not self.writable:
            return
        path = self._checkpoint_path(step)
        save_checkpoint(path, replace(checkpoint, run=self.digest_name()))
        saved = self._checkpoints()
        # Checkpoints of later steps are damaged, or the run would have resumed from them.
        newest = saved.index(path)
        parts = path.parent.glob(".*.part")  # of writes that were killed
        for old in (*saved[:newest], *saved[newest + self.generations :], *parts):
            with suppress(OSError):  # it stays, and the next save tries again
                old.unlink()

    def load(self, on_damaged: Callable[[str], None] | None = None) -> Checkpoint | None:
        """Return the newest valid checkpoint, or None; report each newer one that is damaged.

        Raises:
            UserError: A checkpoint was written by a newer version.
        """
        for path in self._checkpoints():
            try:
                return load_checkpoint(path)
            except DamagedCheckpointError as error:
                if on_damaged is not None:
                    on_damaged(str(error))
        return None

    def save_best(self, weights: dict[str, Tensor], *, step: int, score: float) -> None:
        """Keep the weights of the best validation; raise NotSavedError if the disk refuses."""
        if self.writable:
            best = Checkpoint(weights, {"step": step, "score": score}, run=self.digest_name())
            save_checkpoint(self.path / "checkpoints" / BEST_FILE, best)

    def load_best(self) -> Checkpoint:
        """Return the weights of the best validation."""
        return load_checkpoint(self.path / "checkpoints" / BEST_FILE)

    def load_step(self, step: int) -> Checkpoint | None:
        """Return the checkpoint of a step, or None if there is no valid one."""
        with suppress(UserError):
            return load_checkpoint(self._checkpoint_path(step))
        return None

    def _checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"state-{step:08d}.safetensors"

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("state-*.safetensors"), reverse=True)


def _line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of metrics.jsonl, with a checksum of the other fields."""
    return json.dumps({**record, "crc": _crc(record)}) + "\n"


def _crc(record: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def is_run(path: Path) -> bool:
    """Return whether the path is a run folder."""
    return (path / CONFIG_FILE).is_file()


def torchrun_id() -> str | None:
    """Return the id that torchrun gives to all its processes and restarts; None without it.

    Some schedulers set the id alone, which is no torchrun.
    """
    return os.environ.get("TORCHELASTIC_RUN_ID") if _restart_count() else None


def num_restarts() -> int:
    """Return how often torchrun has restarted the processes of this machine."""
    return int(_restart_count() or "0")


def _restart_count() -> str:
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return count if count.isdecimal() else ""


def find_restarted_run(
    out: str | Path | None, command: Mapping[str, Any], *, restarted: bool
) -> RunDir | None:
    """Return the unfinished run of this very command under torchrun, if there is one.

    torchrun, and a cluster, start the same command again when a rank or a machine has died. With
    the same `out` it then resumes its own run. Without `out` only a restart looks for one, which is
    of the same launch.
    """
    if torchrun_id() is None or (out is None and not restarted):
        return None
    if out is not None and _is_torn(Path(out)):
        shutil.rmtree(out)  # killed before config.json: there is nothing to resume
    files = RUNS.glob(f"*/{COMMAND_FILE}") if out is None else [Path(out) / COMMAND_FILE]
    asked = json.loads(json.dumps(command))
    for file in sorted(filter(Path.is_file, files), key=lambda file: -file.stat().st_mtime):
        run_dir = RunDir(file.parent)
        if is_run(run_dir.path) and not (run_dir.path / "scores.json").exists():
            try:
                stored = run_dir.read_json(COMMAND_FILE)
            except UserError:
                continue  # damaged: no run can be recognised by it
            own_launch = out is not None or stored["launch"] == torchrun_id()
            if own_launch and stored["command"] == asked:
                return run_dir
    return None


@contextmanager
def locked(path: Path, *, folder: Path) -> Iterator[None]:
    """Hold the lock file `path` of a folder; the system releases it when its owner dies.

    It is a record lock (`lockf`), which belongs to the process that took it. A `flock` would pass
    to the loader's workers, which outlive a killed run by seconds. If another process holds the
    lock, this raises UserError, which names it.
    """
    if fcntl is None:
        yield
        return
    with path.open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                owner = file.read(200).decode(errors="replace").strip() or "another process"
                raise UserError(
                    f"{folder}: {owner} is training in this folder; wait for it, or stop it first"
                ) from None
            # Any other error: a file system without locks.
        with suppress(OSError):  # the name of the owner; on a full disk the lock holds without it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        yield


def _next_numbered(parent: Path, name: str) -> Path:
    """Make `parent/name-001`, or the first number that is free."""
    for number in count(1):
        path = parent / f"{name}-{number:03d}"
        with suppress(FileExistsError):
            make_folder(path, exist_ok=False)
            break
    return path


def _is_torn(place: Path) -> bool:
    """Return whether a run was killed before it wrote config.json."""
    if not place.is_dir() or is_run(place):
        return False
    names = {path.name for path in place.iterdir() if not path.name.endswith(".part")}
    kept = (place / "checkpoints").glob("*.safetensors")
    return names <= set(FIRST_FILES) and not any(kept)
