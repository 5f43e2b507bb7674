"""Official Fashion-MNIST (four IDX files) -> src/resnets/data/fashion_mini.npz, the embedded set.

10,000 of the 60,000 training images and 2,000 of the 10,000 test images, equally many of each
class, chosen by a fixed seed, in the order of the source files. Debian's package
`dataset-fashion-mnist` installs the sources; https://github.com/zalandoresearch/fashion-mnist
offers them too.

    python scripts/make_fashion_mini.py [SOURCE_FOLDER] [TARGET.npz]
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

SEED = 0
NUM_PER_CLASS = {"train": 1000, "test": 200}
SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parents[1] / "src" / "resnets" / "data" / "fashion_mini.npz"

# md5 of each file: as Zalando publishes it, and as Debian repacks it (same content, other gzip).
MD5 = {
    "train-images-idx3-ubyte.gz": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "cf8536b0aa1a6ac5fa3f23001093305c",
    ),
    "train-labels-idx1-ubyte.gz": (
        "25c81989df183df01b3e8a0aad5dffbe",
        "10bea18fdb374794d4bb42e356e600c9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "bef4ecab320f06d8554ea6380940ec79",
        "f78720b4224f21cce2f2ccf2d7a94c9a",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "bb300cfdad3c16e7a12a480ee83cd310",
        "0d30e22e447f3c33dab9ed536400ac01",
    ),
}

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes, after its md5 has been compared."""
    packed = path.read_bytes()
    digest = hashlib.md5(packed).hexdigest()
    if digest not in MD5[path.name]:
        raise SystemExit(f"{path} has md5 {digest}; known are {', '.join(MD5[path.name])}")
    content = gzip.decompress(packed)
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def choose(labels: np.ndarray, *, num_per_class: int, seed: int) -> np.ndarray:
    """Sorted indices of `num_per_class` images of every class."""
    # Raw draws: numpy promises their stream for all versions, but not how it chooses with them.
    draws = np.random.PCG64(seed).random_raw(len(labels))
    order = np.argsort(draws, kind="stable")
    chosen = [order[labels[order] == label][:num_per_class] for label in range(len(CLASSES))]
    return np.sort(np.concatenate(chosen))


def make(source: Path) -> dict[str, np.ndarray]:
    """The arrays of the embedded set."""
    arrays = {"classes": np.array(CLASSES)}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        indices = choose(labels, num_per_class=NUM_PER_CLASS[part], seed=SEED)
        arrays[f"x_{part}"], arrays[f"y_{part}"] = images[indices], labels[indices]
    return arrays


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET
    np.savez_compressed(target, **make(source))
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")
