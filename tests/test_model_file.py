"""The model file: reading returns what was saved, bytes are reproducible, damage is detected."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.inference.model_file import (
    NO_DIGEST,
    ModelFile,
    ModelFileError,
    read_model,
    save_model,
)
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet

FIELDS = ["classes", "config", "data", "digest", "format", "preprocess", "recipe", "scores"]
CLASSES = ("Apfel", "Börse", "猫")  # beyond ASCII, in the order of training


def make_contents(seed: int = 0) -> ModelFile:
    config = ResNetConfig(
        depths=(1,), block="basic", widths=(2,), num_classes=3, in_channels=1, stem="small"
    )
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(value.shape, generator=generator).abs().to(value.dtype)
        for name, value in ResNet(config).state_dict().items()
    }
    return ModelFile(
        config=config,
        preprocess=Preprocess(size=8, channels=1, mean=(0.1,), std=(0.3,)),
        classes=CLASSES,
        scores={"top1": 1 / 3, "loss": None},
        recipe={"epochs": 3.0, "seed": 1, "milestones": [1, 2]},
        data={"name": "tiny", "fingerprint": "ab" * 32, "sizes": {"train": 3}},
        weights=weights,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, make_contents())
    return path


def header_of(blob: bytes) -> dict[str, Any]:
    length = int.from_bytes(blob[:8], "little")
    header: dict[str, Any] = json.loads(blob[8 : 8 + length])
    return header


def record_of(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(header_of(path.read_bytes())["__metadata__"]["resnets"])
    return record


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record and sign the file again, as a faulty or newer writer does."""
    record = record_of(path)
    change(record)
    signed = "digest" in record
    if signed:
        record["digest"] = NO_DIGEST
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    blob = safetensors.torch.save(safetensors.torch.load_file(path), {"resnets": text})
    if signed:
        digest = hashlib.sha256(blob).hexdigest()
        blob = blob.replace(NO_DIGEST.encode(), digest.encode())
    path.write_bytes(blob)


def test_what_goes_in_comes_out(path: Path) -> None:
    before, after = make_contents(), read_model(path)
    for name in ("config", "preprocess", "classes", "scores", "recipe", "data"):
        assert getattr(after, name) == getattr(before, name)
    assert after.weights.keys() == before.weights.keys()
    for name, tensor in before.weights.items():
        assert torch.equal(after.weights[name], tensor)
        assert after.weights[name].dtype == tensor.dtype
    assert after.weights["bn1.num_batches_tracked"].shape == ()


def test_the_built_network_answers_alike_and_disturbs_nothing(path: Path) -> None:
    contents = make_contents()
    original = ResNet(contents.config).eval()
    original.load_state_dict(contents.weights)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    draws = torch.random.get_rng_state()
    network = read_model(path).build()
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert not network.training
    with torch.inference_mode():
        assert torch.equal(network(images), original(images))


def test_plain_safetensors_reads_it_and_the_network_takes_it(path: Path) -> None:
    weights = safetensors.torch.load_file(path)
    ResNet(make_contents().config).load_state_dict(weights)
    with safetensors.safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["resnets"]


def test_the_record_is_canonical_json_with_nothing_of_the_machine(path: Path) -> None:
    text = header_of(path.read_bytes())["__metadata__"]["resnets"]
    record = json.loads(text)
    assert text == json.dumps(record, sort_keys=True, separators=(",", ":"))
    assert text.isascii()
    assert list(record) == FIELDS
    assert record["format"] == 1


def test_the_digest_is_of_the_file_with_zeros_in_its_place(path: Path, tmp_path: Path) -> None:
    digest = save_model(tmp_path / "again.safetensors", make_contents())
    blob = path.read_bytes()
    assert record_of(path)["digest"] == digest
    zeroed = blob.replace(digest.encode(), NO_DIGEST.encode())
    assert hashlib.sha256(zeroed).hexdigest() == digest
    assert save_model(tmp_path / "other.safetensors", make_contents(seed=1)) != digest


