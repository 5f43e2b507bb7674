"""Streams that are closed, full or broken, and names that would act on a terminal or a sheet."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fault_harness import TINY_RUN, Fault, finished_run, interrupted_run, photos, slow

# Names that write a window's title, clear the screen, forge a line, and reverse the text.
TITLE, FORGED = "\x1b]0;PWNED\x07\x1b[2Jcat", "dog\nresnets: all is well"
REVERSED = "owl\u202egnp\u2066\x9b31m\x7f"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
Words = Callable[[Path], Sequence[Any]]

# Commands ----------------------------------------------------------------------------------------


def _train(folder: Path) -> list[Any]:
    return ["train", photos(folder / "photos"), *TINY_RUN, "--out", folder / "run"]


def _resume(folder: Path) -> list[Any]:
    return ["train", "--resume", interrupted_run(folder)]


def _predict(folder: Path, *options: str) -> list[Any]:
    images = photos(folder / "new", each=1)
    (images / "cat" / "broken.png").write_bytes(b"\x89PNG")
    return ["predict", finished_run(folder), images, *options]


def _predict_csv(folder: Path) -> list[Any]:
    return _predict(folder, "--format", "csv")


def _predict_listed(folder: Path) -> list[Any]:
    return ["predict", finished_run(folder), "-"]


def _evaluate(folder: Path) -> list[Any]:
    return ["evaluate", finished_run(folder), photos(folder / "new", each=2)]


def _evaluate_json(folder: Path) -> list[Any]:
    return [*_evaluate(folder), "--format", "json"]


def _show(folder: Path) -> list[Any]:
    return ["show", finished_run(folder)]


def _models(_: Path) -> list[Any]:
    return ["models", "resnet2*"]


def _demo(folder: Path) -> list[Any]:
    """The demo with a few steps: how many fit into a time depends on what else runs."""
    from resnets import api

    def train(data: str, *, time: str, **options: Any) -> Any:
        return whole(data, steps=4, tune="off", **options)

    whole, api.train = api.train, train  # type: ignore[assignment]
    return ["demo", "--out", folder / "run"]


def _mistake(_: Path) -> list[Any]:
    return ["show", "nothing"]


def _study_check(folder: Path) -> list[Any]:
    (folder / "data").mkdir()
    columns = "study,family,depth,seed,metric,value,status"
    (folder / "data" / "train.csv").write_text(f"{columns}\ntrain,plain,8,0,train_error,0.5,\n")
    return ["study", "check", folder, "--quiet"]


# Streams -----------------------------------------------------------------------------------------


def _closed(*numbers: int) -> None:
    """Close standard streams as a shell's `>&-` does: Python has None in their places."""
    for number in numbers:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)


def _full(*numbers: int) -> None:
    for number in numbers:
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)


def _broken(*numbers: int) -> None:
    """Put pipes whose readers have left in the places of streams."""
    for number in numbers:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)


