"""Files are whole or absent; torn JSON lines are survived; digests and the cache folder."""

import hashlib
from pathlib import Path

import pytest

from resnets.fileio import (
    atomic_writer,
    cache_dir,
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
