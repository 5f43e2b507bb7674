"""Test manifests, arrays and parquet files, right and wrong."""

from __future__ import annotations

import csv
import json
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pictures import fill, labels, painted
from resnets.data import open_data
from resnets.data.sources import memory_limits, npz
from resnets.data.sources.image_paths import ImagePaths
from resnets.data.sources.source_config import SourceConfig
from resnets.errors import UserError


def manifest(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv(tmp_path: Path) -> None:
    fill(tmp_path, "x/1.png", "x/2.png", "3.png")
    text = "\ufeffPath,label,split,remark\nx/1.png,dog,train,\n./3.png,cat,train\n\n"
    text += "x/2.png,cat,valid\n"
    data = open_data(manifest(tmp_path, "set.csv", text))
    assert data.name == "set"
    assert data.classes == ("cat", "dog")
    assert labels(data, "train") == {"x/1.png": "dog", "3.png": "cat"}
    assert labels(data, "val") == {"x/2.png": "cat"}
    assert data.splits["val"].read(0, 3).shape == (4, 6, 3)


def test_jsonl(tmp_path: Path) -> None:
    fill(tmp_path / "far", "1.png", "2.png")
    rows = [{"path": "../far/1.png", "label": 7}, {"path": str(tmp_path / "far/2.png"), "label": 8}]
    (tmp_path / "near").mkdir()
    text = "\n".join(map(json.dumps, rows)) + "\n"
    path = manifest(tmp_path / "near", "set.jsonl", text)
    with pytest.raises(
        UserError, match=r"line 1 of .* '../far/1.png' is outside .*--allow-outside"
    ):
        open_data(path)
    data = open_data(path, SourceConfig(allow_outside=True))
    assert list(data.splits) == ["all"]
    assert labels(data, "all")["../far/1.png"] == "7"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "must name the columns: path,label"),
        ("a.csv", "1.png,cat\n", "has the columns 1.png, cat; expected path and label"),
        ("a.csv", "path,label\n", "lists no images"),
        ("a.csv", "path,label\n1.png,\n2.png,\n", "gives no label"),
        ("a.csv", "path,label\n1.png,a\n./1.png,b\n", "line 3 .* names 1.png again, after line 2"),
        ("a.csv", "path,label,split\n1.png,a,trian\n", "'trian'; did you mean 'train'"),
        ("a.csv", "path,label,split\n1.png,a,train\n2.png,b,\n", "but none for 2.png"),
        ("a.csv", "path,label\n1.png,a\n8.png,b\n9.png,b\n", "2 of 3 images.*8.png .no such file"),
        ("a.csv", "path,label\n8.png,a\n9.png,b\n", "no image that .* names exists .2 tried"),
        ("a.csv", "path,label\n1.png\n", "line 2 .* has 1 cells, the first line 2"),
        ("a.csv", "path,label\na, b.png,cat\n", "line 2 .* has 3 cells, the first line 2"),
        ("a.csv", 'path,label\n1.png,"a\n2.png,b\n', "line 2 .* a quote opens here"),
        ("a.csv", "path,label\n1.png,NaN\n", "line 2 .* a missing value"),
        ("a.csv", "path,label,Label\n1.png,a,b\n", "several columns for the label"),
        ("a.csv", "path,label,label\n1.png,a,b\n", "the column 'label' twice"),
        ("a.csv", "image,class,category\n1.png,a,b\n", "--columns path=COLUMN,label=COLUMN"),
        ("a.csv", "path,label\nhttps://u:p@x.org/1.png?k=s,a\n", r"network .https://x\.org/\.\.\."),
        ("a.csv", "path,label,fold\n1.png,a,3\n", "split '3'; .* pass --columns split=none"),
        ("a.jsonl", '{"path": "1.png", "label": "a"}\n{"path"\n', "line 2 of .* is not valid JSON"),
        ("a.jsonl", "[1]\n", "line 1 of .* is not an object"),
        ("a.jsonl", '{"path": "1.png", "label": null}\n', "line 1 of .*: label is null"),
        ("a.jsonl", '{"path": "1.png", "label": ["a"]}\n', "line 1 of .*: label is a list"),
        ("a.jsonl", '{"path": "1.png", "label": true}\n', "line 1 of .*: label is a boolean"),
        ("a.jsonl", '{"path": "1.png", "label": NaN}\n', "line 1 of .* NaN is not a number"),
        ("a.jsonl", '{"path": "\\u0000", "label": "a"}\n', "line 1 of .* that no file can have"),
        ("a.jsonl", '{"path": "\\ud800", "label": "a"}\n', "line 1 of .* is not valid JSON"),
        ("a.csv", "path,label,split\n1.png,a,test\n", "has no training split, only test"),
    ],
)
def test_wrong_manifests(tmp_path: Path, name: str, text: str, message: str) -> None:
    fill(tmp_path, "1.png", "2.png")
    with pytest.raises(UserError, match=message) as caught:
        open_data(manifest(tmp_path, name, text))
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    with pytest.raises(UserError, match="cannot read"):
        open_data(tmp_path / "a.csv")


