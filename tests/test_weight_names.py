"""Test how weights are named, and that those of another network are refused.

torchvision and timm are the references: their own enums, tables and networks.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from cases import for_each
from resnets.api import _configured
from resnets.cli.main import main
from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.inference.weights_preprocess import weights_preprocess
from resnets.models.config import FIELDS, ResNetConfig
from resnets.models.download import canonical_source, timm_source
from resnets.models.overrides import FOREIGN, ResNetFields
from resnets.models.pretrained import FREE, _compare_name, load_weights
from resnets.models.published import published_weights
from resnets.models.registry import (
    MODELS,
    create_model,
    foreign_names,
    list_models,
    split_tag,
    timm_name,
)
from resnets.models.resnet import ResNet, meta_state

Tensors = dict[str, torch.Tensor]


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


@pytest.fixture(scope="module")
def state() -> Tensors:
    torch.manual_seed(0)
    return create_model("resnet18").state_dict()


# Names -------------------------------------------------------------------------------------------


def test_torchvisions_names() -> None:
    for given in ("IMAGENET1K_V2", ResNet50_Weights.IMAGENET1K_V2, ResNet50_Weights.DEFAULT):
        assert canonical_source(given, name="resnet50") == "torchvision:IMAGENET1K_V2"
    assert canonical_source("DEFAULT", name="resnet50") == "torchvision:DEFAULT"
    assert canonical_source(Path("DEFAULT"), name="resnet50") == "DEFAULT"
    message = refusal(lambda: create_model("resnet50", weights=ResNet18_Weights.DEFAULT))
    assert "ResNet18_Weights.IMAGENET1K_V1 is not of resnet50 but of resnet18" in message
    message = refusal(lambda: create_model("resnet50d", weights="DEFAULT"))
    assert "torchvision has no weights for 'resnet50d'" in message
    assert "`resnets models resnet50d --weights`" in message
    assert "expected a text, a path, a state_dict" in refusal(
        lambda: create_model("resnet18", weights=3)  # type: ignore[arg-type]
    )


def test_a_file_that_is_called_as_a_tag_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("DEFAULT").touch()
    assert canonical_source("DEFAULT", name="resnet50") == "DEFAULT"


def test_timms_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timm_source("resnet50.a1_in1k") == "hub:timm/resnet50.a1_in1k"
    assert "did you mean 'resnet50.a1_in1k'?" in refusal(lambda: timm_source("resnet50.a1_in1"))
    assert "are called NETWORK.TAG" in refusal(lambda: timm_source("resnet50"))
    monkeypatch.setattr("resnets.models.download.find_spec", lambda name: None)  # without the hub
    assert timm_source("resnet50.a1_in1k").endswith("resnet50_a1_0-14fe96d1.pth")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert timm_source("resnet50.a1_in1k") == "hub:timm/resnet50.a1_in1k"


def test_a_name_with_a_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_tag("resnet50.a1_in1k", None) == ("resnet50", "timm:resnet50.a1_in1k")
    assert split_tag("resnetv2_50.a1h_in1k", None) == (
        "preact_resnet50",
        "timm:resnetv2_50.a1h_in1k",
    )
    assert split_tag("resnet50", "a.pth") == ("resnet50", "a.pth")
    message = refusal(lambda: create_model("resnet50.a1_in1k", weights="a.pth"))
    assert "leave out weights=, or use 'resnet50'" in message
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "resnets.models.registry.load_weights",
        lambda model, weights, **options: asked.append((weights, options["name"])),
    )
    create_model("resnet18.a1_in1k")
    assert asked == [("timm:resnet18.a1_in1k", "resnet18")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnetv2_50", "timm's resnetv2_50 is 'preact_resnet50' here"),
        ("resnet51", "did you mean 'resnet50'"),
        ("alexnet.v1", "unknown model 'alexnet'; `resnets models` lists all"),
    ],
)
def test_hints_for_names(name: str, words: str) -> None:
    assert words in refusal(lambda: create_model(name))


def test_hints_for_fields() -> None:
    for field, ours in FOREIGN.items():
        message = refusal(lambda field=field: create_model("resnet18", **{field: True}))
        assert ours in message, message
    assert "did you mean 'depths'" in refusal(
        lambda: create_model("resnet18", **{"depht": (1,)})  # type: ignore[arg-type]
    )


def test_the_typed_fields_are_those_of_the_config() -> None:
    typed, config = get_type_hints(ResNetFields), get_type_hints(ResNetConfig)
    explicit = {"num_classes", "in_channels"}
    assert list(typed) == [name for name in config if name not in explicit]
    for name, hint in typed.items():
        lists = hint == tuple[int, ...] | list[int]
        assert config[name] == (tuple[int, ...] if lists else hint), name


# Other networks ----------------------------------------------------------------------------------


SMALL = ResNetConfig((1, 1), "basic", (8, 8), num_classes=10)
BLURRED = dataclasses.replace(SMALL, blur=3)
# What the table says of networks with these names, for small ones.
FOREIGN_NAMES = {"resnet18": ("resnet18", SMALL), "resnetblur18": ("resnetblur18", BLURRED)}


def load(config: ResNetConfig, source: Any) -> None:
    load_weights(
        ResNet(config),
        source,
        name="small",
        fresh_head=False,
        adapt_channels=False,
        foreign=FOREIGN_NAMES,
    )


def test_weights_that_name_another_network_are_refused(tmp_path: Path) -> None:
    """The tensors of a blurred network and of a plain one have the same names and shapes."""
    state = ResNet(SMALL).state_dict()
    words = "resnetblur18, which has blur = 3, this network has blur = 0"
    for content in (
        {"arch": "resnetblur18", "state_dict": state},
        {"args": argparse.Namespace(model="resnetblur18"), "model": state},
    ):
        assert words in refusal(lambda content=content: load(SMALL, content))
        torch.save(content, tmp_path / "a.pth")
        message = refusal(lambda: load(SMALL, tmp_path / "a.pth"))
        assert words in message
        assert "create_model('resnetblur18')" in message
        load(BLURRED, content)
    for name in ("resnetblur18-0123abcd.pth", "resnetblur18_bt_in1k-0123abcd.pth"):
        torch.save(state, tmp_path / name)
        assert words in refusal(lambda name=name: load(SMALL, tmp_path / name))
    torch.save(state, tmp_path / "tv_resnet18-0123abcd.pth")  # an old name of timm
    load(SMALL, tmp_path / "tv_resnet18-0123abcd.pth")
    torch.save(state, tmp_path / "resnetblur18.pth")  # no checksum: a name of the user's
    load(SMALL, tmp_path / "resnetblur18.pth")


def test_a_name_does_not_decide_what_the_tensors_show() -> None:
    """A resnet18 for small images is called resnet18 by those who train it."""
    torch.manual_seed(0)
    state = create_model("resnet18_cifar").state_dict()
    create_model("resnet18_cifar", weights={"arch": "resnet18", "net": state})
    for name in ("my_own_net", "resnetblur18_of_mine"):
        create_model("resnet18_cifar", weights={"arch": name, "net": state})
    message = refusal(lambda: create_model("resnet18", weights={"arch": "resnet34", "net": state}))
    assert "it is of resnet34: create_model('resnet34')" in message


@pytest.mark.parametrize(
    ("twin", "row", "changes"),
    [
        ("resnetaa50", "resnet50", {}),
        ("resnetaa50d", "resnet50d", {}),
        ("seresnetaa50d", "resnet50d", {"se": 1 / 16}),
        ("resnetv2_50x1_bit", "preact_resnet50", {"norm": "group"}),
        (
            "resnetv2_50d_gn",
            "preact_resnet50",
            {"norm": "group", "stem": "deep", "shortcut": "avg_conv"},
        ),
    ],
)
def test_timms_twins_are_refused(twin: str, row: str, changes: dict[str, Any]) -> None:
    """Networks whose tensors fit one of ours that computes something else."""
    config = dataclasses.replace(MODELS[row].config, **changes)
    row_here, _ = foreign_names()[twin]
    for sure in (True, False):
        message = refusal(
            lambda sure=sure: _compare_name(config, twin, "a.pth", foreign_names(), sure=sure)
        )
        assert f"a.pth is of {twin}, which has" in message
        assert f"create_model({row_here!r})" in message
    if tags := timm.list_models(f"{twin}.*", pretrained=True):
        message = refusal(lambda: create_model(row, weights=f"timm:{tags[0]}", **changes))
        assert f"create_model({row_here!r})" in message


@for_each(
    ["resnetaa50", "seresnext50_32x4d"],
    slow=[row for row, config in foreign_names().values() if sum(config.depths) < 40],
)
def test_a_name_tells_networks_with_the_same_tensors_apart(name: str) -> None:
    """Every row with the tensors of another one is refused under the other's name."""
    config = MODELS[name].config
    for theirs, (row, other) in foreign_names().items():
        alike = all(getattr(config, f) == getattr(other, f) for f in FIELDS if f not in FREE)
        sizes = other.depths == config.depths and abs(MODELS[row].keys - MODELS[name].keys) <= 2
        if sizes and not alike and _signature(other) == _signature(config):
            message = refusal(
                lambda theirs=theirs: _compare_name(config, theirs, "a.pth", foreign_names())
            )
            assert f"create_model({row!r})" in message


