"""Files are whole or absent; torn JSON lines are survived; digests and the cache folder."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

import pytest

from resnets.errors import UserError
from resnets.fileio import (
    atomic_writer,
    cache_dir,
    expanded,
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


def no_home() -> Path:
    """What `Path.home` does for a user without an entry in the list of users."""
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the caches of a user without a home."""
    for name in ("RESNETS_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "home", no_home)
    return tmp_path / f"resnets-{os.getuid()}"


def test_without_a_home_the_cache_is_a_folder_of_this_user_alone(homeless: Path) -> None:
    for _ in range(2):
        with pytest.warns(match="no home folder .*: caches are in"):
            assert cache_dir("weights") == homeless / "weights"
    assert stat.S_IMODE(homeless.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_written_is_none(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_dir() == tmp_path / "home" / ".cache" / "resnets"
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.warns(match="caches are in"):
        assert cache_dir() == homeless
    (tmp_path / "home" / ".cache" / "resnets").mkdir(parents=True)
    assert cache_dir() == tmp_path / "home" / ".cache" / "resnets", "what is there can be read"


@pytest.mark.parametrize("kind", ["open", "link", "file", "foreign"])
def test_a_temporary_folder_of_others_is_no_cache(
    homeless: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "open":
        homeless.mkdir()
        homeless.chmod(0o777)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        homeless.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        homeless.touch()
    else:
        homeless.mkdir(mode=0o700)
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        homeless.rename(tmp_path / f"resnets-{user + 1}")
    with pytest.raises(UserError, match="set RESNETS_DATA"):
        cache_dir()


def test_a_home_of_nobody(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="~nobody-of-that-name/x: there is no such home folder"):
        expanded("~nobody-of-that-name/x")
    monkeypatch.chdir(homeless.parent)
    Path("~nobody-of-that-name").mkdir()
    assert expanded("~nobody-of-that-name") == Path("~nobody-of-that-name")
