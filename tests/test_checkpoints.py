"""The run folder and its checkpoints: round trips, damage, places that are refused."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnets.data.loader import Batch
from resnets.errors import UserError
from resnets.models.resnet import ResNet, ResNetConfig
from resnets.training import checkpoint
from resnets.training.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    NotSavedError,
    load_checkpoint,
    save_checkpoint,
)
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir, is_run
from resnets.training.train_step import TrainState, train_step

SPEC = ResNetConfig(depths=(1,), block="basic", widths=(8,), num_classes=4, stem="small")


def small(step: int) -> Checkpoint:
    tensors = {
        "half": torch.arange(6, dtype=torch.float16).view(2, 3) + step,
        "scalar": torch.tensor(float(step)),
        "count": torch.tensor([step], dtype=torch.int64),
        "empty": torch.zeros(0, 3),
    }
    return Checkpoint(tensors, {"step": step, "score": 0.1, "note": "é", "scale": {"growth": 2.0}})


def new_state(recipe: Recipe, seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    return TrainState.start(ResNet(SPEC), recipe, device=torch.device("cpu"))


def trained(recipe: Recipe, steps: int = 3) -> TrainState:
    state = new_state(recipe)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        batch = Batch(images, torch.arange(4), np.arange(4), 0)
        train_step(state, state.model, batch, recipe)
        state.step += 1
    return state


def digest(checkpoint: Checkpoint) -> str:
    """Over all that is remembered, in an order of its own."""
    value = hashlib.sha256(json.dumps(checkpoint.scalars, sort_keys=True).encode())
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name].detach().contiguous()
        value.update(name.encode() + str(tensor.dtype).encode() + tensor.numpy().tobytes())
    return value.hexdigest()


def recipe_of(**values: Any) -> Recipe:
    given = {"steps": 3, "optimizer": "sgd", "learning_rate": 0.1, "precision": "fp32"}
    return Recipe().override(**given | {"memory_format": "channels_last"} | values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"momentum": 0.0},
        {"optimizer": "muon"},
        {"optimizer": "adamw", "learning_rate": 1e-3},
        {"ema": 0.9},
        {"ema": 0.9, "memory_format": "contiguous"},
        {"precision": "fp16", "clip_grad_norm": 1.0},
    ],
    ids=lambda values: "-".join(map(str, values.values())) or "sgd",
)
def test_a_state_comes_back_to_the_last_bit(tmp_path: Path, values: dict[str, Any]) -> None:
    recipe = recipe_of(**values)
    state = trained(recipe)
    state.best_score, state.best_step, state.validations_since_best = 0.123456789, 2, 1
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 1024.0})
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, state.checkpoint())
    other = new_state(recipe, seed=1)
    assert digest(other.checkpoint()) != digest(state.checkpoint())
    other.restore(load_checkpoint(path))
    assert digest(other.checkpoint()) == digest(state.checkpoint())
    assert other.step == 3
    if recipe.runtime.precision == "fp16":
        assert other.scaler.get_scale() == 1024.0


def test_slots_lie_in_memory_as_their_parameters(tmp_path: Path) -> None:
    """Fused optimizers walk memory: another layout of the momentum would scramble it."""
    recipe = recipe_of()
    save_checkpoint(tmp_path / "state.safetensors", trained(recipe).checkpoint())
    state = new_state(recipe)
    state.restore(load_checkpoint(tmp_path / "state.safetensors"))
    assert state.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not state.model.conv1.weight.is_contiguous()
    for parameter, slots in state.optimizer.state.items():
        assert slots["momentum_buffer"].stride() == parameter.stride()


def test_round_trip_of_every_kind_of_value(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, small(7))
    loaded = load_checkpoint(path)
    assert digest(loaded) == digest(small(7))
    assert loaded.scalars == small(7).scalars
    assert loaded.tensors["empty"].shape == (0, 3)
    assert [item.name for item in tmp_path.iterdir()] == ["c.safetensors"]


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    weights = torch.arange(8.0)
    tied = Checkpoint({"a": weights, "b": weights, "tail": weights[4:]}, {})
    save_checkpoint(tmp_path / "c.safetensors", tied)
    assert torch.equal(load_checkpoint(tmp_path / "c.safetensors").tensors["tail"], weights[4:])


def test_a_flipped_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, small(7))
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in (0, 6):
            path.write_bytes(flipped(whole, position, bit))
            with pytest.raises(UserError, match="checkpoint"):
                load_checkpoint(path)


def flipped(content: bytes, position: int, bit: int = 0) -> bytes:
    changed = content[position] ^ (1 << bit)
    return content[:position] + bytes([changed]) + content[position + 1 :]


def header_size(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "inside the length": lambda whole: whole[:5],
    "after the length": lambda whole: whole[:8],
    "inside the header": lambda whole: whole[: header_size(whole) // 2],
    "after the header": lambda whole: whole[: header_size(whole)],
    "inside the data": lambda whole: whole[: (header_size(whole) + len(whole)) // 2],
    "last byte": lambda whole: whole[:-1],
    "zeros at the end": lambda whole: whole[:-6] + bytes(6),
    "flipped in the header": lambda whole: flipped(whole, header_size(whole) // 2),
    "flipped in the data": lambda whole: flipped(whole, header_size(whole) + 3),
    "something else": lambda whole: b"<html>not found</html>" * 10,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_generation_before_a_damaged_one_is_used(tmp_path: Path, damage: str) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    for step in (10, 20, 30):
        folder.save(small(step), step=step)
    newest = tmp_path / "run/checkpoints/state-00000030.safetensors"
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    loaded = folder.load()
    assert loaded is not None
    assert digest(loaded) == digest(small(20))


def names(folder: RunDir) -> list[str]:
    return sorted(path.name for path in (folder.path / "checkpoints").iterdir())


def test_two_generations_are_kept(tmp_path: Path) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    assert folder.load() is None
    for step in (1, 2, 3, 4):
        folder.save(small(step), step=step)
    assert names(folder) == ["state-00000003.safetensors", "state-00000004.safetensors"]


def test_a_damaged_later_generation_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    for step in (10, 20):
        folder.save(small(step), step=step)
    (tmp_path / "run/checkpoints/state-00000020.safetensors").write_bytes(b"torn")
    folder.save(small(15), step=15)
    assert names(folder) == ["state-00000010.safetensors", "state-00000015.safetensors"]


def test_all_generations_damaged(tmp_path: Path) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    folder.save(small(1), step=1)
    (tmp_path / "run/checkpoints/state-00000001.safetensors").write_bytes(b"torn")
    assert folder.load() is None


def test_a_write_that_fails_leaves_the_old_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, small(1))

    monkeypatch.setattr(checkpoint, "save", lambda tensors, metadata: b"half of it")
    with pytest.raises(NotSavedError):
        save_checkpoint(path, small(2))
    assert digest(load_checkpoint(path)) == digest(small(1))


def test_best_weights(tmp_path: Path) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    folder.save_best({"w": torch.ones(3)}, step=4, score=0.5)
    folder.save_best({"w": torch.zeros(3)}, step=9, score=0.75)
    best = folder.load_best()
    assert best.scalars == {"step": 9, "score": 0.75}
    assert torch.equal(best.tensors["w"], torch.zeros(3))


def test_numbered_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [RunDir.create(None, name="photos").path for _ in range(3)]
    assert made == [Path("runs") / f"photos-{number:03d}" for number in (1, 2, 3)]
    (Path("runs") / "photos-004").touch()
    assert RunDir.create(None, name="photos").path == Path("runs/photos-005")
    assert (Path("runs/photos-005") / "checkpoints").is_dir()


def test_out_may_be_new_or_empty(tmp_path: Path) -> None:
    RunDir.check(None)
    assert RunDir.create(tmp_path / "a" / "b", name="x").path == tmp_path / "a" / "b"
    (tmp_path / "empty").mkdir()
    assert RunDir.create(tmp_path / "empty", name="x").path == tmp_path / "empty"


def test_out_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        RunDir.check(tmp_path / "file")
    with pytest.raises(UserError, match="is a file"):
        RunDir.check(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"not empty; give a new one$"):
        RunDir.create(tmp_path, name="x")
    run = RunDir.create(tmp_path / "run", name="x")
    run.write_json("config.json", {})
    with pytest.raises(UserError, match="--resume"):
        RunDir.check(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_runs_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").touch()
    with pytest.raises(UserError, match="runs is a file"):
        RunDir.check(None)


def test_open_finds_runs_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        RunDir.open(tmp_path / "none")
    with pytest.raises(UserError, match="not a run folder"):
        RunDir.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert is_run(tmp_path)
    assert RunDir.open(tmp_path).path == tmp_path


def test_json_files(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.write_json("some.json", {"classes": ["Zürich", "b"], "mean": 0.1 + 0.2})
    assert folder.read_json("some.json") == {"classes": ["Zürich", "b"], "mean": 0.1 + 0.2}
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]
    with pytest.raises(UserError, match="no such file"):
        folder.read_json("none.json")
    for content in (b'{"torn": ', b"\xff\xfe{}"):
        (tmp_path / "data.json").write_bytes(content)
        with pytest.raises(UserError, match=r"data\.json is not valid JSON"):
            folder.read_json("data.json")


def test_history_leaves_out_a_torn_last_line(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert folder.history() == []
    records = [{"kind": "train", "step": step, "loss": 0.1 * step} for step in (1, 2, 3)]
    for record in records:
        folder.log(record)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    third = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for end in range(third, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert folder.history() == records[:2]
    path.write_bytes(whole[:-1])  # only the line's end is missing
    assert folder.history() == records


def test_forget_after(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    kinds = ("train", "validation", "shares")
    records = [{"kind": kind, "step": s} for s in (1, 2, 3) for kind in kinds]
    for record in records:
        folder.log(record)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    folder.forget_after(2, validated=2)
    folder.log({"kind": "train", "step": 3})
    assert folder.history() == [*records[:6], {"kind": "train", "step": 3}]


@pytest.mark.skipif(os.name != "posix", reason="no limit on the size of a file")
def test_records_that_a_full_disk_refuses_are_written_later(tmp_path: Path) -> None:
    import resource

    folder = RunDir.create(tmp_path / "run", name="x")
    records = [{"kind": "train", "step": step} for step in range(4)]
    folder.log(records[0])
    size = (folder.path / "metrics.jsonl").stat().st_size
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, former[1]))  # space for a part of a line
    try:
        folder.log(records[1])
        folder.log(records[2])
        with pytest.raises(NotSavedError, match="not saved"):
            folder.save(small(1), step=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert folder.history() == records[:1]
    folder.log(records[3])
    assert folder.history() == records
    assert names(folder) == []
    folder.save(small(1), step=1)
    assert names(folder) == ["state-00000001.safetensors"]


def test_what_a_kill_left_half_written_goes_with_the_next_save(tmp_path: Path) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    (folder.path / "checkpoints" / ".state-00000007.safetensors.0a.part").write_bytes(b"torn")
    folder.save(small(8), step=8)
    assert names(folder) == ["state-00000008.safetensors"]


def test_damaged_generations_are_named(tmp_path: Path) -> None:
    folder = RunDir.create(tmp_path / "run", name="x")
    for step in (10, 20):
        folder.save(small(step), step=step)
    (folder.path / "checkpoints" / "state-00000020.safetensors").write_bytes(b"torn")
    passed: list[str] = []
    loaded = folder.load(passed.append)
    assert loaded is not None and loaded.scalars["step"] == 10
    assert len(passed) == 1 and "state-00000020.safetensors" in passed[0]


def test_a_validation_that_is_owed_is_forgotten(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    records = [{"kind": kind, "step": s} for s in (1, 2) for kind in ("train", "validation")]
    for record in records:
        folder.log(record)
    folder.forget_after(2, validated=1)
    assert folder.history() == records[:3]


def as_version_1(path: Path, content: Checkpoint) -> None:
    """Write a checkpoint as versions wrote it that knew neither a format nor the run."""
    scalars = json.dumps(content.scalars, sort_keys=True)
    value = hashlib.sha256(scalars.encode())
    for name in sorted(content.tensors):
        tensor = content.tensors[name]
        value.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        value.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    metadata = {"scalars": scalars, "sha256": value.hexdigest()}
    path.write_bytes(checkpoint.save(content.tensors, metadata))


def test_a_checkpoint_of_version_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    as_version_1(path, small(7))
    assert digest(load_checkpoint(path)) == digest(small(7))
    assert load_checkpoint(path).run == ""


def test_the_name_of_the_run_and_the_version_are_under_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Checkpoint({"a": torch.ones(2)}, {"step": 1}, run="ab" * 32))
    assert load_checkpoint(path).run == "ab" * 32
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"ab" * 32, b"cd" * 32))
    with pytest.raises(DamagedCheckpointError, match="SHA-256 differs"):
        load_checkpoint(path)
    path.write_bytes(whole.replace(b'"format":"2"', b'"format":"9"'))
    with pytest.raises(UserError, match="has format 9, this version reads up to 2") as newer:
        load_checkpoint(path)
    assert not isinstance(newer.value, DamagedCheckpointError)  # no older one takes its place


def test_a_damaged_line_of_the_history_hides_no_other(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    records = [{"kind": "train", "step": step, "loss": 0.1 * step} for step in range(1, 8)]
    for record in records:
        folder.log(record)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"0.4", b"0.9")
    lines[5:5] = [b"5\n", b"{}\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\n"]
    path.write_bytes(b"".join(lines) + b'{"kind": "tr')
    kept = [*records[:3], *records[4:]]
    assert folder.history() == kept
    assert folder.forget_after(6, validated=6) == 6
    assert folder.history() == kept[:-1]
    assert folder.forget_after(6, validated=6) == 0


def test_a_history_without_checksums_is_read(tmp_path: Path) -> None:
    record = {"kind": "train", "step": 1, "loss": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert RunDir(tmp_path).history() == [record]


@pytest.mark.parametrize("head_first", [False, True])
def test_a_state_of_another_recipe_is_refused(tmp_path: Path, head_first: bool) -> None:
    share = 0.9 if head_first else 0.0
    state = trained(recipe_of(freeze_backbone=share))
    for other, message in (
        (recipe_of(optimizer="adamw", freeze_backbone=share), r"lacks optimizer\.\d+\.step"),
        (recipe_of(ema=0.9, freeze_backbone=share), "lacks average"),
        (recipe_of(momentum=0.0, freeze_backbone=share), "has the foreign optimizer"),
    ):
        fresh = new_state(other, seed=1)
        before = digest(fresh.checkpoint())
        with pytest.raises(UserError, match=message):
            fresh.restore(state.checkpoint())
        assert digest(fresh.checkpoint()) == before
