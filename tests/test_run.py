"""A whole run: its folder, its scores, and the same files after an interruption."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnets import api
from resnets.data import open_data
from resnets.errors import UserError
from resnets.inference.model_file import read_model
from resnets.report.page import ReportRecord
from resnets.training import autotune, checkpoint, trainer
from resnets.training.recipe import FIELDS as RECIPE_FIELDS
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir
from resnets.training.step_metrics import NotFiniteError
from resnets.training.trainer import Trainer, TrainingResult
from tiny_runs import RUN_FILES, quick_runs

FIELDS: dict[str, Any] = {
    "model": "tiny",
    "size": 16,
    "steps": 8,
    "batch_size": 12,
    "precision": "fp32",
    "threads": 1,
    "workers": 0,
    "mixup": 0.2,
    "ema": 0.5,
    "dropout": 0.1,
    "drop_path": 0.1,
    "erasing": 0.2,
    "grad_accum_steps": 2,
    "evaluate_every": 0.5,
    "device": "cpu",
    "tune": "off",
}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Take a tiny network, log every step, and leave the page to its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        quick_runs(patch)
        yield


def write_data(path: Path, seed: int = 0) -> Path:
    """Three classes of noise of different brightness: 60 training and 21 test images."""
    generator = np.random.default_rng(seed)
    labels = np.arange(81) % 3
    noise = generator.integers(0, 120, (81, 12, 12, 3))
    images = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(
        path,
        x_train=images[:60],
        y_train=labels[:60],
        x_test=images[60:],
        y_test=labels[60:],
        classes=np.array(["dark", "grey", "light"]),
    )
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "noise.npz")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """The run that nobody disturbed."""
    return api.train(data, out=tmp_path_factory.mktemp("whole") / "run", **FIELDS)


# The same run by micro-batches of three images: what a batch becomes when six do not fit.
SMALLER = FIELDS | {"grad_accum_steps": 4}


@pytest.fixture(scope="module")
def smaller(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """The run of smaller micro-batches that nobody disturbed."""
    return api.train(data, out=tmp_path_factory.mktemp("smaller") / "run", **SMALLER)


def train_step_up_to(most: int) -> Callable[..., Any]:
    """The step on a machine whose memory holds so many images."""
    real = trainer.train_step

    def step(state: Any, network: Any, batch: Any, recipe: Recipe, **rest: Any) -> Any:
        if len(batch.images) // recipe.optimizer.grad_accum_steps > most:
            raise torch.OutOfMemoryError("planted")
        return real(state, network, batch, recipe, **rest)

    return step


def assert_same_files(run: Path, other: Path) -> None:
    """Model file and scores are equal to the last byte."""
    for name in ("model.safetensors", "scores.json"):
        assert sha(run / name) == sha(other / name), name


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records(path: Path) -> list[dict[str, Any]]:
    """What was logged, without the times."""
    times = ("seconds", "images_per_second")
    return [
        {key: value for key, value in record.items() if key not in times}
        for record in RunDir(path).history()
    ]


def note(said: list[str], record: Any) -> None:
    said.append(str(record.get("text")))


class Interrupting:
    """A log that sends a signal when the training record of a step comes."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def __call__(self, record: Any) -> None:
        if record["kind"] == "train" and record["step"] == self.step:
            os.kill(os.getpid(), self.number)


