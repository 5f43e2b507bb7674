"""Files are whole or absent; torn JSON lines are survived; digests and the cache folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from resnets.errors import UserError
from resnets.fileio import (
    append_jsonl,
    atomic_writer,
    cache_dir,
    read_jsonl,
    sha256,
    write_atomic,
)


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and [*tmp_path.iterdir()] == [path]


def test_a_failure_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def stopped() -> None:
        with atomic_writer(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_a_torn_last_line_is_left_out_and_cut_off_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, {"a": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"a": 2')
    assert read_jsonl(path) == [{"a": 1}] and path.read_bytes() != whole
    assert read_jsonl(path, repair=True) == [{"a": 1}] and path.read_bytes() == whole
    append_jsonl(path, {"a": 3})
    assert read_jsonl(path) == [{"a": 1}, {"a": 3}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("not json\n")
    with pytest.raises(UserError, match=r"a\.jsonl is damaged"):
        read_jsonl(path)


def test_one_digest_of_files_and_bytes(tmp_path: Path) -> None:
    content = bytes(3 << 20) + b"x"
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == sha256(content) == hashlib.sha256(content).hexdigest()


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNETS_DATA", str(tmp_path))
    assert cache_dir("weights") == tmp_path / "weights"
    monkeypatch.delenv("RESNETS_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "resnets"
