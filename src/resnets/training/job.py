"""What one run works on: the parts of the data, the preprocessing, the streams, the network.

Enters: an opened data set and a recipe. Leaves: a `Job` whose every piece is a pure function of
the resolved recipe and the data, so that a resumed run builds exactly the same one.
"""

from __future__ import annotations

import copy
import hashlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnets.data import DataSet, Images, Split, stratified_split
from resnets.data.augment import Augment
from resnets.data.loader import EvalLoader, TrainLoader, channel_statistics
from resnets.data.transforms import Preprocess
from resnets.device import autocast
from resnets.errors import UserError
from resnets.evaluation.metrics import Scores, evaluate
from resnets.models.config import ResNetConfig
from resnets.models.layers import Whitening
from resnets.models.registry import create_model
from resnets.models.resnet import ResNet
from resnets.training.auto_config import Facts
from resnets.training.distributed import SINGLE_PROCESS, DistContext
from resnets.training.loop import train_step
from resnets.training.optimizer import trains_only_head
from resnets.training.recipe import Recipe
from resnets.training.signals import SignalHandler
from resnets.training.train_state import State

VALIDATION_BATCH = 250
WHITENING_IMAGES = 2000
"""whose patches a whitened stem measures"""
MEASURED_SECONDS = 2.0
MEASURED_LEARNING_RATE = 1e-4
LEAST_STEPS = 3
MEASURED_SHARE = 0.01
"""of the time budget, when that is more"""


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and, where the data has one, test images."""

    train: Split
    val: Split
    test: Split | None
    held_out: tuple[str, ...] = ()
    """ids taken out of the training part for validation"""

    def sizes(self) -> dict[str, int]:
        """Number of images in each part."""
        sizes = {"train": len(self.train), "val": len(self.val)}
        return sizes if self.test is None else sizes | {"test": len(self.test)}

    @property
    def scored(self) -> tuple[str, Split]:
        """The part of the final scores, with its name."""
        return ("validation", self.val) if self.test is None else ("test", self.test)

    def facts(self, classes: Sequence[str]) -> Facts:
        """What the choice of a network depends on."""
        num_test = 0 if self.test is None else len(self.test)
        side, channels = _typical_side(self.train), self.train.channels
        return Facts(len(self.train), len(self.val), num_test, side, channels, len(classes))


def make_splits(data: DataSet, recipe: Recipe, *, held_out: Sequence[str] | None = None) -> Splits:
    """Find or make the parts; `held_out` repeats the split of an earlier run."""
    parts = data.splits
    test = parts.get("test")
    whole = parts["train"] if "train" in parts else parts["all"]
    if recipe.validate_on == "test":
        if test is None:
            raise UserError(f"--validate-on test: {data.name} has no test part")
        return Splits(whole, test, test)
    if "val" in parts:
        return Splits(whole, parts["val"], test)
    if held_out is None:
        train, val = stratified_split(whole.targets, fraction=recipe.val_fraction, seed=recipe.seed)
    else:
        names = frozenset(held_out)
        chosen = np.fromiter((name in names for name in whole.ids), np.bool_, len(whole))
        train, val = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    return Splits(whole.subset(train), whole.subset(val), test, tuple(whole.ids[i] for i in val))


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that the loop needs but the state."""

    recipe: Recipe
    classes: tuple[str, ...]
    splits: Splits
    preprocess: Preprocess
    device: torch.device
    stream: TrainLoader
    validation: EvalLoader
    ranks: DistContext

    @classmethod
    def build(
        cls,
        recipe: Recipe,
        parts: Splits,
        *,
        classes: Sequence[str],
        device: torch.device,
        preprocess: Mapping[str, Any] | None = None,
        ranks: DistContext = SINGLE_PROCESS,
    ) -> Job:
        """Decode what fits in memory and set up the streams; a resumed run gives `preprocess`.

        Of several ranks each has its slice of every training batch, and of the validation part.
        """
        assert recipe.size is not None and recipe.batch_size is not None
        assert recipe.workers is not None, "resolve the recipe first"
        shape: dict[str, Any] = {
            "size": recipe.size,
            "channels": parts.train.channels,
            "resize_mode": recipe.resize_mode,
            "tta": recipe.tta,
        }
        if preprocess is None:
            plain = Preprocess(**shape)
            mean, std = channel_statistics(parts.train, plain)
            preprocess = shape | {"mean": mean, "std": std}
        exact = Preprocess(**preprocess)
        places: dict[str, Any] = {
            "device": device,
            "workers": recipe.workers,
            "cache_mb": recipe.cache_mb,
        }
        stream = TrainLoader(
            parts.train,
            preprocess=exact,
            augment=augmentation(recipe),
            num_classes=len(classes),
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            **places,
            places=ranks.slice(recipe.batch_size, grad_accum_steps=recipe.grad_accum_steps),
        )
        validation = EvalLoader(
            ranks.part(parts.val), preprocess=exact, batch_size=VALIDATION_BATCH, **places
        )
        return cls(recipe, tuple(classes), parts, exact, device, stream, validation, ranks)

    def new_model(self, *, pretrained: bool = True) -> ResNet:
        """The network with its initial weights: a function of the seed, or the recipe's weights.

        A resumed run has weights of its own and needs no pretrained ones again.
        """
        torch.manual_seed(self.recipe.seed)
        weights = self.recipe.weights if pretrained else None
        model = self._create(weights=weights)
        if weights is not None:
            # As many classes need not be the same classes: fine-tuning learns a head of its own.
            model.reset_classifier(len(self.classes))
        elif pretrained and isinstance(model.conv1, Whitening):
            model.conv1.fit(self._some_images())
        return model

    def _some_images(self) -> Tensor:
        """Training images from all over the part, as they are evaluated."""
        part = self.splits.train
        places = np.linspace(0, len(part) - 1, min(len(part), WHITENING_IMAGES)).round()
        some = EvalLoader(
            part.subset(places.astype(np.int64)),
            preprocess=self.preprocess,
            batch_size=WHITENING_IMAGES,
            device=torch.device("cpu"),
            workers=0,
        )
        return next(iter(some)).images

    def new_model_config(self) -> ResNetConfig:
        """The network's ResNetConfig, without drawing its weights."""
        with torch.device("meta"):
            return self._create(weights=None).config

    def _create(self, *, weights: str | None) -> ResNet:
        recipe = self.recipe
        assert recipe.model is not None, "resolve the recipe first"
        extra = {"dropout": recipe.dropout, "drop_path": recipe.drop_path}
        return create_model(
            recipe.model,
            num_classes=len(self.classes),
            in_channels=self.preprocess.channels,
            weights=weights,
            **{name: value for name, value in extra.items() if value},
        )

    def validate(self, model: nn.Module, *, interruption: SignalHandler | None = None) -> Scores:
        """Score the validation part in the precision of training; the same scores on every rank."""
        self.ranks.share_buffers(model)
        rounds = math.ceil(len(self.splits.val) / (self.ranks.count * VALIDATION_BATCH))
        batches = self.ranks.in_step(
            self.validation, rounds=rounds, interruption=interruption or SignalHandler()
        )
        with autocast(self.device, self.recipe.precision):
            return evaluate(model, batches, self.classes, all_reduce=self.ranks.add_up)

    def measure(self, model: ResNet, *, budget: float | None) -> tuple[float, float]:
        """Seconds of one training step, and of evaluating one image, on the real thing.

        A copy of the network is trained and thrown away; the run itself starts untouched.
        """
        limit = max(MEASURED_SECONDS, MEASURED_SHARE * (budget or 0))
        # Steps so small that the values stay those of a healthy start. At the full learning rate
        # the same network was timed slower than it later ran (the cause was not looked into).
        recipe = replace(self.recipe, learning_rate=MEASURED_LEARNING_RATE)
        trial = State.start(copy.deepcopy(model), recipe, device=self.device)
        trial.model.train()
        times: dict[bool, list[float]] = {True: [], False: []}  # of steps of the head alone or not
        begin = last = time.perf_counter()
        for count, batch in enumerate(self.stream.batches(0, 1000)):
            trial.step = 618 * (count + 1) % 1000  # spread evenly over a run
            loss, _ = train_step(trial, trial.model, batch, recipe, steps=1000)
            loss.item()
            now = time.perf_counter()
            if count:
                times[trains_only_head(recipe, trial.step, steps=1000)].append(now - last)
            last = now
            if now - begin > limit and len(times[False]) >= LEAST_STEPS:
                break
        # Medians: a neighbour, or memory that the system has to find first, can stop one a while.
        head_only, whole = (statistics.median(times[kind] or times[False]) for kind in times)
        seconds = recipe.freeze_backbone * head_only + (1 - recipe.freeze_backbone) * whole
        return seconds, self._image_seconds(trial.model, limit=limit / 4)

    def _image_seconds(self, model: nn.Module, *, limit: float) -> float:
        model.eval()
        seen, begin = 0, time.perf_counter()
        with torch.inference_mode(), autocast(self.device, self.recipe.precision):
            for batch in self.validation:
                model(batch.images).sum().item()  # waits for the device
                seen += len(batch.images)
                if time.perf_counter() - begin > limit:
                    break
        return (time.perf_counter() - begin) / max(seen, 1)

    def describe(self, *, data: str, name: str, fingerprint: str) -> dict[str, Any]:
        """The content of data.json."""
        return {
            "data": data,
            "name": name,
            "fingerprint": fingerprint,
            "classes": list(self.classes),
            "sizes": self.splits.sizes(),
            "preprocess": asdict(self.preprocess),
            "held_out": list(self.splits.held_out),
        }


