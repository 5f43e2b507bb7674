"""Recipes: what is refused and how it is said, TOML files, overrides, the named promises."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from docstring_parser import parse

from resnets.cli.train import Train
from resnets.errors import UserError
from resnets.models.registry import MODELS
from resnets.training.recipe import FIELDS, GROUPS, Recipe
from resnets.training.recipes import RECIPES, named_recipe, read_recipe

ROOT = Path(__file__).parent.parent
BELOW_AND_ABOVE: dict[str, tuple[Any, Any]] = {
    "size": (7, 1025),
    "epochs": (0.0, 100_001),
    "steps": (0, 100_000_001),
    "batch_size": (1, 65_537),
    "grad_accum_steps": (0, 4097),
    "learning_rate": (0.0, 101.0),
    "momentum": (-0.1, 1.0),
    "weight_decay": (-1e-9, 1.1),
    "clip_grad_norm": (-1.0, None),
    "warmup": (-0.1, 1.0),
    "freeze_backbone": (-0.1, 1.0),
    "layer_decay": (0.0, 1.1),
    "label_smoothing": (-0.1, 1.0),
    "ema": (-0.1, 1.0),
    "dropout": (-0.1, 1.0),
    "drop_path": (-0.1, 1.0),
    "crop_padding": (-1, 65),
    "min_area": (0.0, 1.1),
    "erasing": (-0.1, 1.1),
    "progressive": (-0.1, 1.1),
    "mixup": (-0.1, 11.0),
    "cutmix": (-0.1, 11.0),
    "val_fraction": (0.0, 0.6),
    "evaluate_every": (0.0, 100_001.0),
    "patience": (-1, 10_001),
    "seed": (-1, 2**31),
    "threads": (0, 1025),
    "workers": (-1, 257),
    "cache_mb": (-1, None),
    "max_corrupt": (-0.1, 1.1),
    "class_level": (0, 10),
    "max_pixels": (1023, 2**36 + 1),
    "checkpoint_every": (-0.1, 100_001.0),
}
OUTSIDE = [
    (name, value) for name, pair in BELOW_AND_ABOVE.items() for value in pair if value is not None
]


def number_fields(*kinds: type) -> list[str]:
    """Fields that hold numbers of these kinds, or None."""
    return [
        name
        for name, info in FIELDS.items()
        if {info.hint, *get_args(info.hint)} & set(kinds or (int, float))
        and get_origin(info.hint) not in (tuple, Literal)
    ]


def comment(name: str) -> str:
    """The comment on top of a recipe's file."""
    lines = RECIPES[name].read_text(encoding="utf-8").splitlines()
    return " ".join(line[1:].strip() for line in itertools.takewhile(bool, lines))


def named(name: str) -> Recipe:
    return Recipe().override(**named_recipe(name))


def refusal(**values: Any) -> str:
    with pytest.raises(UserError) as caught:
        Recipe().override(**values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_number_has_a_range() -> None:
    assert sorted(BELOW_AND_ABOVE) == sorted(number_fields())


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_outside_its_range(name: str, value: float) -> None:
    message = refusal(**{name: value})
    assert f"--{name.replace('_', '-')} {value}" in message
    assert "must be between" in message


def test_ranges_are_told_in_plain_numbers() -> None:
    assert "between 0 and 2,147,483,647" in refusal(seed=-1)
    assert "between 0 and any number" in refusal(clip_grad_norm=-1.0)


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_wrong_type_is_refused_by_the_flags_name(name: str) -> None:
    assert f"--{name.replace('_', '-')}" in refusal(**{name: {"a": "table"}})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": 32.0}, "--size 32.0: expected int"),
        ({"size": True}, "--size True: expected int"),
        ({"learning_rate": "0.1"}, "--learning-rate '0.1': expected float or int"),
        ({"momentum": None}, "--momentum None: expected float"),
        ({"momentum": True}, "--momentum True: expected float"),
        ({"nesterov": 1}, "--nesterov 1: expected bool"),
        ({"model": 18}, "--model 18: expected str"),
        ({"milestones": 0.5}, "--milestones 0.5: expected tuple"),
    ],
)
def test_types(values: dict[str, Any], words: str) -> None:
    assert words in refusal(**values)


