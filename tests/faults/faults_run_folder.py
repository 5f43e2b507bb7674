"""Run folders whose files are damaged, edited, lost, or of another run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fault_harness import Fault, finished_run, interrupted_run, slow

Json = dict[str, Any]


def resume(run: Path, *options: str) -> list[str]:
    return ["train", "--resume", str(run), "--quiet", *options]


def written(name: str, content: bytes | str, *options: str) -> Callable[[Path], list[str]]:
    """Resume a run one of whose files has this content."""

    def make(folder: Path) -> list[str]:
        run = interrupted_run(folder)
        (run / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return resume(run, *options)

    return make


def edited(name: str, edit: Callable[[Json], Any], *options: str) -> Callable[[Path], list[str]]:
    """Resume a run one of whose JSON files was edited."""

    def make(folder: Path) -> list[str]:
        run = interrupted_run(folder)
        content = json.loads((run / name).read_text())
        edit(content)
        (run / name).write_text(json.dumps(content))
        return resume(run, *options)

    return make


def checkpoint_of(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("state-*.safetensors"))[-1]


def forged(
    change: Callable[[dict[str, torch.Tensor], Json], Any], *options: str
) -> Callable[[Path], list[str]]:
    """Resume a run whose checkpoints were changed and have the right digest."""

    def make(folder: Path) -> list[str]:
        from resnets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

        run = interrupted_run(folder)
        for path in (run / "checkpoints").glob("state-*.safetensors"):
            old = load_checkpoint(path)
            change(old.tensors, old.scalars)
            save_checkpoint(path, Checkpoint(old.tensors, old.scalars, run=old.run))
        return resume(run, *options)

    return make


def on_run(change: Callable[[Path], Any], *options: str) -> Callable[[Path], list[str]]:
    """Resume a run after a change to its folder."""

    def make(folder: Path) -> list[str]:
        run = interrupted_run(folder)
        change(run)
        return resume(run, *options)

    return make


def _metrics(*lines: bytes) -> Callable[[Path], list[str]]:
    """Resume a run with odd lines after the first line of metrics.jsonl."""

    def make(folder: Path) -> list[str]:
        run = interrupted_run(folder)
        first, *others = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        (run / "metrics.jsonl").write_bytes(b"".join([first, *lines, *others]))
        (folder / "before").write_text(str(len(others) + 1))
        return ["train", "--resume", str(run)]

    return make


def _all_lines_are_kept(folder: Path) -> None:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record["step"] for record in records if record["kind"] == "validation"]
    assert steps == sorted(set(steps)) and len(steps) == 4, steps


def _unfinished(folder: Path) -> None:
    assert not (folder / "run" / "model.safetensors").exists()


def _forced(folder: Path) -> None:
    environment = json.loads((folder / "run" / "environment.json").read_text())
    assert environment["forced"], environment


def _damage_all(run: Path) -> None:
    for path in (run / "checkpoints").glob("state-*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])


def _lose_best(run: Path) -> None:
    """Lose the best weights, and the checkpoints that they could be made from again."""
    from resnets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

    (run / "checkpoints" / "best.safetensors").unlink()
    newest = checkpoint_of(run)
    old = load_checkpoint(newest)
    scalars = old.scalars | {"best_step": old.scalars["step"] - 1}
    save_checkpoint(newest, Checkpoint(old.tensors, scalars, run=old.run))


def _of_another_run(run: Path) -> None:
    from resnets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

    old = load_checkpoint(checkpoint_of(run))
    save_checkpoint(checkpoint_of(run), Checkpoint(old.tensors, old.scalars, run="ab" * 32))


def _newer_checkpoint(folder: Path) -> list[str]:
    from resnets.training import checkpoint

    run = interrupted_run(folder)
    old = checkpoint.load_checkpoint(checkpoint_of(run))
    checkpoint.FORMAT = 3
    checkpoint.save_checkpoint(checkpoint_of(run), old)
    checkpoint.FORMAT = 2
    return resume(run)


def _finished(*options: str) -> Callable[[Path], list[str]]:
    return lambda folder: resume(finished_run(folder), *options)


def _folder_for(name: str) -> Callable[[Path], list[str]]:
    """Resume a run in which a folder has the name of a file."""

    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return on_run(change)


def _without_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def _file_for_checkpoints(run: Path) -> None:
    _without_checkpoints(run)
    (run / "checkpoints").touch()


def _fifo(name: str) -> Callable[[Path], list[str]]:
    def change(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return on_run(change)


JSON_FILES = ("config.json", "data.json", "environment.json", "digests.json")
DAMAGE: dict[str, bytes | str] = {
    "empty": "",
    "no-keys": "{}",
    "list": "[]",
    "null": "null",
    "number": "5",
    "text": '"text"',
    "torn": '{"classes": [',
    "nested-deep": "[" * 100_000,
    "tables-deep": '{"a":' * 50_000,
    "utf-16": b"\xff\xfe{\x00}\x00",
    "nan": '{"a": NaN}',
    "duplicate": '{"a": 1, "a": 1}',
    "digits": '{"a": 1' + "0" * 5000 + "}",
    "surrogate": '{"a": "\\ud800"}',
}
KEYS = {
    "data.json": ("data", "fingerprint", "classes", "sizes", "preprocess", "held_out", "name"),
    "environment.json": ("versions", "device", "device_name", "threads"),
    "digests.json": ("run", "files"),
}
EDITS: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "learning-rate": ("config.json", lambda c: c["learning_rate"].update(value=0.5)),
    "seed": ("config.json", lambda c: c["seed"].update(value=1)),
    "steps": ("config.json", lambda c: c["steps"].update(value=7)),
    "setting-lost": ("config.json", lambda c: c.pop("weight_decay")),
    "mean": ("data.json", lambda c: c["preprocess"].update(mean=[0.9, 0.9, 0.9])),
    "held-out": ("data.json", lambda c: c["held_out"].pop()),
    "sizes": ("data.json", lambda c: c["sizes"].update(train=99)),
    "torch": ("environment.json", lambda c: c["versions"].update(torch="1.0")),
    "forced": ("environment.json", lambda c: c.update(forced=[])),
}
WRONG: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "value-missing": ("config.json", lambda c: c["seed"].pop("value")),
    "entry-a-number": ("config.json", lambda c: c.update(seed=5)),
    "origin-a-list": ("config.json", lambda c: c["seed"].update(origin=[])),
    "unknown-setting": ("config.json", lambda c: c.update(colour={"value": 1, "origin": "me"})),
    "value-a-text": ("config.json", lambda c: c["learning_rate"].update(value="fast")),
    "value-a-table": ("config.json", lambda c: c["milestones"].update(value={"a": 1})),
    "value-out-of-range": ("config.json", lambda c: c["learning_rate"].update(value=1e9)),
    "classes-a-text": ("data.json", lambda c: c.update(classes="ab")),
    "classes-numbers": ("data.json", lambda c: c.update(classes=[1, 2])),
    "sizes-negative": ("data.json", lambda c: c["sizes"].update(train=-1)),
    "preprocess-unknown": ("data.json", lambda c: c["preprocess"].update(colour=1)),
    "versions-a-list": ("environment.json", lambda c: c.update(versions=[])),
    "threads-a-text": ("environment.json", lambda c: c.update(threads="2")),
    "forced-a-number": ("environment.json", lambda c: c.update(forced=5)),
    "files-a-list": ("digests.json", lambda c: c.update(files=[])),
}
CHECKPOINTS: dict[str, tuple[Callable[[dict[str, torch.Tensor], Json], Any], str]] = {
    "scalar-lost": (lambda t, s: s.pop("validated"), "missing required field `validated`"),
    "scalar-foreign": (lambda t, s: s.update(colour=1), "unknown field `colour`"),
    "scalar-a-text": (lambda t, s: s.update(step="5"), r"Expected `int`, got `str`.*step"),
    "scalar-negative": (lambda t, s: s.update(step=-1), r"`int` >= 0.*step"),
    "step-beyond": (lambda t, s: s.update(step=10**9), "beyond the last step"),
    "scaler-foreign": (lambda t, s: s.update(scaler={"scale": 2.0}), "gradient scaler"),
    "tensor-lost": (lambda t, s: t.pop("model.conv1.weight"), r"lacks model\.conv1\.weight"),
    "tensor-foreign": (lambda t, s: t.update({"model.x": torch.ones(2)}), "foreign model.x"),
    "slot-lost": (
        lambda t, s: t.pop(next(name for name in t if name.startswith("optimizer."))),
        r"lacks optimizer\.\d+",
    ),
    "slot-foreign": (
        lambda t, s: t.update({"optimizer.9999.momentum_buffer": torch.ones(2)}),
        r"foreign optimizer\.9999",
    ),
    "group-foreign": (lambda t, s: t.update({"colour": torch.ones(2)}), "foreign colour"),
    "width": (
        lambda t, s: t.update({"model.conv1.weight": torch.ones(32, 3, 3, 3)}),
        r"model\.conv1\.weight is .*32, 3, 3, 3.* where this run has",
    ),
    "type": (
        lambda t, s: t.update({"model.fc.bias": t["model.fc.bias"].double()}),
        r"model\.fc\.bias is .*float64",
    ),
    "nan": (lambda t, s: t["model.fc.bias"].fill_(torch.nan), "not finite"),
}
ODD_LINES = {
    "number": b"5\n",
    "no-keys": b"{}\n",
    "bytes": b"\xff\xfe\n",
    "deep": b"[" * 100_000 + b"\n",
    "no-step": b'{"kind": "train"}\n',
    "step-a-text": b'{"kind": "train", "step": "1"}\n',
    "loss-a-list": b'{"kind": "train", "step": 1, "loss": [1]}\n',
    "empty": b"\n",
    "torn": b'{"kind": "tra\n',
    "zeros": bytes(512) + b"\n",
}

FAULTS = [
    *(
        Fault(
            f"run-folder/{file.removesuffix('.json')}-{name}",
            written(file, content),
            rf"{file}",
            check=_unfinished,
            catalogue="T15",
        )
        for file in JSON_FILES
        for name, content in DAMAGE.items()
        if not (file == "digests.json" and name == "no-keys")
    ),
    *(
        Fault(
            f"run-folder/{file.removesuffix('.json')}-{what}-{key}",
            edited(file, change),
            rf"{file}" if file == "digests.json" else rf"{file}.*`?{key}|{file} .*\$\.{key}",
            check=_unfinished,
            catalogue="T15",
        )
        for file, keys in KEYS.items()
        for key in keys
        for what, change in (
            ("lacks", lambda content, key=key: content.pop(key)),
            ("null", lambda content, key=key: content.update({key: None})),
        )
    ),
    *(
        Fault(f"run-folder/wrong-{name}", edited(file, change), file, catalogue="T15")
        for name, (file, change) in WRONG.items()
    ),
    *(
        Fault(
            f"run-folder/edited-{name}",
            edited(file, change),
            rf"{file} changed since the run wrote it .*--force",
            check=_unfinished,
            catalogue="T15",
        )
        for name, (file, change) in EDITS.items()
    ),
    Fault(
        "run-folder/edited-and-forced",
        edited("config.json", EDITS["learning-rate"][1], "--force"),
        r"caution: .*config\.json was edited by hand",
        code=0,
        check=_forced,
        catalogue="T15",
    ),
    Fault(
        "run-folder/free-setting-edited",
        edited("config.json", lambda c: c["checkpoint_every"].update(value=9.0)),
        "top-1",
        code=0,
    ),
    Fault(
        "run-folder/layout-edited",
        on_run(
            lambda run: (run / "data.json").write_text(
                json.dumps(json.loads((run / "data.json").read_text()), sort_keys=True)
            )
        ),
        "top-1",
        code=0,
    ),
    *(
        Fault(
            f"run-folder/checkpoint-{name}",
            forged(change),
            rf"state-\d+\.safetensors.*{message}",
            check=_unfinished,
            catalogue="C5",
        )
        for name, (change, message) in CHECKPOINTS.items()
    ),
    Fault(
        "run-folder/checkpoint-newer",
        _newer_checkpoint,
        "has format 3, this version reads up to 2",
        catalogue="C7",
    ),
    Fault(
        "run-folder/checkpoint-of-another-run",
        on_run(_of_another_run),
        r"state-\d+\.safetensors: it belongs to another run",
        catalogue="T15",
    ),
    Fault(
        "run-folder/checkpoint-truncated",
        on_run(lambda run: checkpoint_of(run).write_bytes(checkpoint_of(run).read_bytes()[:-9])),
        "top-1|all 1 checkpoints are damaged",
        catalogue="C1",
    ),
    Fault(
        "run-folder/checkpoints-all-damaged",
        on_run(_damage_all),
        "all . checkpoints are damaged; restore one, or add --force",
        check=_unfinished,
        catalogue="C1 T10",
    ),
    Fault(
        "run-folder/checkpoints-all-damaged-forced",
        on_run(_damage_all, "--force"),
        "top-1",
        code=0,
    ),
    Fault(
        "run-folder/best-lost",
        on_run(lambda run: (run / "checkpoints" / "best.safetensors").unlink()),
        "top-1",
        code=0,
    ),
    Fault(
        "run-folder/best-damaged",
        on_run(lambda run: (run / "checkpoints" / "best.safetensors").write_bytes(b"torn")),
        "top-1",
        code=0,
        catalogue="C2",
    ),
    Fault(
        "run-folder/best-lost-for-good",
        on_run(_lose_best),
        r"best validation .* are lost .*restore best\.safetensors, or add --force",
        check=_unfinished,
    ),
    Fault(
        "run-folder/best-lost-for-good-forced",
        on_run(_lose_best, "--force"),
        "caution: .*best validation, after step .*, were lost",
        code=0,
        check=_forced,
    ),
    Fault(
        "run-folder/digests-lost",
        on_run(lambda run: (run / "digests.json").unlink()),
        r"belongs to another run than digests\.json",
    ),
    *(
        Fault(
            f"run-folder/metrics-{name}",
            _metrics(line),
            r"1 damaged line",
            code=0,
            check=_all_lines_are_kept,
            slow=name not in ("bytes", "deep"),
        )
        for name, line in ODD_LINES.items()
    ),
    *(
        Fault(f"run-folder/fifo-{name.partition('.')[0]}", _fifo(name), name)
        for name in ("config.json", "data.json", "environment.json")
    ),
    Fault(
        "run-folder/config-a-folder",
        on_run(
            lambda run: (shutil.move(run / "config.json", run / "c"), (run / "config.json").mkdir())
        ),
        "not a run folder",
    ),
    *(
        Fault(
            f"run-folder/folder-{Path(name).stem}",
            _folder_for(name),
            rf"run: {name} is a folder where the run has a file; move it away",
            check=_unfinished if name != "model.safetensors" else None,
        )
        for name in (
            *("model.safetensors", "report.html", "scores.json", "metrics.jsonl", "data.json"),
            *("digests.json", "checkpoints/best.safetensors", "checkpoints/lock"),
            "checkpoints/state-00000099.safetensors",
        )
    ),
    *(
        Fault(
            f"run-folder/checkpoints-{name}",
            on_run(change),
            r"run: its folder checkpoints, .* is missing; restore it, or start a new run",
            check=_unfinished,
        )
        for name, change in (("missing", _without_checkpoints), ("a-file", _file_for_checkpoints))
    ),
    Fault("run-folder/finished", _finished(), r"finished; use its model\.safetensors"),
    Fault(
        "run-folder/finished-more-epochs",
        _finished("--epochs", "60"),
        r"resnets train \S+ --weights \S+/model\.safetensors --epochs 60",
    ),
    Fault(
        "run-folder/finished-no-nesterov",
        _finished("--no-nesterov", "--milestones", "0.5", "0.7"),
        r"--weights \S+/model\.safetensors .*--no-nesterov",
    ),
]

FAULTS = slow(
    FAULTS,
    "run-folder/best-damaged",
    "run-folder/best-lost-for-good-forced",
    "run-folder/checkpoints-all-damaged-forced",
    "run-folder/free-setting-edited",
    "run-folder/layout-edited",
    "run-folder/metrics-deep",
)