EXAMPLES = settings(derandomize=True, deadline=None, max_examples=50, database=None)
# A carriage return alone is left unquoted by csv.writer.
CELL = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\r"), min_size=1, max_size=8
).filter(lambda text: text == text.strip() and text not in (".", "..") and text.lower() != "nan")
TABLES = st.dictionaries(
    st.lists(CELL, min_size=1, max_size=3).map("/".join),
    CELL.map(lambda label: unicodedata.normalize("NFC", label)),
    min_size=1,
    max_size=6,
)


def read_back(rows: dict[str, str], write: Callable[[Path], Path]) -> None:
    """Write the images and a table, and compare what is read with what was written."""
    with TemporaryDirectory() as folder:
        for name in rows:
            assume(not Path(folder, name).is_dir())
            try:
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                assume(False)
            Path(folder, name).write_bytes(painted("red"))
        data = open_data(write(Path(folder)), classes=sorted(set(rows.values())))
        assert labels(data, "all") == rows


@EXAMPLES
@given(
    TABLES,
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_csv_is_read_as_it_was_written(
    rows: dict[str, str], delimiter: str, quoting: int, encoding: str, end: str
) -> None:
    def write(folder: Path) -> Path:
        path = folder / "the table.csv"
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
            writer.writerows([("path", "label"), *rows.items()])
        return path

    read_back(rows, write)


@EXAMPLES
@given(TABLES, st.booleans())
def test_jsonl_is_read_as_it_was_written(rows: dict[str, str], ascii_only: bool) -> None:
    def write(folder: Path) -> Path:
        lines = [
            json.dumps({"path": path, "label": label}, ensure_ascii=ascii_only)
            for path, label in rows.items()
        ]
        return manifest(folder, "the table.jsonl", "\n".join(lines))

    read_back(rows, write)


PARTS = st.sampled_from(["..", ".", "", "~", "in", "out", "up", "1.png", "1", "2.png", "..\\.."])


@EXAMPLES
@given(st.lists(PARTS, min_size=1, max_size=6), st.sampled_from(["", "/", "file://", "{base}/"]))
def test_no_path_leads_out_of_the_folder(parts: list[str], begin: str) -> None:
    with TemporaryDirectory() as folder:
        base = Path(folder, "base")
        fill(base, "1.png", "in/1.png", "in/2.png")
        fill(Path(folder), "1.png", "other/2.png")
        (base / "out").symlink_to(Path(folder, "other"))
        (base / "up").symlink_to("in")
        written = begin.format(base=base) + "/".join(parts)
        try:
            name, exists = ImagePaths(str(base), allow_outside=False).find(written, "line 2")
        except UserError:
            return
        assert exists == Path(base, name).is_file()
        assert not exists or Path(base, name).resolve().is_relative_to(base.resolve())


@EXAMPLES
@given(
    st.binary(max_size=200),
    st.sampled_from(["", "path,label\n", '{"path": ', "PK\3\4", "PAR1"]),
    st.sampled_from(["a.csv", "a.jsonl", "a.npz", "a.parquet"]),
)
def test_random_bytes_raise_nothing_but_usererror(content: bytes, head: str, name: str) -> None:
    with TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(head.encode() + content)
        with pytest.raises(UserError):
            open_data(Path(folder, name))


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_of_an_npz_are_refused(changes: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        np.savez_compressed(path, **arrays())
        content = bytearray(path.read_bytes())
        for place, value in changes:
            content[place % len(content)] = value
        path.write_bytes(content)
        try:
            data = open_data(path)
        except UserError:
            return
        np.testing.assert_array_equal(data.splits["train"].pixels, arrays()["x_train"])


def test_a_folder_of_loose_images_points_to_its_manifest(tmp_path: Path) -> None:
    fill(tmp_path, "1.png")
    manifest(tmp_path, "labels.csv", "path,label\n")
    with pytest.raises(UserError, match=r"or give the manifest .*labels\.csv itself"):
        open_data(tmp_path)


def arrays(**changes: object) -> dict[str, np.ndarray]:
    content = {
        "x_train": np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3),
        "y_train": np.array([0, 1, 1, 2]),
        "x_test": np.zeros((2, 5, 6, 3), np.uint8),
        "y_test": np.array([[2], [0]]),
        **changes,
    }
    return {name: np.asarray(value) for name, value in content.items() if value is not None}


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays(classes=np.array(["c", "b", "a"])))
    data = open_data(tmp_path / "set.npz")
    assert data.classes == ("c", "b", "a")  # the order of the file
    assert data.splits["train"].ids == ("train/0", "train/1", "train/2", "train/3")
    assert data.splits["test"].targets.tolist() == [2, 0]
    model = open_data(tmp_path / "set.npz", classes=("a", "b", "c", "d"))
    assert model.splits["test"].targets.tolist() == [0, 2]


