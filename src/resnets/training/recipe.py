"""How a network is trained: one frozen record of every choice.

Enters: nothing. Leaves: `Recipe`, the single list of training options (the command line's flags,
the saved configuration and the Python keywords are all generated from its fields). `None` means
"chosen from the data and the measured speed"; `planning.py` fills it in before step 0. The named
recipes with their promises are in `named.py`.

This file imports neither torch nor numpy, since `resnets --help` needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from resnets.errors import UserError, unknown


@dataclass(frozen=True)
class Recipe:
    """Every choice that decides the trained weights, and how fast they are reached.

    Shares are fractions of the whole run; epochs are passes over the training images.
    """

    model: str | None = None
    """network, a name of `resnets models`; chosen from the data when left out"""
    weights: str | None = None
    """start from these weights: a path, a URL, hub:owner/name or torchvision:IMAGENET1K_V1"""
    size: int | None = None
    """side of the square network input in pixels"""
    resize_mode: Literal["crop", "squash"] = "squash"
    """how an oblong image becomes square: cut the centre out, or squeeze all of it in"""
    epochs: float | None = None
    """passes over the training images"""
    steps: int | None = None
    """optimizer steps, instead of epochs"""
    batch_size: int | None = None
    """images per optimizer step"""
    grad_accum_steps: int = 1
    """micro-batches per optimizer step; batch norm sees one of them"""
    sync_batchnorm: bool = False
    """batch norm sees the images of all ranks under torchrun, not those of each rank alone"""

    optimizer: Literal["auto", "sgd", "adamw", "muon"] = "auto"
    """sgd has Nesterov momentum unless --no-nesterov, muon orthogonalises it for convolutions;
    auto takes muon from scratch and sgd from pretrained weights"""
    learning_rate: float | None = None
    """peak learning rate; the defaults of sgd and muon rise with the batch size"""
    momentum: float = 0.9
    """of sgd and muon; AdamW uses it as beta1"""
    nesterov: bool = True
    """look-ahead form of the momentum of sgd and muon"""
    weight_decay: float = 5e-4
    """on convolution and linear weights, never on norms and biases; muon spares the filters, whose
    length it holds fixed"""
    clip_grad_norm: float = 0.0
    """largest gradient norm; 0 does not clip"""
    schedule: Literal["cosine", "one_cycle", "step"] = "one_cycle"
    """shape of the learning rate over the run; one_cycle rises and falls linearly"""
    warmup: float = 0.15
    """share of the run in which the learning rate rises from 0"""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """shares of the run at which schedule `step` divides the learning rate by 10"""
    freeze_backbone: float = 0.0
    """share of the run that trains only the head (fine-tuning)"""
    layer_decay: float = 1.0
    """learning-rate factor from each stage to the one before it (discriminative rates)"""

    label_smoothing: float = 0.1
    """share of the target spread over all classes"""
    ema: float = 0.0
    """decay per step of the averaged weights that are evaluated and kept; 0 is off"""
    dropout: float = 0.0
    """drop probability before the head"""
    drop_path: float = 0.0
    """stochastic depth: drop probability of the last residual branch, linear in depth"""
    crop: Literal["auto", "none", "shift", "resized"] = "auto"
    """shift: pad and cut out; resized: a random part, resized"""
    crop_padding: int = 4
    """pixels of padding for crop `shift`"""
    fill: Literal["zero", "reflect"] = "zero"
    """what the padding of crop `shift` holds"""
    min_area: float = 0.35
    """least share of the image that crop `resized` keeps"""
    progressive: float = 0.0
    """share of the run that trains at three quarters of the size (progressive resizing)"""
    flip: Literal["none", "random", "alternating"] = "random"
    """mirror left-right, half of the time; alternating shows each image both ways in two epochs"""
    erasing: float = 0.0
    """probability to blank a random rectangle"""
    mixup: float = 0.0
    """alpha of the Beta law that blends pairs of images; 0 is off"""
    cutmix: float = 0.0
    """alpha of the Beta law that pastes rectangles between images; 0 is off"""
    auto_augment: Literal["auto", "none", "randaugment", "trivialaugment"] = "auto"
    """per-image colour and shape distortions; auto takes trivialaugment for photos"""

    tta: Literal["none", "mirror", "six"] = "none"
    """looks at a test image that the network is unsure about; six adds shifts by a pixel"""
    val_fraction: float = 0.1
    """share of the training images held out when DATA has no validation part"""
    validate_on: Literal["val", "test"] = "val"
    """test reproduces papers that chose on the test images, and says so in every output"""
    evaluate_every: float | None = None
    """epochs between validations"""
    patience: int = 0
    """stop after this many validations without a better one; 0 never stops early"""

    seed: int = 0
    """of every draw: split, order, augmentation, initial weights, dropout"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto measures, and leaves fp32 only where something else is faster"""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """layout of images and weights in memory; auto measures"""
    compile: bool = False
    """compile the network with torch.compile (20 s before the first step)"""
    threads: int | None = None
    """CPU threads of torch; measured when left out"""
    tune: Literal["auto", "off"] = "auto"
    """off does not measure how to compute: all cores, fp32 and channels_last, unless given"""
    workers: int | None = None
    """processes that decode images when they do not fit in memory"""
    cache_mb: int = 1024
    """decoded images up to this many megabytes are kept in memory"""
    max_corrupt: float = 0.01
    """largest share of unreadable images"""
    checkpoint_every: float = 5.0
    """minutes between checkpoints, the most that a hard kill loses; each best is saved too"""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            _check_kind(name, kind, getattr(self, name))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = name.replace("_", "-")
                most = "any number" if high == _INFINITY else f"{high:,}"
                raise UserError(f"--{flag} {value}: must be between {low:g} and {most}")
        if self.epochs is not None and self.steps is not None:
            raise UserError("--epochs and --steps both given: pass one of them")
        if (self.batch_size or self.grad_accum_steps) % self.grad_accum_steps:
            raise UserError(
                f"--grad-accum-steps {self.grad_accum_steps}: must divide --batch-size "
                f"{self.batch_size}"
            )
        if self.batch_size is not None and self.batch_size < LEAST_IMAGES * self.grad_accum_steps:
            raise UserError(
                f"--grad-accum-steps {self.grad_accum_steps}: makes micro-batches of one image, "
                f"of which batch norm has no variance; at most "
                f"{self.batch_size // LEAST_IMAGES} of --batch-size {self.batch_size}"
            )
        if self.tta != "none" and self.flip == "none":
            raise UserError(
                f"--tta {self.tta}: looks at mirror images, which --flip none never shows; "
                "pass --tta none"
            )
        if not _rising_shares(self.milestones):
            raise UserError(f"--milestones {self.milestones}: must be rising shares in (0, 1)")


