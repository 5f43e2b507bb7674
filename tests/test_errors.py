"""Test the suggestions for misspelt names."""

from __future__ import annotations

import resnets
from resnets.errors import nearest, shortened, unknown

MEANT = {
    "resnet5O": "resnet50",
    "ResNet50": "resnet50",
    "resnetl8": "resnet18",
    "resnext50-32x4d": "resnext50_32x4d",
    "renset18": "resnet18",
    "wrn2810": "wrn28_10",
    "resnet21": "resnet20",
    "resnet100": "resnet101",
    "plain99_cifar": None,
    "alexnet": None,
}


def test_the_nearest_spelling() -> None:
    names = resnets.list_models()
    assert {given: nearest(given, names) for given in MEANT} == MEANT
    for given, meant in MEANT.items():
        assert (f"did you mean {meant!r}" in str(unknown("model", given, names))) == bool(meant)


def test_nothing_is_suggested_for_another_word() -> None:
    fields = ["epochs", "depth", "clip_grad_norm", "learning_rate"]
    assert nearest("depths", fields) == "depth"
    assert nearest("depths", ["epochs", "width"]) is None
    assert nearest("clip", fields) == "clip_grad_norm"
    assert nearest("", fields) is None
    error = unknown("part", "qqq", ["train", "test"])
    assert str(error) == "unknown part 'qqq'; allowed: train, test"


def test_a_list_is_shortened() -> None:
    names = [str(number) for number in range(2000)]
    assert shortened(names[:2]) == "0, 1"
    assert shortened(names, shown=2) == "0, 1 and 1,998 more"
    assert shortened(names[:1], shown=1, separator="; ", total=3) == "0; and 2 more"