@pytest.mark.parametrize("name", number_fields(float))
def test_nan_is_no_number(name: str) -> None:
    assert f"--{name.replace('_', '-')} nan" in refusal(**{name: math.nan})


@pytest.mark.parametrize("name", number_fields(float))
def test_infinity_is_no_number_of_a_recipe(name: str) -> None:
    assert f"--{name.replace('_', '-')} inf" in refusal(**{name: math.inf})


@pytest.mark.parametrize("grad_accum_steps", [4, 8])
def test_a_micro_batch_has_a_variance(grad_accum_steps: int) -> None:
    assert f"--grad-accum-steps {grad_accum_steps}: " in refusal(
        batch_size=4, grad_accum_steps=grad_accum_steps
    )


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("resize_mode", "squish", "squash"),
        ("optimizer", "adam", "adamw"),
        ("schedule", "onecycle", "one_cycle"),
        ("crop", "resize", "resized"),
        ("fill", "reflection", "reflect"),
        ("flip", "randm", "random"),
        ("auto_augment", "randaug", "randaugment"),
        ("validate_on", "tests", "test"),
        ("precision", "f32", "fp32"),
        ("memory_format", "channel_last", "channels_last"),
    ],
)
def test_a_misspelled_choice_names_the_nearest(name: str, given: str, meant: str) -> None:
    message = refusal(**{name: given})
    assert f"--{name.replace('_', '-')} {given!r}" in message
    assert f"did you mean {meant!r}?" in message


@pytest.mark.parametrize(
    "milestones",
    [(0.75, 0.5), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (0.5, math.nan), ("a",), (1,), (True,)],
)
def test_milestones_rise_inside_the_run(milestones: Any) -> None:
    assert "--milestones" in refusal(milestones=milestones)
    assert Recipe().override(milestones=()).schedule.milestones == ()


def test_contradictions() -> None:
    assert "--epochs and --steps both given" in refusal(epochs=3, steps=100)
    assert "--grad-accum-steps 3: must divide --batch-size 32" in refusal(
        batch_size=32, grad_accum_steps=3
    )
    assert Recipe().override(batch_size=32, grad_accum_steps=4).optimizer.grad_accum_steps == 4
    assert Recipe().override(grad_accum_steps=3).schedule.batch_size is None


def test_whole_numbers_serve_as_floats() -> None:
    assert Recipe().override(epochs=8, learning_rate=1).schedule.epochs == 8


def test_every_field_says_what_it_is() -> None:
    for group, config in GROUPS.items():
        described = {one.arg_name: one.description for one in parse(config.__doc__ or "").params}
        assert list(described) == [field.name for field in fields(config)], group
        assert all(len(text or "") > 10 for text in described.values())


def test_flat_names_are_unique_and_round_trip() -> None:
    flat = named("torchvision-v2").flat()
    number = (
        len(fields(Recipe)) - len(GROUPS) + sum(len(fields(group)) for group in GROUPS.values())
    )
    assert len(flat) == number
    assert Recipe().override(**flat) == named("torchvision-v2")


def test_he2015_has_the_papers_numbers() -> None:
    found = named("he2015").flat()
    assert [share * 64_000 for share in found["milestones"]] == [32_000, 48_000]
    assert found["val_fraction"] * 50_000 == 5_000
    expected = {
        "steps": 64_000,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 128,
        "nesterov": False,
        "optimizer": "sgd",
        "schedule": "step",
        "crop": "shift",
        "crop_padding": 4,
        "fill": "zero",
        "flip": "random",
    }
    zeros = ("warmup", "clip_grad_norm", "ema", "label_smoothing", "dropout", "drop_path", "mixup")
    expected |= dict.fromkeys(zeros, 0)
    assert {name: found[name] for name in expected} == expected


def test_finetune_trains_the_head_first_and_early_stages_slowly() -> None:
    recipe = named("finetune")
    assert 0 < recipe.schedule.freeze_backbone < 0.5
    assert recipe.optimizer.layer_decay < 1


