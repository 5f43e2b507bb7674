"""Training that diverges or is interrupted, full disks, power cuts, lost GPUs, two processes."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fault_harness import (
    TINY_RUN,
    Fault,
    finished_run,
    interrupted_run,
    may_mount,
    mount_memory,
    photos,
    slow,
)

RESUME = r"(?s)stopped; resume with:.*train --resume \S*/run"
SMALL = ["--model", "resnet18", "--size", "32", "--epochs", "1", "--tune", "off"]


def _train(folder: Path, *options: str, each: int = 8) -> list[str]:
    data = photos(folder / "data", each=each)
    return ["train", str(data), *TINY_RUN, "--out", str(folder / "run"), *options]


def _main(words: list[str]) -> int:
    from resnets.cli.main import main

    return main(words)


def _on_record(kind: str, act: Callable[[], object]) -> None:
    """Call `act` once, after the first record of this kind."""
    from resnets.training.trainer import Trainer

    log, left = Trainer.log, [act]

    def logged(self: Trainer, found: str, **values: Any) -> None:
        log(self, found, **values)
        if found == kind and left:
            left.pop()()

    Trainer.log = logged  # type: ignore[method-assign]


def _in_step(number: int, act: Callable[[], object]) -> None:
    """Call `act` once, in the middle of step `number`, counted from 0."""
    from resnets.training import trainer

    step, left = trainer.train_step, [act]

    def stepped(state: Any, *arguments: Any, **options: Any) -> Any:
        if state.step == number and left:
            left.pop()()
        return step(state, *arguments, **options)

    trainer.train_step = stepped  # type: ignore[assignment]


# A loss that is not finite, and batches of one image ---------------------------------------------


def _not_finite(value: float, folder: Path) -> list[str]:
    """The fourth batch holds images that are not finite."""
    from resnets.data.loader import TrainLoader

    batches = TrainLoader.batches

    def broken(self: TrainLoader, first: int, last: int) -> Iterator[Any]:
        for number, batch in enumerate(batches(self, first, last), first):
            yield replace(batch, images=batch.images * value) if number == 5 else batch

    TrainLoader.batches = broken  # type: ignore[method-assign]
    return _train(folder, "--epochs", "4")


def _finite_checkpoints(folder: Path) -> None:
    import torch

    from resnets.training.run_dir import RunDir

    checkpoint = RunDir(folder / "run").load()
    assert checkpoint is not None and 0 < checkpoint.scalars["step"] < 6, checkpoint
    for name, tensor in checkpoint.tensors.items():
        assert torch.isfinite(tensor).all(), name


def _weights_not_finite(folder: Path) -> list[str]:
    """The weights are lost in a step: its own loss is finite still."""
    import torch

    from resnets.training import trainer

    step = trainer.train_step

    def stepped(state: Any, *arguments: Any, **options: Any) -> Any:
        result = step(state, *arguments, **options)
        if state.step == 5:
            with torch.no_grad():
                state.model.fc.weight.fill_(math.inf)
        return result

    trainer.train_step = stepped  # type: ignore[assignment]
    return _train(folder, "--epochs", "4")


def _small_batches(options: list[str], folder: Path, *, each: int = 4) -> list[str]:
    """The last map of this network is one pixel: batch norm needs two images."""
    photos(folder / "data", each=each, side=32)
    return ["train", str(folder / "data"), *SMALL, "--out", str(folder / "run"), *options]


# Signals -----------------------------------------------------------------------------------------


def _interrupted(times: int, folder: Path) -> Callable[[], None]:
    """Press Ctrl-C so often within a step, then resume the run to its end."""
    words = _train(folder, "--epochs", "4")

    def press() -> None:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

    def case() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
        _in_step(9, press)
        assert _main(words) == 130
        assert not (folder / "run" / "model.safetensors").exists()
        assert _main(["train", "--resume", str(folder / "run"), "--quiet"]) == 0

    return case


# A full disk -------------------------------------------------------------------------------------


def _fill(disk: Path) -> None:
    """Fill a disk to its last byte."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def _full_disk(folder: Path) -> tuple[Path, list[str]]:
    """Mount a disk, and return it with the words of a training onto it."""
    (folder / "disk").mkdir()
    mount_memory(folder / "disk", size="64m")
    words = _train(folder, "--epochs", "4", "--checkpoint-every", "0", "--evaluate-every", "0.5")
    words[words.index("--out") + 1] = str(folder / "disk" / "run")
    return folder / "disk", words


