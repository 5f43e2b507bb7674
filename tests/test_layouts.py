"""Test the layouts in which the world stores weights: each loads as the plain state_dict does.

A layout is a function that puts the tensors of a network where a project puts them, written after
what its training program saves. The network is a small one of ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import pathlib
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnets.errors import UserError
from resnets.models.pretrained import load_weights
from resnets.models.resnet import ResNet, ResNetConfig

Tensors = dict[str, torch.Tensor]
BASIC = ResNetConfig((1, 1, 1, 1), "basic", (8, 8, 16, 16), num_classes=10)
BOTTLENECK = ResNetConfig((1, 1, 1, 1), "bottleneck", (8, 8, 16, 16), num_classes=10)


def network(config: ResNetConfig = BASIC, seed: int = 0) -> ResNet:
    """A network whose every tensor, the running statistics included, is drawn."""
    torch.manual_seed(seed)
    model = ResNet(config)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim < 2:
            tensor.uniform_(0.5, 1.5)
    return model.eval()


def under(prefix: str, state: Tensors) -> Tensors:
    return {prefix + key: tensor for key, tensor in state.items()}


def body(state: Tensors) -> Tensors:
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


def other(state: Tensors) -> Tensors:
    """The same names with other values: an averaged copy."""
    return {key: tensor + 1 for key, tensor in state.items()}


def projector(prefix: str) -> Tensors:
    return {f"{prefix}{i}.weight": torch.randn(16, 16) for i in (0, 2)}


def arguments(**values: Any) -> argparse.Namespace:
    """What a training program was called with."""
    more = {
        "output_dir": pathlib.Path("/out"),
        "lr": np.float64(0.1),
        "device": torch.device("cpu"),
    }
    return argparse.Namespace(**values, **more, start=datetime.datetime(2024, 1, 2), tags={"a"})


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(8, 3)}}, "param_groups": [{"lr": 0.1}]}


def hugging_face(state: Tensors) -> Tensors:
    """ResNetForImageClassification of transformers."""
    names = {}
    for key, tensor in state.items():
        key = re.sub(r"^conv1\.", "resnet.embedder.embedder.convolution.", key)
        key = re.sub(r"^bn1\.", "resnet.embedder.embedder.normalization.", key)
        key = re.sub(
            r"^layer(\d)\.(\d+)\.",
            lambda found: f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}.",
            key,
        )
        for kind, word in (("conv", "convolution"), ("bn", "normalization")):
            key = re.sub(
                rf"(layers\.\d+\.){kind}(\d)\.",
                lambda found, word=word: f"{found[1]}layer.{int(found[2]) - 1}.{word}.",
                key,
            )
        key = key.replace("downsample.0.", "shortcut.convolution.")
        key = key.replace("downsample.1.", "shortcut.normalization.")
        names[key.replace("fc.", "classifier.1.")] = tensor
    return names


def children(state: Tensors, prefix: str = "") -> Tensors:
    """nn.Sequential(*list(model.children())[:-2]), as fastai cuts a network."""
    places = {"conv1": "0", "bn1": "1", **{f"layer{n}": str(n + 3) for n in range(1, 5)}}
    return {
        f"{prefix}{places[key.partition('.')[0]]}.{key.partition('.')[2]}": tensor
        for key, tensor in body(state).items()
    }


@dataclass(frozen=True)
class Case:
    """A layout; `notice` is what is said, and without a classifier one must be asked for."""

    name: str
    build: Callable[[Tensors], object]
    notice: str = ""
    head: bool = True
    config: ResNetConfig = BASIC


CASES = [
    Case("torchvision", lambda s: s),
    Case(
        "torch references",
        lambda s: {"model": s, "optimizer": OPTIMIZER, "args": arguments(model="resnet18")},
    ),
    Case(
        "torch references, averaged",
        lambda s: {
            "model": s,
            "model_ema": {"n_averaged": torch.tensor(7), **under("module.", other(s))},
            "args": arguments(),
        },
        "took model; left out model_ema",
    ),
    Case(
        "timm train.py",
        lambda s: {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": s,
            "optimizer": OPTIMIZER,
            "args": arguments(),
            "metric": 70.1,
        },
    ),
    Case(
        "timm train.py, averaged",
        lambda s: {"arch": "resnet18", "state_dict": s, "state_dict_ema": other(s)},
        "took state_dict; left out state_dict_ema",
    ),
    Case(
        "pytorch examples",
        lambda s: {
            "arch": "resnet18",
            "state_dict": under("module.", s),
            "best_acc1": torch.tensor(70.0),
            "optimizer": OPTIMIZER,
        },
    ),
    Case("torch.compile in DDP", lambda s: under("module._orig_mod.", s)),
    Case("AveragedModel", lambda s: {"n_averaged": torch.tensor(3), **under("module.", s)}),
    Case(
        "Lightning",
        lambda s: {
            "state_dict": under("model.", s),
            "hyper_parameters": {"lr": 0.1},
            "callbacks": {"c": {"best": torch.tensor(1.0)}},
        },
    ),
    Case("Lightning, net", lambda s: {"state_dict": under("net.", s)}),
    Case(
        "Lightning, criterion",
        lambda s: {"state_dict": {**under("model.", s), "criterion.weight": torch.ones(10)}},
        "left out criterion",
    ),
    Case(
        "DINO backbone",
        body,
        "no classifier",
        head=False,
    ),
    Case(
        "DINO full",
        lambda s: {
            "student": {
                **under("module.backbone.", other(body(s))),
                **projector("module.head.mlp."),
            },
            "teacher": {**under("backbone.", body(s)), **projector("head.mlp.")},
            "optimizer": OPTIMIZER,
            "epoch": 3,
            "args": arguments(arch="resnet18"),
            "dino_loss": {"center": torch.zeros(1, 8)},
        },
        r"took teacher: backbone; left out head \(2 tensors\), dino_loss, student; it has no cla",
        head=False,
    ),
    Case(
        "MoCo v1",
        lambda s: {
            "arch": "resnet18",
            "state_dict": {
                **under("module.encoder_q.", s),
                **under("module.encoder_k.", other(s)),
                "module.queue": torch.randn(16, 9),
                "module.queue_ptr": torch.zeros(1),
            },
        },
        r"took state_dict: module.encoder_q; left out module.encoder_q.fc \(2 tensors\), "
        r"module.encoder_k \(\d+ tensors\), module.queue, module.queue_ptr; .*no classifier",
        head=False,
    ),
    Case(
        "MoCo v2",
        lambda s: {
            "arch": "resnet18",
            "state_dict": {
                **under("module.encoder_q.", {**body(s), **projector("fc.")}),
                **under("module.encoder_k.", {**other(body(s)), **projector("fc.")}),
                "module.queue": torch.randn(16, 9),
            },
        },
        r"encoder_q; left out .*fc",
        head=False,
    ),
    Case(
        "MoCo v3",
        lambda s: {
            "state_dict": {
                **under("module.base_encoder.", {**body(s), **projector("fc.")}),
                **under("module.momentum_encoder.", {**other(body(s)), **projector("fc.")}),
                **projector("module.predictor."),
            }
        },
        "base_encoder; left out .*predictor",
        head=False,
    ),
    Case(
        "SwAV",
        lambda s: {
            **under("module.", body(s)),
            **projector("module.projection_head."),
            "module.prototypes.weight": torch.randn(30, 16),
        },
        r"left out module.projection_head \(2 tensors\), module.prototypes",
        head=False,
    ),
    Case(
        "SimSiam",
        lambda s: {
            "state_dict": {
                **under("module.encoder.", {**body(s), **projector("fc.")}),
                **projector("module.predictor."),
            },
            "arch": "resnet18",
        },
        "encoder; left out",
        head=False,
    ),
    Case(
        "BYOL",
        lambda s: {
            "online_encoder": {**under("net.", body(s)), **projector("projector.")},
            "target_encoder": {**under("net.", other(body(s))), **projector("projector.")},
        },
        "took online_encoder: net; left out",
        head=False,
    ),
    Case(
        "BYOL in one module",
        lambda s: {
            **under("online_encoder.net.", body(s)),
            **projector("online_encoder.projector."),
            **under("target_encoder.net.", other(body(s))),
            **projector("online_predictor."),
        },
        "took online_encoder.net; left out",
        head=False,
    ),
    Case(
        "VICReg",
        body,
        "no classifier",
        head=False,
    ),
    Case(
        "VICReg full",
        lambda s: {
            "epoch": 3,
            "model": {**under("module.backbone.", body(s)), **projector("module.projector.")},
            "optimizer": OPTIMIZER,
        },
        r"left out module.projector \(2",
        head=False,
    ),
    Case(
        "VISSL",
        lambda s: {
            "phase": 3,
            "classy_state_dict": {
                "base_model": {
                    "model": {
                        "trunk": under("_feature_blocks.", body(s)),
                        "heads": projector("0.clf."),
                    },
                    "meta": {},
                }
            },
        },
        "took classy_state_dict.base_model.model.trunk: _feature_blocks; left out .*heads",
        head=False,
    ),
    Case(
        "mmpretrain",
        lambda s: {
            "meta": {"epoch": 100},
            "state_dict": {
                **under("backbone.", body(s)),
                "head.fc.weight": s["fc.weight"],
                "head.fc.bias": s["fc.bias"],
            },
        },
    ),
    Case(
        "mmpretrain, ResNetV1d",
        lambda s: {
            "state_dict": {
                **{
                    re.sub(r"^backbone\.bn1", "backbone.stem.7", key.replace("conv1.", "stem.", 1))
                    if key.startswith(("backbone.conv1", "backbone.bn1"))
                    else key: tensor
                    for key, tensor in under("backbone.", body(s)).items()
                },
                **under("head.fc.", {"weight": s["fc.weight"], "bias": s["fc.bias"]}),
            }
        },
        config=dataclasses.replace(BOTTLENECK, stem="deep", shortcut="avg_conv"),
    ),
    Case(
        "solo-learn",
        lambda s: {
            "state_dict": {
                **under("backbone.", body(s)),
                **projector("projector."),
                "classifier.weight": torch.randn(7, 16),
            },
            "hyper_parameters": arguments(),
        },
        r"left out projector \(2 tensors\), classifier",
        head=False,
    ),
    Case(
        "lightly",
        lambda s: {
            "state_dict": {**under("backbone.", body(s)), **projector("projection_head.layers.")}
        },
        "left out projection_head",
        head=False,
    ),
    Case(
        "backbone alone",
        lambda s: under("backbone.", body(s)),
        "no classifier",
        head=False,
    ),
    Case("timm wrapped", lambda s: under("trunk.", s)),
    Case(
        "torchvision detection",
        lambda s: {
            "model": {
                **under("backbone.body.", {k: t for k, t in body(s).items() if "batches" not in k}),
                "backbone.fpn.inner_blocks.0.0.weight": torch.randn(4, 8, 1, 1),
                "rpn.head.conv.0.0.weight": torch.randn(4, 4, 3, 3),
            }
        },
        "left out backbone.fpn, rpn",
        head=False,
    ),
    Case(
        "torchvision segmentation",
        lambda s: {
            **under("backbone.", body(s)),
            "classifier.0.weight": torch.randn(4, 16, 3, 3),
            "classifier.1.weight": torch.ones(4),
            "aux_classifier.0.weight": torch.randn(4, 16, 3, 3),
        },
        "left out classifier .*aux_classifier",
        head=False,
    ),
    Case("Hugging Face", hugging_face),
    Case("Hugging Face, bottlenecks", hugging_face, config=BOTTLENECK),
    Case(
        "fastai body",
        lambda s: {
            "model": {
                **children(s, "0."),
                "1.2.weight": torch.ones(32),
                "1.4.weight": torch.randn(5, 32),
            },
            "opt": {"state": [{"mom": torch.zeros(3)}], "hypers": [{"lr": 0.1}]},
        },
        r"took model: 0; left out 1\.2, 1\.4|took model: 0; left out 1",
        head=False,
    ),
    Case(
        "children of a network",
        children,
        "no classifier",
        head=False,
    ),
    Case(
        "kuangliu",
        lambda s: {
            "net": {
                "module." + k.replace("fc.", "linear.").replace("downsample", "shortcut"): t
                for k, t in s.items()
            },
            "acc": 95.0,
            "epoch": 199,
        },
    ),
]


def load(model: ResNet, source: object, *, head: bool = True) -> None:
    load_weights(model, source, name="small", fresh_head=not head, adapt_channels=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layout_loads_as_the_plain_state_dict(case: Case, tmp_path: Path) -> None:
    state = network(case.config).state_dict()
    torch.save(case.build(dict(state)), tmp_path / "a.pth")
    model = network(case.config, seed=1)
    before = model.fc.weight.clone()
    if not case.head:
        with pytest.raises(UserError, match="pass num_classes=10 for a new classifier"):
            load(model, tmp_path / "a.pth")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(model, tmp_path / "a.pth", head=case.head)
    told = " ".join(str(warning.message) for warning in caught)
    assert re.search(case.notice, told) if case.notice else not told, told
    loaded = model.state_dict()
    for key in body(state):
        if not (key.endswith("num_batches_tracked") and "detection" in case.name):
            assert torch.equal(loaded[key], state[key]), key
    assert torch.equal(model.fc.weight, state["fc.weight"] if case.head else before)


def test_a_mapping_is_read_as_a_file_is() -> None:
    state = network().state_dict()
    for content in (
        state,
        OrderedDict(under("module.", state)),
        {"state_dict": state, "args": arguments()},
    ):
        model = network(seed=1)
        load(model, content)
        assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)
    model.get_parameter("fc.weight").data.zero_()
    assert bool(state["fc.weight"].any())  # copied


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_pickle_protocol(protocol: int, zipped: bool, tmp_path: Path) -> None:
    state = network().state_dict()
    content = {
        "state_dict": state,
        "args": arguments(),
        "best": np.float32(1.5),
        "ids": np.zeros(3),
    }
    torch.save(
        content,
        tmp_path / "a.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    model = network(seed=1)
    load(model, tmp_path / "a.pth")
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)


def test_two_networks_that_nothing_tells_apart_are_refused() -> None:
    state = network().state_dict()
    both = {**under("left.", state), **under("right.", other(state))}
    with pytest.raises(UserError, match=r"two networks that fit, 'left\.' and 'right\.'"):
        load(network(), both)
    twice = {**under("left.", state), **under("right.", state)}  # one module with two names
    model = network(seed=1)
    with pytest.warns(UserWarning, match="took left; left out right"):
        load(model, twice)
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_the_other_network_of_a_file_is_not_mistaken_for_this_one() -> None:
    student, teacher = network().state_dict(), network(BOTTLENECK).state_dict()
    model = network(seed=1)
    with pytest.warns(UserWarning, match="took small; left out large"):
        load(model, {**under("large.", teacher), **under("small.", student)})
    assert torch.equal(model.fc.weight, student["fc.weight"])


@pytest.mark.parametrize(
    "extra", ["layer5.0.conv1.weight", "layer1.0.se.fc1.weight", "norm.weight"]
)
def test_a_layer_that_the_network_lacks_is_never_left_out(extra: str) -> None:
    for prefix in ("", "module.backbone."):
        state = under(prefix, {**network().state_dict(), extra: torch.ones(8, 8)})
        with pytest.raises(UserError, match=f"the network has no {re.escape(extra)}"):
            load(network(seed=1), state)


def test_a_classifier_is_left_out_only_where_it_is_a_projector_or_not_asked_for() -> None:
    state = network().state_dict()
    model = network(seed=1)
    load(model, {"teacher": state})  # of distillation
    assert torch.equal(model.fc.weight, state["fc.weight"])
    headless = network(seed=1)
    headless.fc = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"the network has no fc\.weight"):
        load(headless, state)


def test_a_network_without_a_classifier_takes_the_body() -> None:
    state = network().state_dict()
    model = network(dataclasses.replace(BASIC, num_classes=0), seed=1)
    load(model, state)
    assert torch.equal(model.state_dict()["conv1.weight"], state["conv1.weight"])
