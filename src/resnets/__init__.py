"""Residual networks in PyTorch: read it, train it, see why depth works, ship it.

The public names below are resolved when they are first used, so that `import resnets` and
`resnets --help` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnets.api import check_data, evaluate, load_model, predict, train
    from resnets.audit.findings import CheckReport
    from resnets.data.transforms import Preprocess
    from resnets.evaluation.metrics import Scores
    from resnets.inference.predictor import Predictor
    from resnets.inference.weights_preprocess import weights_preprocess
    from resnets.models.config import ResNetConfig
    from resnets.models.registry import create_model, list_models
    from resnets.models.resnet import ResNet
    from resnets.training.recipe import Recipe

_MODULES = {
    "resnets.api": ("check_data", "evaluate", "load_model", "predict", "train"),
    "resnets.audit.findings": ("CheckReport",),
    "resnets.data.transforms": ("Preprocess",),
    "resnets.evaluation.metrics": ("Scores",),
    "resnets.inference.predictor": ("Predictor",),
    "resnets.inference.weights_preprocess": ("weights_preprocess",),
    "resnets.models.config": ("ResNetConfig",),
    "resnets.models.registry": ("create_model", "list_models"),
    "resnets.models.resnet": ("ResNet",),
    "resnets.training.recipe": ("Recipe",),
}

__version__ = "0.1.0"
__all__ = [
    "CheckReport",
    "Predictor",
    "Preprocess",
    "Recipe",
    "ResNet",
    "ResNetConfig",
    "Scores",
    "check_data",
    "create_model",
    "evaluate",
    "list_models",
    "load_model",
    "predict",
    "train",
    "weights_preprocess",
]


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of ours

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module 'resnets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
