"""Read images from any source and turn them into batches.

The names below are resolved when they are first used: importing this package imports neither
numpy nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnets.data.dataset import DataSet as DataSet
    from resnets.data.dataset import ImageFiles as ImageFiles
    from resnets.data.dataset import Images as Images
    from resnets.data.dataset import Split as Split
    from resnets.data.dataset import stratified_split as stratified_split
    from resnets.data.sources.builtin import NAMES as NAMES
    from resnets.data.sources.detect import open_data as open_data

_MODULES = {
    "NAMES": "sources.builtin",
    "DataSet": "dataset",
    "ImageFiles": "dataset",
    "Images": "dataset",
    "Split": "dataset",
    "open_data": "sources.detect",
    "stratified_split": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
