"""The data sets that have a name -> `Found`: the embedded one, and those torchvision can fetch.

A set is looked for where RESNETS_DATA (else the user's cache) says, then where a system package
puts it (Debian: /usr/share/datasets), and only then downloaded, once, by torchvision's classes.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
import zlib
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnets.data.packed_strings import Array
from resnets.data.sources.cache_dir import data_home
from resnets.data.sources.indexing import Found
from resnets.data.sources.npz import found_in, read_npz
from resnets.errors import UserError

EMBEDDED = "fashion-mini"
SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)


@dataclass(frozen=True)
class _Set:
    """A row of the table: torchvision's class, the folder it makes, our names for the classes."""

    torchvision: str
    folder: str
    classes: tuple[str, ...] = ()  # empty: as torchvision names them


_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_IDX = {
    "mnist": _Set("MNIST", "MNIST", _DIGITS),
    "fashion-mnist": _Set("FashionMNIST", "FashionMNIST", _CLOTHES),
    "kmnist": _Set("KMNIST", "KMNIST", _KANA),
}
_CIFAR = {
    "cifar10": _Set("CIFAR10", "cifar-10-batches-py"),
    "cifar100": _Set("CIFAR100", "cifar-100-python"),
}
NAMES = (EMBEDDED, *_IDX, *_CIFAR)


def read_named(name: str) -> Found:
    """The set `name`, one of NAMES; downloads it if it is nowhere on this machine."""
    if name == EMBEDDED:
        found = read_npz(Path(__file__).parents[1] / "fashion_mini.npz")
        return Found(name, found.classes, found.splits)
    arrays = _read_idx_set(name) if name in _IDX else _read_cifar(name)
    return found_in(arrays, name=name, source=name)


def _read_idx_set(name: str) -> dict[str, Array]:
    row = _IDX[name]
    home = data_home() / row.folder / "raw"
    places = [home, *(folder / name for folder in SYSTEM_FOLDERS)]
    folder = next((place for place in places if _idx_file(place, "t10k-labels-idx1")), None)
    if folder is None:
        _download(name, row)
        folder = home
    arrays: dict[str, Array] = {"classes": np.array(row.classes)}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        arrays[f"x_{part}"] = _read_idx(folder, f"{prefix}-images-idx3")
        arrays[f"y_{part}"] = _read_idx(folder, f"{prefix}-labels-idx1")
    return arrays


def _idx_file(folder: Path, stem: str) -> Path | None:
    names = (f"{stem}-ubyte", f"{stem}-ubyte.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_idx(folder: Path, stem: str) -> Array:
    """An IDX file of bytes: two zeros, type 8, number of dimensions, their sizes, the values."""
    path = _idx_file(folder, stem)
    if path is None:
        raise UserError(f"{folder} lacks {stem}-ubyte.gz; remove the folder to download it again")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        shape = np.frombuffer(content, ">i4", content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
    except (OSError, EOFError, zlib.error, IndexError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and try again") from error


def _read_cifar(name: str) -> dict[str, Array]:
    row = _CIFAR[name]
    if not (data_home() / row.folder).is_dir():
        _download(name, row)
    arrays: dict[str, Array] = {}
    for part in ("train", "test"):
        try:
            images = _torchvision(row)(data_home(), train=part == "train")
        except RuntimeError as error:  # torchvision compares the md5 of every file
            raise UserError(
                f"{data_home() / row.folder} is damaged; remove it and try again"
            ) from error
        arrays[f"x_{part}"] = images.data
        arrays[f"y_{part}"] = np.array(images.targets)
        arrays["classes"] = np.array(images.classes)
    return arrays


def _torchvision(row: _Set) -> Any:
    import torchvision  # a second to import, and only needed here

    return getattr(torchvision.datasets, row.torchvision)


def _download(name: str, row: _Set) -> None:
    """Into a temporary folder first, so that an interruption leaves nothing half."""
    home = data_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=home) as temporary,
            redirect_stdout(sys.stderr),  # torchvision prints; standard output is for results
        ):
            _torchvision(row)(temporary, download=True)
            (Path(temporary) / row.folder).rename(home / row.folder)
    except (OSError, RuntimeError) as error:  # no network, no space, a wrong md5
        reason = " ".join(str(error).split())
        raise UserError(
            f"could not download {name} into {home} ({reason}); connect to the network, "
            "or point RESNETS_DATA to a folder that has it"
        ) from error
