"""Test-time augmentation: its arithmetic, which images it is used for, and the model file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.inference.model_file import ModelFile
from resnets.inference.predictor import Predictor
from resnets.inference.tta import CONFIDENT, TTAModel, with_tta
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet
from resnets.training.recipe import Recipe

TOLERANCE = 1e-6


class Corners(nn.Module):
    """Linear in single pixels, so that a shift or a mirror image changes the logits."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.num_images = scale, 0

    def forward(self, images: Tensor) -> Tensor:
        self.num_images += len(images)
        pixels: Tensor = images[:, 0] * self.scale
        return torch.stack([pixels[:, 0, 0], pixels[:, 1, 0], pixels[:, 3, 3]], dim=1)


def test_confident_images_have_one_view() -> None:
    images = torch.rand(5, 1, 4, 4)
    images[2] = 0  # all classes alike
    images[[0, 1, 3, 4], 0, 0, 0] = 3
    network = Corners(scale=10.0)
    plain = network(images)
    assert (plain.softmax(1).amax(1) > CONFIDENT).tolist() == [True, True, False, True, True]
    network.num_images = 0
    answer = TTAModel(network, tta="six")(images)
    assert network.num_images == 5 + 5
    assert torch.equal(answer[[0, 1, 3, 4]], plain[[0, 1, 3, 4]])


@pytest.mark.parametrize("tta", ["mirror", "six"])
def test_the_mean_of_the_views(tta: str) -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network = Corners(scale=1e-3)  # never sure
    answer = TTAModel(network, tta=tta)(images).numpy() * 1000
    pixels = images[:, 0].numpy()
    padded = np.pad(pixels, [(0, 0), (1, 1), (1, 1)], mode="reflect")
    views = {"plain": pixels, "up": padded[:, :4, :4], "down": padded[:, 2:, 2:]}
    views |= {f"{name} mirrored": view[:, :, ::-1] for name, view in list(views.items())}
    weights = {"plain": 1 / 2, "plain mirrored": 1 / 2}
    if tta == "six":
        weights = dict.fromkeys(views, 1 / 8) | {"plain": 1 / 4, "plain mirrored": 1 / 4}
    places = [(0, 0), (1, 0), (3, 3)]
    for column, (row, col) in enumerate(places):
        expected = sum(weight * views[name][:, row, col] for name, weight in weights.items())
        np.testing.assert_allclose(answer[:, column], expected, atol=TOLERANCE * 1000)


def test_one_view_is_the_network_itself() -> None:
    network = Corners(scale=1.0)
    assert with_tta(network, "none") is network


def test_a_predictor_uses_the_views_of_its_model_file() -> None:
    torch.manual_seed(0)
    config = ResNetConfig((1,), "basic", (8,), num_classes=3, stem="small")
    file = ModelFile(
        config=config,
        weights=ResNet(config).state_dict(),
        classes=("a", "b", "c"),
        preprocess=Preprocess(size=8),
        scores=None,
        recipe={},
        data={},
    )
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mirrored = image[:, ::-1].copy()
    for views, alike in (("none", False), ("mirror", True)):
        predictor = Predictor(replace(file, preprocess=Preprocess(size=8, tta=views)))
        one, other = (predictor(each) for each in (image, mirrored))
        assert one.probabilities[0] < CONFIDENT
        same = one.classes == other.classes and np.allclose(one.probabilities, other.probabilities)
        assert same == alike


def test_views_are_refused_where_mirror_images_mean_something_else() -> None:
    with pytest.raises(UserError, match="--flip none"):
        Recipe().override(tta="six", flip="none")
    with pytest.raises(UserError, match="mirror"):
        Preprocess(size=8, tta="mirrored")


@pytest.mark.usefixtures("no_charts")
def test_views_travel_in_the_model_file(tmp_path: Path) -> None:
    from resnets.api import train
    from resnets.inference.model_file import read_model

    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz",
        x_train=rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8),
        y_train=np.arange(24) % 2,
    )
    result = train(
        tmp_path / "a.npz",
        out=tmp_path / "run",
        model="resnet8_fast_half",
        size=8,
        steps=1,
        batch_size=4,
        tta="six",
        tune="off",
        workers=0,
        threads=1,
        precision="fp32",
        device="cpu",
    )
    assert read_model(result.model).preprocess.tta == "six"
