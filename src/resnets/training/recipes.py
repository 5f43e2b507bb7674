"""Provide the named recipes, and recipes from TOML files.

A recipe is the fields that it sets. Each docstring is a promise: source, command, figure, and who
measured it. This module imports neither torch nor numpy.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnets.errors import UserError, unknown
from resnets.training.recipe import Recipe


def default() -> dict[str, Any]:
    """Muon (SGD from given weights) and one learning-rate cycle; the rest is read off the data.

    Promise: `resnets train fashion-mini --model resnet20 --epochs 8` passes 88 % on the 2,000
    embedded test images; measured values in RESULTS.md.
    """
    return {}


def fast() -> dict[str, Any]:
    """The least time to an accuracy on small images, as the CIFAR-10 speed records count it.

    From K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, and
    airbench94_muon: whitened stem, Muon for filters, alternating flip, label smoothing 0.2. Ours
    has shortcuts, more channels, smaller batches, progressive resizing, and looks at mirror images
    only where it is unsure.
    Promise: 91.12 % of CIFAR-10 as JPEG on the CPU, mean of three seeds; airbench94_muon with its
    six views 90.82 % there (`benchmarks/fast.py`, RESULTS.md).
    """
    return dict(
        model="resnet8_fast_wide",
        epochs=9,
        batch_size=500,
        grad_accum_steps=2,
        optimizer="muon",
        learning_rate=0.1,
        momentum=0.85,
        warmup=0.0,
        label_smoothing=0.2,
        crop="shift",
        crop_padding=2,
        fill="reflect",
        progressive=0.5,
        flip="alternating",
        auto_augment="none",
        tta="mirror",
        val_fraction=0.02,
    )


def he2015() -> dict[str, Any]:
    """The CIFAR protocol of He et al., arXiv 1512.03385, section 4.2.

    Promise: 8.75 % test error with resnet20 on CIFAR-10 (their table 6, two GPUs), not rerun by
    us at full length. 64,000 steps of 128 images, learning rate 0.1 divided by 10 at 32,000 and
    48,000; 45,000 training and 5,000 validation images. For resnet110 add `--warmup 0.00625`.
    Differs from the paper: the mean is subtracted per channel, not per pixel, and norms and
    biases are not decayed.
    """
    return dict(
        model="resnet20",
        steps=64_000,
        batch_size=128,
        optimizer="sgd",
        learning_rate=0.1,
        nesterov=False,
        weight_decay=1e-4,
        schedule="step",
        warmup=0.0,
        label_smoothing=0.0,
        crop="shift",
        crop_padding=4,
        flip="random",
        auto_augment="none",
    )


def finetune() -> dict[str, Any]:
    """From pretrained weights: first the new head alone, then everything, early stages slowest.

    Pass `--weights`; head-first and discriminative rates follow Howard and Ruder, arXiv 1801.06146.
    Promise: resnet20 trained on five CIFAR-10 classes and fine-tuned on 50 images each of the
    other five beats training from scratch in equal time, with each of three seeds; measured by
    `benchmarks/finetune.py`, values in RESULTS.md.
    """
    return dict(
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.02,
        weight_decay=1e-4,
        schedule="cosine",
        warmup=0.1,
        freeze_backbone=0.2,
        layer_decay=0.7,
    )


def torchvision_v2() -> dict[str, Any]:
    """For ImageNet: how torchvision trained its second weights of ResNet-50, IMAGENET1K_V2.

    Source: pytorch/vision, `train.py` of its classification references with the command of issue
    3995; V. Vryniotis, "How to Train State-Of-The-Art Models Using TorchVision's Latest
    Primitives", 2021.
    Promise: 80.858 % top-1 with resnet50 on the validation images (torchvision, eight GPUs with
    128 images each), not rerun by us: `resnets train IMAGENET --recipe torchvision-v2`.
    Differs from the source: an epoch shows each image once, not a quarter of them four times (the
    source had 80.674 % before it did); validated at the training size of 176 pixels, not cut
    at 224 from 232, which costs more; the average begins with the first step, not after the
    warm-up, which begins at 0, not at 1 %; rates change with each step, not with each epoch; one
    mixture a step, not one a GPU; the head's bias is not decayed; erased rectangles have up to
    0.4 of the area, not 0.33; means and deviations are those of the training images.
    """
    return dict(
        model="resnet50",
        size=176,
        resize_mode="crop",
        epochs=600,
        batch_size=1024,
        optimizer="sgd",
        learning_rate=0.5,
        nesterov=False,
        weight_decay=2e-5,
        schedule="cosine",
        warmup=5 / 600,
        label_smoothing=0.1,
        # There 0.99998 every 32 steps, 1 - decay times 1024 * 32 / 600; here the same every step.
        ema=0.999966,
        crop="resized",
        min_area=0.08,
        flip="random",
        erasing=0.1,
        mixup=0.2,
        cutmix=1.0,
        auto_augment="trivialaugment",
    )


RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (default, fast, he2015, finetune, torchvision_v2)
}


def named_recipe(name: str) -> dict[str, Any]:
    """Return the fields that the recipe of that name sets; raise UserError if there is none."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe from a TOML file: lines `field = value`, and perhaps `recipe = NAME`.

    The result is the fields that it sets, over those of the named recipe.
    """
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--recipe-file {path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--recipe-file {path}: not readable as TOML ({error})") from None
    try:
        base = named_recipe(str(values.pop("recipe", "default")))
        own = {name.replace("-", "_"): value for name, value in values.items()}
        for length, other in (("epochs", "steps"), ("steps", "epochs")):
            if own.get(length) is not None and other not in own:
                base.pop(other, None)
        Recipe().override(**base).override(**own)
    except UserError as error:
        raise UserError(f"--recipe-file {path}: {error}") from None
    return base | own