def _full_for_a_time(folder: Path) -> Callable[[], None]:
    """The disk is full between two validations, and the training goes on."""
    disk, words = _full_disk(folder)

    def case() -> None:
        _on_record("validation", partial(_fill, disk))
        _in_step(9, (disk / "ballast").unlink)
        assert _main(words) == 0
        lines = (disk / "run" / "metrics.jsonl").read_text().splitlines()
        assert sum('"kind": "validation"' in line for line in lines) > 4, lines

    return case


def _full_from(kind: str, folder: Path) -> Callable[[], None]:
    """The disk is full from a record on; freed, it takes what was lost."""
    disk, words = _full_disk(folder)

    def case() -> None:
        if kind == "page":
            from resnets.training import trainer

            write = trainer.write_report

            def full(*arguments: Any) -> None:
                trainer.write_report = write
                _fill(disk)
                write(*arguments)

            trainer.write_report = full  # type: ignore[assignment]
        else:
            _on_record(kind, partial(_fill, disk))
        code = _main(words)
        print(sorted(path.name for path in (disk / "run").rglob("*")))
        assert code == 4, code
        (disk / "ballast").unlink()
        assert _main(["train", "--resume", str(disk / "run"), "--quiet"]) == 0

    return case


def _in_the_way(name: str, folder: Path) -> Callable[[], None]:
    """While a run trains, a folder takes the name of a file that it writes at its end."""
    words, place = _train(folder, "--epochs", "4"), folder / "run" / name

    def case() -> None:
        _on_record("validation", place.mkdir)
        code = _main(words)
        assert code == 4, code
        place.rmdir()
        assert _main(["train", "--resume", str(folder / "run"), "--quiet"]) == 0

    return case


def _kept_checkpoint(folder: Path) -> Callable[[], None]:
    """While a run trains, a folder takes the name of a checkpoint: it stays, and nothing stops."""
    words = _train(folder, "--epochs", "4")
    place = folder / "run" / "checkpoints" / "state-00000001.safetensors"

    def case() -> None:
        _on_record("validation", place.mkdir)
        assert _main(words) == 0
        assert place.is_dir()

    return case


# A power cut -------------------------------------------------------------------------------------


class Disk:
    """What a power cut leaves: files and names as they were when they were synchronised."""

    def __init__(self) -> None:
        self.contents: dict[int, bytes] = {}
        self.names: dict[str, dict[str, int]] = {}
        self._fsync = os.fsync
        os.fsync = self.fsync

    def fsync(self, number: int) -> None:
        self._fsync(number)
        place = os.readlink(f"/proc/self/fd/{number}")
        if os.path.isdir(place):
            entries = {entry.name: entry for entry in os.scandir(place)}
            self.names[place] = {name: entry.inode() for name, entry in entries.items()}
        else:
            self.contents[os.fstat(number).st_ino] = Path(place).read_bytes()

    def cut(self, place: Path, remains: Path) -> None:
        """Write what is left of a folder; what was not synchronised is empty."""
        remains.mkdir()
        for name, inode in self.names.get(str(place), {}).items():
            if (place / name).is_dir():
                self.cut(place / name, remains / name)
            else:
                (remains / name).write_bytes(self.contents.get(inode, b""))


def _power_cut(kind: str, folder: Path) -> Callable[[], None]:
    """The power fails at a record; what was synchronised is resumed to the same end."""
    words = _train(folder, "--epochs", "4")

    def case() -> None:
        disk = Disk()
        _on_record(kind, lambda: disk.cut(folder, folder / "left"))
        assert _main(words) == 0
        left = folder / "left" / "run"
        assert (left / "config.json").is_file(), list((folder / "left").rglob("*"))
        assert _main(["train", "--resume", str(left), "--quiet"]) == 0
        for name in ("model.safetensors", "scores.json"):
            assert (left / name).read_bytes() == (folder / "run" / name).read_bytes(), name

    return case


