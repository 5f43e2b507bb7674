"""Parquet files with other metadata, labels and columns, damaged pages, and sizes that lie."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fault_harness import TINY_RUN, Fault, photos, picture, slow

from resnets.data import open_data
from resnets.data.sources.source_config import SourceConfig

FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}


def _pictures(count: int = 4) -> list[dict[str, Any]]:
    images = []
    for number in range(count):
        buffer = io.BytesIO()
        picture(number % 2, number).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    return images


def _write(path: Path, metadata: str | None = None, **columns: Any) -> None:
    given = {"image": _pictures(), "label": [0, 1, 0, 1]} | columns
    table = pa.table({name: column for name, column in given.items() if column is not None})
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _file(
    metadata: str | None = None, *, options: SourceConfig | None = None, **columns: Any
) -> Callable[[Path], Callable[[], None]]:
    """Return what opens a file with these columns in place of its own, and prints its classes."""

    def make(folder: Path) -> Callable[[], None]:
        _write(folder / "set.parquet", metadata, **columns)

        def read() -> None:
            data = open_data(folder / "set.parquet", options)
            print(data.classes, {name: len(split) for name, split in data.splits.items()})

        return read

    return make


def _features(**features: Any) -> str:
    return json.dumps({"info": {"features": FEATURES | features}})


def _bytes(content: bytes) -> Callable[[Path], Callable[[], Any]]:
    def make(folder: Path) -> Callable[[], Any]:
        (folder / "set.parquet").write_bytes(content)
        return lambda: open_data(folder / "set.parquet")

    return make


def _pipe(folder: Path) -> Callable[[], Any]:
    os.mkfifo(folder / "set.parquet")
    return lambda: open_data(folder / "set.parquet")


def _paths(*paths: str, **options: Any) -> Callable[[Path], Callable[[], Any]]:
    """Return what opens a file in a folder whose rows name images by their paths."""

    def make(folder: Path) -> Callable[[], Any]:
        photos(folder)
        photos(folder / "data")
        images = [{"path": path.format(folder=folder)} for path in paths]
        _write(folder / "data" / "set.parquet", image=images, label=[0, 1])
        return lambda: print(open_data(folder / "data" / "set.parquet", SourceConfig(**options)))

    return make


def _one_outside(folder: Path) -> list[str]:
    """One of 400 rows names a file outside; the others have contents, and paths of their past."""
    photos(folder)
    image = _pictures(1)[0]
    images = [image | {"path": f"/srv/me/{row}.png"} for row in range(399)]
    outside = {"bytes": None, "path": "../cat/000.png"}
    labels = [row % 2 for row in range(400)]
    _write(folder / "data" / "set.parquet", image=[*images, outside], label=labels)
    return ["train", "data/set.parquet", "--max-corrupt", "0.5", "--out", "run", *TINY_RUN]


def _outside_once_allowed(folder: Path) -> Callable[[], Any]:
    """Open with permission, which stores the headers, and then without."""
    from resnets.data.sources import header_cache

    header_cache.REMEMBERED_FROM, header_cache.SETTLED = 2, 0
    read = _paths("cat/000.png", "../dog/000.png", allow_outside=True)(folder)
    read()
    return lambda: open_data(folder / "data" / "set.parquet")


def _zeros(folder: Path) -> Callable[[], Any]:
    image = {"bytes": bytes(10**6), "path": None}
    _write(folder / "set.parquet", image=[image] * 300, label=[n % 2 for n in range(300)])
    return lambda: open_data(folder / "set.parquet")


def _long_labels(folder: Path) -> Callable[[], Any]:
    labels = pa.array(["x" * 10**6] * 600)
    _write(folder / "set.parquet", image=_pictures(1) * 600, label=labels)
    return lambda: open_data(folder / "set.parquet")


def _many_rows(folder: Path) -> Callable[[], Any]:
    count = 2_000_000
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = pa.array(np.zeros(count, np.int8))
    table = pa.table({"image": pa.nulls(count, kind), "label": labels})
    pq.write_table(table, folder / "set.parquet", row_group_size=count)
    return lambda: open_data(folder / "set.parquet")


def _huge_image(folder: Path) -> Callable[[], Any]:
    image = {"bytes": bytes(270_000_000), "path": None}
    _write(folder / "set.parquet", image=[image, *_pictures(1)], label=[0, 1])
    return lambda: open_data(folder / "set.parquet")


def _damaged_page(folder: Path) -> Callable[[], Any]:
    _write(folder / "set.parquet")
    content = bytearray((folder / "set.parquet").read_bytes())
    content[10:60] = b"\xff" * 50
    (folder / "set.parquet").write_bytes(content)
    return lambda: open_data(folder / "set.parquet")


def _damaged_later(folder: Path) -> Callable[[], Any]:
    """Damage the images after they were listed."""
    _write(folder / "set.parquet")
    data = open_data(folder / "set.parquet").splits["all"].subset([0, 1])
    content = bytearray((folder / "set.parquet").read_bytes())
    content[10:60] = b"\xff" * 50
    (folder / "set.parquet").write_bytes(content)
    data.files.recent.groups.clear()  # type: ignore[union-attr]
    return lambda: data.read(0, 3)


def _differing(folder: Path) -> Callable[[], Any]:
    _write(folder / "train-0.parquet", _features())
    _write(folder / "train-1.parquet", label=[5, 6, 5, 6])
    return lambda: open_data(folder)


def _one_is_no_parquet(folder: Path) -> Callable[[], Any]:
    _write(folder / "train-0.parquet")
    (folder / "test-0.parquet").write_text("no parquet")
    return lambda: open_data(folder)


def _encrypted(folder: Path) -> Callable[[], Any]:
    (folder / "set.parquet").write_bytes(b"PARE" + bytes(100) + b"\x10\0\0\0PARE")
    return lambda: open_data(folder / "set.parquet")


def _twice(folder: Path) -> Callable[[], Any]:
    table = pa.table(
        [pa.array(_pictures()), *[pa.array([0, 1, 0, 1])] * 2], ["image", *["label"] * 2]
    )
    pq.write_table(table, folder / "set.parquet")
    return lambda: open_data(folder / "set.parquet")


TEXTS = pa.struct([("bytes", pa.string()), ("path", pa.string())])

FAULTS = [
    # The metadata.
    Fault("parquet/metadata-list", _file("[]"), "huggingface metadata of .*Expected `object`"),
    Fault("parquet/metadata-number", _file("5"), "huggingface metadata"),
    Fault("parquet/metadata-no-json", _file("{"), "huggingface metadata"),
    Fault("parquet/info-list", _file('{"info": []}'), "huggingface metadata .*info"),
    Fault("parquet/features-list", _file('{"info": {"features": []}}'), "metadata .*features"),
    Fault("parquet/features-null", _file('{"info": {"features": null}}'), "metadata .*features"),
    Fault("parquet/nested", _file("[" * 100_000), "32 levels"),
    Fault("parquet/nested-objects", _file('{"info":' * 50_000), "32 levels"),
    Fault(
        "parquet/names-null",
        _file(_features(label={"_type": "ClassLabel", "names": None})),
        r"\('0', '1'\)",
        code=0,
    ),
    Fault(
        "parquet/names-number",
        _file(_features(label={"_type": "ClassLabel", "names": 5})),
        "'label' is not valid.*names",
    ),
    Fault(
        "parquet/names-text",
        _file(_features(label={"_type": "ClassLabel", "names": "ab"})),
        "'label' is not valid.*names",
    ),
    Fault(
        "parquet/names-lists",
        _file(_features(label={"_type": "ClassLabel", "names": [["a"]]})),
        "'label' is not valid.*names",
    ),
    Fault(
        "parquet/names-twice",
        _file(_features(label={"_type": "ClassLabel", "names": ["a"] * 2})),
        "names a class of 'label' twice",
    ),
    Fault("parquet/feature-list", _file(_features(other=[{"_type": "Value"}])), "'a', 'b'", code=0),
    Fault("parquet/image-is-text", _file(_features(), image=["x"] * 4), r"image \(string\)"),
    # Labels.
    Fault("parquet/label-nan", _file(label=[0.0, 1.0, float("nan"), 0.0]), "row 2 .* label nan"),
    Fault("parquet/label-half", _file(label=[0.0, 1.0, 0.5, 0.0]), "row 2 .* label 0.5"),
    Fault(
        "parquet/label-infinite", _file(label=[0.0, 1.0, float("inf"), 0.0]), "row 2 .* label inf"
    ),
    Fault("parquet/label-negative", _file(label=[0, 1, -2, 0]), "row 2 .* label -2"),
    Fault("parquet/label-list", _file(label=[[0], [1], [0], [1]]), "column label .* is list"),
    Fault("parquet/label-struct", _file(label=[{"a": 1}] * 4), "column label .* is struct"),
    Fault("parquet/label-boolean", _file(label=[True, False] * 2), "column label .* is bool"),
    Fault(
        "parquet/label-time", _file(label=pa.array([1, 2, 3, 4], pa.timestamp("s"))), "timestamp"
    ),
    Fault("parquet/label-bytes", _file(label=[b"a", b"b"] * 2), "column label .* is binary"),
    Fault("parquet/label-text-with-names", _file(_features(), label=["a", "b"] * 2), "is string"),
    Fault(
        "parquet/label-too-large",
        _file(_features(), label=[0, 1, 2, 0]),
        "label 2, but 2 classes",
        catalogue="T17",
    ),
    Fault("parquet/label-nan-text", _file(label=["a", "nan"] * 2), "row 1 .*missing value"),
    Fault("parquet/label-na-text", _file(label=["a", "<NA>"] * 2), "row 1 .*missing value"),
    Fault("parquet/labels-null", _file(label=pa.nulls(4)), "no labelled images"),
    Fault("parquet/labels-text", _file(label=["a", "b"] * 2), r"\('a', 'b'\)", code=0),
    Fault(
        "parquet/labels-dictionary",
        _file(label=pa.array(["a", "b"] * 2).dictionary_encode()),
        r"\('a', 'b'\)",
        code=0,
    ),
    Fault("parquet/labels-whole-floats", _file(label=[0.0, 1.0, None, 1.0]), "'all': 3", code=0),
    # Columns.
    Fault("parquet/no-columns", _file(image=None, label=None), "expected|no labelled"),
    Fault("parquet/no-label", _file(label=None), r"image \(struct.*expected one image column"),
    Fault(
        "parquet/usual-columns-given",
        _file(label=None, kind=["a", "b"] * 2, options=SourceConfig(columns="label=kind")),
        r"\('a', 'b'\)",
        code=0,
    ),
    Fault(
        "parquet/column-unknown",
        _file(options=SourceConfig(columns="label=lable")),
        "did you mean 'label'",
    ),
    Fault(
        "parquet/split-given",
        _file(options=SourceConfig(columns="split=label")),
        "the split is in the name",
    ),
    Fault("parquet/column-twice", _twice, "the column 'label' twice"),
    Fault("parquet/list-of-images", _file(image=[_pictures(1)] * 4), r"image \(list"),
    Fault("parquet/numbers-as-images", _file(image=[1, 2, 3, 4]), r"image \(int64"),
    Fault(
        "parquet/text-as-content",
        _file(image=pa.array([{"bytes": "/etc/hostname", "path": None}] * 4, TEXTS)),
        r"image \(struct",
    ),
    Fault("parquet/no-images", _file(image=[{"bytes": b"x", "path": None}] * 4), "4 of 4 images"),
    # Paths.
    Fault("parquet/paths", _paths("cat/000.png", "dog/000.png"), "'0', '1'", code=0),
    Fault(
        "parquet/path-up",
        _paths("cat/000.png", "../dog/000.png"),
        r"outside .*--allow-outside",
        catalogue="D23",
    ),
    Fault(
        "parquet/path-absolute",
        _paths("cat/000.png", "{folder}/dog/000.png"),
        "--allow-outside",
        catalogue="D23",
    ),
    Fault(
        "parquet/path-allowed",
        _paths("cat/000.png", "../dog/000.png", allow_outside=True),
        "'0', '1'",
        code=0,
    ),
    Fault(
        "parquet/one-path-outside", _one_outside, r"a row names '\.\./cat/000\.png'.*--allow-out"
    ),
    Fault("parquet/path-once-allowed", _outside_once_allowed, "--allow-outside", catalogue="D23"),
    Fault("parquet/path-nul", _paths("cat/000.png", "a\0b"), "not a path"),
    # Sizes and damage.
    Fault(
        "parquet/300-megabytes-in-1-kilobyte",
        _zeros,
        "unpacks to more than it declares",
        cpu_seconds=4,
    ),
    Fault("parquet/labels-of-megabytes", _long_labels, "a label of 1,000,000 bytes", cpu_seconds=2),
    Fault("parquet/2-million-rows", _many_rows, "promises 2,000,000 rows", cpu_seconds=2),
    Fault("parquet/270-megabytes-an-image", _huge_image, "times its own size", cpu_seconds=2),
    Fault("parquet/damaged-page", _damaged_page, "row group 0: damaged"),
    Fault(
        "parquet/damaged-later",
        _damaged_later,
        r"set\.parquet#0: row group 0: damaged",
        catalogue="D26",
    ),
    Fault("parquet/empty", _bytes(b""), "as parquet: damaged"),
    Fault("parquet/text", _bytes(b"image,label\n" * 99), "as parquet: damaged"),
    Fault(
        "parquet/footer-too-long", _bytes(b"PAR1" + bytes(50) + b"\xff\xff\xff\x7fPAR1"), "damaged"
    ),
    Fault("parquet/encrypted", _encrypted, "encrypted metadata"),
    Fault("parquet/pipe", _pipe, "pipe"),
    Fault(
        "parquet/no-rows",
        _file(image=pa.array([], pa.struct([("bytes", pa.binary())])), label=[]),
        "no labelled images",
    ),
    Fault("parquet/differing-files", _differing, "the other files do not name: 5, 6"),
    Fault("parquet/one-is-no-parquet", _one_is_no_parquet, r"test-0\.parquet as parquet: damaged"),
]

FAULTS = slow(
    FAULTS,
    "parquet/270-megabytes-an-image",
    "parquet/labels-of-megabytes",
)
