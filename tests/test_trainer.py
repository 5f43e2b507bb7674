"""A trainer is a pure function of recipe and data: splits, loaders, network, and the trial."""

from __future__ import annotations

import gc
import json
import traceback
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import resnets
from resnets.cli.main import main
from resnets.data import DataSet, Images
from resnets.data.dataset import Splits, fingerprint
from resnets.errors import UserError
from resnets.models.layers import Whitening
from resnets.models.resnet import ResNet
from resnets.training import autotune
from resnets.training import trainer as trainer_module
from resnets.training.auto_config import DataFacts, ResolvedConfig
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir
from resnets.training.train_step import TrainState
from resnets.training.trainer import Trainer, splits_for
from tiny_runs import quick_runs

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
    return Recipe().override(**given | values)


def trainer_of(recipe: Recipe | None = None, **sizes: int) -> Trainer:
    recipe = recipe or recipe_of()
    data = data_of(**sizes or {"train": 60, "test": 12})
    return Trainer(ResolvedConfig(recipe), data, splits_for(data, recipe), device=CPU)


def measure(
    trainer: Trainer, model: ResNet, *, seconds: float, **clock: Any
) -> tuple[float, float]:
    return autotune.time_training(
        model,
        trainer.recipe,
        trainer.train_loader,
        trainer.val_loader,
        device=CPU,
        seconds=seconds,
        **clock,
    )


def test_a_validation_part_is_held_out_of_the_training_part() -> None:
    data = data_of(train=60, test=12)
    parts = splits_for(data, recipe_of(val_fraction=0.2))
    assert (len(parts.train), len(parts.val)) == (48, 12)
    assert set(parts.train.ids) | set(parts.val.ids) == set(data.splits["train"].ids)
    assert set(parts.train.ids) & set(parts.val.ids) == set()
    assert parts.held_out == tuple(parts.val.ids)
    assert np.bincount(parts.val.targets).tolist() == [4, 4, 4]
    assert parts.scored == ("test", data.splits["test"])


def test_the_split_follows_the_seed_and_can_be_repeated() -> None:
    data = data_of(all=60)
    first, other = splits_for(data, recipe_of(seed=1)), splits_for(data, recipe_of(seed=2))
    assert first.held_out != other.held_out
    again = splits_for(data, recipe_of(seed=2), held_out=first.held_out)
    assert list(again.train.ids) == list(first.train.ids)
    assert list(again.val.ids) == list(first.val.ids)
    assert again.scored[0] == "validation"


def test_a_given_validation_part_is_used() -> None:
    data = data_of(train=60, val=9, test=12)
    parts = splits_for(data, recipe_of())
    assert (parts.train, parts.val, parts.held_out) == (
        data.splits["train"],
        data.splits["val"],
        (),
    )


def test_validating_on_test_uses_all_training_images() -> None:
    data = data_of(train=60, val=9, test=12)
    parts = splits_for(data, recipe_of(validate_on="test"))
    assert (parts.train, parts.val) == (data.splits["train"], data.splits["test"])
    with pytest.raises(UserError, match="--validate-on test: insects has no test split"):
        splits_for(data_of(all=60), recipe_of(validate_on="test"))


def test_facts() -> None:
    splits = splits_for(data_of(train=60, val=9, test=12), recipe_of())
    facts = DataFacts.of(splits, num_classes=3)
    assert (facts.num_train, facts.num_val, facts.num_test) == (60, 9, 12)
    assert (facts.side, facts.channels, facts.num_classes) == (16, 3, 3)
    splits = Splits(images_of(6, channels=1), images_of(3, channels=1), None)
    grey = DataFacts.of(splits, num_classes=3)
    assert (grey.channels, grey.num_test) == (1, 0)


def test_preprocessing_is_measured_on_the_training_part_and_repeated_from_its_record() -> None:
    trainer = trainer_of()
    pixels = trainer.splits.train.pixels.astype(np.float64) / 255
    assert trainer.preprocess.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-6)
    assert trainer.preprocess.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-6)
    stored = json.loads(json.dumps(asdict(trainer.preprocess)))
    other = Trainer(trainer.config, trainer.data, trainer.splits, device=CPU, preprocess=stored)
    assert other.preprocess == trainer.preprocess
    assert trainer.splits.sizes() == {"train": 54, "val": 6, "test": 12}


def test_the_same_recipe_builds_the_same_batches_and_weights() -> None:
    one, two = trainer_of(recipe_of(mixup=0.2)), trainer_of(recipe_of(mixup=0.2))
    for a, b in zip(one.train_loader.batches(0, 9), two.train_loader.batches(0, 9), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
    torch.rand(3)
    weights = one.new_model().state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in two.new_model().state_dict().items())
    other = trainer_of(recipe_of(seed=1)).new_model().state_dict()
    assert not torch.equal(other["conv1.weight"], weights["conv1.weight"])


def test_the_network_fits_data_and_recipe() -> None:
    trainer = trainer_of(recipe_of(dropout=0.1, drop_path=0.2))
    config = trainer.new_model().config
    assert (config.num_classes, config.in_channels) == (3, 3)
    assert (config.dropout, config.drop_path) == (0.1, 0.2)


