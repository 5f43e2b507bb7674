"""Test foreign weights: a network filled from a file computes what its source computed.

References: torchvision and timm (networks, and timm's rule for input channels). What downloads is
served on loopback, broken in all the ways that servers break.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import socket
import sys
import threading
import urllib.request
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from email.message import Message
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.models._manipulate import adapt_input_conv
from torch import nn

from resnets.data.transforms import Preprocess
from resnets.errors import UserError, public_name
from resnets.fileio import cache_dir
from resnets.inference.model_file import ModelFile, save_model
from resnets.models.download import (
    TORCHVISION_NETWORKS,
    Progress,
    _Redirects,
    _show_progress,
    torchvision_url,
)
from resnets.models.pretrained import load_weights
from resnets.models.registry import MODELS, create_model
from resnets.models.resnet import ResNet, ResNetConfig
from resnets.models.torch_file import open_torch_file

SMALL = ResNetConfig((1, 1), "basic", (8, 16), num_classes=10, stem="small")
SAME = 1e-10  # float64 logits of one network written twice
Tensors = dict[str, torch.Tensor]


def network(seed: int, **changes: Any) -> ResNet:
    """A small network whose every tensor, the running statistics included, is drawn."""
    torch.manual_seed(seed)
    return drawn(ResNet(dataclasses.replace(SMALL, **changes)))


def drawn(module: Any) -> Any:
    for tensor in module.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim < 2:
            tensor.uniform_(0.5, 1.5)
    return module.eval()


def load(model: ResNet, source: Any, **changes: Any) -> None:
    options = {"name": "small", "fresh_head": False, "adapt_channels": False, **changes}
    load_weights(model, source, **options)


def refusal(source: Any, model: ResNet | None = None, **changes: Any) -> str:
    """The one line that the user gets; the network must be as it was."""
    model = network(1) if model is None else model
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load(model, source, **changes)
    assert equal(model.state_dict(), before)
    message = str(caught.value)
    assert "\n" not in message
    return message


def equal(one: Tensors, other: Tensors) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# Files -------------------------------------------------------------------------------------------


def test_safetensors_and_both_torch_formats(tmp_path: Path) -> None:
    state = network(0).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    saved(tmp_path / "zip.bin", state)  # the ending of a name tells nothing
    torch.save(state, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    for file in (*sorted(tmp_path.iterdir()), tmp_path):  # a folder: its model.safetensors
        model = network(1)
        assert not equal(model.state_dict(), state)
        load(model, file)
        assert equal(model.state_dict(), state), file


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_and_prefixes(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = network(0).state_dict()
    inner = {prefix + key: tensor for key, tensor in state.items()}
    model = network(1)
    load(model, str(saved(tmp_path / "a.pth", {wrapper: inner, "epoch": 3, "optimizer": {}})))
    assert equal(model.state_dict(), state)


def test_averaged_weights_come_second_and_lose_their_counter(tmp_path: Path) -> None:
    plain, averaged = network(0).state_dict(), network(2).state_dict()
    ema = {"n_averaged": torch.tensor(7), **{f"module.{k}": v for k, v in averaged.items()}}
    model = network(1)
    with pytest.warns(UserWarning, match="took model; left out model_ema"):
        load(model, saved(tmp_path / "a.pth", {"model_ema": ema, "model": plain}))
    assert equal(model.state_dict(), plain)
    load(model, saved(tmp_path / "a.pth", {"model_ema": ema}))
    assert equal(model.state_dict(), averaged)


def test_half_precision_is_read_into_the_networks_own_type(tmp_path: Path) -> None:
    state = network(0).half().state_dict()
    model = network(1)
    load(model, saved(tmp_path / "a.pth", state))
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, state["fc.weight"].float())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_as_torch_reads_them(tmp_path: Path, zipped: bool) -> None:
    storage = torch.randn(40)
    parameter = nn.Parameter(torch.randn(3))
    parameter.note = [1]  # type: ignore[attr-defined]
    noted = torch.randn(2)
    noted.note = "kept by torch.save"  # type: ignore[attr-defined]
    tensors = {
        "view": storage[4:16].view(3, 4).t(),
        "other view": storage[::2],
        "expanded": torch.ones(1).expand(5),
        "number": torch.tensor(3),
        "none": torch.empty(0, 3),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(2)),
        "parameter with a note": parameter,
        "tensor with a note": noted,
        **{str(t): torch.ones(3).to(t) for t in (torch.float64, torch.float16, torch.bfloat16)},
        **{str(t): torch.ones(3).to(t) for t in (torch.bool, torch.uint8, torch.complex64)},
        **(
            {
                "f8": torch.ones(3).to(torch.float8_e5m2),
                "u16": torch.ones(3).short().view(torch.uint16),
            }
            if zipped
            else {}
        ),
    }
    content = {
        "model": OrderedDict(tensors),
        "others": [None, True, -5, 2**70, 1.5, "é", b"bytes", {1, 2}, 1j, torch.device("cpu")],
        "more": (torch.float16, torch.Size([1]), Counter("aab"), bytearray(b"a")),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "betas": (0.9, 0.999)},
        7: "a number for a name",
    }
    file = tmp_path / "a.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    expected = torch.load(file, weights_only=True)["model"]
    with open_torch_file(file, source="a.pth") as saved_file:
        found: Any = saved_file.content
        assert list(found) == list(content)
        assert found["others"][:6] == content["others"][:6]
        assert found["optimizer"]["betas"] == (0.9, 0.999)
        assert list(found["model"]) == list(expected)
        for name, tensor in expected.items():
            own = saved_file.tensor(found["model"][name])
            assert (own.dtype, own.shape, own.stride()) == (
                tensor.dtype,
                tensor.shape,
                tensor.stride(),
            )
            assert own.tolist() == tensor.tolist(), name


def test_numbers_of_a_big_endian_machine_are_swapped(tmp_path: Path) -> None:
    state = network(0).half().state_dict()
    saved(tmp_path / "a.pth", state)
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as source,
        zipfile.ZipFile(tmp_path / "b.pth", "w") as target,
    ):
        widths = {tensor.numel() * tensor.itemsize: tensor.itemsize for tensor in state.values()}
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, f"V{widths[len(content)]}")
                words = content.view(np.uint8).reshape(len(content), -1)
                content = words[:, ::-1].tobytes()
            target.writestr(name, content)
    model = network(1)
    load(model, tmp_path / "b.pth")
    assert torch.equal(model.fc.weight, state["fc.weight"].float())


# Layouts -----------------------------------------------------------------------------------------


def test_kuangliu_layout(tmp_path: Path) -> None:
    source = drawn(torchvision.models.resnet18(num_classes=10))
    source.conv1, source.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    foreign = {
        "module." + key.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for key, tensor in source.state_dict().items()
    }
    file = saved(tmp_path / "ckpt.pth", {"net": foreign, "acc": 95.1, "epoch": 199})
    model = create_model("resnet18_cifar", weights=str(file)).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), source(images))


def test_akamaster_layout_of_old_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = drawn(create_model("resnet20"))
    foreign = {
        "module." + key.replace("fc.", "linear."): tensor
        for key, tensor in source.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    content, file = {"state_dict": foreign, "best_prec1": 91.78}, tmp_path / "resnet20-12fca82f.th"
    torch.save(content, file, _use_new_zipfile_serialization=False)
    model = create_model("resnet20", weights=str(file)).eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images), source(images))
    assert int(model.get_buffer("bn1.num_batches_tracked")) == 0


@pytest.mark.parametrize(
    ("twin", "config"),
    [
        ("resnetv2_50", ResNetConfig((1, 2, 1, 1), "bottleneck", order="pre")),
        (
            "resnetv2_18d",
            ResNetConfig((1, 2, 1, 1), "basic", order="pre", stem="deep", shortcut="avg_conv"),
        ),
    ],
)
def test_timm_preactivation_layout(tmp_path: Path, twin: str, config: ResNetConfig) -> None:
    torch.manual_seed(0)
    source = drawn(timm.create_model(twin, layers=(1, 2, 1, 1))).double()
    assert source.state_dict()["head.fc.weight"].ndim == 4
    safetensors.torch.save_file(source.state_dict(), tmp_path / "model.safetensors")
    model = ResNet(config).double().eval()
    load(model, tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    torch.testing.assert_close(model(images), source(images), rtol=SAME, atol=SAME)


def test_timm_postactivation_layout_is_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = drawn(timm.create_model("resnet50d", layers=(1, 2, 1, 1))).double()
    file = saved(tmp_path / "a.pth", source.state_dict())
    config = ResNetConfig((1, 2, 1, 1), "bottleneck", stem="deep", shortcut="avg_conv")
    model = ResNet(config).double().eval()
    load(model, file)
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    torch.testing.assert_close(model(images), source(images), rtol=SAME, atol=SAME)


# Our model file: its ResNetConfig is compared ----------------------------------------------------

BOTTLENECK = {"block": "bottleneck", "depths": (1, 1)}


def model_file(path: Path, model: ResNet) -> Path:
    config = model.config
    channels = config.in_channels
    contents = ModelFile(
        config=config,
        preprocess=Preprocess(
            size=32, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels
        ),
        classes=tuple(f"class {number}" for number in range(config.num_classes)),
        scores=None,
        recipe={},
        data={},
        weights=model.state_dict(),
    )
    save_model(path, contents)
    return path


def test_own_model_file(tmp_path: Path) -> None:
    source = network(0, **BOTTLENECK)
    file = model_file(tmp_path / "model.safetensors", source)
    freely = {
        "init": "dirac",
        "drop_path": 0.2,
        "dropout": 0.1,
        "residual_init": "zero",
        "stem_width": 8,
    }
    model = network(1, **BOTTLENECK, **freely)
    load(model, file)
    assert equal(model.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    ("field", "theirs", "ours", "layout"),
    [
        ("stride_on", "3x3", "1x1", BOTTLENECK),
        ("shortcut", "pad", "none", {}),
        ("blur", 3, 0, {}),
    ],
)
def test_own_model_file_of_a_twin_is_refused(
    tmp_path: Path, field: str, theirs: object, ours: object, layout: dict[str, Any]
) -> None:
    source = network(0, **layout, **{field: theirs})
    model = network(1, **layout, **{field: ours})
    assert list(source.state_dict()) == list(model.state_dict())  # no key tells them apart
    message = refusal(model_file(tmp_path / "model.safetensors", source), model)
    assert f"{field} = {theirs!r}" in message
    assert f"{field} = {ours!r}" in message


def test_own_model_file_with_a_broken_record(tmp_path: Path) -> None:
    for record in ("{", "[]", "{}", json.dumps({"config": {"colour": 1}})):
        file = tmp_path / "model.safetensors"
        safetensors.torch.save_file(network(0).state_dict(), file, {"resnets": record})
        assert "damaged" in refusal(file)


def test_flipped_bits_of_our_own_files_are_refused(tmp_path: Path) -> None:
    source = network(0)
    content = model_file(tmp_path / "model.safetensors", source).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    draw = np.random.default_rng(0)
    places = [
        *draw.integers(0, len(content), 100),  # nearly all in the numbers
        *draw.integers(0, header, 60),
        *range(8, 48),  # the names of the metadata and of the record
    ]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(draw.integers(8))
        (tmp_path / "model.safetensors").write_bytes(damaged)
        assert "model.safetensors" in refusal(tmp_path / "model.safetensors")


def test_flipped_bits_of_torch_files_are_refused_or_without_consequence(tmp_path: Path) -> None:
    source = network(0)
    content = saved(tmp_path / "a.pth", source.state_dict()).read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for place in draw.integers(0, len(content), 100):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(draw.integers(8))
        (tmp_path / "a.pth").write_bytes(damaged)
        model = network(1)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        try:
            load(model, tmp_path / "a.pth")
        except UserError:
            refused += 1
            assert equal(model.state_dict(), before)
        else:
            assert equal(model.state_dict(), source.state_dict())
    assert refused > 50  # the others lie in padding, times and versions


# Classes and channels ----------------------------------------------------------------------------


def test_other_classes_need_the_callers_word(tmp_path: Path) -> None:
    source = network(0, num_classes=7)
    file = saved(tmp_path / "a.pth", source.state_dict())
    message = refusal(file)
    assert "fc.weight is 7 x 16 in the file, 10 x 16 in the network" in message
    assert "num_classes=7" in message
    assert "num_classes=10" in message
    model = network(1)
    head = model.fc.weight.clone()
    load(model, file, fresh_head=True)
    assert torch.equal(model.fc.weight, head)
    assert torch.equal(model.get_parameter("bn1.weight"), source.get_parameter("bn1.weight"))


def test_a_head_that_fits_is_used_and_a_missing_one_may_be_fresh(tmp_path: Path) -> None:
    state = network(0).state_dict()
    model = network(1)
    load(model, saved(tmp_path / "a.pth", state), fresh_head=True)
    assert equal(model.state_dict(), state)
    headless = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    file = saved(tmp_path / "b.pth", headless)
    assert "lacks fc.weight, fc.bias; pass num_classes=10 for a new" in refusal(file)
    model = network(1)
    head = model.fc.weight.clone()
    with pytest.warns(UserWarning, match="no classifier, so fc keeps its initial values"):
        load(model, file, fresh_head=True)
    assert torch.equal(model.fc.weight, head)
    wider = network(1, widths=(8, 24), num_classes=4)  # a head of other features is no such case
    assert "layer2.0.conv1.weight is" in refusal(tmp_path / "a.pth", wider, fresh_head=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("stem", ["small", "deep"])
def test_channels_by_timms_rule(tmp_path: Path, channels: int, stem: str) -> None:
    source = network(0, stem=stem)
    key = "conv1.weight" if stem == "small" else "conv1.0.weight"
    model = network(1, stem=stem, in_channels=channels)
    load(model, saved(tmp_path / "a.pth", source.state_dict()), adapt_channels=True)
    expected = adapt_input_conv(channels, source.state_dict()[key])
    torch.testing.assert_close(model.state_dict()[key], expected)


def test_a_grey_network_answers_alike_in_colour_and_back(tmp_path: Path) -> None:
    source = network(0, in_channels=1)
    colour = network(1)
    load(colour, saved(tmp_path / "grey.pth", source.state_dict()), adapt_channels=True)
    grey = network(2, in_channels=1)
    load(grey, saved(tmp_path / "colour.pth", colour.state_dict()), adapt_channels=True)
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(colour(images.expand(2, 3, 8, 8)), source(images))
    torch.testing.assert_close(grey(images), source(images))


def test_other_channels_need_the_callers_word(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pth", network(0).state_dict())
    message = refusal(file, network(1, in_channels=1))
    assert "conv1.weight is 8 x 3 x 3 x 3 in the file, 8 x 1 x 3 x 3 in the network" in message
    assert "in_channels=3" in message
    assert "in_channels=1" in message


def test_create_model_passes_the_callers_word(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = create_model("resnet20")
    file = str(saved(tmp_path / "a.pth", source.state_dict()))
    model = create_model("resnet20", num_classes=3, in_channels=1, weights=file)
    assert model.fc.out_features == 3
    expected = source.state_dict()["conv1.weight"].sum(1, keepdim=True)
    assert torch.equal(model.state_dict()["conv1.weight"], expected)
    three = str(saved(tmp_path / "b.pth", model.state_dict()))
    with pytest.raises(UserError, match=r"in_channels=1 .*num_classes=3 "):
        create_model("resnet20", weights=three)
    assert create_model("resnet20", num_classes=10, in_channels=3, weights=three).fc.out_features


def test_another_network_is_named_by_its_tensors(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "a.pth", network(0, depths=(2, 1)).state_dict()))
    assert "the network has no layer1.1.conv1.weight, layer1.1.bn1.weight" in message
    assert "and 9 more" in message
    assert "does not fit small" in message
    message = refusal(tmp_path / "a.pth", network(1, depths=(2, 2)))
    assert "lacks layer2.1.conv1.weight" in message
    message = refusal(tmp_path / "a.pth", network(1, depths=(2, 1), widths=(8, 24)))
    assert "layer2.0.conv1.weight is 16 x 8 x 3 x 3 in the file, 24 x 8 x 3 x 3" in message
    assert "choose the network" in message


# Files that are refused --------------------------------------------------------------------------


class Touch:
    """Unpickled without care, it runs a function of its author's choice."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.victim,))


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    whole = refusal(saved(tmp_path / "a.pth", network(0)))
    assert "resnets.models.resnet.ResNet" in whole
    assert "only its state_dict" in whole
    victim = tmp_path / "victim"
    assert "more than tensors" in refusal(saved(tmp_path / "b.pth", Touch(victim)))
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Touch(victim)))
    refusal(tmp_path / "c.pth")
    assert not victim.exists()