@functools.cache
def _signature(config: ResNetConfig) -> tuple[tuple[str, torch.Size], ...]:
    state = meta_state(dataclasses.replace(config, num_classes=0)).items()
    return tuple((key, tensor.shape) for key, tensor in state)


def hub_folder(folder: Path, state: Tensors, config: dict[str, Any]) -> Path:
    """A clone of a repository of the hub."""
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_config_json_of_timm(tmp_path: Path) -> None:
    state = ResNet(SMALL).state_dict()
    cfg = timm.get_pretrained_cfg("resnetblur50.bt_in1k").to_dict()
    record = {"architecture": "resnetblur18", "num_classes": 1000, "pretrained_cfg": cfg}
    folder = hub_folder(tmp_path / "a", state, record)
    assert "resnetblur18, which has blur = 3" in refusal(lambda: load(SMALL, folder))
    load(BLURRED, folder)
    assert weights_preprocess("resnetblur18", folder).interpolation == cfg["interpolation"]
    record["architecture"] = "resnet18_of_mine"
    folder = hub_folder(tmp_path / "b", state, record)
    assert "has no network here" in refusal(lambda: load(SMALL, folder))
    (folder / "config.json").write_text("{")
    assert "config.json" in refusal(lambda: load(SMALL, folder))


def test_config_json_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(MODELS["resnet50"].config, depths=(1, 1), widths=(8, 8))
    model = ResNet(config)
    facts: dict[str, Any] = {
        "model_type": "resnet",
        "layer_type": "bottleneck",
        "hidden_act": "relu",
    }
    options: dict[str, Any] = {"name": "small", "fresh_head": False, "adapt_channels": False}
    for number, (change, words) in enumerate(
        {
            ("downsample_in_bottleneck", True): "stride_on = '1x1' (v1), this network has",
            ("downsample_in_first_stage", True): "halves the map in its first stage",
            ("hidden_act", "silu"): "activation = 'silu', this network has activation = 'relu'",
        }.items()
    ):
        folder = hub_folder(tmp_path / str(number), model.state_dict(), facts | dict([change]))
        assert words in refusal(lambda folder=folder: load_weights(model, folder, **options))
    load_weights(model, hub_folder(tmp_path / "good", model.state_dict(), facts), **options)