def test_npz_without_class_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(y_train=[10, 9, 2, 2], y_test=[9, 10]))
    assert open_data(tmp_path / "a.npz").classes == ("2", "9", "10")
    np.savez(tmp_path / "b.npz", **arrays(y_train=list("zyxx"), y_test=["x", "z"]))
    data = open_data(tmp_path / "b.npz")
    assert data.classes == ("x", "y", "z")
    assert data.splits["test"].targets.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.full((4, 5, 6), 0.3)}, "x_train of .* is float64 .*save images as uint8"),
        ({"x_train": np.full((4, 5, 6), 256)}, "is int64 from 0 to 256; save images as uint8"),
        ({"x_train": np.full((4, 5, 6), np.nan)}, "from nan to nan"),
        ({"x_train": np.eye(6, dtype=int)[None].repeat(4, 0)}, "of 0 and 1; multiply by 255"),
        ({"x_train": np.zeros((4, 5, 6, 4), np.uint8)}, "expected N H W, or N H W C"),
        ({"x_train": np.zeros((4, 30), np.uint8)}, "expected N H W or N H W C"),
        ({"train_images": np.zeros((4, 5, 6), np.uint8)}, "images of one split twice"),
        ({"images": np.zeros((4, 5, 6), np.uint8)}, "images with and without a split"),
        ({"x_train": np.zeros((4, 0, 6), np.uint8)}, "images without pixels"),
        ({"y_train": None}, "x_train but no labels for it"),
        ({"y_train": [0, 1]}, r"shape \(2,\) for 4 images"),
        ({"y_train": [0.0, 1.0, 1.5, 2.0]}, "the label 1.5; labels are whole numbers or strings"),
        ({"y_train": [0.0, 1.0, np.nan, 2.0]}, "the label nan; labels are whole numbers"),
        ({"y_train": [0, 1, -1, 2]}, "the label -1 for image 2; number classes from 0"),
        ({"y_train": [True, False, True, True]}, "is bool; labels are whole numbers or strings"),
        ({"y_train": np.array([1, 2, 3, 4], "M8[s]")}, "is datetime64"),
        ({"y_train": np.array([b"a", b"\xff", b"a", b"b"])}, "a label that is no text"),
        ({"y_train": ["a", "", "a", "b"]}, "has the label ''"),
        ({"y_train": ["a", "b", "a", "b"]}, "strings as labels in one split and numbers"),
        ({"y_train": np.ones((4, 3), int)}, "is not one-hot"),
        ({"classes": [[0, 1, 2]]}, "expected a list of strings"),
        ({"y_train": np.array([0, 1, "a", None], object)}, "cannot read"),
        ({"classes": ["a", "b"]}, "the label 2, but there are 2 classes"),
        ({"classes": ["a", "b", "b"]}, "names a class twice"),
        ({"y_train": [0, 0, 0, 0], "y_test": [0, 0]}, "single class, '0'"),
        ({"y_test": [2, 5]}, "classes in test that train does not have: 5"),
    ],
)
def test_wrong_npz(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(UserError, match=message):
        open_data(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_valid", "Y_valid"),
        ("images", "labels"),
        ("data", "target"),
        ("X", "y"),
    ],
)
def test_npz_with_usual_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    given = dict(zip(names, arrays().values(), strict=False))
    np.savez(tmp_path / "a.npz", class_names=["c", "b", "a"], remark=0, **given)
    data = open_data(tmp_path / "a.npz")
    assert data.classes == ("c", "b", "a")
    split = next(iter(data.splits.values()))
    np.testing.assert_array_equal(split.pixels, arrays()["x_train"])
    assert split.targets.tolist() == [0, 1, 1, 2]
    assert data.notices[0] == "arrays not used: remark"