def test_what_is_no_weight_file(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    cases = {
        b"": "is empty",
        b"<!DOCTYPE html><html>": "a web page",
        b"version https://git-lfs.github.com/config/v1\n": "starts with 'version https://git-lfs",
        b"\x89PNG\r\n": "neither a safetensors nor a torch file",
        b"\x10\0\0\0\0\0\0\0{not json": "truncated",
    }
    for content, words in cases.items():
        file.write_bytes(content)
        assert words in refusal(file)
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    assert "not written by torch.save" in refusal(tmp_path / "a.npz")


def test_the_last_tensor_is_checked_before_the_first_is_loaded(tmp_path: Path) -> None:
    for key, value in (("fc.bias", float("nan")), ("layer2.0.bn2.running_var", -1e-3)):
        state = network(0).state_dict()
        state[key][-1] = value
        assert key in refusal(saved(tmp_path / "a.pth", state))
    state = network(0).state_dict()
    state["fc.bias"] = state["fc.bias"].to(torch.int8)
    assert "fc.bias is of type int8" in refusal(saved(tmp_path / "a.pth", state))
    unused = network(0, num_classes=7).state_dict()
    unused["fc.weight"][0] = float("nan")  # replaced by a new classifier
    load(network(1), saved(tmp_path / "a.pth", unused), fresh_head=True)


def test_truncated_files(tmp_path: Path) -> None:
    state = network(0).state_dict()
    safetensors.torch.save_file(state, tmp_path / "a")
    saved(tmp_path / "b", state)
    torch.save(state, tmp_path / "c", _use_new_zipfile_serialization=False)
    for name in "abc":
        whole = (tmp_path / name).read_bytes()
        for length in (len(whole) // 2, len(whole) - 9, 9):
            (tmp_path / "cut").write_bytes(whole[:length])
            assert "cut" in refusal(tmp_path / "cut")


def test_no_table_of_tensors(tmp_path: Path) -> None:
    assert "contains no state_dict" in refusal(saved(tmp_path / "a.pth", torch.zeros(3)))
    assert "contains no state_dict" in refusal(saved(tmp_path / "a.pth", {"state_dict": {}}))
    assert "not tensors: epoch" in refusal(saved(tmp_path / "a.pth", {"epoch": 3}))


def test_no_such_file(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path / "absent.pth")
    assert "torchvision has no weights for 'small'" in refusal("IMAGENET1K_V1")
    assert "folder without model.safetensors" in refusal(tmp_path)
    assert "weights must be a path" in refusal(True)
    assert "hub:owner/name" in refusal("ftp://example.org/a.pth")


# Downloads ---------------------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """Serves `answers` on loopback, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(self.command == "GET")

            do_HEAD = do_GET  # noqa: N815

            def answer(self, with_body: bool) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                missing = (404, {"X-Error-Code": "EntryNotFound"}, b"")
                status, headers, body = outer.answers.get(self.path, missing)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def offer(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.answers[path] = (status, named, body)
        return self.url + path

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # urllib keeps its opener, and with it the proxies of the first request of the process.
    monkeypatch.setattr(urllib.request, "_opener", None)
    server = Server()
    yield server
    server.close()


def cached() -> list[Path]:
    return sorted(cache_dir("weights").iterdir()) if cache_dir("weights").is_dir() else []


def as_bytes(model: nn.Module) -> bytes:
    return safetensors.torch.save(model.state_dict())


def test_a_url_is_downloaded_once(server: Server) -> None:
    source = network(0)
    url = server.offer("/releases/model.safetensors", as_bytes(source))
    other = server.offer("/others/model.safetensors", as_bytes(network(3)))
    for _ in range(2):
        model = network(1)
        load(model, url)
        assert equal(model.state_dict(), source.state_dict())
    assert server.asked == ["GET /releases/model.safetensors"]
    load(model, other)  # the same file name from elsewhere is another file
    assert equal(model.state_dict(), network(3).state_dict())
    assert len(cached()) == 2
    assert cached()[0].name.endswith("-model.safetensors")


def test_a_download_that_ends_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its thread has counted every byte before the one that watches it goes on.
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.run)
    model = network(1)
    load(model, server.offer("/a.safetensors", as_bytes(network(0))))
    assert equal(model.state_dict(), network(0).state_dict())


def test_the_checksum_in_a_file_name_is_checked(server: Server) -> None:
    body = as_bytes(network(0))
    digest = sha256(body).hexdigest()
    for good in (digest[:8], digest, "20230131"):  # the last is a date
        load(network(1), server.offer(f"/small-{good}.pth", body))
    assert len(cached()) == 3
    message = refusal(server.offer("/small-0123abcd.pth", body))
    assert "0123abcd" in message
    assert digest[:12] in message
    assert len(cached()) == 3


def test_the_cache_is_verified_at_every_use(server: Server) -> None:
    url = server.offer("/a.safetensors?key=hidden", as_bytes(network(0)))
    load(network(1), url)
    (path,) = cached()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = refusal(url)
    assert f"{path} is damaged" in message
    assert f"delete it, and {server.url}/a.safetensors is downloaded again" in message
    path.unlink()
    load(network(1), url)
    assert len(server.asked) == 2


def test_addresses_are_shown_without_secrets() -> None:
    for address, shown in {
        "https://host/a/b.pth": "https://host/a/b.pth",
        "HTTPS://host:80/a?token=x#y": "HTTPS://host:80/a",
        "https://me:pass@host/a": "https://host/a",
        "https://me@host": "https://host",
        "https://host/npm@1.2/a": "https://host/npm@1.2/a",
        "https://[::1]:80/a@b": "https://[::1]:80/a@b",
        "https://me:x@[::1]:80/a": "https://[::1]:80/a",
        "https://me:pa/ss@host/a": "https://host/a",
        "https://me:pa?ss@host/a": "https://...",
        "https://host/a\x1b": "https://host/a\\x1b",
        "hub:owner/name": "hub:owner/name",
        "C:\\a?b": "C:\\a?b",
    }.items():
        assert public_name(address) == shown


def test_https_is_never_left() -> None:
    redirects, headers = _Redirects(), Message()
    secure = urllib.request.Request("https://host/a")
    for target in ("http://host/a", "ftp://host/a"):
        with pytest.raises(HTTPError, match="not followed"):
            redirects.redirect_request(secure, None, 302, "", headers, target)
    followed = redirects.redirect_request(secure, None, 302, "", headers, "https://other/b")
    assert followed is not None
    assert followed.full_url == "https://other/b"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class SixServer(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    monkeypatch.setenv("NO_PROXY", "::1")
    server.offer("/a.safetensors", as_bytes(network(0)))
    try:
        six = SixServer(("::1", 0), server.http.RequestHandlerClass)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    threading.Thread(target=six.serve_forever, args=(0.01,), daemon=True).start()
    model = network(1)
    load(model, f"http://[::1]:{six.server_address[1]}/a.safetensors")
    assert equal(model.state_dict(), network(0).state_dict())
    six.shutdown()
    six.server_close()


def test_progress_is_shown_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _show_progress("https://host/a", Progress(1_000_000, 2_000_000))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _show_progress("https://host/a", Progress(1_000_000, 2_000_000))
    assert "https://host/a: 1.0 of 2.0 MB" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", None)
    _show_progress("https://host/a", Progress())


def test_failed_downloads_say_why_and_leave_nothing(server: Server) -> None:
    body = as_bytes(network(0))
    zipped = saved(
        cache_dir("weights").parent.parent / "a.pth", network(0).state_dict()
    ).read_bytes()
    size = str(len(body) + 100)
    cases = {
        server.offer("/gone.pth", b"", 404): "404 Not Found",
        server.offer("/broken.pth", b"", 503): "503 Service Unavailable",
        server.offer("/short.pth", body, Content_Length=size): f"only {len(body)} of {size} bytes",
        server.offer("/page.pth", b"<html>Sign in</html>"): "a web page",
        server.offer("/cut.safetensors", body[:-9]): "truncated",
        server.offer("/cut.pth", zipped[:-99]): "damaged",
        server.offer("/empty.pth", b""): "is empty",
        server.offer("/chunks.pth", b"5\r\nab", Transfer_Encoding="chunked"): "cannot download",
        server.offer("/loop.pth", b"", 302, Location="/loop.pth"): "302",
        server.offer("/away.pth", b"", 302, Location="file:///etc/hosts"): "302",
        "http://127.0.0.1:1/a.pth": "refused",
        "http://127.0.0.1:port/a.pth": "port",
        "http://[::1/a.pth": "cannot download",
        "http:///a.pth": "no host",
    }
    for url, words in cases.items():
        message = refusal(url)
        assert words in message, message
        assert url in message
        assert cached() == []


def test_a_cache_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_bytes(b"")
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path / "occupied"))
    url = server.offer("/a.safetensors", as_bytes(network(0)))
    assert "occupied" in refusal(url)


def test_the_cache_without_a_choice_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNETS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir("weights") == Path("/somewhere/resnets/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir("weights") == Path.home() / ".cache/resnets/weights"


# torchvision -------------------------------------------------------------------------------------


def test_every_torchvision_network_of_ours_has_an_address() -> None:
    for name in TORCHVISION_NETWORKS:
        weights = torchvision.models.get_model_weights(name)
        for tag, entry in weights.__members__.items():
            assert torchvision_url(name, tag) == entry.url


def test_torchvision_weights_without_a_checksum_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(entry, "url", "https://download.pytorch.org/models/resnet18.pth")
    assert "no checksum" in refusal("torchvision:IMAGENET1K_V1", plain_18(), name="resnet18")


def plain_18() -> ResNet:
    return ResNet(ResNetConfig((1,), "basic", (8,)))


def test_torchvision_weights(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source = drawn(torchvision.models.resnet18())
    file = cache_dir("weights").parent.parent / "a.pth"
    body = saved(file, source.state_dict()).read_bytes()
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    url = server.offer(f"/models/resnet18-{sha256(body).hexdigest()[:8]}.pth", body)
    monkeypatch.setattr(entry, "url", url)
    model = create_model("resnet18", weights="torchvision:IMAGENET1K_V1").eval()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model(images), source(images))
    model = create_model("resnet18", num_classes=5, weights="torchvision:DEFAULT")
    assert model.fc.out_features == 5
    assert len(server.asked) == 1


def test_torchvision_weights_that_would_be_wrong(server: Server) -> None:
    """Refused before anything is asked of the network."""
    early = ResNetConfig((3, 4, 6, 3), "bottleneck", stride_on="1x1")
    with torch.device("meta"):
        v1, blurred = ResNet(early), ResNet(dataclasses.replace(early, stride_on="3x3", blur=3))
        half = ResNet(dataclasses.replace(early, stride_on="3x3", shortcut_strength=0.5))
    for model, name, words in (
        (v1, "resnet50_v1", "stride_on = '3x3' (v1.5), this network has stride_on = '1x1' (v1)"),
        (blurred, "resnet50", "blur = 0, this network has blur = 3"),
        (half, "resnet50", "shortcut_strength = 1.0, this network has shortcut_strength = 0.5"),
    ):
        with pytest.raises(UserError) as caught:
            load(model, "torchvision:IMAGENET1K_V2", name=name)
        assert words in str(caught.value)
        assert "torchvision's resnet50" in str(caught.value)
    plain = ResNet(ResNetConfig((1,), "basic", (8,)))
    avg_conv = ResNet(ResNetConfig((1,), "basic", (8,), shortcut="avg_conv"))
    message = refusal("torchvision:IMAGENET1K_V1", avg_conv, name="resnet18d")
    assert "no weights for 'resnet18d', only for resnet18, resnet34" in message
    message = refusal("torchvision:IMAGENET1K_V2", plain, name="resnet18")
    assert "did you mean 'IMAGENET1K_V1'" in message
    assert cached() == []


# Hugging Face hub --------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server in the place of the hub: what HF_ENDPOINT does before the library's import."""
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return server


def offer_on_hub(hub: Server, file_name: str, body: bytes) -> None:
    tag = f'"{sha256(body).hexdigest()}"'
    hub.offer(f"/owner/name/resolve/main/{file_name}", body, ETag=tag, X_Repo_Commit=COMMIT)
    hub.offer(f"/owner/name/resolve/{COMMIT}/{file_name}", body, ETag=tag, X_Repo_Commit=COMMIT)


def test_the_hub_gives_safetensors_before_pickles(hub: Server, tmp_path: Path) -> None:
    pickled = saved(tmp_path / "a.pth", network(2).state_dict()).read_bytes()
    offer_on_hub(hub, "pytorch_model.bin", pickled)
    model = network(1)
    load(model, "hub:owner/name")
    assert equal(model.state_dict(), network(2).state_dict())
    offer_on_hub(hub, "model.safetensors", as_bytes(network(0)))
    load(model, "hub:owner/name")
    assert equal(model.state_dict(), network(0).state_dict())


def test_the_cache_of_the_hub_is_verified(hub: Server, tmp_path: Path) -> None:
    offer_on_hub(hub, "model.safetensors", as_bytes(network(0)))
    load(network(1), "hub:owner/name")
    (blob,) = (tmp_path / "hub").glob("models--owner--name/blobs/*")
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{blob} is damaged" in refusal("hub:owner/name")


def test_without_the_hub_its_cache_answers(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_on_hub(hub, "pytorch_model.bin", as_bytes(network(0)))  # detected by its bytes
    load(network(1), "hub:owner/name")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again and again
    hub.close()
    model = network(1)
    load(model, "hub:owner/name")
    assert equal(model.state_dict(), network(0).state_dict())
    message = refusal("hub:owner/other")
    assert "cannot download hub:owner/other" in message
    assert "refused" in message


def test_hf_endpoint_leads_to_another_hub(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library reads the variable when it is imported, so it is imported again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    offer_on_hub(server, "model.safetensors", as_bytes(network(0)))
    model = network(1)
    load(model, "hub:owner/name")
    assert equal(model.state_dict(), network(0).state_dict())


def test_config_json_of_the_hub_is_compared(hub: Server) -> None:
    offer_on_hub(hub, "model.safetensors", as_bytes(network(0)))
    record = {"architecture": "resnetblur18", "pretrained_cfg": {"tag": "a"}}
    offer_on_hub(hub, "config.json", json.dumps(record).encode())
    blurred = dataclasses.replace(SMALL, blur=3)
    foreign = {"resnetblur18": ("resnetblur18", blurred)}
    message = refusal("hub:owner/name", foreign=foreign)
    assert "hub:owner/name is of resnetblur18, which has blur = 3" in message
    load(ResNet(blurred), "hub:owner/name", foreign=foreign)


def test_timms_weights_come_from_its_repository_or_address(
    hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = as_bytes(network(0))
    tag = {"ETag": f'"{sha256(body).hexdigest()}"', "X_Repo_Commit": COMMIT}
    for revision in ("main", COMMIT):
        path = f"/timm/resnet18.a1_in1k/resolve/{revision}/model.safetensors"
        hub.offer(path, body, **tag)
    foreign = {"resnet18": ("resnet18", SMALL)}
    for installed in (True, False):  # without timm, its repository on the hub is known, too
        if not installed:
            monkeypatch.setitem(sys.modules, "timm", None)
        model = network(1)
        load(model, "timm:resnet18.a1_in1k", foreign=foreign)
        assert equal(model.state_dict(), network(0).state_dict())
    assert "resnet34" in refusal("timm:resnet34.a1_in1k", foreign=foreign)


def test_what_the_hub_lacks(hub: Server) -> None:
    message = refusal("hub:owner/name")
    assert "neither model.safetensors nor pytorch_model.bin" in message
    hub.offer("/owner/none/resolve/main/model.safetensors", b"", 404, X_Error_Code="RepoNotFound")
    assert "no repository 'owner/none'" in refusal("hub:owner/none")
    assert "cannot download hub:a/b/c" in refusal("hub:a/b/c")
    offer_on_hub(hub, "model.safetensors", b"<html>Sign in</html>")
    assert "a web page" in refusal("hub:owner/name")


def test_the_hub_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'resnets[hub]'" in refusal("hub:owner/name")


def test_names_of_torchvisions_networks_are_rows_of_ours() -> None:
    assert set(TORCHVISION_NETWORKS) <= set(MODELS)