# What is published -------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "IMAGENET1K_V2", ResNet50_Weights.DEFAULT])
def test_preprocessing_of_torchvision(tag: Any) -> None:
    found = weights_preprocess("resnet50", tag)
    weights = ResNet50_Weights[tag] if isinstance(tag, str) else tag
    theirs = weights.transforms()
    assert [found.size] == theirs.crop_size
    assert [round(found.size / found.crop_fraction)] == theirs.resize_size
    assert [*found.mean] == theirs.mean and [*found.std] == theirs.std
    assert found.interpolation == theirs.interpolation.value
    image = torch.randint(0, 256, (3, 301, 257), dtype=torch.uint8)
    ours = found.resize(image.permute(1, 2, 0).numpy())
    ours = found.normalise(torch.from_numpy(ours).permute(2, 0, 1)[None])
    expected = theirs(torchvision.transforms.functional.to_pil_image(image))[None]
    assert float((ours - expected).abs().mean()) < 0.02  # rounded once instead of twice


@pytest.mark.parametrize(
    "name", ["resnet50.a1_in1k", "resnetv2_50.a1h_in1k", "resnet18d.ra4_e3600_r224_in1k"]
)
def test_preprocessing_of_timm(name: str) -> None:
    found = weights_preprocess(name)
    cfg = timm.get_pretrained_cfg(name).to_dict()
    theirs = timm.data.resolve_data_config(pretrained_cfg=cfg)
    resize = timm.data.create_transform(**theirs).transforms[0].size
    assert theirs["input_size"][-1] == found.size
    assert round(found.size / found.crop_fraction) == resize
    assert (found.mean, found.std) == (theirs["mean"], theirs["std"])
    assert found.interpolation == theirs["interpolation"]