@pytest.mark.parametrize(
    ("change", "notice"),
    [
        (lambda x: x.transpose(0, 3, 1, 2), "is N C H W: read as such"),
        (lambda x: (x / 255).astype(np.float32), "float32: converted .* .0 to 1 read as 0 to 255"),
        (lambda x: (x / 255).astype(np.float16), "float16: converted to uint8 without loss"),
        (lambda x: x.astype(np.float64), "float64: converted to uint8 without loss .0 to 255"),
        (lambda x: x.astype(np.int64), "int64: converted to uint8 without loss"),
    ],
)
def test_npz_converts_without_loss(
    tmp_path: Path,
    change: Callable[[np.ndarray], np.ndarray],
    notice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(npz, "_PIECE", 400)
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    np.savez(tmp_path / "a.npz", **arrays(x_train=change(images), y_train=np.eye(3)[[0, 1, 1, 2]]))
    data = open_data(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.splits["train"].pixels, images)
    assert data.splits["train"].targets.tolist() == [0, 1, 1, 2]
    assert re.search(notice, data.notices[0])
    assert "one-hot: read as 3 classes" in data.notices[1]


def test_what_is_too_large_for_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = memory_limits.available_memory()
    assert free is None or 10**8 < free < 10**15
    np.savez(tmp_path / "a.npz", **arrays())
    monkeypatch.setattr(memory_limits, "SMALL", 100)
    monkeypatch.setattr(memory_limits, "available_memory", lambda: 200)
    with pytest.raises(
        UserError, match=r"a\.npz takes 0 MB of memory and 0 MB is free; save it as"
    ):
        open_data(tmp_path / "a.npz")


def test_damaged_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **arrays())
    content = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    np.save(tmp_path / "one.npy", np.zeros(3))
    single = (tmp_path / "one.npy").read_bytes()
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    other = (tmp_path / "other.npz").read_bytes()
    for wrong in (b"", content[:200], bytes(flipped), single, other):
        (tmp_path / "a.npz").write_bytes(wrong)
        with pytest.raises(UserError, match=r"a\.npz") as caught:
            open_data(tmp_path / "a.npz")
        assert "pickle" not in str(caught.value)  # numpy's advice to what it does not know


def write_parquet(
    path: Path, rows: list[tuple[str | None, int | None]], features: dict[str, object] | None = None
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": painted(c) if c else None, "path": "x.png" if c else None} for c, _ in rows]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    names = {"_type": "ClassLabel", "names": ["zebra", "ant", "bee"]}
    if features is None:
        features = {"image": {"_type": "Image"}, "label": names}
    table = pyarrow.table(
        {
            "image": pyarrow.array(images, kind),
            "label": pyarrow.array([label for _, label in rows], pyarrow.int64()),
            "remark": ["x"] * len(rows),
        }
    )
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(metadata), path)


def test_parquet_folder(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", [("red", 1), ("blue", 0)])
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", [("lime", 2)])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", [("red", 1), ("red", -1)])
    write_parquet(tmp_path / "data/validation-0.parquet", [("red", 1), ("red", None)])
    write_parquet(tmp_path / "data/unsupervised-0.parquet", [("red", -1)])
    (tmp_path / "README.md").write_text("x")
    data = open_data(tmp_path)
    assert data.classes == ("zebra", "ant", "bee")
    assert {part: len(content) for part, content in data.splits.items()} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }
    assert labels(data, "train")["data/train-00001-of-00002.parquet#0"] == "bee"
    assert data.splits["train"].read(2, 3)[0, 0].tolist() == [0, 255, 0]
    assert data.notices[:2] == (
        "rows without a label, ignored: 2",
        "parquet files without a split in their name, ignored: unsupervised-0.parquet",
    )


def test_parquet_in_folders_of_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train/0000.parquet", [("red", 1), ("blue", 0)])
    write_parquet(tmp_path / "test/0000.parquet", [("red", 1)])
    assert list(open_data(tmp_path).splits) == ["train", "test"]


def test_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "birds.parquet"
    write_parquet(path, [("red", 10), ("blue", 9), ("blue", 9)], features={})
    data = open_data(path)
    assert data.name == "birds"
    assert data.classes == ("9", "10")
    assert list(data.splits) == ["all"]


def test_parquet_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [("red", 1), (None, 0), ("blue", 0)])
    assert open_data(path, SourceConfig(max_corrupt=0.5)).skipped == (
        ("a.parquet#1", "the file is empty"),
    )
    write_parquet(path, [("red", 1), ("blue", 3)])
    with pytest.raises(UserError, match="the label 3, but 3 classes"):
        open_data(path)
    write_parquet(path, [("red", -1)])
    with pytest.raises(UserError, match="no labelled images"):
        open_data(path)


def test_wrong_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot read"):
        open_data(path)
    parquet.write_table(pyarrow.table({"text": ["a"], "label": [1]}), path)
    with pytest.raises(UserError, match=r"the columns text .string., label .int64.; expected one"):
        open_data(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'resnets\[parquet\]'"):
        open_data(tmp_path / "a.parquet")