TIME_OR_LENGTH = "--time together with --epochs or --steps: pass one of them"
LEAST_IMAGES = 2
"""in a micro-batch: batch norm has no variance of one value"""
LEAST_EPOCHS = 0.001
"""between validations"""
_INFINITY = float("inf")
_RANGES: dict[str, tuple[float, float]] = {
    "size": (8, 1024),
    "epochs": (0.001, 100_000),
    "steps": (1, 100_000_000),
    "batch_size": (2, 65_536),
    "grad_accum_steps": (1, 4096),
    "learning_rate": (1e-8, 100),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1),
    "clip_grad_norm": (0, _INFINITY),
    "warmup": (0, 0.9),
    "freeze_backbone": (0, 0.9),
    "layer_decay": (0.01, 1),
    "label_smoothing": (0, 0.9),
    "ema": (0, 0.99999),
    "dropout": (0, 0.95),
    "drop_path": (0, 0.95),
    "crop_padding": (0, 64),
    "min_area": (0.01, 1),
    "progressive": (0, 1),
    "erasing": (0, 1),
    "mixup": (0, 10),
    "cutmix": (0, 10),
    "val_fraction": (0.01, 0.5),
    "evaluate_every": (LEAST_EPOCHS, 100_000),
    "patience": (0, 10_000),
    "seed": (0, 2**31 - 1),
    "threads": (1, 1024),
    "workers": (0, 256),
    "cache_mb": (0, _INFINITY),
    "max_corrupt": (0, 1),
    "checkpoint_every": (0, 100_000),
}


def _check_kind(name: str, kind: Any, value: object) -> None:
    """Refuse a value that the field's annotation does not allow, naming what is."""
    flag = f"--{name.replace('_', '-')}"
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown(flag, str(value), get_args(kind))
        return
    union = type(None) in get_args(kind)
    allowed = tuple(get_origin(k) or k for k in (get_args(kind) if union else (kind,)))
    if float in allowed:
        allowed += (int,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(k.__name__ for k in allowed if k is not type(None))
        raise UserError(f"{flag} {value!r}: expected {names}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag} {value}: expected a finite number")


def _rising_shares(values: tuple[object, ...]) -> bool:
    shares = [value for value in values if isinstance(value, float) and 0 < value < 1]
    return len(shares) == len(values) and shares == sorted(set(shares))


def override(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields replaced; lists (from TOML and JSON) become tuples."""
    names = [field.name for field in fields(Recipe)]
    clean: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in names:
            raise unknown("recipe field", key, names)
        clean[name] = tuple(value) if isinstance(value, list) else value
    if clean.get("epochs") is not None and "steps" not in clean:
        clean["steps"] = None  # epochs asked for replace a recipe's own steps, and the reverse
    elif clean.get("steps") is not None and "epochs" not in clean:
        clean["epochs"] = None
    return replace(recipe, **clean)


def augmentation(recipe: Recipe) -> Any:
    """Return the augmentation of a resolved recipe."""
    from resnets.data.augment import Augment

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