def test_preprocessing_that_is_not_known(state: Tensors, tmp_path: Path) -> None:
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert "no 'resnets' entry" in refusal(lambda: weights_preprocess("resnet18", tmp_path))
    assert "states no preprocessing" in refusal(
        lambda: weights_preprocess("resnet18", "https://example.org/a.pth")
    )
    assert "no weights are given" in refusal(lambda: weights_preprocess("resnet18"))
    assert "a state_dict has none" in refusal(lambda: weights_preprocess("resnet18", state))
    assert "unknown model 'alexnet'" in refusal(lambda: weights_preprocess("alexnet", "DEFAULT"))


def test_every_published_preprocessing_can_be_built() -> None:
    for name in ("resnet18", "resnet50", "resnext50_32x4d", "preact_resnet50"):
        published = published_weights(name, timm_name=timm_name(name))
        assert published
        for weights in published:
            assert isinstance(weights_preprocess(name, weights.source), Preprocess)
            assert 0 < weights.size <= weights.resize


def test_listing_without_timm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resnets.models.published.has_timm", lambda: False)
    assert list_models("resnet50*", weights=True) == ["resnet50"]
    assert main(["models", "resnet50*", "--weights"]) == 0
    printed = capsys.readouterr()
    assert "torchvision:IMAGENET1K_V2" in printed.out
    assert "80.86" in printed.out
    assert "resize 232, crop 224" in printed.out
    assert "timm is not installed" in printed.err


def test_listing_of_networks_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_models("plain*", weights=True) == []
    assert main(["models", "plain*", "--weights"]) == 0
    assert "no weights are published" in capsys.readouterr().err


def test_a_tag_of_torchvision_is_resolved_for_a_run() -> None:
    given = {"weights": "IMAGENET1K_V1", "model": "resnet18"}
    recipe = _configured("finetune", given, timed=False).recipe
    assert recipe.model.weights == "torchvision:IMAGENET1K_V1"
    assert "pass --model too" in refusal(
        lambda: _configured("finetune", {"weights": "IMAGENET1K_V1"}, timed=False)
    )


def test_listing_with_timm(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_models("resnet18*", weights=True) == ["resnet18", "resnet18d"]
    assert main(["models", "resnet18*", "--weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("timm:resnet18.a1_in1k" in line and "bicubic" in line for line in lines)
    assert len(lines) == 1 + sum(
        len(published_weights(name, timm_name=timm_name(name))) for name in list_models("resnet18*")
    )