@pytest.mark.slow
def test_the_same_contents_give_the_same_bytes_in_every_process(path: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_model_file import make_contents\n"
        "from resnets.inference.model_file import save_model\n"
        "save_model(sys.argv[3], make_contents())"
    )
    here, copy = Path(__file__).parent, tmp_path / "copy.safetensors"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # other than this process's
    command = [sys.executable, "-c", program, str(here), str(here.parent / "src"), str(copy)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert copy.read_bytes() == path.read_bytes()


def test_the_order_of_the_weights_does_not_matter(path: Path, tmp_path: Path) -> None:
    contents = make_contents()
    turned = replace(contents, weights=dict(reversed(list(contents.weights.items()))))
    save_model(tmp_path / "turned.safetensors", turned)
    assert (tmp_path / "turned.safetensors").read_bytes() == path.read_bytes()


def test_any_layout_in_memory_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    weights = make_contents().weights
    pool = torch.zeros(sum(value.numel() for value in weights.values()) * 2)
    start = 0
    for name, value in weights.items():
        if value.is_floating_point():  # views of one storage, every other element of it
            view = pool[start : start + 2 * value.numel() : 2].view(value.shape)
            weights[name] = view.copy_(value)
            start += 2 * value.numel()
    name = "layer1.0.conv1.weight"
    weights[name] = weights[name].contiguous(memory_format=torch.channels_last)
    assert not weights[name].is_contiguous()
    save_model(tmp_path / "views.safetensors", replace(make_contents(), weights=weights))
    assert (tmp_path / "views.safetensors").read_bytes() == path.read_bytes()


def test_types_are_kept_and_the_network_computes_in_float32(tmp_path: Path) -> None:
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in make_contents().weights.items()
    }
    save_model(tmp_path / "half.safetensors", replace(make_contents(), weights=weights))
    contents = read_model(tmp_path / "half.safetensors")
    assert contents.weights["conv1.weight"].dtype == torch.float16
    assert contents.build().conv1.weight.dtype == torch.float32


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_a_flipped_byte_anywhere_is_seen(path: Path, mask: int) -> None:
    blob = path.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    positions = [*range(start), *range(start, len(blob), 7), len(blob) - 1]
    with path.open("r+b", buffering=0) as file:
        for position in positions:
            file.seek(position)
            file.write(bytes([blob[position] ^ mask]))
            with pytest.raises(ModelFileError) as caught:
                read_model(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
            file.seek(position)
            file.write(blob[position : position + 1])


def test_a_truncation_anywhere_is_seen(path: Path, tmp_path: Path) -> None:
    blob = path.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    damaged = tmp_path / "damaged.safetensors"
    for length in [*range(0, start, 97), 7, 8, 9, start - 1, start, len(blob) - 1]:
        damaged.write_bytes(blob[:length])
        with pytest.raises(ModelFileError):
            read_model(damaged)
    with pytest.raises(ModelFileError, match=f"truncated: {len(blob) - 1} of {len(blob)} bytes"):
        read_model(damaged)
    damaged.write_bytes(blob[:99])
    with pytest.raises(ModelFileError, match=f"truncated or damaged: 99 bytes .* ends at {start}"):
        read_model(damaged)


def test_a_changed_weight_and_trailing_bytes_have_their_own_line(path: Path) -> None:
    blob = path.read_bytes()
    path.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(ModelFileError, match="contents do not match its digest"):
        read_model(path)
    path.write_bytes(blob + b"\0\0")
    with pytest.raises(ModelFileError, match="2 bytes after its end"):
        read_model(path)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="is empty"):
        read_model(path)


