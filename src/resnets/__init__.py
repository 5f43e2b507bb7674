"""Residual networks in PyTorch: read it, train it, see why depth works, ship it.

The public names below are resolved when they are first used, so that `import resnets` and
`resnets --help` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnets.api import evaluate, load_model, predict, train
    from resnets.data.transforms import Preprocess
    from resnets.evaluation.metrics import Scores
    from resnets.inference.predictor import Predictor
    from resnets.models.config import ResNetConfig
    from resnets.models.registry import create_model, list_models
    from resnets.models.resnet import ResNet
    from resnets.training.recipe import Recipe

_MODULES = {
    "create_model": "resnets.models.registry",
    "list_models": "resnets.models.registry",
    "load_model": "resnets.api",
    "ResNet": "resnets.models.resnet",
    "ResNetConfig": "resnets.models.config",
    "Preprocess": "resnets.data.transforms",
    "Recipe": "resnets.training.recipe",
    "Scores": "resnets.evaluation.metrics",
    "Predictor": "resnets.inference.predictor",
    "train": "resnets.api",
    "evaluate": "resnets.api",
    "predict": "resnets.api",
}

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "Preprocess",
    "Recipe",
    "ResNet",
    "ResNetConfig",
    "Scores",
    "create_model",
    "evaluate",
    "list_models",
    "load_model",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'resnets' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