# Two processes -----------------------------------------------------------------------------------


def _locked(folder: Path) -> list[str]:
    """Another process trains in the folder that is to be resumed."""
    from resnets.training.run_dir import RunDir

    run, context = interrupted_run(folder), multiprocessing.get_context("fork")
    ready, main = context.Event(), os.getpid()

    def hold() -> None:
        with RunDir(run).lock():
            ready.set()
            while os.getppid() == main:
                time.sleep(0.1)

    context.Process(target=hold).start()
    assert ready.wait(60)
    return ["train", "--resume", str(run)]


def _at_once(words: Callable[[Path], list[str]], folder: Path) -> list[int]:
    """Let two processes make their run folders at the same time; return their exit codes."""
    from resnets.training.run_dir import RunDir

    context, command = multiprocessing.get_context("fork"), words(folder)
    barrier, check = context.Barrier(2), RunDir.check

    def checked(out: Any) -> None:
        check(out)
        if os.getppid() == main:
            barrier.wait(60)

    def live() -> None:
        os._exit(_main(command))

    main = os.getpid()
    RunDir.check = staticmethod(checked)  # type: ignore[method-assign]
    processes = [context.Process(target=live) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sorted(process.exitcode or 0 for process in processes)


def _same_out(folder: Path) -> Callable[[], None]:
    def case() -> None:
        codes = _at_once(_train, folder)
        assert codes == [0, 2], codes
        assert (folder / "run" / "scores.json").is_file()

    return case


def _numbered(folder: Path) -> Callable[[], None]:
    def case() -> None:
        codes = _at_once(lambda folder: _train(folder)[:-2], folder)
        assert codes == [0, 0], codes
        assert len(list((folder / "runs").glob("data-*/scores.json"))) == 2

    return case


# Devices and platforms ---------------------------------------------------------------------------


def _lost_gpu(message: str, folder: Path) -> list[str]:
    """A kernel fails in a step, as CUDA reports it."""
    import torch

    error = getattr(torch, "AcceleratorError", RuntimeError)

    def fail() -> None:
        raise error(message)

    _in_step(5, fail)
    return _train(folder, "--epochs", "4")


def _resumed_after_it(folder: Path) -> Callable[[], None]:
    words = _lost_gpu("CUDA error: unspecified launch failure", folder)

    def case() -> None:
        from resnets.training import trainer
        from resnets.training.train_step import train_step

        assert _main(words) == 4
        trainer.train_step = train_step
        assert _main(["train", "--resume", str(folder / "run"), "--quiet"]) == 0

    return case


SCRIPT = """
import multiprocessing
from resnets import api

def main():
    result = api.train(
        "data", out="run", model="resnet20", size=16, steps=4, batch_size=4, tune="off",
        cache_mb=0, workers=1, log=lambda record: None,
    )
    print(f"top-1 {result.scores.top1:.0%}")

multiprocessing.set_start_method("spawn", force=True)
"""


def _spawned(call: str, folder: Path) -> Callable[[], None]:
    """Run a script where processes are spawned, as on macOS and Windows."""
    photos(folder / "data")
    (folder / "script.py").write_text(SCRIPT + call)

    def case() -> None:
        done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
        print(done.stdout, *done.stderr.splitlines()[-1:])

    return case


# Other classes -----------------------------------------------------------------------------------


def _other_classes(classes: list[str], words: list[str], folder: Path) -> list[str]:
    photos(folder / "data", classes=classes)
    run = finished_run(folder)
    return [word.format(run=run, data=folder / "data") for word in words]


def _other_head(folder: Path) -> Callable[[], object]:
    from resnets.models.registry import create_model

    run = finished_run(folder)

    def create() -> None:
        model = create_model("resnet20", num_classes=3, weights=str(run))
        print(f"{model.fc.out_features} classes")

    return create


FAULTS = [
    *(
        Fault(
            f"training/{name}",
            partial(_not_finite, value),
            r"the loss is (nan|inf) at step 6, in the batch of \w+/\d+\.png, .*--learning-rate",
            code=3,
            check=_finite_checkpoints,
            catalogue="T1",
        )
        for name, value in (("nan", math.nan), ("infinity", math.inf))
    ),
    Fault(
        "training/weights-not-finite",
        _weights_not_finite,
        r"loss is (nan|inf) at step",
        code=3,
        check=_finite_checkpoints,
        catalogue="T1",
    ),
    *(
        Fault(
            f"training/{name}",
            partial(_small_batches, options, each=each),
            message,
            code=code,
            catalogue="T6",
        )
        for name, options, each, message, code in (
            ("last-batch-of-one", ["--batch-size", "4"], 5, "top-1", 0),
            ("batch-of-one", ["--batch-size", "1"], 4, "--batch-size 1: must be between 2", 2),
            (
                "micro-batch-of-one",
                ["--batch-size", "4", "--grad-accum-steps", "4"],
                4,
                "micro-batches of one image",
                2,
            ),
        )
    ),
    *(
        Fault(
            f"training/ctrl-c-{name}", partial(_interrupted, times), RESUME, code=0, catalogue="T9"
        )
        for name, times in (("once", 1), ("twice", 2))
    ),
    *(
        Fault(
            f"training/power-cut-{kind}",
            partial(_power_cut, kind),
            "top-1",
            code=0,
            catalogue="T12",
        )
        for kind in ("start", "validation")
    ),
    *(
        Fault(
            f"training/folder-for-{Path(name).stem}",
            partial(_in_the_way, name),
            rf"(?s)could be saved: \S*/{name}: Is a directory; move that folder away\nthen resume",
            code=0,
            slow=name == "report.html",
        )
        for name in ("model.safetensors", "report.html")
    ),
    Fault("training/folder-for-a-checkpoint", _kept_checkpoint, "top-1", code=0),
    Fault(
        "training/locked",
        _locked,
        r"run: process \d+ on \S+ is training in this folder",
        catalogue="T14",
    ),
    Fault("training/same-out", _same_out, "is training in this folder", code=0, catalogue="T14"),
    Fault("training/numbered-at-once", _numbered, "top-1", code=0, catalogue="T14"),
    Fault(
        "training/gpu-lost",
        partial(_lost_gpu, "CUDA error: an illegal memory access was encountered"),
        r"the GPU failed at step 5 \(CUDA error: an illegal memory access.*--resume \S*/run",
        code=4,
        catalogue="T16",
    ),
    Fault("training/gpu-lost-and-resumed", _resumed_after_it, "top-1", code=0, catalogue="T16"),
    *(
        Fault(
            f"training/{name}",
            partial(_spawned, call),
            message,
            code=0,
            cpu_seconds=60,
            slow=True,
            catalogue="T19",
        )
        for name, call, message in (
            ("spawned", 'if __name__ == "__main__":\n    main()\n', "top-1"),
            ("spawned-unguarded", "main()\n", "put what your script runs under if __name__ =="),
        )
    ),
    Fault(
        "training/other-classes-evaluate",
        partial(_other_classes, ["cat", "owl"], ["evaluate", "{run}", "{data}"]),
        "classes in data that the model does not know: owl; it knows cat, dog",
        catalogue="C6",
    ),
    Fault(
        "training/other-classes-weights",
        partial(
            _other_classes,
            ["cat", "dog", "owl"],
            ["train", "{data}", *TINY_RUN, "--weights", "{run}"],
        ),
        "top-1",
        code=0,
        catalogue="C6",
    ),
    Fault("training/other-head", _other_head, "3 classes", code=0, catalogue="C6"),
]
if may_mount():
    FAULTS += [
        Fault(
            "training/full-disk-for-a-time",
            _full_for_a_time,
            r"not saved \(No space.*training continues",
            code=0,
            catalogue="T11",
        ),
        *(
            Fault(
                f"training/full-disk-{kind}",
                partial(_full_from, kind),
                "not everything could be saved",
                code=0,
                catalogue="T11",
            )
            for kind in ("start", "validation", "page")
        ),
    ]

FAULTS = slow(
    FAULTS,
    "training/ctrl-c-twice",
    "training/infinity",
    "training/numbered-at-once",
    "training/power-cut-start",
    "training/weights-not-finite",
)