WHITENED = 1e-3  # of covariances near 1, computed in float32


def test_a_whitened_stem_is_measured_on_the_training_images() -> None:
    trainer = trainer_of(recipe_of(model="resnet8_fast_half"))
    model, same = trainer.new_model(), trainer.new_model()
    filters = model.conv1.weight
    assert torch.equal(filters, same.conv1.weight)
    images = torch.from_numpy(normalised(trainer))
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
    assert not torch.allclose(trainer.new_model(pretrained=False).conv1.weight, filters)


def normalised(trainer: Trainer) -> NDArray[np.float32]:
    """The training images N C H W as the network sees them."""
    images = [trainer.splits.train.read(index, 3) for index in range(len(trainer.splits.train))]
    mean, std = np.array(trainer.preprocess.mean), np.array(trainer.preprocess.std)
    scaled = (np.stack(images) / 255 - mean) / std
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


def test_validation_scores_every_image_of_its_part() -> None:
    trainer = trainer_of()
    scores = trainer.evaluate(trainer.new_model())
    assert scores.num_images == len(trainer.splits.val) == 6
    assert scores.classes == CLASSES


@pytest.mark.parametrize("values", [{}, {"freeze_backbone": 0.5, "ema": 0.9}])
def test_measuring_leaves_no_trace(values: dict[str, Any]) -> None:
    trainer = trainer_of(recipe_of(**values))
    model = trainer.new_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step_seconds, image_seconds = measure(trainer, model, seconds=0.05)
    assert 0 < image_seconds < step_seconds < 5
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    first = next(iter(trainer.train_loader.batches(0, 1)))
    assert torch.equal(
        first.images, next(iter(trainer_of(trainer.recipe).train_loader.batches(0, 1))).images
    )


def test_measuring_counts_head_only_steps_by_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that train the head alone are cheap; they must not stand for the whole run."""
    seen: list[int] = []
    real = autotune.train_step

    def spy(state: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(state.step)
        return real(state, *args, **kwargs)

    monkeypatch.setattr(autotune, "train_step", spy)
    trainer = trainer_of(recipe_of(freeze_backbone=0.5))
    measure(trainer, trainer.new_model(), seconds=0.3)
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

    monkeypatch.setattr(autotune, "train_step", slow)
    trainer = trainer_of(recipe_of(freeze_backbone=freeze_backbone))
    seconds, _ = measure(trainer, trainer.new_model(), seconds=2.0, clock=lambda: now)
    assert seconds == pytest.approx(expected)


def test_images_are_padded_for_crop_shift_alone() -> None:
    assert recipe_of(crop_padding=3).augment.padding == 3
    assert recipe_of(crop="none").augment.padding == 0


def test_a_retry_after_exhausted_memory_has_freed_the_failed_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_runs(monkeypatch)
    made: list[weakref.ref[TrainState]] = []
    alive: list[bool] = []
    init_state = Trainer.init_state

    def spy(self: Trainer) -> TrainState:
        gc.collect()
        alive.extend(found() is not None for found in made)
        state = init_state(self)
        made.append(weakref.ref(state))
        return state

    def full(*_: Any, **__: Any) -> Any:
        if len(made) < 2:
            raise torch.OutOfMemoryError("planted")
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "init_state", spy)
    monkeypatch.setattr(trainer_module, "train_step", full)
    data, recipe = data_of(train=60, test=12), recipe_of()
    run_dir = RunDir.create(tmp_path / "run", name="x")
    environment = {"versions": {}, "device": "cpu", "device_name": "cpu", "threads": 1}
    run_dir.write_json("environment.json", environment)
    run_dir.write_json("config.json", {})
    splits = splits_for(data, recipe)
    with Trainer(ResolvedConfig(recipe), data, splits, device=CPU, run_dir=run_dir) as trainer:
        assert trainer.fit().signal == 2
    assert (len(made), alive) == (2, [False])
    assert trainer.recipe.optimizer.grad_accum_steps == 2


def test_seven_frames_lie_between_the_shell_and_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_runs(monkeypatch)
    frames: list[str] = []
    source = str(Path(resnets.__file__).parent)

    def step(*_: Any, **__: Any) -> Any:
        stack = traceback.extract_stack()[:-1]
        frames.extend(frame.name for frame in stack if frame.filename.startswith(source))
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module, "train_step", step)
    words = "--model tiny --size 16 --steps 2 --batch-size 8 --tune off --workers 0 --quiet"
    out = tmp_path / "run"
    main(["train", "fashion-mini", *words.split(), "--out", str(out)])
    assert frames == ["main", "_run", "run", "call", "train", "fit", "train_loop"]  # and train_step


def test_fingerprint_sees_parts_and_classes() -> None:
    data = data_of(train=60, test=12)
    marks = {fingerprint(data), fingerprint(data_of(train=60, test=12))}
    assert len(marks) == 1
    marks.add(fingerprint(data_of(train=60, test=13)))
    marks.add(fingerprint(data_of(train=60, val=12)))
    marks.add(fingerprint(DataSet("insects", ("ant", "bee", "cow"), data.splits)))
    assert len(marks) == 4
