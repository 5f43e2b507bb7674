"""The same words from Python: train, evaluate, predict, load_model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resnets
import resnets.training.trainer
from resnets.api import choose_split, parse_time
from resnets.data.dataset import notices_of
from resnets.data.decode import decode
from resnets.errors import UserError
from resnets.inference.model_file import ModelFileError, read_model
from resnets.training.auto_config import ResolvedConfig
from resnets.training.trainer import CAUTION, Trainer, TrainingResult

SMALL: dict[str, Any] = {
    "model": "resnet20",
    "size": 16,
    "batch_size": 4,
    "precision": "fp32",
    "threads": 1,
    "tune": "off",
    "workers": 0,
    "evaluate_every": 1.0,
    "steps": 4,
}


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """No page after a run: other tests look at that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnets.training.trainer, "write_report", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey stripes, lying and standing, with two files that are no images; no parts."""
    folder = tmp_path_factory.mktemp("data") / "stripes"
    pattern = np.tile(np.array([[0], [255]], np.uint8), (8, 16))
    for name, stripes in (("lying", pattern), ("standing", pattern.T)):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            Image.fromarray(stripes // (index + 1)).save(folder / name / f"{index}.png")
        (folder / name / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """What the run below said."""
    return []


@pytest.fixture(scope="module")
def result(
    data: Path, records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    """A finished run."""
    recipe = resnets.Recipe().override(max_corrupt=0.2, label_smoothing=0.2)
    out = tmp_path_factory.mktemp("runs") / "one"
    return resnets.train(
        data, recipe=recipe, out=out, log=lambda record: records.append(dict(record)), **SMALL
    )


def test_a_result_says_where_things_are(result: TrainingResult) -> None:
    assert result.model == result.folder / "model.safetensors" and result.model.is_file()
    assert result.scores is not None and result.scores.num_images == 2
    assert (result.split, result.caution, result.signal, result.unsaved) == (
        "validation",
        None,
        None,
        None,
    )


def test_every_record_reaches_the_log(
    result: TrainingResult, records: list[dict[str, Any]]
) -> None:
    kinds = [record["kind"] for record in records]
    assert kinds.count("start") == 1 and {"notice", "train", "validation"} < set(kinds)
    assert kinds.index("start") < kinds.index("train")
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert all(len(record.pop("crc")) == 8 for record in written)
    assert written == [record for record in records if record["kind"] in ("train", "validation")]


def test_unreadable_images_are_listed_with_the_reason(
    result: TrainingResult, records: list[dict[str, Any]]
) -> None:
    stored = json.loads((result.folder / "data.json").read_text())
    assert set(stored["skipped"]) == {"lying/broken.png", "standing/broken.png"}
    said = [record["text"] for record in records if record["kind"] == "notice"]
    assert any(text.startswith("2 unreadable images left out: lying/broken.png (") for text in said)


def test_origins_of_a_given_recipe(result: TrainingResult) -> None:
    config = json.loads((result.folder / "config.json").read_text())
    origins = {name: entry["origin"] for name, entry in config.items()}
    assert origins["label_smoothing"] == "recipe" and origins["size"] == "flag"
    assert origins["momentum"] == "recipe" and origins["crop"] == "data"


def test_a_time_replaces_a_recipes_own_length(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[resnets.Recipe] = []

    class StartedError(Exception):
        pass

    def start(data: Path, config: ResolvedConfig, **_: Any) -> None:
        seen.append(config.recipe)
        raise StartedError

    monkeypatch.setattr(Trainer, "start", start)
    for time in (None, "5m"):
        with pytest.raises(StartedError):
            resnets.train(data, recipe="he2015", time=time)
    assert [recipe.schedule.steps for recipe in seen] == [64_000, None]
    with pytest.raises(UserError, match="--time together with --epochs"):
        resnets.train(data, time="5m", epochs=3)


def test_evaluate_takes_paths_and_contents(result: TrainingResult, data: Path) -> None:
    with pytest.raises(UserError, match="more than --max-corrupt"):
        resnets.evaluate(result.folder, data)
    assert resnets.evaluate(result.folder, data, max_corrupt=0.2).num_images == 20
    clean = data.parent / "clean"
    for path in sorted(data.glob("*/[0-9].png")):
        (clean / path.parent.name).mkdir(parents=True, exist_ok=True)
        (clean / path.parent.name / path.name).write_bytes(path.read_bytes())
    said: list[str] = []
    scores = resnets.evaluate(result.model, clean, log=lambda record: said.append(record["text"]))
    assert scores.num_images == 20 and said == [
        f"scored: all of {clean}, 20 images; 2 classes (lying, standing) of 10 images"
    ]
    assert scores == resnets.evaluate(read_model(result.model), str(clean), workers=0)
    assert isinstance(scores, resnets.Scores)


def test_load_model_is_the_network_of_predict(result: TrainingResult, data: Path) -> None:
    model = resnets.load_model(result.folder)
    assert isinstance(model, resnets.ResNet) and not model.training
    path, preprocess = data / "lying" / "0.png", read_model(result.model).preprocess
    pixels = torch.from_numpy(preprocess.resize(decode(path, channels=1)))
    with torch.inference_mode():
        logits = model(preprocess.normalise(pixels.permute(2, 0, 1)[None]))
    answer = next(resnets.predict(result.folder, path, device="cpu"))
    expected = dict(zip(("lying", "standing"), logits.softmax(1)[0].tolist(), strict=True))
    got = dict(zip(answer.classes, answer.probabilities, strict=True))
    assert got == pytest.approx(expected, abs=1e-6)


def test_predict_takes_one_image_or_several(result: TrainingResult, data: Path) -> None:
    path = data / "standing" / "3.png"
    picture, array = Image.open(path), decode(path, channels=1)
    with picture:
        one_each: list[Any] = [path, str(path), path.read_bytes(), array, picture]
        answers = [list(resnets.predict(result.model, image)) for image in one_each]
        answers += [[one] for one in resnets.predict(result.model, iter(one_each))]
    answers += [[one] for one in resnets.predict(result.model, np.stack([array, array]))]
    assert [len(answer) for answer in answers] == [1] * 12
    assert len({answer[0].classes for answer in answers}) == 1
    probabilities = [answer[0].probabilities for answer in answers]
    np.testing.assert_allclose(probabilities, [probabilities[0]] * 12, atol=1e-6)


def test_a_wrong_model_is_told_at_once_not_at_the_first_answer(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nothing"):
        resnets.predict(tmp_path / "nothing", [])
    with pytest.raises(UserError, match="unknown --device 'tpu'"):
        resnets.evaluate(tmp_path, tmp_path, device="tpu")


@pytest.mark.parametrize(
    "words",
    [
        {"data": "photos"},
        {"time": "5m"},
        {"out": "somewhere"},
        {"recipe": "he2015"},
        {"name": "other"},
    ],
)
def test_resume_takes_its_own_data_and_recipe(
    words: dict[str, Any], result: TrainingResult
) -> None:
    with pytest.raises(
        UserError, match="the run's own data, recipe, time and name: leave out DATA"
    ):
        resnets.train(words.pop("data", None), resume=result.folder, **words)


def test_resume_refuses_changed_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stripes"
    for path in data.glob("*/[0-4].png"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())

    def stop(record: Any) -> None:
        if record["kind"] == "start":
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)  # the folder of the data is remembered whole
    stopped = resnets.train("stripes", out="run", log=stop, **SMALL)
    assert stopped.signal == 2 and stopped.scores is None
    monkeypatch.chdir(folder)
    Image.new("L", (16, 16)).save(folder / "lying" / "new.png")
    with pytest.raises(UserError, match=r"the images in .*stripes changed from .* to "):
        resnets.train(resume=tmp_path / "run")
    (folder / "lying" / "new.png").unlink()
    again = resnets.train(resume=tmp_path / "run")
    assert again.scores is not None and again.signal is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("1m30s", 90),
        (" 45s ", 45),
        (45, 45),
        (2.5, 2.5),
        ("2H", 7200),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "5 apples", "0s", "30s5m", "nan", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match="expected a duration"):
        parse_time(text)


def test_a_number_without_a_unit_is_asked_about() -> None:
    with pytest.raises(UserError, match="10 seconds or minutes\\? write 10s or 10m"):
        parse_time("10")


def test_which_part_is_evaluated() -> None:
    part: Any = object()
    assert choose_split({"train": part, "val": part, "test": part}, None) == "test"
    assert choose_split({"train": part, "val": part}, None) == "val"
    assert choose_split({"train": part}, None) == "train"
    assert choose_split({"all": part}, None) == "all"
    assert choose_split({"train": part, "val": part}, "validation") == "val"
    with pytest.raises(UserError, match="allowed: train, val"):
        choose_split({"train": part, "val": part}, "test")


def test_a_long_list_of_unreadable_images_is_shortened() -> None:
    class Found:
        notices = ("a word of the reader",)
        skipped = tuple((f"{index}.png", "the file is empty") for index in range(12))

    found: Any = Found()
    first, second = notices_of(found)
    assert first == "a word of the reader"
    assert second.startswith("12 unreadable") and second.count("the file is empty") == 10
    assert second.endswith("and 2 more, listed in data.json")


def test_the_caution_names_its_flag() -> None:
    assert "--validate-on test" in CAUTION and "optimistic" in CAUTION
