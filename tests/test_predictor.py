"""Prediction from the model file alone, against the network applied by hand to each image."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.inference.model_file import ModelFile, ModelFileError, save_model
from resnets.inference.predictor import Prediction, Predictor, Source
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet

PARTITION = 1e-5  # probabilities in float32, computed in batches of another size
SIZE = 12
CLASSES = ("ant", "bee", "cow", "dog")


def make_contents(channels: int = 3) -> ModelFile:
    config = ResNetConfig(
        depths=(1, 1),
        block="basic",
        widths=(4, 8),
        num_classes=len(CLASSES),
        in_channels=channels,
        stem="small",
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = ResNet(config)
        with torch.no_grad():  # statistics that differ from a batch's own, and spread answers
            for name, value in network.state_dict().items():
                if name.endswith(("running_mean", "running_var")):
                    value.uniform_(0.1, 0.5)
            network.fc.weight.mul_(5)
    return ModelFile(
        config=config,
        preprocess=Preprocess(size=SIZE, channels=channels, crop_fraction=0.75),
        classes=CLASSES,
        scores=None,
        recipe={},
        data={},
        weights=network.state_dict(),
    )


def make_images(count: int, channels: int = 3) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    generator = np.random.default_rng(count)
    shapes = [(20 + 3 * index % 11, 30 - 2 * index % 9, channels) for index in range(count)]
    return [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


def png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(make_contents())


def assert_close(given: list[Prediction], expected: list[Prediction]) -> None:
    assert [p.classes for p in given] == [p.classes for p in expected]
    for one, other in zip(given, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=PARTITION)


def test_agrees_with_the_network_applied_by_hand(tmp_path: Path) -> None:
    contents = make_contents()
    save_model(tmp_path / "model.safetensors", contents)
    images = make_images(5)
    predictions = list(Predictor(tmp_path / "model.safetensors").predict(images, top=4))
    network = ResNet(contents.config).eval()
    network.load_state_dict(contents.weights)
    for image, prediction in zip(images, predictions, strict=True):
        pixels = torch.tensor(contents.preprocess.resize(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = network(contents.preprocess.normalise(pixels))[0]
        expected = torch.softmax(logits, 0).numpy()
        order = np.argsort(-expected)
        assert prediction.classes == tuple(CLASSES[index] for index in order)
        assert prediction.probabilities == pytest.approx(expected[order], abs=PARTITION)
        assert prediction.error is None
        assert sum(prediction.probabilities) == pytest.approx(1, abs=PARTITION)
    assert len({prediction.classes[0] for prediction in predictions}) > 1


def test_the_batch_size_changes_nothing(predictor: Predictor) -> None:
    images = make_images(9)
    expected = [predictor(image) for image in images]
    for batch_size in (1, 2, 5, 64):
        assert_close(list(predictor.predict(images, batch_size=batch_size)), expected)


def test_every_kind_of_source_gives_the_same_answer(predictor: Predictor, tmp_path: Path) -> None:
    [image] = make_images(1)
    path = tmp_path / "image.png"
    path.write_bytes(png(image))
    sources: list[Source] = [
        path,
        str(path),
        path.read_bytes(),
        image,
        Image.open(path),
        np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),  # opaque
    ]
    predictions = list(predictor.predict(sources))
    assert_close(predictions, [predictor(image)] * len(sources))
    names = [str(path), str(path), "image 2", "image 3", "image 4", "image 5"]
    assert [prediction.source for prediction in predictions] == names


def test_a_picture_is_turned_like_the_file_it_came_from(
    predictor: Predictor, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "turned.png"
    [image] = make_images(1)
    Image.fromarray(image).save(path, exif=exif)
    with Image.open(path) as picture:
        assert_close([predictor(picture)], [predictor(path)])
    assert predictor(path).probabilities != predictor(image).probabilities


def test_a_grey_network_takes_grey_and_coloured_images() -> None:
    predictor = Predictor(make_contents(channels=1))
    [image] = make_images(1, channels=1)
    flat = image[..., 0]
    answers = [predictor(source) for source in (image, flat, np.dstack([flat] * 3), png(flat))]
    assert_close(answers, [answers[0]] * 4)


def test_what_cannot_be_read_is_reported_and_the_rest_goes_on(
    predictor: Predictor, tmp_path: Path
) -> None:
    good = make_images(2)
    whole = png(good[0])
    cut = Image.open(io.BytesIO(whole[:-200]))  # opens, but its pixels end too early
    missing = tmp_path / "missing.jpg"
    bad: list[Any] = [
        missing,
        b"no image",
        whole[:-200],
        cut,
        good[0].astype(np.float32),
        good[0].transpose(2, 0, 1)[:2],
        np.zeros((0, 5, 3), np.uint8),
        17,
    ]
    predictions = list(predictor.predict([good[0], *bad, good[1]], batch_size=3))
    assert_close([predictions[0], predictions[-1]], [predictor(image) for image in good])
    failed = predictions[1:-1]
    assert all(p.error and not p.classes and not p.probabilities for p in failed)
    assert failed[0] == Prediction(str(missing), error="no such file")
    assert failed[2].error is not None
    assert "damaged or incomplete" in failed[2].error
    assert failed[3].error is not None
    assert "damaged or incomplete" in failed[3].error
    assert failed[4].error is not None
    assert "float32" in failed[4].error
    assert failed[7].error is not None
    assert "int is no image" in failed[7].error
    assert failed[7].source == "image 8"


def test_top_is_clipped_and_descends(predictor: Predictor) -> None:
    [image] = make_images(1)
    everything = predictor(image, top=99)
    assert sorted(everything.classes) == sorted(CLASSES)
    assert list(everything.probabilities) == sorted(everything.probabilities, reverse=True)
    best = predictor(image, top=1)
    assert best.classes == everything.classes[:1]
    assert best.probabilities == everything.probabilities[:1]


def test_equal_answers_go_to_the_lower_class() -> None:
    contents = make_contents()
    weights = {**contents.weights, "fc.weight": torch.zeros(4, 8), "fc.bias": torch.zeros(4)}
    answer = Predictor(replace(contents, weights=weights))(make_images(1)[0])
    assert answer.classes == CLASSES
    assert answer.probabilities == (0.25,) * 4


def test_an_answer_that_is_not_finite_is_an_error() -> None:
    contents = make_contents()
    weights = {**contents.weights, "fc.bias": torch.tensor([0, 0, float("nan"), 0])}
    answer = Predictor(replace(contents, weights=weights))(make_images(1)[0])
    assert answer == Prediction("image 0", error="the network's output is not finite")


def test_images_are_taken_as_needed_and_let_go(predictor: Predictor) -> None:
    taken = 0
    [image] = make_images(1)
    encoded = png(np.tile(image, (20, 20, 1)))  # 720 kB once decoded

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield encoded

    predictions = predictor.predict(endless(), batch_size=4)
    next(predictions)
    assert taken == 4
    tracemalloc.start()
    try:
        for _ in range(40):
            next(predictions)
        early = tracemalloc.get_traced_memory()[0]
        for _ in range(120):
            next(predictions)
        grown = tracemalloc.get_traced_memory()[0] - early
    finally:
        tracemalloc.stop()
        predictions.close()  # type: ignore[attr-defined]
    assert taken == 164
    assert grown < 720_000  # less than one of the 120 images


def test_nothing_in_nothing_out(predictor: Predictor) -> None:
    assert list(predictor.predict([])) == []


def test_one_image_is_a_list_of_one(predictor: Predictor, tmp_path: Path) -> None:
    [image] = make_images(1)
    path = tmp_path / "image.png"
    path.write_bytes(png(image))
    for one in (path, str(path), path.read_bytes(), image, image[..., 0], Image.open(path)):
        assert list(predictor.predict(one)) == [predictor(one)]


def test_a_stack_of_images_is_several(predictor: Predictor) -> None:
    stack = np.stack([make_images(1)[0]] * 3)
    assert_close(list(predictor.predict(stack)), [predictor(image) for image in stack])


def test_wrong_requests(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="top is 0"):
        predictor(make_images(1)[0], top=0)
    with pytest.raises(UserError, match="batch_size is 0"):
        predictor.predict([], batch_size=0)
    with pytest.raises(UserError, match="device 'abacus'"):
        Predictor(make_contents(), device="abacus")
    with pytest.raises(ModelFileError, match="there is no model file"):
        Predictor(tmp_path / "nothing.safetensors")
