"""Test the embedded set and the script that makes it from the official files."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from resnets.data import Images, open_data

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "src" / "resnets" / "data" / "fashion_mini.npz"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts" / "make_fashion_mini.py"
    config = importlib.util.spec_from_file_location("make_fashion_mini", path)
    assert config is not None
    assert config.loader is not None
    module = importlib.util.module_from_spec(config)
    config.loader.exec_module(module)
    return module


def test_contents() -> None:
    data = open_data("fashion-mini")
    assert data.name == "fashion-mini"
    assert data.classes == tuple(FashionMNIST.classes)
    assert data.notices == ()
    for part, num_per_class in (("train", 1000), ("test", 200)):
        images = data.splits[part]
        assert isinstance(images, Images)
        assert images.pixels.shape == (num_per_class * 10, 28, 28, 1)
        assert np.bincount(images.targets).tolist() == [num_per_class] * 10
        # The mean of Fashion-MNIST is 0.286, its standard deviation 0.353.
        assert abs(images.pixels.mean() / 255 - 0.286) < 0.01
        assert abs(images.pixels.std() / 255 - 0.353) < 0.01


def test_size_and_licence() -> None:
    assert EMBEDDED.stat().st_size <= 6_000_000
    licence = EMBEDDED.with_suffix(".LICENSE").read_text(encoding="utf-8")
    assert "Zalando SE" in licence
    assert "The MIT License" in licence


def test_recorded_md5_are_the_published_ones(script: ModuleType) -> None:
    published = dict(FashionMNIST.resources)
    assert {name: known[0] for name, known in script.MD5.items()} == published


def test_script_makes_the_embedded_file(script: ModuleType) -> None:
    if not script.SOURCE.is_dir():
        pytest.skip("needs the package dataset-fashion-mnist")
    made = script.make(script.SOURCE)
    with np.load(EMBEDDED, allow_pickle=False) as embedded:
        assert set(embedded.files) == set(made)
        for name in made:
            np.testing.assert_array_equal(embedded[name], made[name])


def test_script_refuses_other_sources(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07"))
    with pytest.raises(SystemExit, match="has md5"):
        script.read_idx(path)


def test_choice_is_balanced_and_seeded(script: ModuleType) -> None:
    labels = np.random.default_rng(1).integers(0, 10, 1000)
    chosen = script.choose(labels, num_per_class=20, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [20] * 10
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, script.choose(labels, num_per_class=20, seed=3))
    assert not np.array_equal(chosen, script.choose(labels, num_per_class=20, seed=4))