def augmentation(recipe: Recipe) -> Augment:
    """The data room's record of the recipe's augmentation fields."""
    assert recipe.crop != "auto" and recipe.auto_augment != "auto", "resolve the recipe first"
    return Augment(
        crop=recipe.crop,
        crop_padding=recipe.crop_padding if recipe.crop == "shift" else 0,
        fill=recipe.fill,
        min_area=recipe.min_area,
        flip=recipe.flip,
        erasing=recipe.erasing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        auto_augment=recipe.auto_augment,
    )


def fingerprint(data: DataSet) -> str:
    """One SHA-256 over the parts' own fingerprints and the class names."""
    digest = hashlib.sha256("\n".join(data.classes).encode())
    for name in sorted(data.splits):
        digest.update(f"\n{name} {data.splits[name].fingerprint()}".encode())
    return digest.hexdigest()


def content_digest(data: DataSet) -> str:
    """One SHA-256 over every byte of the images: reads all files, for `--verify`."""
    digest = hashlib.sha256()
    for name in sorted(data.splits):
        digest.update(f"{name} {data.splits[name].content_digest()}\n".encode())
    return digest.hexdigest()


def _typical_side(part: Split) -> int:
    if isinstance(part, Images):
        return int(min(part.pixels.shape[1:3]))
    return int(np.median(part.widths_heights.min(axis=1)))