def test_a_missing_field_is_named(path: Path) -> None:
    blob = path.read_bytes()
    for field in FIELDS:
        path.write_bytes(blob)
        forge(path, lambda record, field=field: record.pop(field))
        with pytest.raises(ModelFileError, match=f"lacks {field}"):
            read_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(format=2), "format 2, .* reads up to 1: upgrade resnets"),
        (lambda record: record.update(format="1"), "unknown format '1'"),
        (lambda record: record["config"].update(colour="red"), "cannot take: .*colour"),
        (lambda record: record["config"].update(block="basics"), "basics"),
        (lambda record: record["preprocess"].update(resize_mode="stretch"), "stretch"),
        (lambda record: record.update(config=None), "cannot take"),
        (lambda record: record.update(classes=["a", "b"]), "2 class names .* 3 classes"),
        (lambda record: record.update(recipe=[]), "Expected `object`, got `array` .*recipe"),
        (lambda record: record["config"].update(widths=[3]), "tensors do not fit .*bn1.bias"),
    ],
)
def test_a_signed_file_with_wrong_contents(
    path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    forge(path, change)
    with pytest.raises(ModelFileError, match=message):
        read_model(path)


def test_a_second_metadata_key_is_refused(path: Path) -> None:
    metadata = header_of(path.read_bytes())["__metadata__"]
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {**metadata, "format": "pt"})
    with pytest.raises(ModelFileError, match="not one JSON record"):
        read_model(path)


def test_other_files_get_a_line_each(tmp_path: Path) -> None:
    plain, pickle = tmp_path / "plain.safetensors", tmp_path / "weights.pt"
    safetensors.torch.save_file({"fc.weight": torch.zeros(2, 2)}, plain)
    with pytest.raises(ModelFileError, match=r"plain safetensors .*create_model\(name, weights="):
        read_model(plain)
    for zipped in (True, False):
        torch.save({"a": torch.zeros(2)}, pickle, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelFileError, match=r"torch file.*create_model\(name, weights="):
            read_model(pickle)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        read_model(tmp_path / "photo.jpg")


def test_folders_and_missing_files(path: Path, tmp_path: Path) -> None:
    assert read_model(path.parent).classes == CLASSES
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=r"folder without model\.safetensors"):
        read_model(tmp_path / "empty")
    with pytest.raises(ModelFileError, match="there is no model file"):
        read_model(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="does not exist"):
        save_model(tmp_path / "nowhere" / "model.safetensors", make_contents())


def test_saving_replaces_in_one_step(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_model(path, make_contents(seed=1))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    save_model(path, make_contents(seed=1))
    assert path.read_bytes() != before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_file_has_the_usual_permissions(path: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "b")}, "2 class names"),
        ({"classes": ("a", "b", "a")}, "different strings"),
        ({"preprocess": Preprocess(size=8, channels=3)}, "3 channels"),
        ({"data": None}, "data must be a dictionary"),
        ({"weights": {}}, "tensors do not fit .* first bn1.bias: shape none"),
    ],
)
def test_contents_that_do_not_fit_together(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        replace(make_contents(), **change)


@pytest.mark.parametrize(
    "change",
    [{"recipe": {"rate": float("nan")}}, {"recipe": {"path": Path()}}, {"data": {"x": {1}}}],
)
def test_what_json_cannot_hold_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="do not fit the format"):
        save_model(tmp_path / "model.safetensors", replace(make_contents(), **change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [torch.complex128, torch.int32, torch.float8_e4m3fn])
def test_a_type_that_stands_for_no_real_number(kind: torch.dtype) -> None:
    weights = make_contents().weights
    weights["fc.bias"] = weights["fc.bias"].to(kind)
    with pytest.raises(ModelFileError, match=r"first fc\.bias: shape \(3,\) of .* of real"):
        replace(make_contents(), weights=weights)


def test_a_classifier_behind_the_configs_back_is_refused() -> None:
    contents = make_contents()
    network = ResNet(contents.config)
    network.fc = torch.nn.Linear(network.num_features, 9)
    with pytest.raises(
        ModelFileError, match=r"first fc\.bias: .*; replace a classifier by model\.r"
    ):
        replace(contents, config=network.config, weights=network.state_dict())
    network.reset_classifier(9)
    names = tuple(f"class {number}" for number in range(9))
    replace(contents, config=network.config, weights=network.state_dict(), classes=names)
