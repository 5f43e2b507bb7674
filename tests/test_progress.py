"""The progress of a run, on a terminal and in a file, and the hints."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnets.cli.output import (
    WIDE,
    print_json,
    print_message,
    print_result,
    print_table,
    printer,
    visible,
)
from resnets.cli.predict import csv_cell
from resnets.cli.progress import Display, program

START = {"kind": "start", "step": 10, "steps": 110, "seconds": 0.0}
TRAIN = {
    "kind": "train",
    "step": 60,
    "epoch": 1.5,
    "loss": 0.25,
    "accuracy": 0.875,
    "images_per_second": 321.4,
    "learning_rate": 0.05,
    "seconds": 100.0,
}
VALIDATION = {
    "kind": "validation",
    "step": 60,
    "epoch": 1.5,
    "loss": 0.5,
    "top1": 0.75,
    "seconds": 120.0,
}
NOTICE = {"kind": "notice", "text": "7 images [bold] left out"}


def shown(capsys: pytest.CaptureFixture[str], *records: dict[str, Any], quiet: bool = False) -> str:
    with Display(quiet=quiet) as display:
        for record in records:
            display(record)
    captured = capsys.readouterr()
    assert captured.out == "", "standard output is for results"
    return captured.err


def test_a_plain_line_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, START, TRAIN, VALIDATION).splitlines()[-1]
    assert line.split("  ") == [
        "epoch 1.5",
        "step 60/110",
        "images/s 321",
        "loss 0.250",
        "train acc 87.5%",
        "val acc 75.0%",
        "best 75.0%",
        "lr 0.0500",
        "left 2:00",
    ]


def test_plain_lines_are_few_but_every_validation_has_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("resnets.cli.progress.time.monotonic", lambda: now[0])
    with Display() as display:
        display(START)
        for _ in range(30):
            now[0] += 1
            display(TRAIN)
        display(VALIDATION)
    assert len(capsys.readouterr().err.splitlines()) == 3 + 1  # one each ten seconds


def test_the_best_validation_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    last = shown(capsys, START, TRAIN, VALIDATION, VALIDATION | {"top1": 0.5}).splitlines()[-1]
    assert "val acc 50.0%  best 75.0%" in last


def test_the_time_left_counts_from_where_a_run_went_on(capsys: pytest.CaptureFixture[str]) -> None:
    # 50 steps took 100 s, 50 are left; the 10 steps before the resume took no time of ours
    assert "left 1:40" in shown(capsys, START, TRAIN)
    assert "left 0:50" in shown(capsys, START, TRAIN | {"seconds": 50.0})


def test_hours_are_shown_as_hours(capsys: pytest.CaptureFixture[str]) -> None:
    assert "left 5:00:00" in shown(capsys, START, TRAIN | {"seconds": 18_000.0})


def test_a_notice_is_printed_as_it_is_and_never_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a/b [red] " * 40
    assert shown(capsys, NOTICE | {"text": text}) == text + "\n"


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, START, NOTICE, TRAIN, VALIDATION, quiet=True) == ""


def test_a_terminal_sees_one_block_redrawn_in_place() -> None:
    screen = io.StringIO()
    display = Display()
    display.console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    with display:
        for record in (START, TRAIN, VALIDATION, NOTICE, TRAIN | {"step": 110}):
            display(record)
    text = screen.getvalue()
    assert "\x1b[1A" in text, "the cursor goes up to draw over the block"
    assert "7 images [bold] left out" in text
    for word in ("60/110", "110/110", "87.5%", "75.0%", "100%", "left"):
        assert word in text
    history = [line for line in text.splitlines() if "val acc 75.0%" in line]
    assert len(history) == 1 and "step 60/110" in history[0], "a row stays for a validation"
    assert "[green]" not in text and "[dim]" not in text
    assert display.live is None and text.endswith("\x1b[?25h"), "the cursor is shown again"


def test_a_notice_on_a_terminal_stands_above_the_block_and_keeps_its_words_whole() -> None:
    screen = io.StringIO()
    display = Display()
    display.console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    text = "measuring " * 20
    with display:
        for record in (START, TRAIN, NOTICE | {"text": text}):
            display(record)
        assert display.live is not None, "no stale block is left behind"
    lines = [line.rstrip() for line in screen.getvalue().splitlines() if "measuring" in line]
    assert len(lines) == 2 and all(line.endswith("measuring") for line in lines)


def test_results_are_not_wrapped_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert printer().width == WIDE
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes anything for a terminal
    monkeypatch.setenv("COLUMNS", "90")
    assert printer().width == 90


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name, 猫 é 👩\u200d👧 a\\b", "plain name, 猫 é 👩\u200d👧 a\\b"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("\u202egnp\u2066\u200f", r"\u202egnp\u2066\u200f"),
        ("\u2028\u2029\ufeff", r"\u2028\u2029\ufeff"),
        ("\udcff", r"\udcff"),
    ],
)
def test_control_characters_of_names_are_escaped(
    name: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visible(name) == shown and visible(shown) == shown
    print_result(name)
    print_message(name)
    print_table(("class",), "l", [(name,)])
    captured = capsys.readouterr()
    assert captured.err == f"{shown}\n"
    assert captured.out.split("\n")[0] == shown
    assert [line.rstrip() for line in captured.out.splitlines()][1:] == ["class", shown.rstrip()]


def test_json_is_json_whatever_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"class": "\x1b\x7f\x9b\u202e\n\udcff猫"}
    print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value and out.isascii() and out[:-1].isprintable()


@pytest.mark.parametrize(
    "text", ["=1", "+1+1", "-2+3", "@x", " =1", "\t=1", "\n=1", "＝1", "-", "\r1"]
)
def test_what_a_spreadsheet_computes_is_quoted(text: str) -> None:
    assert csv_cell(text) == f"'{visible(text)}"


@pytest.mark.parametrize(
    "text", ["-1", "+1.5e-3", "-.5", "1-2", "cat", "a=b", "'=1", "", "photos/-x.jpg"]
)
def test_numbers_and_words_are_not_quoted(text: str) -> None:
    assert csv_cell(text) == text


def test_hints_call_the_program_as_the_user_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a venv" / "bin"
    folder.mkdir(parents=True)
    script = folder / "resnets"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert program() == f"'{script}'", "not on the PATH: by its place"
    monkeypatch.setenv("PATH", str(folder))
    assert program() == "resnets"
    monkeypatch.setattr(sys, "executable", "/opt/python 3/python")
    monkeypatch.setattr(sys, "argv", ["/somewhere/resnets/__main__.py"])
    assert program() == "'/opt/python 3/python' -m resnets"
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest/__main__.py"])
    assert program() == "resnets", "another program calls the functions: the usual name"
