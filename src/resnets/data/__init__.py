"""Read images from any source and turn them into batches.

The names below are resolved when they are first used: importing this package imports neither
numpy nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnets.data.dataset import DataSet, ImageFiles, Images, Split, stratified_split
    from resnets.data.sources.builtin import NAMES
    from resnets.data.sources.detect import open_data

__all__ = ["NAMES", "DataSet", "ImageFiles", "Images", "Split", "open_data", "stratified_split"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"NAMES": "sources.builtin", "open_data": "sources.detect"}.get(name, "dataset")
    return getattr(import_module(f"{__name__}.{module}"), name)
