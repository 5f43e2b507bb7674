"""The command line as a user types it: what is printed, what is left on the disk, which exit code.

Most tests share one trained run on a tiny data set, three colours of noise.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnets.api
import resnets.training.trainer
from resnets import Predictor, __version__
from resnets.cli.demo import SECONDS
from resnets.cli.flags import MOST_USED
from resnets.cli.main import COMMANDS, main
from resnets.cli.progress import Display
from resnets.models.registry import MODELS
from resnets.training.recipe import FIELDS, GROUPS
from resnets.training.recipes import RECIPES
from tiny_runs import RUN_FILES, TINY_ENTRY

CLASSES = ("apple", "berry", "cherry")
# Nothing of these is measured, so two runs of them are the same run.
FLAGS = shlex.split(
    "--model tiny --size 16 --batch-size 8 --precision fp32 --evaluate-every 1"
    " --threads 1 --tune off --workers 0"
)
Strings = list[str]


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str


def resnets_(*words: object, stdin: str = "") -> Answer:
    """Run one command line in this process."""
    out, err, former = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(word) for word in words])
    finally:
        sys.stdin = former
    return Answer(code, out.getvalue(), err.getvalue())


def draw(folder: Path, *, images: int, seed: int = 0) -> Path:
    """A folder of class folders: noise with one strong colour a class."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(images):
            pixels = rng.integers(0, 100, (18, 20, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """A tiny network in the table, and no terminal's width from outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TINY_ENTRY)
        for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training and a test part."""
    folder = tmp_path_factory.mktemp("data") / "fruit"
    draw(folder / "train", images=12)
    draw(folder / "test", images=4, seed=1)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A finished run and what was said."""
    run = tmp_path_factory.mktemp("runs") / "first"
    answer = resnets_("train", data, *FLAGS, "--epochs", 4, "--out", run)
    assert answer.code == 0, answer.err
    return run, answer


@pytest.fixture(scope="module")
def run(trained: tuple[Path, Answer]) -> Path:
    """The finished run's folder."""
    return trained[0]


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose page nobody looks at."""
    monkeypatch.setattr(resnets.training.trainer, "write_report", lambda *_, **__: None)


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- train: the run folder -----------------------------------------------------------------------


def test_a_run_folder_holds_exactly_what_is_promised(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == RUN_FILES | {"report.html", "figures"}
    outside = [path for path in run.rglob("*.safetensors") if path.parent.name != "checkpoints"]
    assert outside == [run / "model.safetensors"]
    assert list(run.rglob(".*.part")) == []


def test_config_holds_every_value_with_its_origin(run: Path) -> None:
    config = load(run / "config.json")
    assert set(config) == set(FIELDS)
    assert all(set(entry) == {"value", "origin"} for entry in config.values())
    assert config["model"] == {"value": "tiny", "origin": "flag"}
    assert config["momentum"] == {"value": 0.9, "origin": "default"}
    assert config["crop"] == {"value": "shift", "origin": "data"}
    # 36 images, a tenth held out: 32 for training, 4 batches an epoch
    assert config["steps"] == {"value": 16, "origin": "flag --epochs 4"}


def test_data_json_holds_classes_split_and_fingerprint(run: Path) -> None:
    stored = load(run / "data.json")
    assert stored["classes"] == list(CLASSES)
    assert stored["sizes"] == {"train": 32, "val": 4, "test": 12}
    assert len(stored["held_out"]) == 4
    assert {name.split("/")[1] for name in stored["held_out"]} == set(CLASSES)
    assert re.fullmatch("[0-9a-f]{64}", stored["fingerprint"])
    assert stored["skipped"] == {}
    assert "torch" in load(run / "environment.json")["versions"]


def test_metrics_reach_the_last_step(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"train", "validation"}
    assert records[-1]["step"] == 16 and records[-1]["kind"] == "validation"


def test_progress_on_standard_error_and_results_on_standard_output(
    trained: tuple[Path, Answer],
) -> None:
    run, answer = trained
    top1 = load(run / "scores.json")["top1"]
    assert answer.out.startswith(f"top-1 {top1:.2%} (95 % interval ")
    assert "on 12 test images" in answer.out and str(run / "model.safetensors") in answer.out
    assert "step 16/16" in answer.err and "step" not in answer.out
    assert top1 == 1.0, "three colours are easily told apart"


def test_the_final_scores_are_those_of_evaluate(run: Path, data: Path) -> None:
    scores = load(run / "scores.json")
    assert (scores.pop("split"), scores.pop("validate_on")) == ("test", "val")
    answer = resnets_("evaluate", run, data, "--format", "json")
    assert answer.code == 0 and answer.out.count("\n") == 1
    assert json.loads(answer.out) == scores  # to the last bit


def test_the_printed_next_steps_work(trained: tuple[Path, Answer], data: Path) -> None:
    hints = re.findall(r"resnets (predict|show) (.*)", trained[1].out)
    assert [verb for verb, _ in hints] == ["predict", "show"]
    for verb, rest in hints:
        line = rest.replace("IMAGES", shlex.quote(str(data / "test")))
        assert resnets_(verb, *shlex.split(line)).code == 0


@pytest.mark.usefixtures("without_report")
def test_two_runs_are_byte_identical_and_another_seed_is_not(
    data: Path, run: Path, tmp_path: Path
) -> None:
    model = (run / "model.safetensors").read_bytes()
    for seed, name in ((0, "again"), (1, "other")):
        out = tmp_path / name
        answer = resnets_("train", data, *FLAGS, "--epochs", 4, "--seed", seed, "--out", out)
        assert answer.code == 0
        assert ((out / "model.safetensors").read_bytes() == model) == (seed == 0)


@pytest.mark.usefixtures("no_charts")
def test_validating_on_test_images_is_said_everywhere(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", data, *FLAGS, "--steps", 2, "--validate-on", "test", "--out", out, "--quiet")
    answer = resnets_(*words)
    assert answer.code == 0 and answer.err == ""
    assert "--validate-on test" in answer.out and "optimistic" in answer.out
    assert load(out / "scores.json")["validate_on"] == "test"
    assert "--validate-on test" in (out / "report.html").read_text(encoding="utf-8")
    shown = resnets_("show", out, "--quiet", "--format", "json").out
    assert json.loads(shown)["scores"]["validate_on"] == "test"
    again = resnets_("evaluate", out, data, "--quiet")
    assert again.err == "" and "caution: from training" in again.out
    (caution,) = json.loads(resnets_("evaluate", out, data, "--format", "json").out)["cautions"]
    assert "--validate-on test" in caution
    resnets_("evaluate", out, data, "--report", tmp_path / "page")
    assert caution in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert load(out / "data.json")["sizes"] == {"train": 36, "val": 12, "test": 12}


@pytest.mark.usefixtures("without_report")
def test_without_out_runs_are_numbered(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert resnets_("train", data, *FLAGS, "--steps", 1).code == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"fruit-001", "fruit-002"}


@pytest.mark.usefixtures("without_report")
def test_a_recipe_is_read_first_and_flags_override_it(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "named"
    words = ("--recipe", "he2015", "--epochs", 0.5, "--precision", "fp32", "--workers", 0)
    words += ("--model", "tiny", "--size", 16, "--threads", 1, "--tune", "off")
    words += ("--learning-rate", 0.1, "--drop-path", 0.0)  # as in the recipe, and the default
    assert resnets_("train", data, *words, "--clip-grad-norm", 1, "--out", out).code == 0
    config = load(out / "config.json")
    assert config["schedule"] == {"value": "step", "origin": "recipe he2015"}
    assert config["clip_grad_norm"] == {"value": 1.0, "origin": "flag"}
    assert config["learning_rate"] == {"value": 0.1, "origin": "flag"}
    assert config["drop_path"] == {"value": 0.0, "origin": "flag"}
    # The recipe's 128 are more than the training images.
    assert config["batch_size"] == {"value": 32, "origin": "data"}
    assert config["steps"]["value"] == 1

    file, out = tmp_path / "mine.toml", tmp_path / "file"
    file.write_text('momentum = 0.5\nwarmup = 0.2\nflip = "none"\nmilestones = [0.4]\n')
    words = ("--recipe-file", file, "--warmup", 0.3, "--steps", 1, "--out", out)
    words += ("--label-smoothing", 0.1)  # equal to the default, and still a flag
    assert resnets_("train", data, *FLAGS, *words).code == 0
    config = load(out / "config.json")
    values = {name: config[name]["value"] for name in ("momentum", "warmup", "flip", "milestones")}
    assert values == {"momentum": 0.5, "warmup": 0.3, "flip": "none", "milestones": [0.4]}
    assert config["momentum"]["origin"] == "recipe" and config["warmup"]["origin"] == "flag"
    assert config["label_smoothing"] == {"value": 0.1, "origin": "flag"}
    assert config["mixup"] == {"value": 0.0, "origin": "default"}


def test_train_without_data_answers_without_torch() -> None:
    code = "import sys, resnets.cli.main as cli; cli.main(['train']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr.startswith("resnets: no DATA given") and done.stderr.count("\n") == 1


def test_the_help_of_train_shows_the_most_used_options_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = resnets_("train", "--recipe", "he2015", "--help").out
    boxes = re.findall(r"(most used|advanced: \w+) options", text)
    assert boxes == ["most used", *(f"advanced: {group}" for group in GROUPS)]
    first = text[text.index("most used options") : text.index("advanced: model")]
    assert re.findall(r"^. --([\w-]+)", first, re.MULTILINE) == [
        name.replace("_", "-") for name in MOST_USED
    ]
    assert "(default: None)" not in text and "(default: )" not in text
    assert re.search(r"--learning-rate.*?\(default: 0.1\)", first, re.DOTALL)


@pytest.mark.usefixtures("without_report")
def test_weights_of_ours_bring_their_network(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    words = ("--recipe", "finetune", "--weights", run, "--size", 16, "--batch-size", 8)
    answer = resnets_("train", data, *words, "--steps", 1, "--tune", "off", "--out", out)
    assert answer.code == 0, answer.err
    assert load(out / "config.json")["model"] == {"value": "tiny", "origin": "weights"}


# --- train: stopping and going on ----------------------------------------------------------------


def in_this_process(words: Strings, number: signal.Signals) -> Answer:
    """A command that hears a signal after its first record of training."""
    show = Display.__call__

    def interrupt(self: Display, record: dict[str, Any]) -> None:
        show(self, record)
        if record["kind"] == "train":
            patch.setattr(Display, "__call__", show)
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(Path(resnets.__file__).parent / "__main__.py")])
        patch.setattr(Display, "__call__", interrupt)
        return resnets_(*words)


def in_a_process(words: Strings, number: signal.Signals) -> Answer:
    """The same as a user starts it."""
    metrics = Path(words[-1]) / "metrics.jsonl"
    command, pipe = [sys.executable, "-m", "resnets", *words], subprocess.PIPE
    process = subprocess.Popen(command, stderr=pipe, stdout=pipe, text=True)
    try:
        deadline = time.monotonic() + 90
        while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None:
            assert time.monotonic() < deadline, "no record within 90 s"
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return Answer(process.returncode, out, err)


# Another process does not know the tiny network, and is to be met before its last step.
OTHER = [*FLAGS, "--model", "resnet20", "--steps", "100"]


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    ("interrupted", "flags"),
    [
        (in_this_process, [*FLAGS, "--steps", "12"]),
        pytest.param(in_a_process, OTHER, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_resume_ends_in_the_same_bytes(
    interrupted: Callable[[Strings, signal.Signals], Answer],
    flags: Strings,
    number: signal.Signals,
    code: int,
    data: Path,
    tmp_path: Path,
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "a run"
    assert resnets_("train", data, *flags, "--out", whole).code == 0
    answer = interrupted(["train", str(data), *flags, "--out", str(out)], number)
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err and not (out / "scores.json").exists()
    hint = re.search(r"resume with:\n  (.*) train --resume (.*)", answer.err)
    assert hint and shlex.split(hint[1]) == [sys.executable, "-m", "resnets"]
    answer = resnets_("train", "--resume", *shlex.split(hint[2]))
    assert answer.code == 0 and "resuming" in answer.err
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    lines = (out / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps) and steps[-1] == int(flags[-1])


@pytest.mark.usefixtures("without_report")
def test_a_run_inside_data_stopped_before_its_first_step_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw(tmp_path / "fruit", images=4)
    show = Display.__call__

    def stop(self: Display, record: dict[str, Any]) -> None:
        if record["kind"] == "start":
            raise KeyboardInterrupt
        show(self, record)

    monkeypatch.setattr(Display, "__call__", stop)
    answer = resnets_("train", folder, *FLAGS, "--steps", 2, "--out", folder / "runs" / "one")
    assert answer.code == 130 and "train --resume" in answer.err
    monkeypatch.setattr(Display, "__call__", show)
    answer = resnets_("train", "--resume", folder / "runs" / "one")
    assert answer.code == 0, answer.err
    assert load(folder / "runs" / "one" / "data.json")["classes"] == list(CLASSES)
    assert "on 3 validation images" in answer.out
    again = resnets_("train", folder, *FLAGS, "--steps", 1, "--out", folder / "runs" / "two")
    assert again.code == 0 and "folders of training runs, ignored: runs/one" in again.err


def test_an_interrupt_before_there_is_a_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resnets.training.trainer, "open_data", interrupted)
    answer = resnets_("train", data, "--out", tmp_path / "run")
    assert (answer.code, answer.err) == (130, "resnets: interrupted\n")
    assert names_below(tmp_path) == set()


@pytest.mark.usefixtures("no_charts")
def test_what_cannot_be_saved_is_exit_4_and_saved_by_resume(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    write_report, out = resnets.training.trainer.write_report, tmp_path / "run"
    monkeypatch.setattr(resnets.training.trainer, "write_report", full)
    answer = resnets_("train", data, *FLAGS, "--steps", 1, "--out", out)
    assert answer.code == 4 and answer.out.startswith("top-1 ")
    complaint = answer.err.splitlines()[-3]
    assert "No space left on device" in complaint and complaint.startswith("resnets: ")
    assert answer.err.splitlines()[-1].endswith(f"train --resume {out}")
    monkeypatch.setattr(resnets.training.trainer, "write_report", write_report)
    assert resnets_("train", "--resume", out).code == 0
    assert (out / "report.html").is_file() and (out / "scores.json").is_file()

    monkeypatch.setattr(resnets.training.trainer, "save_model", full)
    answer = resnets_("train", data, *FLAGS, "--steps", 1, "--out", tmp_path / "other")
    assert answer.code == 4 and answer.out == ""


def test_a_loss_that_is_not_finite_is_exit_3(data: Path, tmp_path: Path) -> None:
    words = ("--steps", 40, "--learning-rate", 100, "--schedule", "step", "--warmup", 0)
    answer = resnets_("train", data, *FLAGS, *words, "--weight-decay", 1, "--out", tmp_path / "run")
    assert answer.code == 3
    assert re.match(
        r"resnets: the (validation )?loss is (nan|inf) at step \d+", answer.err.splitlines()[-1]
    )
    assert "Traceback" not in answer.err


# --- evaluate ------------------------------------------------------------------------------------


def test_evaluate_json_has_the_named_fields(run: Path, data: Path) -> None:
    record = json.loads(resnets_("evaluate", run, data, "--format=json").out)
    named = {"top1", "top1_interval", "top5", "loss", "num_images", "per_class"}
    assert named <= set(record)
    assert record["top5"] is None, "there are fewer than six classes"
    assert 0 <= record["top1_interval"][0] <= record["top1"] <= record["top1_interval"][1] <= 1


def test_evaluate_takes_the_split_asked_for_and_says_which(run: Path, data: Path) -> None:
    answer = resnets_("evaluate", run / "model.safetensors", data, "--split", "train")
    assert answer.code == 0 and "split train" in answer.err
    assert re.search(r"^images +36$", answer.out, re.MULTILINE)
    assert all(re.search(rf"^{name} +12 ", answer.out, re.MULTILINE) for name in CLASSES)
    whole = resnets_("evaluate", run, data / "test")  # a folder without parts: never split
    assert "all of" in whole.err and re.search(r"^images +12$", whole.out, re.MULTILINE)
    assert resnets_("evaluate", run, data, "--quiet").err == ""


def test_evaluate_writes_a_page(run: Path, data: Path, tmp_path: Path) -> None:
    before = names_below(run)
    answer = resnets_("evaluate", run, data, "--report", tmp_path / "page")
    assert answer.code == 0 and (tmp_path / "page" / "report.html").is_file()
    assert names_below(run) == before


@pytest.mark.usefixtures("without_report")
def test_class_names_are_printed_as_they_are(tmp_path: Path) -> None:
    folder = draw(tmp_path / "odd", images=4)
    (folder / "apple").rename(folder / "[red] apple")
    (folder / "berry").rename(folder / "[")
    out = tmp_path / "run"
    assert resnets_("train", folder, *FLAGS, "--steps", 1, "--out", out).code == 0
    answer = resnets_("evaluate", out, folder)
    assert answer.code == 0 and "[red] apple" in answer.out
    assert "[red] apple" in resnets_("show", out).out


# --- predict -------------------------------------------------------------------------------------


def test_predict_says_the_same_in_every_format(run: Path, data: Path) -> None:
    folder = data / "test"
    files = sorted(str(path) for path in folder.rglob("*.png"))
    exact = list(Predictor(run).predict(files, top=2))
    assert all(Path(one.source).parent.name == one.classes[0] for one in exact)

    listed = json.loads(resnets_("predict", run, folder, "--top", 2, "--format", "json").out)
    assert [entry["path"] for entry in listed] == files
    assert all(entry["error"] is None for entry in listed)
    pairs = [[(top["class"], top["probability"]) for top in entry["top"]] for entry in listed]
    assert pairs == [list(zip(p.classes, p.probabilities, strict=True)) for p in exact]

    answer = resnets_("predict", run, folder, "--top", 2, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [row["path"] for row in rows[::2]] == files
    assert [row["class"] for row in rows] == [name for p in exact for name in p.classes]
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        [value for p in exact for value in p.probabilities], abs=5e-7
    )

    lines = resnets_("predict", run, folder, "--top", 2).out.splitlines()
    assert [line.split()[:3:2] for line in lines] == [[p.source, p.classes[0]] for p in exact]
    assert len({line.index("%") for line in lines}) == 1, "the columns are aligned"


def test_predict_reads_files_patterns_and_standard_input(run: Path, data: Path) -> None:
    one, two = data / "test/apple/00.png", data / "test/berry/01.png"
    answer = resnets_("predict", run, one, data / "test" / "*" / "01.png", "--top", 1)
    assert answer.code == 0 and len(answer.out.splitlines()) == 4
    answer = resnets_("predict", run, "-", "--top", 1, stdin=f"{one}\n\n{two}\r\n")
    assert [line.split()[0] for line in answer.out.splitlines()] == [str(one), str(two)]


def test_an_unreadable_image_is_reported_and_the_rest_predicted(
    run: Path, data: Path, tmp_path: Path
) -> None:
    good, bad, none = data / "test/apple/00.png", tmp_path / "bad.png", tmp_path / "none.png"
    bad.write_bytes(b"no image")
    for form, lines in (("table", 1), ("csv", 2), ("json", 1)):
        answer = resnets_("predict", run, bad, good, none, "--top", 1, "--format", form)
        assert answer.code == 2 and len(answer.out.splitlines()) == lines
        assert [line.split(": ")[:2] for line in answer.err.splitlines()] == [
            ["resnets", str(bad)],
            ["resnets", str(none)],
        ]
    assert [entry["error"] is None for entry in json.loads(answer.out)] == [False, True, False]
    quiet = resnets_("predict", run, bad, good, "--quiet")
    assert quiet.code == 2 and quiet.err == "" and str(good) in quiet.out


def test_predict_passes_over_what_is_hidden(run: Path, data: Path, tmp_path: Path) -> None:
    image = (data / "test/apple/00.png").read_bytes()
    for name in ("seen/a.png", ".ipynb_checkpoints/b.png", "seen/._a.png", "__MACOSX/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image)
    (tmp_path / "seen/notes.txt").write_text("x")
    answer = resnets_("predict", run, tmp_path)
    assert [line.split()[0] for line in answer.out.splitlines()] == [str(tmp_path / "seen/a.png")]


@pytest.mark.parametrize("form", ["table", "csv"])
def test_predictions_stream(
    form: str, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, printed = io.StringIO(), []

    def paths() -> Iterator[str]:
        for _ in range(130):  # the predictor holds 64 images at a time
            printed.append(out.getvalue().count(".png"))
            yield f"{data / 'test/apple/00.png'}\n"

    monkeypatch.setattr(sys, "stdin", paths())
    with redirect_stdout(out):
        assert main(["predict", str(run), "-", "--format", form, "--top", "1"]) == 0
    assert printed[64] == 64 and printed[128] == 128 and out.getvalue().count(".png") == 130


# --- show and models -----------------------------------------------------------------------------


def test_show_prints_what_the_file_holds(run: Path) -> None:
    answer = resnets_("show", run)
    assert answer.code == 0
    for text in (
        "berry",
        "depths               1, 1",
        "num_images           12",
        "stem_width           -",
        "learning_rate",
    ):
        assert text in answer.out
    assert not re.search(r"\d\.\d{9}|None|\{", answer.out), "rounded, and no Python literals"
    parts = json.loads(resnets_("show", run, "--format", "json").out)
    assert list(parts) == ["network", "classes", "preprocess", "scores", "recipe", "data"]
    stem, convolution, shortcut, head = 3 * 9 * 8, 8 * 9 * 8, 8 * 8, 8 * 3 + 3
    norms = 2 * 8 * (1 + 4 + 1)
    assert parts["network"]["parameters"] == stem + 4 * convolution + shortcut + head + norms
    assert "recipe" not in json.loads(resnets_("show", run, "--quiet", "--format", "json").out)


def test_models_lists_every_network_on_one_line_each() -> None:
    answer = resnets_("models")
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *MODELS]
    row = next(line for line in lines if line.startswith("resnet50 "))
    for text in ("25,557,032", "4.089 G", "224", "24.01", "fb.resnet.torch"):
        assert text in row
    row = next(line for line in lines if line.startswith("resnet8_fast_half "))
    assert "-  sizes: counted, not published" in row, "no error: it says whose sizes"
    assert resnets_("models", "--quiet").out.split() == list(MODELS)
    assert resnets_("models", "plain*", "--quiet").out.split()[0] == "plain18"


def test_models_prints_a_layer_table() -> None:
    lines = resnets_("models", "resnet20", "--layers").out.splitlines()
    row = next(line for line in lines if line.startswith("layer2.0.conv1 "))
    assert " ".join(row.split()) == "layer2.0.conv1 Conv2d 32 x 16 x 16 4,608 1.18 M"


# --- mistakes ------------------------------------------------------------------------------------

TRAIN = "train {data} --out new "
MISTAKES = {  # what is typed -> what the answer must name
    "trian {data}": "did you mean 'train'",
    "--quiet": "unknown command '--quiet'; allowed: demo, check, train",
    "eval {run} {data}": "did you mean 'evaluate'",
    "study inti": "did you mean 'study init'",
    "train": "no DATA",
    "train nowhere": "there is no file or folder",
    "train fashion-mnit": "did you mean 'fashion-mnist'",
    "train ./nowhere": "does not exist",
    "train {empty}": "no images",
    "train {data}/train/apple": "put them into one folder per class",
    "train {single}": "a single class",
    "train {hollow}": "class folders without images",
    "train {run}": "the folder of a run",
    "train {pair}": "every class has one image",
    "train {note}": "is not a data set",
    TRAIN + "--model resnet5O": "did you mean 'resnet50'",
    TRAIN + "--model resnet21": "did you mean 'resnet20'",
    TRAIN + "--epochs three": "--epochs three: expected a number",
    TRAIN + "--modle resnet20": "unknown option --modle; did you mean --model?",
    TRAIN + "--optimizer sdg": "--optimizer sdg: allowed: auto, sgd, adamw, muon",
    TRAIN + "--precision 16": "allowed: auto, fp32, bf16, fp16",
    TRAIN + "--recipe": "--recipe needs a value",
    "train {data} {data}": "unexpected ",
    TRAIN + "--model alexnet": "unknown model 'alexnet'; `resnets models` lists all",
    TRAIN + "--recipe finetune": "pass --weights",
    TRAIN + "--weights {note}": "neither a safetensors nor a torch file",
    TRAIN + "--weights torchvision:IMAGENET1K_V1": "pass --model too",
    TRAIN + "--recipe he2016": "did you mean 'he2015'",
    TRAIN + "--recipe-file none.toml": "no such file",
    TRAIN + "--recipe-file {note}": "not readable as TOML",
    TRAIN + "--recipe-file {toml}": "toml: unknown recipe field 'epoch'",
    TRAIN + "--recipe default --recipe-file {toml}": "pass one of them",
    TRAIN + "--epochs -1": "--epochs -1",
    TRAIN + "--epochs 3 --steps 9": "pass one of them",
    TRAIN + "--time 5m --epochs 3": "--time together with --epochs",
    TRAIN + "--recipe fast --time 5m --epochs 9": "--time together with --epochs",
    TRAIN + "--time soon": "--time 'soon'",
    TRAIN + "--time 0s": "--time '0s'",
    TRAIN + "--time 10": "write 10s or 10m",
    TRAIN + "--model resnet20 --precision fp32 --tune off --time 1s": "give more time",
    TRAIN + "--batch-size 1": "--batch-size 1",
    TRAIN + "--batch-size 60000": "more than the 32 training images",
    TRAIN + "--batch-size 9 --grad-accum-steps 2": "--grad-accum-steps 2",
    TRAIN + "--learning-rate nan": "--learning-rate nan",
    TRAIN + "--size 4": "--size 4",
    TRAIN + "--seed -3": "--seed -3",
    TRAIN + "--milestones 0.8 0.2": "--milestones",
    TRAIN + "--device cuda": "--device cuda: not available",
    TRAIN + "--model tiny --precision fp32 --tune off --weights nothing.pth": "nothing.pth",
    "train {data}/test --out new --validate-on test": "no test split",
    "train {data} --out {data}": "the folder is not empty",
    "train {data} --out {run}": "--resume",
    "train {data} --out {note}": "is a file",
    "train --resume nowhere": "no such folder",
    "train --resume {data}": "not a run folder",
    "train --resume {run}": "finished",
    "train --resume {run} --epochs 3": "finished",
    "train --resume {run} --recipe-file {toml2}": "own data, recipe",
    "train {data} --resume {run}": "leave out DATA",
    "evaluate {run}": "DATA is missing",
    "evaluate {run} {data} --format xml": "--format xml: allowed: table, json",
    "evaluate {data} {data}": "without model.safetensors",
    "evaluate none.safetensors {data}": "none.safetensors",
    "evaluate {note} {data}": "note.txt",
    "evaluate {run} nowhere": "there is no file or folder",
    "evaluate {run} {strangers}": "does not know: zebra",
    "evaluate {run} {data} --split val": "unknown split 'val'",
    "evaluate {run} {data}/test --split val": "leave --split out",
    "evaluate {run} {data} --report {run}": "a run with a page of its own",
    "evaluate {run} {data} --workers -1": "--workers -1",
    "evaluate {run} {data} --max-corrupt 2": "--max-corrupt 2",
    "evaluate {run} {data} --report {note}": "--report",
    "predict": "MODEL is missing",
    "predict {run}": "IMAGES is missing",
    "predict {run} {data} --top three": "--top three: expected a whole number",
    "predict {run} -": "standard input names no image",
    "predict {run} none.png": "none.png: no such file",
    "predict {run} {empty}": "no images in this folder",
    "predict {run} none/*.jpg": "matches no file",
    "predict {run} ''": "an empty text",
    "predict {run} {data} --top 0": "--top 0",
    "predict {run} {note}": "note.txt: not a JPEG",
    "show": "MODEL is missing",
    "show nothing": "nothing",
    "models --device cpu": "unknown option --device",
    "models resnet5O": "did you mean 'resnet50'",
    "models 'alex*'": "unknown model 'alex*'; `resnets models` lists all",
    "models 'resnet*' --layers": "takes one name",
    "models --layers": "takes one name: resnets models resnet50 --layers",
    "models resnet5O --layers": "did you mean 'resnet50'",
}


@pytest.fixture(scope="module")
def places(data: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the wrong command lines point to."""
    base = tmp_path_factory.mktemp("places")
    empty, single, hollow, strangers, pair, note, toml, toml2 = (
        base / name
        for name in [
            "empty",
            "single",
            "hollow",
            "strangers",
            "pair",
            "note.txt",
            "mine.toml",
            "fine.toml",
        ]
    )
    note.write_text("no [data\n")
    toml.write_text("epoch = 3\n")
    toml2.write_text("momentum = 0.8\n")
    for folder in (empty, single / "apple", hollow / "apple", hollow / "berry", hollow / "void"):
        folder.mkdir(parents=True)
    for folder in (strangers / "apple", strangers / "zebra"):
        folder.mkdir(parents=True)
    for folder in (single / "apple", hollow / "apple", hollow / "berry", strangers / "zebra"):
        Image.new("RGB", (9, 9)).save(folder / "1.png")
    return {
        "data": data,
        "run": run,
        "empty": empty,
        "single": single,
        "hollow": hollow,
        "strangers": strangers,
        "pair": draw(pair, images=1),
        "note": note,
        "toml": toml,
        "toml2": toml2,
    }


def test_a_mistake_gets_one_line_and_leaves_nothing(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = names_below(places["data"]), names_below(places["run"])
    wrong = {}
    for typed, named in MISTAKES.items():
        answer = resnets_(*shlex.split(typed.format(**places)))
        lines = answer.err.splitlines()
        complaints = [line for line in lines if not line.endswith("measuring this machine")]
        one_line = len(complaints) == 1 and complaints[0].startswith("resnets: ")
        if (answer.code, answer.out, one_line) != (2, "", True) or named not in answer.err:
            wrong[typed] = answer
        elif names_below(tmp_path):
            wrong[typed] = names_below(tmp_path)
            break
    assert wrong == {}
    assert (names_below(places["data"]), names_below(places["run"])) == before


# --- help, version, pipes ------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    for words in ((), ("--help",), ("-h",), ("help",)):
        answer = resnets_(*words)
        assert answer.code == 0 and answer.err == ""
        assert all(re.search(rf"^  {name} ", answer.out, re.MULTILINE) for name in COMMANDS)
    assert resnets_("--version").out == f"resnets {__version__}\n"


def test_help_of_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for name in COMMANDS:
        answer = resnets_(*name.split(), "--help")
        assert answer.code == 0 and f"usage: resnets {name} [-h]" in answer.out
        assert "--quiet" in answer.out, name
        computes = name not in ("show", "models", "study init", "study report", "study check")
        assert computes <= ("--device {auto,cpu,cuda,mps}" in answer.out), name
        if name in ("evaluate", "predict", "show", "models"):
            assert not re.search(r"\(default: (None|False)?\)|--no-quiet", answer.out), name
            assert computes or "--device" not in answer.out
    answer = resnets_("train", "--help")
    flags = [name.replace("_", "-") for name in FIELDS]
    assert [flag for flag in flags if not re.search(rf"^. --{flag}\b", answer.out, re.M)] == []
    listed = re.search(r"options override:(.*?)\(default", answer.out, re.DOTALL)
    assert listed and re.findall(r"[\w-]+", listed[1]) == list(RECIPES)


def test_the_examples_of_the_help_are_well_formed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each parses: what is wrong with them, outside of a user's folder, is the missing data."""
    monkeypatch.chdir(tmp_path)  # a study may lie where the tests are run
    pages = {"": resnets_("--help").out}
    pages |= {name: resnets_(*name.split(), "--help").out for name in COMMANDS}
    pattern = r"^  (?:find .* \| )?resnets (\w.*?)(?:   .*)?$"
    examples = {name: re.findall(pattern, page, re.MULTILINE) for name, page in pages.items()}
    assert len(examples[""]) == 5
    assert all(examples[name] for name in COMMANDS if name not in ("demo", "study"))
    for example in (line for page in examples.values() for line in page):
        if "cifar10" in example or "study init" in example:  # would download; takes a minute
            continue
        refused = ["--processes", "0"] if example.startswith("study train") else []
        answer = resnets_(*shlex.split(example), *refused)
        assert "--help" not in answer.err and answer.code == (0 if "models" in example else 2)


def test_help_of_the_study_lists_its_commands() -> None:
    for words in (["study", "--help"], ["study", "-h"]):  # alone it does the whole study
        answer = resnets_(*words)
        assert answer.code == 0 and re.search(r"^  study init ", answer.out, re.MULTILINE)


@pytest.mark.parametrize("words", [["--help"], ["models"]])
def test_a_reader_that_goes_away_is_no_error(words: Strings) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "resnets", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with open(os.devnull if os.name == "nt" else "/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "resnets", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2 and done.stderr.startswith(
        "resnets: standard output: No space left on device"
    )


# --- demo ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_report")
def test_the_demo_and_the_commands_that_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = resnets.api.train

    def shorter(data: str, *, time: str, **rest: Any) -> resnets.training.trainer.TrainingResult:
        assert time == f"{SECONDS:g}s"
        quick = {"steps": 2, "batch_size": 8, "precision": "fp32", "val_fraction": 0.01}
        quick |= {"model": "tiny", "threads": 1, "tune": "off"}
        return train(data, **rest | quick)

    monkeypatch.setattr(resnets.api, "train", shorter)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion-mini").mkdir()  # the embedded set's name, which goes before
    answer = resnets_("demo", "--quiet")
    assert answer.code == 0, answer.err
    run = Path("runs/demo-001")
    assert load(run / "data.json")["data"] == "fashion-mini"
    assert len(re.findall(r"^  \S+\.png +\S", answer.out, re.MULTILINE)) == 6
    predict = re.search(r"^  resnets (predict .*)$", answer.out, re.MULTILINE)
    evaluate = re.search(r"^  resnets (evaluate .*)$", answer.out, re.MULTILINE)
    assert predict and resnets_(*shlex.split(predict[1])).code == 0
    assert evaluate and evaluate[1] == f"evaluate {run} fashion-mini"