def test_torchvision_v2_has_the_sources_numbers() -> None:
    found = named("torchvision-v2").flat()
    expected = {
        "model": "resnet50",
        "epochs": 600,
        "batch_size": 8 * 128,
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": False,
        "learning_rate": 0.5,
        "weight_decay": 2e-5,
        "schedule": "cosine",
        "mixup": 0.2,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "auto_augment": "trivialaugment",
        "erasing": 0.1,
        "size": 176,
        "resize_mode": "crop",
        "crop": "resized",
        "min_area": 0.08,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["warmup"] * 600 == pytest.approx(5)
    # train.py: alpha = (1 - 0.99998) * world size * batch * 32 / epochs, at every 32nd step
    decay = 1 - (1 - 0.99998) * 8 * 128 * 32 / 600
    assert found["ema"] ** 32 == pytest.approx(decay, abs=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_the_comment_of_a_recipe_is_a_promise(name: str) -> None:
    """A source, a figure, and who measured it: we, with a command, or others, with what differs."""
    assert Recipe().override(**named_recipe(name)) == named(name)
    text = comment(name)
    promise = text.partition("Promise: ")[2]
    assert re.search(r"\d", promise)
    if "not rerun by us" in promise:
        assert re.search(r"arXiv \d{4}\.\d{5}|Source: ", text)
        assert "Differs from the" in text
    else:
        assert "RESULTS.md" in promise
        assert re.search(r"`(resnets|make|benchmarks/)", promise)


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_promise_names_exists(name: str) -> None:
    names = (*FIELDS, *(field.name for field in fields(Train)))
    flags = {f"--{name.replace('_', '-')}" for name in names}
    for quoted in re.findall(r"`([^`]+)`", comment(name)):
        words = quoted.split()
        assert {word for word in words if word.startswith("--")} <= flags
        for flag, value in itertools.pairwise(words):
            assert value in {"--model": MODELS, "--recipe": RECIPES}.get(flag, [value])
        if words[0].startswith("benchmarks/"):
            assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_a_copy_of_a_named_recipe_is_that_recipe(name: str, tmp_path: Path) -> None:
    copied = write(tmp_path / "copy.toml", RECIPES[name].read_text(encoding="utf-8"))
    assert read_recipe(copied) == named_recipe(name)


def test_unknown_recipe() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'he2016'; did you mean 'he2015'\?"):
        named_recipe("he2016")


def test_override_replaces_and_checks() -> None:
    recipe = Recipe().override(**{"batch-size": 64, "milestones": [0.25, 0.5]})
    assert (recipe.schedule.batch_size, recipe.schedule.milestones) == (64, (0.25, 0.5))
    assert recipe.override(batch_size=None, milestones=(0.5, 0.75)) == Recipe()
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        Recipe().override(learning_rates=0.1)
    with pytest.raises(UserError, match="--momentum"):
        Recipe().override(momentum=2.0)


def test_epochs_asked_for_replace_a_recipes_steps_and_the_reverse() -> None:
    he = named("he2015")
    assert he.override(epochs=3) == he.override(epochs=3, steps=None)
    assert Recipe().override(epochs=3).override(steps=7) == Recipe().override(steps=7)
    assert he.override(epochs=None).schedule.steps == 64_000
    with pytest.raises(UserError, match="both given"):
        he.override(epochs=3, steps=7)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_recipe_file(tmp_path: Path) -> None:
    path = write(tmp_path / "r.toml", "epochs = 8\nmodel = 'resnet20'\nmilestones = [0.1, 0.2]\n")
    assert read_recipe(path) == {"epochs": 8, "model": "resnet20", "milestones": [0.1, 0.2]}


def test_recipe_file_over_a_named_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "r.toml", "recipe = 'he2015'\nbatch-size = 64\nepochs = 2.5\n")
    found = read_recipe(path)
    assert "steps" not in found
    assert Recipe().override(**found) == named("he2015").override(batch_size=64, epochs=2.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = \n", "not readable as TOML"),
        ("epochz = 3\n", "unknown recipe field 'epochz'; did you mean 'epochs'"),
        ("recipe = 'he15'\n", "unknown recipe 'he15'"),
        ("momentum = nan\n", "--momentum nan"),
        ("[model]\nname = 'resnet20'\n", "--model {'name': 'resnet20'}: expected str"),
        ("epochs = 2020-01-01\n", "--epochs"),
    ],
)
def test_recipe_file_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(write(tmp_path / "r.toml", text))
    assert words in str(caught.value)


def test_recipe_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(UserError, match="cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(UserError, match="not readable"):
        read_recipe(tmp_path / "bytes.toml")


def test_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, resnets.training.recipes;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