def test_the_folder_of_a_run(data: Path, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    result = api.train(
        data, out=tmp_path / "run", log=lambda r: said.append(dict(r)), recipe="he2015", **FIELDS
    )
    folder = tmp_path / "run"
    assert (result.folder, result.split, result.signal) == (folder, "test", None)
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    config = json.loads((folder / "config.json").read_text())
    assert set(config) == set(RECIPE_FIELDS)
    assert config["steps"] == {"value": 8, "origin": "flag"}
    assert config["weight_decay"] == {"value": 1e-4, "origin": "recipe he2015"}
    assert config["clip_grad_norm"] == {"value": 0.0, "origin": "default"}
    stored = json.loads((folder / "data.json").read_text())
    assert stored["classes"] == ["dark", "grey", "light"]
    assert stored["sizes"] == {"train": 54, "val": 6, "test": 21}
    assert len(stored["held_out"]) == 6
    kinds = [record["kind"] for record in said]
    assert kinds.index("notice") < kinds.index("start") < kinds.index("train")
    assert records(folder) == [
        {k: v for k, v in r.items() if k not in ("seconds", "images_per_second")}
        for r in said
        if r["kind"] in ("train", "validation")
    ]


def test_the_scores_are_those_of_the_model_file(data: Path, whole: TrainingResult) -> None:
    scores = api.evaluate(whole.folder, data, device="cpu", workers=0)
    assert whole.scores == scores
    assert scores.num_images == 21
    file = read_model(whole.model)
    written = json.loads((whole.folder / "scores.json").read_text())
    assert file.scores is not None
    for kept in (file.scores, written):
        assert {key: kept[key] for key in scores.to_dict()} == scores.to_dict()
    assert (written["split"], written["validate_on"]) == ("test", "val")
    for private in ("threads", "workers", "cache_mb", "checkpoint_every"):
        assert private not in file.recipe
    best = RunDir(whole.folder).load_best()
    assert all(torch.equal(tensor, file.weights[name]) for name, tensor in best.tensors.items())


def test_the_report_says_where_the_time_went(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[ReportRecord] = []
    quick_runs(monkeypatch, report=lambda folder, record: given.append(record))
    monkeypatch.setattr(Trainer, "profile", {"steps": 6, "warm_up": 2})
    said: list[str] = []
    api.train(data, out=tmp_path / "run", log=lambda r: said.append(r.get("text", "")), **FIELDS)
    [line] = [row["text"] for row in given[0].history if row["kind"] == "shares"]
    assert line in said
    assert "forward" in line


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_interrupted_run_ends_in_the_same_files(
    data: Path, tmp_path: Path, optimizer: str
) -> None:
    """Stopped twice and resumed: model file and scores to the last byte, the same records."""
    values = FIELDS | {"optimizer": optimizer}
    api.train(data, out=tmp_path / "whole", **values)
    stopped = api.train(data, out=tmp_path / "cut", log=Interrupting(3), **values)
    assert (stopped.scores, stopped.signal) == (None, signal.SIGTERM)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    again = api.train(resume=tmp_path / "cut", log=Interrupting(5, signal.SIGINT), device="cpu")
    assert again.signal == signal.SIGINT
    finished = api.train(resume=tmp_path / "cut", device="cpu")
    assert finished.scores is not None
    assert_same_files(tmp_path / "cut", tmp_path / "whole")
    assert sha(tmp_path / "cut" / "data.json") == sha(tmp_path / "whole" / "data.json")
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


class KilledError(Exception):
    """The end of a process, which no part of ours expects."""


def dies(record: Any) -> None:
    """A log of a process that is killed at its first step."""
    if record["kind"] == "train":
        raise KilledError


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    data: Path, tmp_path: Path, whole: TrainingResult
) -> None:
    with pytest.raises(KilledError):
        api.train(data, out=tmp_path / "killed", log=dies, **FIELDS)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    api.train(resume=tmp_path / "killed", device="cpu")
    assert_same_files(tmp_path / "killed", whole.folder)
    assert records(tmp_path / "killed") == records(whole.folder)


def test_a_run_killed_while_it_was_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "score", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            api.train(data, out=tmp_path / "killed", **FIELDS)
    finished = api.train(resume=tmp_path / "killed", device="cpu")
    assert finished.scores is not None
    steps = [record["step"] for record in records(tmp_path / "killed") if "top1" not in record]
    assert steps == list(range(1, 9))


def test_what_cannot_be_resumed(data: Path, tmp_path: Path) -> None:
    own = write_data(tmp_path / "own.npz")
    api.train(own, out=tmp_path / "cut", log=Interrupting(2), **FIELDS)
    write_data(own, seed=1)
    with pytest.raises(UserError, match=r"the images in .* changed from"):
        api.train(resume=tmp_path / "cut", device="cpu")
    write_data(own)
    api.train(resume=tmp_path / "cut", device="cpu")
    with pytest.raises(UserError, match="finished"):
        api.train(resume=tmp_path / "cut", device="cpu")
    with pytest.raises(UserError, match="leave out DATA"):
        api.train(data, resume=tmp_path / "cut", device="cpu")
    with pytest.raises(UserError, match="no such folder"):
        api.train(resume=tmp_path / "none", device="cpu")


def test_a_signal_while_the_model_is_scored(
    data: Path, tmp_path: Path, whole: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "score", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP))
        cut = api.train(data, out=tmp_path / "cut", **FIELDS)
    assert (cut.signal, cut.scores) == (signal.SIGHUP, None)
    api.train(resume=tmp_path / "cut", device="cpu")
    assert_same_files(tmp_path / "cut", whole.folder)


