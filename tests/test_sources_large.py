"""Test large sets: cached headers, names in one buffer, parquet by row group."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pictures import fill, paint, painted
from resnets.data import ImageFiles, decode, open_data
from resnets.data.dataset import DataSet
from resnets.data.file_store import PackedStrings
from resnets.data.sources import header_cache, parquet
from resnets.data.sources.source_config import SourceConfig


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read; two files are a large set, and settled."""
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(header_cache, "REMEMBERED_FROM", 2)
    monkeypatch.setattr(header_cache, "SETTLED", 0)
    seen: list[str] = []

    def inspect(file: str, **options: int) -> decode.Header:
        seen.append(Path(file).name)
        return decode.inspect(file, **options)

    monkeypatch.setattr(header_cache, "inspect", inspect)
    return seen


def opens(folder: Path, opened: list[str]) -> tuple[DataSet, list[str]]:
    """The set, and the names of the files that were opened for it."""
    opened.clear()
    data = open_data(folder, SourceConfig(max_corrupt=0.5))
    return data, sorted(opened)


def index_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "home" / "indexes").iterdir())


def assert_alike(one: DataSet, other: DataSet) -> None:
    for part in one.splits:
        assert one.splits[part].fingerprint() == other.splits[part].fingerprint()
        assert list(one.splits[part].ids) == list(other.splits[part].ids)
        assert one.splits[part].channels == other.splits[part].channels
    assert one.skipped == other.skipped


def test_headers_are_read_once(tmp_path: Path, opened: list[str]) -> None:
    folder = fill(tmp_path / "data", "a/1.png", "a/2.png", "b/3.png")
    first, read = opens(folder, opened)
    assert read == ["1.png", "2.png", "3.png"]
    second, read = opens(folder, opened)
    assert read == []
    assert_alike(first, second)
    assert second.splits["all"].read(2, 3).shape == (4, 6, 3)
    assert len(index_files(tmp_path)) == 1  # and nothing half-written beside it


def test_a_changed_folder_is_never_answered_from_the_old_index(
    tmp_path: Path, opened: list[str]
) -> None:
    folder = fill(tmp_path / "data", "a/1.png", "a/2.png", "a/4.png", "b/3.png")
    opens(folder, opened)
    paint(folder / "a" / "1.png", "blue", (60, 40))  # rewritten in place
    (folder / "a" / "2.png").unlink()
    paint(folder / "a" / "0.png", 7, (5, 5))  # now all others have another place
    data, read = opens(folder, opened)
    assert read == ["0.png", "1.png"]
    assert list(data.splits["all"].ids) == ["a/0.png", "a/1.png", "a/4.png", "b/3.png"]
    assert data.splits["all"].sizes.tolist() == [[5, 5], [60, 40], [6, 4], [6, 4]]


def test_a_change_that_keeps_size_and_date_is_seen(tmp_path: Path, opened: list[str]) -> None:
    folder = fill(tmp_path / "data", "a/1.bmp", "b/2.bmp")
    path = folder / "a" / "1.bmp"
    paint(path, "red", (4, 8))
    opens(folder, opened)
    before = path.stat()
    paint(path, "red", (8, 4))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync and unzip do
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    data, read = opens(folder, opened)
    assert read == ["1.bmp"]
    assert data.splits["all"].sizes[0].tolist() == [8, 4]


def test_files_too_young_to_be_sure_of_are_read_again(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header_cache, "SETTLED", 3600 * 10**9)
    folder = fill(tmp_path / "data", "a/1.png", "b/2.png")
    opens(folder, opened)
    assert opens(folder, opened)[1] == ["1.png", "2.png"]


