"""Provide the data sets that have a name: the embedded one, and those that torchvision downloads.

A set is looked for in the cache (`fileio.cache_dir`), then where Debian packages put it
(/usr/share/datasets), and only then downloaded, once.
"""

import gzip
import sys
import tempfile
import zlib
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnets.data.file_store import Array
from resnets.data.sources.listing import SourceListing
from resnets.data.sources.npz import list_arrays, read_npz
from resnets.errors import UserError
from resnets.fileio import cache_dir, open_file

EMBEDDED = "fashion-mini"
SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)

# Torchvision's class, the folder that it makes, and the classes. (Torchvision says "0 - zero".)
_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_IDX = {
    "mnist": ("MNIST", "MNIST", _DIGITS),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST", _CLOTHES),
    "kmnist": ("KMNIST", "KMNIST", _KANA),
}
_CIFAR = {
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
# Bytes of an unpacked IDX file: 60,000 images of 28 x 28 pixels take 47 million.
MAX_IDX = 2**26
NAMES = (EMBEDDED, *_IDX, *_CIFAR)


def read_named(name: str) -> SourceListing:
    """Read one of NAMES, downloaded if it is not on this machine."""
    if name == EMBEDDED:
        return replace(read_npz(Path(__file__).parents[1] / "fashion_mini.npz"), name=name)
    arrays = _read_idx_set(name) if name in _IDX else _read_cifar(name)
    return list_arrays(arrays, name=name, source=name)


def _read_idx_set(name: str) -> dict[str, Array]:
    kind, made, classes = _IDX[name]
    home = cache_dir() / made / "raw"
    places = [home, *(folder / name for folder in SYSTEM_FOLDERS)]
    folder = next((place for place in places if _idx_file(place, "t10k-labels-idx1")), None)
    if folder is None:
        _download(name, kind, made)
        folder = home
    arrays: dict[str, Array] = {"classes": np.array(classes)}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays[f"x_{split}"] = _read_idx(folder, f"{prefix}-images-idx3")
        arrays[f"y_{split}"] = _read_idx(folder, f"{prefix}-labels-idx1")
    return arrays


def _idx_file(folder: Path, stem: str) -> Path | None:
    names = (f"{stem}-ubyte", f"{stem}-ubyte.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_idx(folder: Path, stem: str) -> Array:
    """Read an IDX file: two zeros, type 8, number of dimensions, their sizes, the values."""
    path = _idx_file(folder, stem)
    if path is None:
        raise UserError(f"{folder} lacks {stem}-ubyte.gz; remove the folder to download it again")
    try:
        with open_file(path) as file:
            unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            content = unpacked.read(MAX_IDX + 1)
        num_dimensions = 3 if "images" in stem else 1
        begin = 4 + 4 * num_dimensions
        if content[:4] != bytes((0, 0, 8, num_dimensions)) or len(content) > MAX_IDX:
            raise ValueError("it is no such IDX file")
        shape = np.frombuffer(content, ">i4", num_dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and try again") from error


def _read_cifar(name: str) -> dict[str, Array]:
    kind, made = _CIFAR[name]
    if not (cache_dir() / made).is_dir():
        _download(name, kind, made)
    arrays: dict[str, Array] = {}
    for split in ("train", "test"):
        try:
            images = _torchvision(kind)(cache_dir(), train=split == "train")
        # Torchvision compares the md5 of every file before it is unpickled.
        except (RuntimeError, OSError) as error:
            raise UserError(f"{cache_dir() / made} is damaged; remove it and try again") from error
        arrays[f"x_{split}"] = images.data
        arrays[f"y_{split}"] = np.array(images.targets)
        arrays["classes"] = np.array(images.classes)
    return arrays


def _torchvision(kind: str) -> Any:
    import torchvision  # a second to import, and only needed here

    return getattr(torchvision.datasets, kind)


def _download(name: str, kind: str, made: str) -> None:
    """Download into a temporary folder, so that an interruption leaves nothing incomplete."""
    home = cache_dir()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=home) as temporary,
            redirect_stdout(sys.stderr),  # torchvision prints; standard output is for results
        ):
            _torchvision(kind)(temporary, download=True)
            (Path(temporary) / made).rename(home / made)
    except (OSError, RuntimeError) as error:  # no network, no space, a wrong md5
        reason = " ".join(str(error).split())
        raise UserError(
            f"could not download {name} into {home} ({reason}); connect to the network, "
            "or point RESNETS_DATA to a folder that has it"
        ) from error