def _stream(
    name: str,
    words: Words,
    damage: Callable[..., None],
    *numbers: int,
    ends: int,
    message: str = "",
    **options: Any,
) -> Fault:
    """Return a case of a command whose streams are damaged, and which `ends` with a code."""

    def make(folder: Path) -> Callable[[], None]:
        command = [str(word) for word in words(folder)]

        def case() -> None:
            from resnets.cli.main import main

            messages = os.dup(2)
            damage(*numbers)
            code = main(command)
            os.dup2(messages, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            assert code == ends, f"exit code {code}"

        return case

    return Fault(f"terminal/{name}", make, message, code=0, catalogue="T18", **options)


def _whole(folder: Path) -> None:
    """Check that the run is finished and has all its files."""
    run = folder / "run"
    names = {path.name for path in run.iterdir()}
    assert {"model.safetensors", "scores.json", "report.html", "metrics.jsonl"} <= names, names
    json.loads((run / "scores.json").read_text())
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


SILENT = r"\A\s*\Z"
FULL, CLOSED = "standard output: No space left on device", "standard output: is closed"
STREAMS = [
    _stream("train-stdout-closed", _train, _closed, 1, ends=0, check=_whole),
    _stream("train-stderr-closed", _train, _closed, 2, ends=0, check=_whole),
    _stream("train-all-closed", _train, _closed, 0, 1, 2, ends=0, check=_whole),
    _stream("train-stdout-full", _train, _full, 1, ends=0, message=FULL, check=_whole),
    _stream("train-stderr-full", _train, _full, 2, ends=0, check=_whole),
    _stream("train-stdout-pipe", _train, _broken, 1, ends=0, check=_whole),
    _stream("train-both-pipes", _train, _broken, 1, 2, ends=0, message=SILENT, check=_whole),
    _stream("resume-both-pipes", _resume, _broken, 1, 2, ends=0, check=_whole),
    _stream("resume-stdout-closed", _resume, _closed, 1, ends=0, check=_whole),
    _stream("evaluate-stdout-closed", _evaluate, _closed, 1, ends=2, message=CLOSED),
    _stream("evaluate-stdout-full", _evaluate, _full, 1, ends=2, message=FULL),
    _stream("evaluate-json-full", _evaluate_json, _full, 1, ends=2, message=FULL),
    _stream("evaluate-stderr-pipe", _evaluate, _broken, 2, ends=0, message="top-1"),
    _stream("predict-stdout-closed", _predict, _closed, 1, ends=2, message=CLOSED),
    _stream("predict-stdout-full", _predict, _full, 1, ends=2, message=FULL),
    _stream("predict-stdout-pipe", _predict, _broken, 1, ends=141),
    _stream("predict-csv-full", _predict_csv, _full, 1, ends=2, message=FULL),
    _stream(
        "predict-csv-stderr-closed",
        _predict_csv,
        _closed,
        2,
        ends=2,
        message=r"\Apath,rank,class,probability\n(?!.*resnets:)",
    ),
    _stream("predict-stderr-full", _predict, _full, 2, ends=2, message="cat"),
    _stream(
        "predict-stdin-closed",
        _predict_listed,
        _closed,
        0,
        ends=2,
        message="standard input names no image",
    ),
    _stream("show-stdout-closed", _show, _closed, 1, ends=2, message=CLOSED),
    _stream("show-stdout-pipe", _show, _broken, 1, ends=141, message=SILENT),
    _stream("models-stdout-full", _models, _full, 1, ends=2, message=FULL),
    _stream("models-stdout-pipe", _models, _broken, 1, ends=141, message=SILENT),
    _stream("mistake-stderr-closed", _mistake, _closed, 2, ends=2, message=SILENT),
    _stream("mistake-stdout-closed", _mistake, _closed, 1, ends=2, message="no model file nothing"),
    _stream("mistake-stderr-pipe", _mistake, _broken, 2, ends=2, message=SILENT),
    _stream("version-stdout-closed", lambda _: ["--version"], _closed, 1, ends=2, message=CLOSED),
    _stream("help-stdout-pipe", lambda _: ["train", "--help"], _broken, 1, ends=141),
    _stream(
        "study-check-stdout-full", lambda f: _study_check(f)[:-1], _full, 1, ends=2, message=FULL
    ),
    _stream(
        "demo-stdout-pipe",
        _demo,
        _broken,
        1,
        2,
        ends=0,
        check=_whole,
        slow=True,
    ),
]  # fmt: long lines


def _shell(name: str, line: str, codes: str, message: str = SILENT) -> Fault:
    """Return a case of a shell's line in which R is the command; `codes` is what it echoes."""

    def make(folder: Path) -> Callable[[], None]:
        def case() -> None:
            script = line.replace("R ", f"{sys.executable} -m resnets ")
            shell = ["bash", "-c", script]
            done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
            code, _, rest = done.stdout.partition("\n")
            print(rest + done.stderr)
            assert code == codes, f"{code}: {done.stderr}"
            assert "Exception ignored" not in done.stderr, done.stderr

        return case

    return Fault(f"terminal/{name}", make, message, code=0, catalogue="T18")


SHELL = [
    _shell("shell-stdout-closed", "R models >&-; echo $?", "2", CLOSED),
    _shell("shell-stdout-full", "R models >/dev/full; echo $?", "2", FULL),
    _shell("shell-stderr-closed", "R show nothing 2>&-; echo $?", "2"),
    _shell("shell-both-closed", "R show nothing >out 2>&- <&-; echo $?; cat out", "2"),
    _shell("shell-head", "R models 2>&1 | true; echo ${PIPESTATUS[0]}", "141"),
    _shell("shell-no-stdin", "R models --quiet 'resnet20' <&-; echo $?", "resnet20", "0"),
]


# Names -------------------------------------------------------------------------------------------


def hostile_model(folder: Path, *classes: str) -> Path:
    """Write a model file of two classes with these names."""
    from resnets.inference.model_file import read_model, save_model

    trained = read_model(finished_run(folder))
    hostile = {"model": TITLE, "weights": FORGED}
    scores = (trained.scores or {}) | {"cautions": [TITLE + REVERSED], "split": FORGED}
    contents = replace(
        trained,
        classes=classes,
        recipe=trained.recipe | hostile,
        scores=scores,
        data={"name": TITLE},
    )
    save_model(folder / "hostile.safetensors", contents)
    return folder / "hostile.safetensors"


def printed_by(words: Sequence[Any]) -> tuple[int, str]:
    """Run a command line; return its exit code and all that reached both streams, as text."""
    from resnets.cli.main import main

    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        code = main([str(word) for word in words])
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
        file.seek(0)
        return code, file.read().decode()


def _names(
    name: str, words: Words, message: str, *, ends: int = 0, lines: int | None = None
) -> Fault:
    """Return a case of a command whose output holds hostile names; `lines` is how many it has."""

    def make(folder: Path) -> Callable[[], None]:
        command = words(folder)

        def case() -> None:
            code, text = printed_by(command)
            found = CONTROL.search(text)
            assert found is None, f"{found} in {text!r}"
            assert not re.search("^resnets: all is well", text, re.MULTILINE), "a forged line"
            print(text)
            assert code == ends, f"exit code {code}: {text}"
            assert lines is None or text.count("\n") == lines, text

        return case

    return Fault(f"terminal/names-{name}", make, message, code=0, catalogue="D24")


def _predict_hostile(folder: Path, *options: str) -> list[Any]:
    images = photos(folder / "new", classes=(TITLE, FORGED, REVERSED), each=1)
    (images / TITLE / "\x1b[31mbroken.png").write_bytes(b"\x89PNG")
    return ["predict", hostile_model(folder, TITLE, FORGED), images, "--top", "2", *options]


def _evaluate_hostile(folder: Path, *options: str) -> list[Any]:
    images = photos(folder / "new", classes=(TITLE, FORGED), each=2)
    return ["evaluate", hostile_model(folder, TITLE, FORGED), images, *options]


def _train_hostile(folder: Path) -> list[Any]:
    images = photos(folder / REVERSED, classes=(TITLE, FORGED))
    (images / TITLE / "\x1b[31mbroken.png").write_bytes(b"\x89PNG")
    return ["train", images, *TINY_RUN, "--max-corrupt", "0.2", "--out", folder / f"run{REVERSED}"]


def _manifest_hostile(folder: Path) -> list[Any]:
    rows = [{"path": f"{TITLE}.png", "label": FORGED}]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["train", folder / "m.jsonl", "--out", folder / "run"]


def _recipe_hostile(folder: Path) -> list[Any]:
    (folder / "r.toml").write_text('"\\u001b[2Jmodel" = "x"\n')
    return ["train", "fashion-mini", "--recipe-file", folder / "r.toml"]


ESCAPED = r"\\x1b\]0;PWNED\\x07\\x1b\[2J"
NAMES = [
    _names("show", lambda f: ["show", hostile_model(f, TITLE, REVERSED)], ESCAPED),
    _names("show-forged", lambda f: ["show", hostile_model(f, FORGED, REVERSED)], r"dog\\nresnets"),
    _names(
        "show-json",
        lambda f: ["show", hostile_model(f, TITLE, REVERSED), "--format", "json"],
        r"\\u001b",
    ),
    _names("predict", _predict_hostile, ESCAPED, ends=2),
    _names("predict-csv", lambda f: _predict_hostile(f, "--format", "csv"), ESCAPED, ends=2),
    _names("predict-json", lambda f: _predict_hostile(f, "--format", "json"), r"\\u001b", ends=2),
    _names("evaluate", _evaluate_hostile, ESCAPED),
    _names("evaluate-json", lambda f: _evaluate_hostile(f, "--format", "json"), r"\\u001b"),
    _names("train", _train_hostile, r"owl\\u202egnp"),
    _names("manifest", _manifest_hostile, "no image that", ends=2, lines=1),
    _names("recipe", _recipe_hostile, "unknown", ends=2, lines=1),
    _names("no-data", lambda _: ["train", f"./{TITLE}\n{REVERSED}"], ESCAPED, ends=2, lines=1),
    _names("no-model", lambda _: ["show", f"{TITLE}\n{REVERSED}"], ESCAPED, ends=2, lines=1),
    _names("no-run", lambda _: ["train", "--resume", TITLE], ESCAPED, ends=2, lines=1),
    _names("no-command", lambda _: [TITLE], r"\\x1b", ends=2, lines=1),
    _names("no-option", lambda _: ["train", f"--x{TITLE}"], r"\\x1b", ends=2, lines=1),
    _names("no-value", lambda _: ["models", "--layers", TITLE], r"\\x1b", ends=2, lines=1),
    _names(
        "no-network",
        lambda _: ["train", "fashion-mini", "--model", FORGED],
        "unknown model",
        ends=2,
        lines=1,
    ),
    _names(
        "no-weights",
        lambda _: ["train", "fashion-mini", "--weights", TITLE],
        ESCAPED,
        ends=2,
        lines=1,
    ),
    _names("no-study", lambda _: ["study", "check", TITLE], ESCAPED, ends=2, lines=1),
    _names(
        "no-image", lambda f: ["predict", finished_run(f), f"{TITLE}.png"], ESCAPED, ends=2, lines=1
    ),
]

# Spreadsheets ------------------------------------------------------------------------------------

FORMULAS = ("=cmd|'/C calc'!A0", "+1+cmd", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "＝1")
PLAIN = ("-1", "+1.5e3", "-0.5", "cat", "a=b", "3-4", 'quoted "name", and comma', "'", "")


def _sheet(name: str, classes: tuple[str, str], *, safe: bool = True) -> Fault:
    """Return a case of `predict --format csv` whose classes are read back from the CSV."""

    def make(folder: Path) -> Callable[[], None]:
        model = hostile_model(folder, *classes)
        image = photos(folder / "new", classes=("=x",), each=1) / "=x" / "000.png"
        os.chdir(image.parent.parent)

        def case() -> None:
            words = ["predict", model, "=x/000.png", "--format", "csv"]
            code, text = printed_by(words if safe else [*words, "--no-csv-safe"])
            assert code == 0, text
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            assert {row["path"] for row in rows} == {"'=x/000.png" if safe else "=x/000.png"}
            assert all(re.fullmatch(r"[01]\.\d{6}", row["probability"]) for row in rows), text
            found = {row["class"] for row in rows}
            if not safe:
                assert found == set(classes), found
            for given in classes if safe else ():
                shown = (
                    given.encode("unicode_escape").decode()
                    if given.strip(" ＝") and not given.isprintable()
                    else given
                )
                assert (f"'{shown}" if given in FORMULAS else shown) in found, (given, found)
            print(text)

        return case

    return Fault(f"terminal/csv-{name}", make, "path,rank,class", code=0, catalogue="D24")


SHEETS = [
    *(_sheet(f"formula-{n}", (text, "cat")) for n, text in enumerate(FORMULAS)),
    *(_sheet(f"plain-{n}", (text, "dog")) for n, text in enumerate(PLAIN)),
    _sheet("as-they-are", (FORMULAS[0], "a\nb"), safe=False),
    _sheet("line-breaks-as-they-are", ("a\rb", "c\r\nd"), safe=False),
    _sheet("tabs-as-they-are", ("\t=1", "-1"), safe=False),
]

FAULTS = [*STREAMS, *SHELL, *NAMES, *SHEETS]

FAULTS = slow(
    FAULTS,
    "terminal/resume-both-pipes",
    "terminal/resume-stdout-closed",
    "terminal/shell-no-stdin",
    "terminal/shell-stdout-closed",
    "terminal/shell-stdout-full",
    "terminal/train-stderr-closed",
    "terminal/train-stderr-full",
    "terminal/train-stdout-full",
)
