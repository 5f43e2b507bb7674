"""A study of training as a whole, tiny: rows, killing and going on, what is written and said."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from resnets.cli.main import main
from resnets.errors import UserError
from resnets.evaluation.metrics import Scores, evaluate
from resnets.inference.model_file import read_model
from resnets.study.claims import read_claims
from resnets.study.tables import Tables, read_table
from resnets.study.twins import trial
from resnets.study.twins.run_store import RunStore, long_form, model_path
from resnets.study.twins.study_config import PRESETS, StudyConfig
from resnets.study.twins.trial import METRICS, divergence, run_trial, thinned
from resnets.study.verdicts import judge_all
from tiny_study import STEPS, Inline, fill, tiny_plan, write_images


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    return tiny_plan(write_images(tmp_path_factory.mktemp("data") / "rows.npz"))


@pytest.fixture(scope="module")
def whole(plan: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A study that nobody disturbed."""
    book = fill(tmp_path_factory.mktemp("study"), plan, Inline())
    book.write_table()
    return book


def test_a_row_is_a_pure_function_of_its_job(plan: StudyConfig) -> None:
    job = plan.counted(("residual", 8), 0.1, 0)
    torch.manual_seed(99)
    first = run_trial(job)
    second = run_trial(job)
    assert first.row == second.row
    assert first.row["train_images"] == 90 and len(first.row["curve"]) == STEPS
    assert run_trial(replace(job, seed=1)).row != first.row
    assert "seconds" not in first.row and first.seconds > 0


def test_tuning_sees_other_images_and_half_of_the_steps(plan: StudyConfig) -> None:
    row = run_trial(plan.tuning(("plain", 8), 0.1)).row
    assert row["val_images"] == 30 and "train_error" not in row and "test_error" not in row
    assert row["curve"][-1][0] == STEPS // 2


def test_a_run_that_diverges_says_when(plan: StudyConfig) -> None:
    recipe = plan.setup.recipe.override(warmup=0.0)
    wild = replace(plan, setup=replace(plan.setup, recipe=recipe))
    row = run_trial(wild.counted(("scaled", 14), 100.0, 0)).row
    assert row["status"].startswith("diverged at step ")
    assert int(row["status"].split()[-1]) < STEPS
    assert "train_error" not in row and all(loss < 1e30 for _, loss in row["curve"])
    json.dumps(row, allow_nan=False)
    censored = next(long_form(row))
    assert (censored["metric"], censored["status"]) == ("train_error", row["status"])
    assert "value" not in censored


