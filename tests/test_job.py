"""A job is a pure function of recipe and data: parts, streams, network, and the trial before it."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from resnets.data import DataSet, Images
from resnets.device import (
    choose_device,
    describe_environment,
    kept_threads,
)
from resnets.errors import UserError
from resnets.models.layers import Whitening
from resnets.training import job as room
from resnets.training.job import Job, Splits, augmentation, fingerprint, make_splits
from resnets.training.recipe import Recipe

CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cat")


def images_of(num: int, *, seed: int = 0, channels: int = 3) -> Images:
    pixels = np.random.default_rng(seed).integers(0, 256, (num, 16, 16, channels), dtype=np.uint8)
    return Images(pixels, np.arange(num) % 3, tuple(f"{seed}/{i}" for i in range(num)))


def data_of(**sizes: int) -> DataSet:
    parts: dict[str, Any] = {
        name: images_of(num, seed=seed) for seed, (name, num) in enumerate(sizes.items())
    }
    return DataSet("insects", CLASSES, parts)


def recipe_of(**values: Any) -> Recipe:
    given: dict[str, Any] = {
        "model": "resnet20",
        "size": 16,
        "steps": 4,
        "batch_size": 8,
        "learning_rate": 0.1,
        "crop": "shift",
        "precision": "fp32",
        "workers": 0,
        "threads": 1,
        "evaluate_every": 1.0,
        "auto_augment": "none",
        "memory_format": "channels_last",
        "optimizer": "sgd",
    }
    return Recipe(**given | values)


def job_of(recipe: Recipe | None = None, **sizes: int) -> Job:
    recipe = recipe or recipe_of()
    data = data_of(**sizes or {"train": 60, "test": 12})
    return Job.build(recipe, make_splits(data, recipe), classes=CLASSES, device=CPU)


def test_a_validation_part_is_held_out_of_the_training_part() -> None:
    data = data_of(train=60, test=12)
    parts = make_splits(data, recipe_of(val_fraction=0.2))
    assert (len(parts.train), len(parts.val)) == (48, 12)
    assert set(parts.train.ids) | set(parts.val.ids) == set(data.splits["train"].ids)
    assert set(parts.train.ids) & set(parts.val.ids) == set()
    assert parts.held_out == tuple(parts.val.ids)
    assert np.bincount(parts.val.targets).tolist() == [4, 4, 4]
    assert parts.scored == ("test", data.splits["test"])


def test_the_split_follows_the_seed_and_can_be_repeated() -> None:
    data = data_of(all=60)
    first, other = make_splits(data, recipe_of(seed=1)), make_splits(data, recipe_of(seed=2))
    assert first.held_out != other.held_out
    again = make_splits(data, recipe_of(seed=2), held_out=first.held_out)
    assert list(again.train.ids) == list(first.train.ids)
    assert list(again.val.ids) == list(first.val.ids)
    assert again.scored[0] == "validation"


def test_a_given_validation_part_is_used() -> None:
    data = data_of(train=60, val=9, test=12)
    parts = make_splits(data, recipe_of())
    assert (parts.train, parts.val, parts.held_out) == (
        data.splits["train"],
        data.splits["val"],
        (),
    )


def test_validating_on_test_uses_all_training_images() -> None:
    data = data_of(train=60, val=9, test=12)
    parts = make_splits(data, recipe_of(validate_on="test"))
    assert (parts.train, parts.val) == (data.splits["train"], data.splits["test"])
    with pytest.raises(UserError, match="--validate-on test: insects has no test part"):
        make_splits(data_of(all=60), recipe_of(validate_on="test"))


def test_facts() -> None:
    facts = make_splits(data_of(train=60, val=9, test=12), recipe_of()).facts(CLASSES)
    assert (facts.num_train, facts.num_val, facts.num_test) == (60, 9, 12)
    assert (facts.side, facts.channels, facts.num_classes) == (16, 3, 3)
    grey = Splits(images_of(6, channels=1), images_of(3, channels=1), None).facts(CLASSES)
    assert (grey.channels, grey.num_test) == (1, 0)


def test_preprocessing_is_measured_on_the_training_part_and_repeated_from_its_record() -> None:
    job = job_of()
    pixels = job.splits.train.pixels.astype(np.float64) / 255
    assert job.preprocess.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-6)
    assert job.preprocess.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-6)
    stored = json.loads(json.dumps(job.describe(data="x", name="insects", fingerprint="f")))
    other = Job.build(
        job.recipe, job.splits, classes=CLASSES, device=CPU, preprocess=stored["preprocess"]
    )
    assert other.preprocess == job.preprocess
    assert stored["sizes"] == {"train": 54, "val": 6, "test": 12}
    assert stored["classes"] == list(CLASSES)
    assert tuple(stored["held_out"]) == job.splits.held_out


def test_the_same_recipe_builds_the_same_batches_and_weights() -> None:
    one, two = job_of(recipe_of(mixup=0.2)), job_of(recipe_of(mixup=0.2))
    for a, b in zip(one.stream.batches(0, 9), two.stream.batches(0, 9), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
    torch.rand(3)
    weights = one.new_model().state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in two.new_model().state_dict().items())
    other = job_of(recipe_of(seed=1)).new_model().state_dict()
    assert not torch.equal(other["conv1.weight"], weights["conv1.weight"])


def test_the_network_fits_data_and_recipe() -> None:
    job = job_of(recipe_of(dropout=0.1, drop_path=0.2))
    config = job.new_model().config
    assert (config.num_classes, config.in_channels) == (3, 3)
    assert (config.dropout, config.drop_path) == (0.1, 0.2)
    assert job.new_model_config() == config


WHITENED = 1e-3  # of covariances near 1, computed in float32


def test_a_whitened_stem_is_measured_on_the_training_images() -> None:
    job = job_of(recipe_of(model="resnet8_fast_half"))
    model, same = job.new_model(), job.new_model()
    filters = model.conv1.weight
    assert torch.equal(filters, same.conv1.weight)
    images = torch.from_numpy(normalised(job))
    with torch.no_grad():
        maps = model.conv1(images) - model.conv1.bias[:, None, None]
    whitened = maps[:, :12, :-1, :-1].movedim(1, 0).flatten(1).double()  # without the padded border
    patches = F.unfold(images, 2).movedim(1, 0).flatten(1).double()
    # Eigenvectors differ between kinds of CPU, so the covariance of the output is compared.
    variances = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1])
    expected = torch.diag(variances / (variances + Whitening.SMALLEST))
    covariance = whitened @ whitened.T / whitened.shape[1]
    torch.testing.assert_close(covariance, expected, atol=WHITENED, rtol=0)
    # The weights of a checkpoint or a model file are not measured again.
    assert not torch.allclose(job.new_model(pretrained=False).conv1.weight, filters)


def normalised(job: Job) -> NDArray[np.float32]:
    """The training images N C H W as the network sees them."""
    images = [job.splits.train.read(index, 3) for index in range(len(job.splits.train))]
    mean, std = np.array(job.preprocess.mean), np.array(job.preprocess.std)
    scaled = (np.stack(images) / 255 - mean) / std
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


def test_validation_scores_every_image_of_its_part() -> None:
    job = job_of()
    scores = job.validate(job.new_model())
    assert scores.num_images == len(job.splits.val) == 6
    assert scores.classes == CLASSES


@pytest.mark.parametrize("values", [{}, {"freeze_backbone": 0.5, "ema": 0.9}])
def test_measuring_leaves_no_trace(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MEASURED_SECONDS", 0.05)
    job = job_of(recipe_of(**values))
    model = job.new_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step_seconds, image_seconds = job.measure(model, budget=None)
    assert 0 < image_seconds < step_seconds < 5
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    first = next(iter(job.stream.batches(0, 1)))
    assert torch.equal(first.images, next(iter(job_of(job.recipe).stream.batches(0, 1))).images)


def test_measuring_counts_head_only_steps_by_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that train the head alone are cheap; they must not stand for the whole run."""
    monkeypatch.setattr(room, "MEASURED_SECONDS", 0.3)
    seen: list[int] = []
    real = room.train_step

    def spy(state: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(state.step)
        return real(state, *args, **kwargs)

    monkeypatch.setattr(room, "train_step", spy)
    job = job_of(recipe_of(freeze_backbone=0.5))
    job.measure(job.new_model(), budget=None)
    cheap = sum(step < 500 for step in seen)
    assert abs(cheap - len(seen) / 2) <= 1.5


@pytest.mark.parametrize(("freeze_backbone", "expected"), [(0.0, 1.0), (0.5, 0.6), (0.8, 0.36)])
def test_a_step_that_stalls_does_not_count(
    freeze_backbone: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole steps take 1 s, those of the head alone 0.2 s, and the third of all a minute."""
    now, calls = 0.0, 0

    def slow(state: Any, *_: Any, **__: Any) -> Any:
        nonlocal now, calls
        calls += 1
        now += 60.0 if calls == 3 else 0.2 if state.step < 1000 * freeze_backbone else 1.0
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(room, "train_step", slow)
    monkeypatch.setattr(room.time, "perf_counter", lambda: now)
    monkeypatch.setattr(Job, "_image_seconds", lambda *_, **__: 0.0)
    job = job_of(recipe_of(freeze_backbone=freeze_backbone))
    assert job.measure(job.new_model(), budget=None)[0] == pytest.approx(expected)


def test_augmentation_takes_the_recipes_fields() -> None:
    recipe = recipe_of(
        crop_padding=3, fill="reflect", erasing=0.1, mixup=0.2, cutmix=0.3, flip="none"
    )
    found = asdict(augmentation(recipe))
    assert found == {name: getattr(recipe, name) for name in found}
    assert augmentation(recipe_of(crop="none")).crop_padding == 0
    assert augmentation(recipe_of(crop="resized", min_area=0.5)).min_area == 0.5


def test_fingerprint_sees_parts_and_classes() -> None:
    data = data_of(train=60, test=12)
    marks = {fingerprint(data), fingerprint(data_of(train=60, test=12))}
    assert len(marks) == 1
    marks.add(fingerprint(data_of(train=60, test=13)))
    marks.add(fingerprint(data_of(train=60, val=12)))
    marks.add(fingerprint(DataSet("insects", ("ant", "bee", "cow"), data.splits)))
    assert len(marks) == 4


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(UserError, match=r"unknown --device 'cdua'; did you mean 'cuda'\?"):
        choose_device("cdua")
    with pytest.raises(UserError, match="--device cpu:x"):
        choose_device("cpu:x")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="not available on this machine"):
            choose_device("cuda")


def test_a_run_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    with kept_threads():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before


FAULTS = """
import resource, torch
from resnets.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.empty(6 << 20, dtype=torch.uint8).fill_(1) for _ in range(20)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
def test_memory_that_is_freed_is_used_again() -> None:
    """In a process of its own: what another held before decides what is free."""
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, ran.stdout.split())
    each = (6 << 20) // resource.getpagesize()
    assert before > 10 * each, "without it most of the twenty are mapped anew"
    assert after < 2 * each, "at most one of the twenty is mapped anew"


def test_environment() -> None:
    found = describe_environment(CPU)
    assert found["versions"]["torch"] == version("torch")
    assert found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found
