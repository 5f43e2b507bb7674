"""Files of arrays that are damaged, lie about their size, or hold something else than images."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fault_harness import TINY_RUN, Fault

from resnets.data import open_data

PIXELS = np.arange(8 * 6 * 6, dtype=np.uint8).reshape(8, 6, 6)
LABELS = np.arange(8) % 2


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(shape: str, descr: str = "'|u1'", *, version: int = 1) -> bytes:
    """Return the header of an array alone, whatever the text of its shape."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode("latin1")
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes((version, 0)) + size + text


def _zip(members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def _opened(content: Callable[[], bytes]) -> Callable[[Path], Callable[[], Any]]:
    def make(folder: Path) -> Callable[[], Any]:
        (folder / "set.npz").write_bytes(content())
        return lambda: open_data(folder / "set.npz")

    return make


def _members(**changes: bytes | None) -> Callable[[Path], Callable[[], Any]]:
    """Return what opens a good file of which some members are replaced, added or left out."""
    good = {"x_train": _npy(PIXELS), "y_train": _npy(LABELS)}
    members = {f"{k}.npy": v for k, v in (good | changes).items() if v is not None}
    return _opened(lambda: _zip(members))


def _arrays(**changes: Any) -> Callable[[Path], Callable[[], Any]]:
    return _members(**{k: None if v is None else _npy(np.asarray(v)) for k, v in changes.items()})


def _read(**given: Any) -> Callable[[Path], Callable[[], None]]:
    """Return what opens arrays that can be read, and prints what was said."""

    def make(folder: Path) -> Callable[[], None]:
        np.savez(folder / "set.npz", **{k: np.asarray(v) for k, v in given.items()})

        def read() -> None:
            data = open_data(folder / "set.npz")
            sizes = {name: len(split) for name, split in data.splits.items()}
            print(data.classes, sizes, "; ".join(data.notices))

        return read

    return make


def _zeros(shape: str, size: int) -> bytes:
    """Return a file whose images are `size` zeros, packed as far as zlib can."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("images.npy", "w") as member:
            member.write(_header(shape))
            for _ in range(size // 2**20):
                member.write(bytes(2**20))
        file.writestr("labels.npy", _npy(LABELS))
    return buffer.getvalue()


def _encrypted() -> bytes:
    content = bytearray(_zip({"x_train.npy": _npy(PIXELS), "y_train.npy": _npy(LABELS)}))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        begin = -1
        while (begin := content.find(mark, begin + 1)) >= 0:
            content[begin + place] |= 1
    return bytes(content)


def _lying(size: int) -> bytes:
    """Return a file whose directory gives another size of the first array."""
    content = bytearray(_zip({"x_train.npy": _npy(PIXELS), "y_train.npy": _npy(LABELS)}))
    struct.pack_into("<I", content, content.find(b"PK\1\2") + 24, size)
    return bytes(content)


def _with_wrong_checksum() -> bytes:
    members = {"x_train.npy": _npy(PIXELS), "y_train.npy": _npy(LABELS)}
    content = bytearray(_zip(members, compression=zipfile.ZIP_STORED))
    content[200] ^= 1
    return bytes(content)


def _method(number: int) -> bytes:
    content = bytearray(_zip({"x_train.npy": _npy(PIXELS), "y_train.npy": _npy(LABELS)}))
    struct.pack_into("<H", content, content.find(b"PK\1\2") + 10, number)
    return bytes(content)


def _twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("x_train.npy", "y_train.npy"):
            file.writestr(name, _npy(PIXELS))
    return buffer.getvalue().replace(b"y_train.npy", b"x_train.npy")


def _many_members() -> bytes:
    entry = struct.pack(
        "<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, *[0] * 5, *[0] * 3, 1, *[0] * 6
    )  # name: one byte
    entries = (entry + b"a") * 200_000
    return entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, len(entries), 0, 0)


def _cut() -> bytes:
    content = _zip({"x_train.npy": _npy(PIXELS), "y_train.npy": _npy(LABELS)})
    return content[: len(content) // 2]


def _damaged() -> bytes:
    content = bytearray(_zip({"x_train.npy": _npy(PIXELS), "y_train.npy": _npy(LABELS)}))
    content[150:160] = bytes(10)
    return bytes(content)


def _pipe(folder: Path) -> Callable[[], Any]:
    os.mkfifo(folder / "set.npz")
    return lambda: open_data(folder / "set.npz")


def _trained(folder: Path) -> list[str]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    np.savez(folder / "set.npz", train_images=noise, train_labels=np.arange(12)[:, None] % 2)
    return ["train", "set.npz", "--out", "run", *TINY_RUN]


def _idx(content: bytes) -> Callable[[Path], Callable[[], Any]]:
    """Return what opens MNIST with this file of training images in the cache."""

    def make(folder: Path) -> Callable[[], Any]:
        os.environ["RESNETS_DATA"] = str(folder)
        raw = folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        labels = b"\0\0\10\1" + struct.pack(">i", 4) + bytes(range(4))
        (raw / "t10k-labels-idx1-ubyte").write_bytes(labels)
        (raw / "train-labels-idx1-ubyte").write_bytes(labels)
        name = "train-images-idx3-ubyte"
        (raw / (f"{name}.gz" if content[:2] == b"\x1f\x8b" else name)).write_bytes(content)
        return lambda: open_data("mnist")

    return make


def _gzip(size: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(size // 2**20)) + packer.flush()


BRACKETS = "(" * 9000
HUGE = f"({2**50}, 6, 6)"

FAULTS = [
    # What the zip is.
    Fault("npz/empty", _opened(lambda: b""), "not written by numpy.savez"),
    Fault("npz/text", _opened(lambda: b"x_train,y_train\n" * 99), "not written by numpy.savez"),
    Fault("npz/npy", _opened(lambda: _npy(PIXELS)), "not written by numpy.savez"),
    Fault("npz/cut", _opened(_cut), "not written by numpy.savez"),
    Fault("npz/damaged", _opened(_damaged), r"cannot read .*set\.npz as \.npz"),
    Fault("npz/checksum", _opened(_with_wrong_checksum), "damaged .*CRC", catalogue="C3"),
    Fault("npz/pipe", _pipe, "pipe"),
    Fault("npz/no-npy", _members(**{"x_train": b"no array"}), "no header as numpy"),
    Fault(
        "npz/text-member",
        _opened(lambda: _zip({"x_train.npy": _npy(PIXELS), "README": b"text"})),
        "'README' is no array",
    ),
    Fault(
        "npz/path-member",
        _opened(lambda: _zip({"../../x_train.npy": _npy(PIXELS)})),
        r"'\.\./\.\./x_train\.npy' is no array",
        catalogue="D24",
    ),
    Fault("npz/encrypted", _opened(_encrypted), "'x_train' is encrypted"),
    Fault("npz/lzma", _opened(lambda: _method(14)), "packed in an unusual way"),
    Fault("npz/bzip2", _opened(lambda: _method(12)), "packed in an unusual way"),
    Fault("npz/method-99", _opened(lambda: _method(99)), "packed in an unusual way"),
    Fault("npz/array-twice", _opened(_twice), "the array 'x_train' twice"),
    Fault("npz/200000-members", _opened(_many_members), "too many members", cpu_seconds=2),
    Fault("npz/size-too-small", _opened(lambda: _lying(100)), "damaged|has 100 bytes"),
    Fault("npz/size-too-large", _opened(lambda: _lying(2**31)), "bytes, which is not what"),
    # What the headers promise.
    Fault("npz/12-gigabytes", _members(x_train=_header("(10**9, 6, 2)")), "no header as numpy"),
    Fault("npz/promised", _members(x_train=_header("(1000000000, 6, 2)")), "bytes, which is not"),
    Fault("npz/2-to-50", _members(x_train=_header(HUGE)), "bytes, which is not", cpu_seconds=2),
    Fault("npz/brackets", _members(x_train=_header(BRACKETS)), "no header as numpy", cpu_seconds=2),
    Fault(
        "npz/long-header",
        _members(x_train=_header("(" + "1," * 2**20 + ")", version=2)),
        "no header as numpy",
    ),
    Fault("npz/negative", _members(x_train=_header("(-8, 6, 6)") + bytes(288)), "bytes, which is"),
    Fault(
        "npz/boolean-shape",
        _members(x_train=_header("(True, 6, 6)") + bytes(36)),
        "damaged|no header",
    ),
    Fault("npz/wrong-dtype", _members(x_train=_header("(8,)", "'zz'")), "no header as numpy"),
    Fault(
        "npz/version-9", _members(x_train=b"\x93NUMPY\x09\x00" + bytes(99)), "no header as numpy"
    ),
    Fault(
        "npz/bomb",
        _opened(lambda: _zeros("(1088, 512, 512)", 272 * 2**20)),
        "promises 285 MB, .* times its own size",
        cpu_seconds=2,
    ),
    Fault(
        "npz/bomb-of-images",
        _opened(lambda: _zeros("(16777216, 1, 1)", 2**24)),
        "promises 16,777,216 images",
        cpu_seconds=2,
    ),
    Fault("npz/structured", _arrays(x_train=np.zeros(8, [("a", "u1")])), r"has shape \(8,\)"),
    # Objects.
    Fault(
        "npz/objects",
        _arrays(y_train=np.array([0, 1, "a", None, 0, 1, 0, 1], object)),
        "holds Python objects, which are never read",
        catalogue="C4",
    ),
    Fault(
        "npz/objects-not-used",
        _arrays(remark=np.array([{}, []], object)),
        "'remark' holds Python objects",
        catalogue="C4",
    ),
    # Names.
    Fault("npz/arr-0", _arrays(arr_0=PIXELS, x_train=None, y_train=None), "has arr_0; expected"),
    Fault("npz/no-labels", _arrays(y_train=None), "x_train but no labels"),
    Fault("npz/images-twice", _arrays(train_images=PIXELS), "images of one split twice"),
    Fault("npz/classes-twice", _arrays(classes=["a"], class_names=["a"]), "names classes twice"),
    Fault("npz/with-and-without-split", _arrays(x=PIXELS, y=LABELS), "with and without a split"),
    Fault("npz/medmnist", _trained, "top-1", code=0, catalogue="D23"),
    Fault(
        "npz/not-used",
        _read(images=PIXELS, labels=LABELS, meta=[1], class_names=["a", "b"]),
        r"'a', 'b'.*arrays not used: meta",
        code=0,
    ),
    # Images.
    Fault("npz/floats", _arrays(x_train=PIXELS / 300), "no 8-bit colours; save images as uint8"),
    Fault("npz/exact-floats", _read(x=PIXELS / 255, y=LABELS), "without loss", code=0),
    Fault("npz/int64", _read(x=PIXELS.astype(int), y=LABELS), "int64: converted", code=0),
    Fault("npz/nan", _arrays(x_train=np.full((8, 6, 6), np.nan)), "from nan to nan"),
    Fault("npz/infinite", _arrays(x_train=np.full((8, 6, 6), np.inf)), "to inf; save images"),
    Fault("npz/16-bit", _arrays(x_train=PIXELS.astype("u2") * 9), "uint16 from 0 to 2295"),
    Fault("npz/signed", _arrays(x_train=PIXELS.astype("i1")), "int8 from -128 to 127"),
    Fault("npz/boolean-images", _arrays(x_train=PIXELS > 9), "is bool; save images"),
    Fault("npz/complex", _arrays(x_train=PIXELS * 1j), "is complex128; save images"),
    Fault("npz/rgba", _arrays(x_train=np.zeros((8, 6, 6, 4), "u1")), "without transparency"),
    Fault("npz/n-c-h-w", _read(x=np.zeros((8, 3, 6, 6), "u1"), y=LABELS), "N C H W", code=0),
    Fault("npz/flat", _arrays(x_train=PIXELS.reshape(8, 36)), "expected N H W"),
    Fault("npz/scalar", _arrays(x_train=np.uint8(5)), "expected N H W"),
    Fault("npz/no-pixels", _arrays(x_train=np.zeros((8, 0, 6), "u1")), "without pixels"),
    Fault("npz/no-images", _arrays(x_train=PIXELS[:0], y_train=LABELS[:0]), "no |single class"),
    # Labels.
    Fault("npz/label-nan", _arrays(y_train=[0, 1, np.nan, 1, 0, 1, 0, 1]), "the label nan"),
    Fault("npz/label-half", _arrays(y_train=LABELS + 0.5), "the label 0.5"),
    Fault("npz/labels-as-floats", _read(x=PIXELS, y=LABELS * 1.0), "whole numbers", code=0),
    Fault("npz/label-negative", _arrays(y_train=LABELS - 1), "the label -1 for image 0"),
    Fault("npz/label-huge", _arrays(y_train=LABELS.astype("u8") + 2**63), "number classes from 0"),
    Fault(
        "npz/label-too-large",
        _arrays(y_train=LABELS + 1, classes=["a", "b"]),
        "2 classes",
        catalogue="T17",
    ),
    Fault("npz/labels-of-two", _arrays(y_train=LABELS[:2]), r"shape \(2,\) for 8 images"),
    Fault("npz/labels-boolean", _arrays(y_train=LABELS > 0), "is bool; labels"),
    Fault("npz/labels-dates", _arrays(y_train=LABELS.astype("M8[D]")), "is datetime64"),
    Fault("npz/labels-bytes", _read(x=PIXELS, y=np.array([b"a", b"b"] * 4)), "'a', 'b'", code=0),
    Fault("npz/labels-not-text", _arrays(y_train=np.array([b"a", b"\xff"] * 4)), "no text"),
    Fault("npz/labels-surrogates", _arrays(y_train=np.array(["a", "\ud800"] * 4)), "no text"),
    Fault("npz/labels-empty", _arrays(y_train=np.array(["a", ""] * 4)), "the label ''"),
    Fault("npz/labels-nan-text", _arrays(y_train=np.array(["a", "nan"] * 4)), "the label 'nan'"),
    Fault("npz/labels-no-code", _members(y_train=_header("(8,)", "'<U1'") + b"\xff" * 32), "text"),
    Fault("npz/one-hot", _read(x=PIXELS, y=np.eye(2)[LABELS]), "one-hot", code=0),
    Fault("npz/several-labels", _arrays(y_train=np.ones((8, 2), int)), "not one-hot"),
    Fault("npz/soft-labels", _arrays(y_train=np.full((8, 2), 0.5)), "not one-hot"),
    Fault("npz/classes-of-lists", _arrays(classes=[["a"], ["b"]]), "expected a list of strings"),
    Fault("npz/classes-nan", _arrays(classes=[np.nan, 1.0]), "expected a list of strings"),
    Fault("npz/class-twice", _arrays(classes=["a", "a"]), "names a class twice"),
    Fault(
        "npz/class-missing-in-train",
        _arrays(x_test=PIXELS, y_test=LABELS + 1),
        "classes in test that train does not have: 2",
        catalogue="D17",
    ),
    # Sets in the cache.
    Fault("npz/idx-empty", _idx(b""), "is damaged .*remove it"),
    Fault("npz/idx-text", _idx(b"<html>not found</html>"), "is damaged .*remove it"),
    Fault("npz/idx-short", _idx(b"\0\0\10\3" + struct.pack(">3i", 9, 28, 28)), "is damaged"),
    Fault("npz/idx-negative", _idx(b"\0\0\10\3" + struct.pack(">3i", -5, -28, 28)), "is damaged"),
    Fault("npz/idx-255-dimensions", _idx(b"\0\0\10\xff" + bytes(2000)), "is damaged"),
    Fault("npz/idx-bomb", _idx(_gzip(2**27)), "is damaged", cpu_seconds=2),
]