def test_a_run_that_diverges_in_its_evaluation_leaves_no_numbers(
    plan: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training images are scored first: their error must not stand beside a status."""
    answers: list[Scores] = []

    def scored(*arguments: Any, **options: Any) -> Scores:
        answers.append(evaluate(*arguments, **options))
        return replace(answers[-1], loss=math.nan) if len(answers) == 2 else answers[-1]

    monkeypatch.setattr(trial, "evaluate", scored)
    row = run_trial(plan.counted(("plain", 8), 0.1, 0)).row
    assert len(answers) == 2 and row["status"] == "diverged in evaluation"
    assert not set(row) & set(METRICS)


def test_a_loss_far_above_chance_is_divergence_too() -> None:
    chance = math.log(10)
    assert divergence([9e9] * 50 + [chance] * 50, num_classes=10) == ""
    assert divergence([9.9 * chance] * 50, num_classes=10) == ""
    assert divergence([chance] * 50 + [30.0] * 50, num_classes=10) == "diverged to a loss of 30"
    assert divergence([chance, math.nan], num_classes=10) == "diverged at step 1"


def test_a_curve_is_thinned_by_means() -> None:
    points = thinned([float(step) for step in range(400)])
    assert len(points) == 40 and points[0] == [10, 4.5] and points[-1] == [400, 394.5]
    assert thinned([1.0, float("inf")]) == [[1, 1.0]]
    assert thinned([]) == []


def test_a_study_is_complete_and_every_run_is_there_once(
    plan: StudyConfig, whole: RunStore
) -> None:
    lines = [json.loads(line) for line in whole.runs.read_text().splitlines()]
    counted = [(row["family"], row["depth"], row["seed"]) for row in lines
               if row["purpose"] == "count"]  # fmt: skip
    assert sorted(counted) == [
        (family, depth, seed)
        for family in ("plain", "residual") for depth in (8, 14) for seed in (0, 1)
    ]  # fmt: skip
    assert len(lines) == len(whole.rows)
    tunings = [row for row in lines if row["purpose"] == "tune"]
    assert 12 <= len(tunings) <= 16 and {row["seed"] for row in tunings} == {1000}
    timings = (whole.data / "timings.jsonl").read_text().splitlines()
    assert len(timings) == len(lines)
    assert "seconds" not in whole.runs.read_text()
    claims = [claim for claim in read_claims() if claim.quantity.table == "train"]
    tables = Tables(whole.folder, {"train": read_table(whole.data / "train.csv")}, {})
    assert [found.verdict for found in judge_all(claims, tables)] == ["inconclusive"] * 3


def test_a_study_killed_three_times_ends_in_the_same_bytes(
    plan: StudyConfig, whole: RunStore, tmp_path: Path
) -> None:
    for lives in (2, 5, 4):
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path, plan, Inline(lives=lives))
        with (tmp_path / "data" / "runs.jsonl").open("ab") as file:
            file.write(b'{"purpose": "tune", "fam')  # torn by the kill
    rest = Inline()
    book = fill(tmp_path, plan, rest)
    # Inline jobs that were submitted but not yet written when it died are done again.
    assert rest.calls <= len(whole.rows)
    assert len(book.runs.read_text().splitlines()) == len(whole.rows)
    assert book.write_table().read_bytes() == (whole.data / "train.csv").read_bytes()
    before = Inline()
    fill(tmp_path, plan, before)
    assert before.calls == 0


def test_the_table_has_errors_and_curves(whole: RunStore) -> None:
    rows = read_table(whole.data / "train.csv")
    assert {row["study"] for row in rows} == {"train", "tune"}
    curve = [row for row in rows if row["metric"] == "loss" and row["study"] == "train"
             and (row["family"], row["depth"], row["seed"]) == ("plain", 8, 0)]  # fmt: skip
    assert [row["step"] for row in curve] == [*range(1, STEPS + 1)]


def test_models_are_kept_and_score_as_their_row_says(whole: RunStore) -> None:
    for family in ("plain", "residual"):
        for depth in (8, 14):
            file = read_model(model_path(whole.folder, family, depth))
            assert file.scores is not None
            row = next(row for key, row in whole.rows.items() if key[:3] == ("count", family, depth)
                       and row["seed"] == 0)  # fmt: skip
            assert 1 - file.scores["top1"] == row["test_error"]
            assert file.config.shortcut == ("none" if family == "plain" else "pad")


def test_another_plan_in_the_same_folder_is_refused(whole: RunStore, plan: StudyConfig) -> None:
    with pytest.raises(UserError, match="another plan"):
        RunStore(whole.folder, replace(plan, reserve=0))


def test_a_plan_without_a_run_may_be_changed(plan: StudyConfig, tmp_path: Path) -> None:
    RunStore(tmp_path, plan)
    RunStore(tmp_path, replace(plan, reserve=0))
    assert json.loads((tmp_path / "data" / "plan.json").read_text())["reserve"] == 0


def test_other_images_at_the_same_place_are_refused(tmp_path: Path) -> None:
    plan = tiny_plan(write_images(tmp_path / "easy.npz"))
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "cut", plan, Inline(lives=4))
    rows = (tmp_path / "cut/data/runs.jsonl").read_bytes()
    write_images(tmp_path / "easy.npz", classes=2)
    trial._dataset.cache_clear()  # as a new process would
    with pytest.raises(UserError, match="was started with other images than"):
        RunStore(tmp_path / "cut", plan)
    assert (tmp_path / "cut/data/runs.jsonl").read_bytes() == rows


def test_a_damaged_line_is_refused(plan: StudyConfig, tmp_path: Path) -> None:
    RunStore(tmp_path, plan).runs.write_text("not json\n")
    with pytest.raises(UserError, match=r"runs\.jsonl: line 1 is not valid JSON"):
        RunStore(tmp_path, plan)


def test_a_budget_that_teaches_nothing_stops_the_study(tmp_path: Path) -> None:
    plan = tiny_plan(write_images(tmp_path / "noise.npz", classes=10, learnable=False))
    with pytest.raises(UserError, match=r"8 layers has .* error .* budget is too small"):
        fill(tmp_path / "study", plan, Inline())
    assert len(RunStore(tmp_path / "study", plan).rows) <= 4


# The command -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_trains_in_processes_and_goes_on(
    plan: StudyConfig, whole: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(PRESETS, "minutes", plan)
    command = ["study", "train", "--out", str(tmp_path / "s"), "--processes", "1"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert (
        f"{len(whole.rows):4} of {len(whole.rows)}  " in said.err and "elapsed, about" in said.err
    )
    assert "inconclusive: At the deepest depth" in said.out
    ours, theirs = tmp_path / "s" / "data" / "train.csv", whole.data / "train.csv"
    assert ours.read_bytes() == theirs.read_bytes()
    summary = (tmp_path / "s" / "data" / "summary.csv").read_bytes()
    assert main([*command, "--quiet"]) == 0
    again = capsys.readouterr()
    assert again.err == "" and again.out == said.out
    assert (tmp_path / "s" / "data" / "summary.csv").read_bytes() == summary


def test_a_cluster_without_dask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["--cluster", "tcp://127.0.0.1:9", "--out", str(tmp_path / "s")]
    assert main(["study", "train", *words]) == 2
    assert "pip install 'resnets[cluster]'" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


class Losing(Inline):
    """The worker of the second job is gone; the others had finished."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        if self.calls == 2:
            future = Future()
            future.set_exception(BrokenExecutor())
        return future


def test_what_was_finished_beside_a_lost_worker_is_kept(tmp_path: Path) -> None:
    plan = tiny_plan(write_images(tmp_path / "easy.npz"))
    with pytest.raises(UserError, match="the workers are gone"):
        fill(tmp_path / "cut", plan, Losing())
    rows = (tmp_path / "cut/data/runs.jsonl").read_text().splitlines()
    assert len(rows) == 2  # three rates were under way


def test_the_whole_study_refuses_before_it_computes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "--out", str(tmp_path / "s"), "--processes", "0"]) == 2
    assert "--processes 0: must be 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no file or folder"),
        (["--processes", "0"], "--processes 0: must be 1 or more"),
        (["--device", "cuda"], "--device cuda: not available"),
        (["--preset", "day"], ""),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "train", "--out", str(tmp_path / "s"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and not (tmp_path / "s").exists()


def test_the_second_word_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    assert "\n  study train  " in capsys.readouterr().out
    assert main(["study", "trian"]) == 2
    assert "did you mean 'study train'" in capsys.readouterr().err


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tiny_study import tiny_plan
from resnets.cli.main import main
from resnets.study.twins.study_config import PRESETS
if __name__ == "__main__":
    PRESETS["minutes"] = tiny_plan(Path({data!r}), steps={steps})
    sys.exit(main(["study", "train", "--out", {out!r}, "--processes", "2"]))
"""


@pytest.mark.slow
def test_killed_processes_leave_no_workers_and_the_study_ends_the_same(
    plan: StudyConfig, tmp_path: Path
) -> None:
    steps = 3 * STEPS  # so that a signal meets processes at work
    whole = fill(tmp_path / "whole", tiny_plan(Path(plan.setup.data), steps=steps), Inline())
    whole.write_table()
    script = tmp_path / "killed.py"
    out = tmp_path / "s"
    tests = str(Path(__file__).parent)
    script.write_text(KILLED.format(tests=tests, data=plan.setup.data, steps=steps, out=str(out)))
    runs = out / "data" / "runs.jsonl"

    def count() -> int:
        return len(runs.read_bytes().splitlines()) if runs.exists() else 0

    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        before = count()
        said = tmp_path / f"{number}.txt"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(script)], start_new_session=True, stderr=file
            )
        while count() < before + 3 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        code = process.wait(60)
        assert code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # its workers end, too
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("workers outlive their study")
        if number != signal.SIGKILL:
            words = ["resnets", "study", "train", "--preset", "minutes", "--out", str(out)]
            lines = said.read_text().splitlines()
            assert lines[lines.index("stopped; resume with:") + 1].startswith(shlex.join(words))
            assert "leaked" not in said.read_text()
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    assert (out / "data" / "train.csv").read_bytes() == (whole.data / "train.csv").read_bytes()
    assert count() == len(whole.rows)