def test_the_newest_whole_checkpoint_is_taken_and_said(data: Path, tmp_path: Path) -> None:
    api.train(data, out=tmp_path / "cut", log=Interrupting(6), **FIELDS, checkpoint_every=0.0)
    newest = tmp_path / "cut" / "checkpoints" / "state-00000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    said: list[str] = []
    before = RunDir(tmp_path / "cut").seconds()
    api.train(resume=tmp_path / "cut", log=partial(note, said))
    passed, going = (text for text in said if "skipped" in text or "resuming" in text)
    assert newest.name in passed
    assert going.endswith("at step 5: the newest valid checkpoint")
    times = [record["seconds"] for record in RunDir(tmp_path / "cut").history()]
    assert times == sorted(times) and times[-1] > before > 0


def test_a_forced_resume_is_said_everywhere(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    api.train(data, out=out, log=Interrupting(3), **FIELDS)
    with pytest.raises(UserError, match="--threads changed from 1 to 2"):
        api.train(resume=out, threads=2)
    torch.set_num_threads(1)
    with pytest.raises(UserError, match="--optimizer cannot change"):
        api.train(resume=out, optimizer="adamw", force=True)
    said: list[str] = []
    result = api.train(
        resume=out,
        workers=1,
        label_smoothing=0.2,
        force=True,
        log=partial(note, said),
    )
    (phrase,) = ("--label-smoothing changed from 0.1 to 0.2",)
    assert result.caution is not None and phrase in result.caution
    assert any(phrase in text for text in said)
    written = json.loads((out / "scores.json").read_text())
    file = read_model(result.model)
    assert file.scores is not None
    assert file.scores["cautions"] == written["cautions"] == [result.caution]
    config = json.loads((out / "config.json").read_text())
    assert config["label_smoothing"] == {"value": 0.2, "origin": "flag at step 3"}
    with pytest.raises(UserError, match="--force belongs to --resume"):
        api.train(data, force=True)


def two_greys(folder: Path) -> Path:
    """Six images each of two classes, of equal size in bytes."""
    for name, grey in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            Image.new("L", (12, 12), grey + index).save(folder / name / f"{index}.bmp")
    return folder


def test_verify_sees_what_the_index_cannot(tmp_path: Path) -> None:
    photos = two_greys(tmp_path / "photos")
    values = FIELDS | {"steps": 4, "batch_size": 4}
    api.train(photos, out=tmp_path / "cut", log=Interrupting(2), verify=True, **values)
    api.train(photos, out=tmp_path / "other", log=Interrupting(2), **values)
    with pytest.raises(UserError, match="was not started with --verify"):
        api.train(resume=tmp_path / "other", verify=True)
    Image.new("L", (12, 12), 99).save(photos / "dark" / "3.bmp")  # as many bytes as before
    with pytest.raises(UserError, match=r"the content of images in .* changed from"):
        api.train(resume=tmp_path / "cut", verify=True)
    forced = api.train(resume=tmp_path / "cut", verify=True, force=True)
    assert "the content of images" in str(forced.caution)


def test_images_accepted_by_force_are_what_verify_compares_with(tmp_path: Path) -> None:
    photos = two_greys(tmp_path / "photos")
    values = FIELDS | {"steps": 6, "batch_size": 4}
    run = tmp_path / "run"
    api.train(photos, out=run, log=Interrupting(2), verify=True, **values)
    Image.new("L", (13, 13), 99).save(photos / "dark" / "3.bmp")
    api.train(resume=run, force=True, log=Interrupting(4))
    assert api.train(resume=run, verify=True).scores is not None


def test_a_lost_loss_names_its_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def loses(state: Any, network: Any, batch: Any, *_: Any, **__: Any) -> Any:
        seen.append(batch.indices)
        return torch.tensor(float("nan")), torch.tensor(0)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", loses)
        with pytest.raises(NotFiniteError) as lost:
            api.train(data, out=tmp_path / "run", **FIELDS)
    assert len(seen) == 1
    held_out = json.loads((tmp_path / "run" / "data.json").read_text())["held_out"]
    train = [name for name in open_data(data).splits["train"].ids if name not in held_out]
    first = ", ".join(train[index] for index in seen[0][:8])
    assert str(lost.value) == f"the loss is nan at step 1, in the batch of {first} and 4 more"


@pytest.mark.parametrize("module", [autotune, trainer], ids=["measuring", "training"])
def test_a_batch_that_does_not_fit_is_divided(
    module: Any,
    data: Path,
    tmp_path: Path,
    smaller: TrainingResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same bytes as with the smaller micro-batches from the start, and after a resume."""
    said, values = list[str](), FIELDS | {"grad_accum_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_step", train_step_up_to(3))
        log = partial(note, said)
        api.train(data, out=tmp_path / "run", log=log, **values)
    assert any("4 micro-batches of 3 images make the batch of 12" in text for text in said)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["grad_accum_steps"] == {"value": 4, "origin": "memory"}
    assert sha(tmp_path / "run/model.safetensors") == sha(smaller.model)
    assert records(tmp_path / "run") == records(smaller.folder)


def test_a_resumed_run_without_a_checkpoint_is_divided_too(
    data: Path, tmp_path: Path, smaller: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = FIELDS | {"grad_accum_steps": 1}
    with pytest.raises(KilledError):
        api.train(data, out=tmp_path / "run", log=dies, **values)
    monkeypatch.setattr(trainer, "train_step", train_step_up_to(3))
    api.train(resume=tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["grad_accum_steps"] == {"value": 4, "origin": "memory"}
    assert config["model"] == {"value": "tiny", "origin": "flag"}
    assert sha(tmp_path / "run/model.safetensors") == sha(smaller.model)


@pytest.mark.parametrize(
    ("batch_size", "remedy"), [(12, "--grad-accum-steps 4"), (4, "smaller --batch-size")]
)
def test_advice_on_memory_after_a_checkpoint_can_be_followed(
    batch_size: int, remedy: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 images in 2 pieces make 4 pieces of 3 next; 4 images in 2 pieces make no smaller ones."""
    values = FIELDS | {"grad_accum_steps": 2, "batch_size": batch_size, "steps": 6}
    api.train(data, out=tmp_path / "run", log=Interrupting(2), **values)
    monkeypatch.setattr(trainer, "train_step", train_step_up_to(0))
    with pytest.raises(UserError, match=f"out of memory at step 2: .*{remedy}"):
        api.train(resume=tmp_path / "run")


def test_a_lost_test_image_is_said_with_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[ReportRecord] = []
    quick_runs(monkeypatch, report=lambda folder, record: pages.append(record))
    photos = tmp_path / "photos"
    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("dark", "light"):
            (photos / part / name).mkdir(parents=True)
            for index in range(6):
                pixels = noise.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(photos / part / name / f"{index}.jpg")
    lost = photos / "test" / "dark" / "0.jpg"
    lost.write_bytes(lost.read_bytes()[:800])
    said: list[str] = []
    values = FIELDS | {"batch_size": 8, "max_corrupt": 0.1}
    result = api.train(photos, out=tmp_path / "run", log=partial(note, said), **values)
    assert result.scores is not None and result.scores.num_images == 11
    words = "1 of 12 test images cannot be read and are not in the scores: test/dark/0.jpg"
    assert result.caution is not None and result.caution.startswith(words)
    assert any(text.startswith(words) for text in pages[0].cautions)
    assert any(text.startswith("1 image is damaged") for text in said)
    assert list(json.loads((tmp_path / "run/data.json").read_text())["skipped"]) == [
        "test/dark/0.jpg"
    ]


def test_weights_are_found_again_from_any_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.train(data, out=tmp_path / "base", **FIELDS)
    monkeypatch.chdir(tmp_path)
    api.train(data, out=tmp_path / "run", log=Interrupting(2), weights="base", **FIELDS)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["weights"]["value"] == str(tmp_path / "base")
    assert str(tmp_path) not in (tmp_path / "base/model.safetensors").read_bytes().decode("latin")


def test_a_linked_manifest_is_found_again(tmp_path: Path) -> None:
    """Paths of a manifest begin at the folder of the link, so the link is what is remembered."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    lines = ["path,label"]
    for name, grey in (("dark", 40), ("light", 200)):
        (here / name).mkdir(parents=True)
        for index in range(6):
            Image.new("L", (12, 12), grey + index).save(here / name / f"{index}.png")
            lines.append(f"{name}/{index}.png,{name}")
    (there / "labels.csv").write_text("\n".join(lines))
    (here / "labels.csv").symlink_to(there / "labels.csv")
    values = FIELDS | {"steps": 4, "batch_size": 4}
    api.train(here / "labels.csv", out=tmp_path / "run", log=Interrupting(2), **values)
    assert api.train(resume=tmp_path / "run").scores is not None


def test_a_full_disk_costs_nothing_once_there_is_room(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint and no best weights can be written until step 7."""
    values = FIELDS | {"checkpoint_every": 0.0, "evaluate_every": 0.25}
    api.train(data, out=tmp_path / "whole", **values)
    said: list[dict[str, Any]] = []
    save = checkpoint.save

    def full(tensors: Any, metadata: Any) -> bytes:
        if RunDir(tmp_path / "run").history()[-1]["step"] < 7:
            full_disk()
        return save(tensors, metadata)

    monkeypatch.setattr(checkpoint, "save", full)
    result = api.train(data, out=tmp_path / "run", log=lambda r: said.append(dict(r)), **values)
    assert result.unsaved is None
    failed = [r["text"] for r in said if "not saved (No space left on device)" in r.get("text", "")]
    assert len(failed) >= 6 and "training continues" in failed[0]
    assert_same_files(tmp_path / "run", tmp_path / "whole")
    assert not list((tmp_path / "run" / "checkpoints").glob(".*.part"))


def test_a_disk_that_stays_full_is_said_at_the_end(
    data: Path, tmp_path: Path, whole: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: full_disk())
        result = api.train(data, out=tmp_path / "run", **FIELDS)
    assert result.scores is None and "No space left on device" in (result.unsaved or "")
    api.train(resume=tmp_path / "run")
    assert sha(tmp_path / "run/model.safetensors") == sha(whole.model)


def full_disk() -> bytes:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_refusals_leave_no_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    wrong: list[dict[str, Any]] = [
        {"epochs": 0},
        {"learning_rates": 0.1},
        {"model": "resnet21"},
        {"schedule": "cosinus"},
        {"time": "20 minutes"},
        {"time": "1m", "epochs": 1},
    ]
    for values in wrong:
        with pytest.raises(UserError):
            api.train(data, out=out, device="cpu", **values)
    with pytest.raises(UserError, match="none"):
        api.train(tmp_path / "none", out=out, device="cpu")
    assert not out.exists()
    with pytest.raises(UserError, match="not empty"):
        api.train(data, out=data.parent, **FIELDS)


def test_validating_on_test_is_said_everywhere(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    api.train(
        data,
        out=tmp_path / "run",
        validate_on="test",
        log=partial(note, said),
        **FIELDS,
    )
    assert any("--validate-on test" in text for text in said)
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["validate_on"] == "test"
    stored = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (stored["sizes"]["train"], stored["held_out"]) == (60, [])
