"""Compare Preprocess with torchvision's transforms, and test its own properties."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from resnets.data.transforms import Preprocess
from resnets.errors import UserError

# Of 255. Pillow resizes one axis, rounds, then resizes the other; which one comes first depends on
# how much is kept.
ROUNDING = 1


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 61), (90, 33), (9, 20), (32, 33)])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_crop_equals_torchvision(
    interpolation: str, height: int, width: int, crop_fraction: float
) -> None:
    image = picture(height, width) // 2 + 64  # no overshoot of bicubic is clipped in between
    ours = Preprocess(size=32, crop_fraction=crop_fraction, interpolation=interpolation)
    mode = v2.InterpolationMode(interpolation)
    theirs = v2.Compose(
        [v2.ToPILImage(), v2.Resize(round(32 / crop_fraction), mode), v2.CenterCrop(32)]
    )
    difference = ours.resize(image).astype(int) - np.array(theirs(image)).astype(int)
    assert np.abs(difference).max() <= ROUNDING


def test_squash_equals_torchvision() -> None:
    image = picture(37, 61)
    theirs = v2.Compose([v2.ToPILImage(), v2.Resize((32, 32))])
    np.testing.assert_array_equal(
        Preprocess(size=32, resize_mode="squash").resize(image), np.array(theirs(image))
    )


def test_right_size_is_left_alone() -> None:
    image = picture(32, 32)
    assert Preprocess(size=32).resize(image) is image
    assert Preprocess(size=32, crop_fraction=0.9).resize(image) is not image


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20000), (20000, 1), (3, 700)])
def test_extreme_shapes(height: int, width: int) -> None:
    assert Preprocess(size=224).resize(picture(height, width)).shape == (224, 224, 3)


def test_one_channel() -> None:
    image = picture(50, 40, 1)
    grey = Preprocess(size=16, channels=1)
    colour = Preprocess(size=16).resize(np.repeat(image, 3, axis=2))
    np.testing.assert_array_equal(grey.resize(image), colour[..., :1])


@pytest.mark.parametrize(
    "image", [picture(8, 8, 1), picture(8, 8)[..., 0], picture(8, 8).astype(np.float32)]
)
def test_resize_refuses_other_arrays(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8 H W 3"):
        Preprocess(size=8).resize(image)


def test_normalise_equals_torchvision() -> None:
    images = torch.from_numpy(np.stack([picture(8, 8), picture(8, 8) // 2])).permute(0, 3, 1, 2)
    ours = Preprocess(size=8)
    theirs = v2.Normalize(list(ours.mean), list(ours.std))(images / 255)
    torch.testing.assert_close(ours.normalise(images), theirs, rtol=0, atol=0)
    last = images.contiguous(memory_format=torch.channels_last)
    assert ours.normalise(last).is_contiguous(memory_format=torch.channels_last)


def test_json_round_trip() -> None:
    before = Preprocess(size=28, channels=1, mean=(0.3,), std=(0.2,), resize_mode="squash")
    assert Preprocess(**json.loads(json.dumps(asdict(before)))) == before
    assert hash(Preprocess(size=28)) == hash(Preprocess(size=28))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 32.0}, "size is 32.0"),
        ({"size": True}, "size is True"),
        ({"channels": 2}, "channels is 2"),
        ({"resize_mode": "squas"}, "did you mean 'squash'"),
        ({"interpolation": "nearest"}, "allowed: bilinear, bicubic"),
        ({"crop_fraction": 0}, "crop_fraction is 0"),
        ({"crop_fraction": 1.5}, "crop_fraction is 1.5"),
        ({"mean": (0.5,)}, "mean has 1 values for 3"),
        ({"std": (0.5, 0.0, 0.5)}, "std holds 0.0"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean holds nan"),
    ],
)
def test_wrong_values(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess(**{"size": 32, **wrong})
