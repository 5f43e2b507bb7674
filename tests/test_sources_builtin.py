"""Test the sets that have a name: found on the machine, or downloaded once (here from loopback)."""

from __future__ import annotations

import functools
import gzip
import hashlib
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision

from pictures import fill
from resnets.data import Images, open_data
from resnets.data.sources import builtin
from resnets.errors import UserError


def test_a_folder_with_the_name_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "fashion-mini", "a/1.png", "b/1.png")
    monkeypatch.chdir(tmp_path)
    data = open_data("fashion-mini")
    assert len(data.splits["train"]) == 10_000
    assert "write ./fashion-mini" in data.notices[0]
    assert open_data("./fashion-mini").classes == ("a", "b")


def write_idx(folder: Path, *, prefix: str, images: np.ndarray, targets: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for array, stem in ((images, "images-idx3"), (targets, "labels-idx1")):
        head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape)
        packed = gzip.compress(head + array.tobytes())
        (folder / f"{prefix}-{stem}-ubyte.gz").write_bytes(packed)


def some_digits() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    return images, (np.arange(20) % 10).astype(np.uint8)


def test_sets_installed_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = some_digits()
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / "mnist", prefix=prefix, images=images, targets=targets)
    monkeypatch.setattr(builtin, "SYSTEM_FOLDERS", (tmp_path,))
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path / "none"))
    data = open_data("mnist")
    assert data.classes == tuple("0123456789")
    assert isinstance(data.splits["test"], Images)
    np.testing.assert_array_equal(data.splits["test"].pixels[..., 0], images)
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(UserError, match="is damaged"):
        open_data("mnist")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(url, folder) of a web server on loopback."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", served
        http.shutdown()
        thread.join()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_mnist_is_downloaded_once(
    server: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, served = server
    images, targets = some_digits()
    for prefix in ("train", "t10k"):
        write_idx(served, prefix=prefix, images=images, targets=targets)
    theirs = torchvision.datasets.KMNIST
    resources = [(name, md5(served / name)) for name, _ in theirs.resources]
    monkeypatch.setattr(theirs, "resources", resources)
    monkeypatch.setattr(theirs, "mirrors", [url])
    monkeypatch.setattr(builtin, "SYSTEM_FOLDERS", ())
    home = tmp_path / "home"
    monkeypatch.setenv("RESNETS_DATA", str(home))
    data = open_data("kmnist")
    assert data.classes == tuple(theirs.classes)
    np.testing.assert_array_equal(data.splits["train"].targets, targets)
    assert capsys.readouterr().out == ""
    assert [path.name for path in home.iterdir()] == ["KMNIST"]
    monkeypatch.setattr(theirs, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    assert len(open_data("kmnist").splits["train"]) == 20


def test_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:9/x.tar.gz")
    monkeypatch.setattr(builtin, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path))
    for name in ("mnist", "cifar100"):
        with pytest.raises(UserError, match=f"could not download {name} .* RESNETS_DATA") as caught:
            open_data(name)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_cifar10_is_downloaded_once(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, served = server
    theirs = torchvision.datasets.CIFAR10
    folder = served / theirs.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)

    def dump(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5(folder / name)]

    batch = {"data": pixels.reshape(4, -1), "labels": [3, 1, 4, 1]}
    names = [str(k) for k in range(10)]
    meta = dump("batches.meta", {"label_names": names})
    monkeypatch.setattr(theirs, "train_list", [dump("data_batch_1", batch)])
    monkeypatch.setattr(theirs, "test_list", [dump("test_batch", batch)])
    monkeypatch.setattr(theirs, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    with tarfile.open(served / theirs.filename, "w:gz") as archive:
        archive.add(folder, theirs.base_folder)
    monkeypatch.setattr(theirs, "url", url + theirs.filename)
    monkeypatch.setattr(theirs, "tgz_md5", md5(served / theirs.filename))
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path / "home"))
    data = open_data("cifar10", classes=names)
    assert isinstance(data.splits["train"], Images)
    np.testing.assert_array_equal(data.splits["train"].pixels, pixels.transpose(0, 2, 3, 1))
    assert data.splits["train"].targets.tolist() == [3, 1, 4, 1]
    monkeypatch.setattr(theirs, "url", "http://127.0.0.1:9/x.tar.gz")
    trained = open_data("cifar10")
    assert trained.classes == ("1", "3", "4")
    assert trained.notices == ("classes without any image, left out: 0, 2, 5, 6, 7 and 2 more",)
    (tmp_path / "home" / theirs.base_folder / "test_batch").write_bytes(b"x")
    with pytest.raises(UserError, match="is damaged; remove it"):
        open_data("cifar10")


def test_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNETS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert builtin.cache_dir() == tmp_path / "resnets"
