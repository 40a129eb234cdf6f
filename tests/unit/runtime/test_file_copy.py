"""Copies that leave their source as it is, on file systems that share blocks and on those that do not."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.runtime import file_copy
from internvl_edge.runtime.file_copy import append_range, copy_file, hard_link_or_copy, share_blocks, symlink_to


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that is no multiple of a block."""
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 41)
    return path


def _refusing(code: int, after: int = 0) -> Callable[..., Any]:
    """Return a stand-in for a system call that answers `code`, once it has been called so often."""
    calls = 0
    real = os.copy_file_range

    def call(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **settings)

    return call


def test_a_copy_leaves_its_source_alone(source: Path, tmp_path: Path) -> None:
    before = source.stat()
    copy_file(source, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == source.read_bytes()
    assert not (tmp_path / "deep" / "copy").samefile(source)
    after = source.stat()
    assert (after.st_nlink, after.st_mtime_ns, after.st_ino) == (1, before.st_mtime_ns, before.st_ino)


def test_an_empty_file_is_copied(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    copy_file(tmp_path / "empty", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM])
@pytest.mark.parametrize("after", [0, 1])
def test_a_kernel_that_stops_copying_is_helped(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, after: int
) -> None:
    monkeypatch.setattr(file_copy, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(file_copy, "_BUFFER_BYTES", 333)
    monkeypatch.setattr(os, "copy_file_range", _refusing(code, after))
    copy_file(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fcntl.ioctl", "os.copy_file_range"])
def test_a_full_disk_leaves_nothing_and_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    monkeypatch.setattr(call, _refusing(code))
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        copy_file(source, tmp_path / "copy")
    assert caught.value.filename == str(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_blocks_are_shared_where_the_file_system_can(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ioctl(write: int, request: int, read: int) -> int:
        asked.append(request)
        return os.write(write, os.pread(read, 1 << 20, 0))

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    monkeypatch.setattr(os, "copy_file_range", _refusing(errno.EIO))
    copy_file(source, tmp_path / "copy")
    assert asked == [0x40049409]  # _IOW(0x94, 9, int) of linux/fs.h
    assert share_blocks(source, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == source.read_bytes()


def test_where_blocks_cannot_be_shared_there_is_no_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.ioctl", _refusing(errno.EOPNOTSUPP))
    assert not share_blocks(source, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_target_with_other_names_keeps_its_bytes_under_those(source: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "copy").hardlink_to(tmp_path / "old")
    copy_file(source, tmp_path / "copy")
    assert (tmp_path / "old").read_text() == "old"
    assert (tmp_path / "copy").stat().st_nlink == 1


def test_a_range_is_appended(source: Path, tmp_path: Path) -> None:
    with source.open("rb", buffering=0) as read, (tmp_path / "part").open("xb", buffering=0) as write:
        append_range(read, write, 5, 7)
        append_range(read, write, 250, 10)
        with pytest.raises(OSError, match="ended 1 bytes early"):
            append_range(read, write, 256 * 41 - 1, 2)
    assert (tmp_path / "part").read_bytes()[:17] == bytes([*range(5, 12), *range(250, 256), *range(4)])


def test_what_is_kept_is_another_name_or_a_copy(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hard_link_or_copy(source, tmp_path / "kept")
    assert (tmp_path / "kept").samefile(source)
    monkeypatch.setattr(os, "link", _refusing(errno.EPERM))
    hard_link_or_copy(source, tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == source.read_bytes()
    assert not (tmp_path / "kept").samefile(source)


def test_work_in_progress_refers_to_its_source(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    symlink_to(Path("source"), tmp_path / "work" / "link")
    assert (tmp_path / "work" / "link").read_bytes() == source.read_bytes()
    assert source.stat().st_nlink == 1
