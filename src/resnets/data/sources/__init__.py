"""A name, a folder, a manifest or a data set on disk -> `DataSet`.

`open_data` chooses the room: folders (class folders, with or without parts), manifests (CSV,
JSONL), arrays (.npz), parquet, named sets. Each answers with what it found; `index` reads the
headers of files; `parts` holds what leaves. Resolved lazily, so that importing this package
imports neither numpy nor torch.
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

_ROOMS = {
    "NAMES": "named",
    "DataSet": "parts",
    "ImageFiles": "parts",
    "Images": "parts",
    "Split": "parts",
    "open_data": "opening",
    "stratified_split": "parts",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
