"""What is written is what is read, for any configuration and any folder; nothing but UserError."""

import json
import string
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from resnets.data import open_data
from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.models.config import CHOICES, PARTS, ResNetConfig
from resnets.models.parts import BLOCKS
from resnets.models.resnet import ResNet
from resnets.training.recipe import FIELDS, Recipe

# The same examples on every machine, and as many as take a second or two.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
SMALL = st.integers(1, 3)


@st.composite
def config_values(draw: st.DrawFn) -> dict[str, Any]:
    """Draw fields that are each allowed; some contradict each other."""
    stages = draw(SMALL)
    values: dict[str, Any] = {
        "depths": draw(st.lists(SMALL, min_size=stages, max_size=stages)),
        "widths": draw(st.lists(st.sampled_from([8, 16, 32]), min_size=stages, max_size=stages)),
        "num_classes": draw(st.integers(1, 12)),
        "in_channels": draw(st.sampled_from([1, 3])),
    }
    values |= {
        name: draw(st.sampled_from(sorted(choices))) for name, choices in (CHOICES | PARTS).items()
    }
    values["block"] = draw(st.sampled_from(sorted({**BLOCKS["post"], **BLOCKS["pre"]})))
    rare = {
        "shortcut_strength": st.floats(0, 1),
        "groups": st.sampled_from([1, 2, 4]),
        "splits": st.sampled_from([1, 2, 4]),
        "se": st.floats(0, 0.9),
        "residual_scale": st.floats(0, 1),
        "drop_path": st.floats(0, 0.9),
        "dropout": st.floats(0, 0.9),
        "blur": st.sampled_from([0, 2, 3, 5]),
        "output_stride": st.sampled_from([None, 8, 16, 32]),
    }
    for name in draw(st.sets(st.sampled_from(sorted(rare)), max_size=2)):
        values[name] = draw(rare[name])
    return values


@given(config_values())
def test_an_allowed_network_computes_and_survives_json(values: dict[str, Any]) -> None:
    try:
        config = ResNetConfig(**values)
    except UserError:
        return
    assert ResNetConfig(**json.loads(json.dumps(asdict(config)))) == config
    with torch.device("meta"):
        network = ResNet(config).eval()
        assert network(torch.empty(2, config.in_channels, 32, 32)).shape == (2, config.num_classes)


def refuses_or_makes(kind: type, values: Mapping[str, Any]) -> None:
    """Make an object of any values: it is whole or refused, and equal after JSON."""
    try:
        made = kind(**values)
    except UserError:
        return
    assert kind(**json.loads(json.dumps(asdict(made)))) == made


@given(st.dictionaries(st.sampled_from([f.name for f in fields(ResNetConfig)]), JSON))
def test_any_values_make_a_network_or_are_refused(values: dict[str, Any]) -> None:
    refuses_or_makes(ResNetConfig, {"depths": (1,), "block": "basic", "widths": (8,)} | values)


@given(st.dictionaries(st.sampled_from([f.name for f in fields(Preprocess)]), JSON))
def test_any_values_make_a_preprocessing_or_are_refused(values: dict[str, Any]) -> None:
    refuses_or_makes(Preprocess, {"size": 16} | values)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON, max_size=3))
def test_any_values_make_a_recipe_or_are_refused(values: dict[str, Any]) -> None:
    try:
        recipe = Recipe().override(**values)
    except UserError:
        return
    assert Recipe().override(**json.loads(json.dumps(recipe.flat()))) == recipe


# A file system forbids "/" and NUL; a leading dot hides a folder, and spaces at the ends are cut.
NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name[0] not in ".#@$~_" and name.strip() == name and len(name.encode()) < 99)
LETTERS = st.text(string.ascii_lowercase, min_size=4, max_size=8).map(lambda word: f"x{word}")


@given(st.dictionaries(NAMES, st.integers(1, 4), min_size=2, max_size=5))
def test_a_folder_of_classes_is_read_as_it_was_written(counts: dict[str, int]) -> None:
    with TemporaryDirectory() as place:
        for name, count in counts.items():
            folder = Path(place, name)
            folder.mkdir()
            for number in range(count):
                Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(folder / f"{number}.png")
        try:
            data = open_data(Path(place))
        except UserError:  # two names are one in another Unicode form, or are split names
            return
        found = np.bincount(data.splits["all"].targets).tolist() if "all" in data.splits else []
        assert not found or dict(zip(data.classes, found, strict=True)) == counts


TREES = st.recursive(
    st.sampled_from(["image", "text", "empty"]),
    lambda inner: st.dictionaries(
        LETTERS | st.sampled_from(["train", "val", "test", "train_set", "images", "a.png"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)


@given(st.dictionaries(LETTERS | st.sampled_from(["train", "test", "data"]), TREES, max_size=4))
def test_any_tree_is_a_data_set_or_one_line(tree: dict[str, Any]) -> None:
    with TemporaryDirectory() as place:
        _plant(Path(place), tree)
        try:
            data = open_data(Path(place))
        except UserError:
            return
        assert len(data.classes) >= 2 and data.splits


def _plant(folder: Path, tree: dict[str, Any]) -> None:
    for name, inner in tree.items():
        path = folder / name
        if isinstance(inner, dict):
            path.mkdir()
            _plant(path, inner)
        elif inner == "image":
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(path.with_suffix(".png"))
        else:
            path.write_text("not an image" if inner == "text" else "")