def test_unreadable_files_are_tried_again(tmp_path: Path, opened: list[str]) -> None:
    folder = fill(tmp_path / "data", "a/1.png", "b/2.png", "b/3.png")
    (folder / "b" / "3.png").write_bytes(b"")
    first, _ = opens(folder, opened)
    second, read = opens(folder, opened)
    assert read == ["3.png"]
    assert_alike(first, second)
    assert second.skipped == (("b/3.png", "the file is empty"),)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_index_is_replaced(tmp_path: Path, opened: list[str], damage: str) -> None:
    folder = fill(tmp_path / "data", "a/1.png", "b/2.png")
    first, _ = opens(folder, opened)
    (index,) = index_files(tmp_path)
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 255
    if damage == "other":
        np.savez(index, x=np.zeros(3))
    else:
        index.write_bytes({"cut": content[:300], "flipped": content, "empty": b""}[damage])
    second, read = opens(folder, opened)
    assert read == ["1.png", "2.png"]
    assert_alike(first, second)
    assert opens(folder, opened)[1] == []


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path, opened: list[str]) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    folder = fill(tmp_path / "data", "a/1.png", "b/2.png")
    for _ in range(2):
        data, read = opens(folder, opened)
        assert read == ["1.png", "2.png"]
        assert "could not be cached" in data.notices[-1]


def test_small_folders_leave_nothing_behind(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header_cache, "REMEMBERED_FROM", 3)
    opens(fill(tmp_path / "data", "a/1.png", "b/2.png"), opened)
    assert not (tmp_path / "home").exists()


def test_names_are_a_sequence_of_strings() -> None:
    given = ["a/1.png", "", "é/日.png", os.fsdecode(b"b/\xff.png")]
    names = PackedStrings.of(given)
    assert len(names) == 4
    assert list(names) == ["a/1.png", "", "é/日.png", "b/\ufffd.png"]
    assert [os.fsdecode(raw) for raw in names.raws()] == given
    assert [names[index] for index in (2, 0)] == list(names.subset(np.array([2, 0])))
    assert names.subset([1, 3]).buffer is names.buffer
    assert list(PackedStrings.of([])) == []


def write_groups(path: Path, count: int, group: int) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    colours = [f"#{n:02x}0000" for n in range(count)]
    images = [{"bytes": painted(colour), "path": None} for colour in colours]
    table = pyarrow.table({"image": images, "label": [n % 2 for n in range(count)]})
    parquet.write_table(table, path, row_group_size=group)


def test_parquet_is_read_by_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_groups(tmp_path / "a.parquet", 23, 5)
    loaded: list[int] = []
    kind = pytest.importorskip("pyarrow.parquet").ParquetFile
    original = kind.iter_batches

    def iter_batches(file: object, *, row_groups: list[int], **options: object) -> object:
        loaded.extend(row_groups)
        return original(file, row_groups=row_groups, **options)

    monkeypatch.setattr(kind, "iter_batches", iter_batches)
    part = open_data(tmp_path / "a.parquet").splits["all"]
    assert isinstance(part, ImageFiles)
    assert loaded == [0, 1, 2, 3, 4]  # for the headers; each group once
    for index in (22, 4, 5, 0):
        assert part.read(index, 3)[0, 0].tolist() == [index, 0, 0]
    assert part.subset([7, 3]).read(0, 3)[0, 0].tolist() == [7, 0, 0]
    assert len(loaded) == 5  # a small set stays in memory whole
    copy = pickle.loads(pickle.dumps(part))
    assert copy.files.recent.groups == {}
    np.testing.assert_array_equal(copy.read(11, 3), part.read(11, 3))


def test_parquet_takes_no_more_memory_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_groups(tmp_path / "a.parquet", 24, 4)
    monkeypatch.setattr(parquet, "KEPT", 2000)
    part = open_data(tmp_path / "a.parquet").splits["all"]
    assert isinstance(part, ImageFiles)
    assert isinstance(part.files, parquet.RowGroupStore)
    for index in np.random.default_rng(0).integers(0, 24, 40).tolist():
        assert part.read(index, 3)[0, 0].tolist() == [index, 0, 0]
        assert 0 < part.files.recent.num_bytes() <= 2000
