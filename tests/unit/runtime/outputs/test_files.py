"""A file that a user names: whole or as it was, and what is no regular file stays what it is."""

import io
import os
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pyarrow import array, parquet, table

from internvl_edge.runtime.embed.outputs import Features, write_features
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.outputs.files import (
    is_stream,
    output_file,
    require_apart,
    require_writable,
    takes_stdout,
    write_text,
)
from tests.tolerances import HANG_S


@pytest.fixture
def reader(tmp_path: Path) -> "Pipe":
    return Pipe(tmp_path / "pipe")


class Pipe:
    """A named pipe and a thread that reads it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._content = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._content = self.path.read_bytes()

    def content(self) -> bytes:
        self._thread.join(HANG_S)
        return self._content


def test_a_file_is_replaced_when_whole(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with output_file(tmp_path / "f") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "f").read_text() == "old"
    assert (tmp_path / "f").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_a_failed_block_leaves_what_stood_there(tmp_path: Path, error: type[BaseException] | BaseException) -> None:
    (tmp_path / "f").write_text("old")
    raised = InputError if isinstance(error, OSError) else error
    with pytest.raises(raised):  # type: ignore[arg-type]
        _write_half(tmp_path / "f", error)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "old")]


def test_a_pipe_stays_a_pipe(reader: Pipe) -> None:
    write_text(reader.path, "content\r\nas it is")
    assert reader.content() == b"content\r\nas it is"
    assert stat.S_ISFIFO(reader.path.stat().st_mode)


def test_arrays_and_tables_go_through_a_pipe(tmp_path: Path) -> None:
    values = np.arange(6.0).reshape(2, 3)
    archive, frame = Pipe(tmp_path / "a.npz"), Pipe(tmp_path / "a.parquet")
    with output_file(archive.path) as file:
        np.savez(file, values=values)
    with np.load(io.BytesIO(archive.content())) as read:
        np.testing.assert_array_equal(read["values"], values)
    with output_file(frame.path) as file:
        parquet.write_table(table({"x": array([1, 2])}), file)
    assert parquet.read_table(io.BytesIO(frame.content()))["x"].to_pylist() == [1, 2]


@pytest.mark.parametrize("target", ["real/f", "real/absent"])
def test_a_link_keeps_pointing_to_its_target(tmp_path: Path, target: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("old")
    (tmp_path / "first").symlink_to(target)
    (tmp_path / "link").symlink_to("first")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").readlink() == Path("first")
    assert (tmp_path / target).read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "link", "real"]


def test_permissions(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("old")
    (tmp_path / "private").chmod(0o640)
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "private", "new")
        write_text(tmp_path / "fresh", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    assert write_text(tmp_path / ("n" * 255), "new").read_text() == "new"


def test_devices(tmp_path: Path) -> None:
    assert write_text(Path("/dev/null"), "gone").is_char_device()
    with pytest.raises(InputError, match=r"^/dev/full: cannot be written \(No space left on device\); make room"):
        write_text(Path("/dev/full"), "content")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
def test_features_go_to_a_device(tmp_path: Path, suffix: str) -> None:
    """As one measures without a file: /dev/null answers that it has places, and gives 0 for each of them."""
    np.save(tmp_path / "part.npy", np.zeros((3, 4), np.float32))
    features = Features(kind="image", names=["a"] * 3, parts=[tmp_path / "part.npy"], dim=4, dtype="float32")
    output = tmp_path / f"x{suffix}"
    output.symlink_to("/dev/null")
    write_features(output, features)
    assert output.is_char_device()
    output.unlink()
    output.symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device"):
        write_features(output, features)


def test_a_socket_is_reported(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(InputError, match="socket: cannot be written"):
            write_text(tmp_path / "socket", "content")
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("absent/f", r"absent/f: its folder is not there; make it first"),
        ("folder", r"folder: is a folder; give the name of a file"),
        ("file/f", r"file/f: its folder is not there"),
        ("loop", r"loop: Too many levels of symbolic links"),
        ("n" * 300, r"File name too long"),
    ],
)
def test_a_place_that_will_not_do(tmp_path: Path, name: str, finding: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=finding):
        require_writable([tmp_path / name])
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / name, "content")


def test_all_places_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a/f: .*; .*b/f: "):
        require_writable([tmp_path / "a" / "f", tmp_path / "fine", tmp_path / "b" / "f"])


def test_descriptors_that_take_nothing_are_reported_first(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with (tmp_path / "f").open("rb") as file:
        with pytest.raises(InputError, match="is open for reading alone; give another name"):
            require_writable([Path(f"/dev/fd/{file.fileno()}")])
        closed = os.dup(file.fileno())
    os.close(closed)
    with pytest.raises(InputError, match="no such file is open"):
        require_writable([Path(f"/dev/fd/{closed}")])


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f")
    with pytest.raises(InputError, match="link: would replace what is read; give another name"):
        require_apart([tmp_path / "link", tmp_path / "g"], [tmp_path / "f"])
    require_apart([tmp_path / "g", Path("-"), Path("/dev/null")], [tmp_path / "f", Path("/dev/null")])


def test_one_file_for_two_contents_is_reported(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f")
    with pytest.raises(InputError, match="/f: named twice; give"):
        require_writable([tmp_path / "f", tmp_path / "link", tmp_path / "g"])
    require_writable([Path("-"), Path("-"), Path("/dev/null"), Path("/dev/null")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written_stays(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "f").chmod(0o444)
    (tmp_path / "closed").mkdir(mode=0o555)
    for path in (tmp_path / "f", tmp_path / "closed" / "f"):
        with pytest.raises(InputError, match="may not be written"):
            require_writable([path])
        with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
            write_text(path, "content")
    assert (tmp_path / "f").read_text() == "old"


def test_a_file_that_cannot_be_renamed_to_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a container mounts: replacing it would be EBUSY."""
    (tmp_path / "f").write_text("old and longer")
    inode = (tmp_path / "f").stat().st_ino
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "f")
    write_text(tmp_path / "f", "new")
    assert ((tmp_path / "f").read_text(), (tmp_path / "f").stat().st_ino) == ("new", inode)


def test_stdout_by_its_names() -> None:
    code = (
        "from pathlib import Path; from internvl_edge.runtime.outputs.files import write_text\n"
        "print('before')\nfor name in ('-', '/dev/stdout', '/dev/fd/1', '/proc/self/fd/1'):\n"
        "    write_text(Path(name), f'{name}\\n'); print('between')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    names = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]
    assert said == ["before", *(word for name in names for word in (name, "between"))]


def test_stdout_in_a_file_is_not_replaced(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from internvl_edge.runtime.outputs.files import write_text\n"
        "print('before'); write_text(Path('/dev/stdout'), 'content\\n'); print('after')"
    )
    with (tmp_path / "f").open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "f").read_text().split() == ["before", "content", "after"]


def test_other_descriptors(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        write_text(Path(f"/dev/fd/{write}"), "content")
        assert os.read(read, 100) == b"content"
    finally:
        os.close(read)
        os.close(write)


def test_a_zip_after_other_text(tmp_path: Path) -> None:
    """What np.savez writes holds positions: they count from the zip's own start."""
    code = (
        "import numpy as np; from pathlib import Path; from internvl_edge.runtime.outputs.files import output_file\n"
        "with output_file(Path('-')) as file: np.savez(file, x=np.arange(3))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert zipfile.ZipFile(io.BytesIO(said)).namelist() == ["x.npy"]


def test_what_counts_as_a_stream(tmp_path: Path, reader: Pipe) -> None:
    (tmp_path / "link").symlink_to("pipe")
    streams = [Path("-"), Path("/dev/null"), Path("/dev/stdout"), reader.path, tmp_path / "link"]
    assert [is_stream(path) for path in streams] == [True] * 5
    assert [is_stream(path) for path in (tmp_path / "f", tmp_path)] == [False, False]
    assert takes_stdout([tmp_path, Path("/dev/stdout")])
    assert not takes_stdout([tmp_path, Path("/dev/stderr")])
    write_text(reader.path, "")


def _write_half(path: Path, error: type[BaseException] | BaseException) -> None:
    with output_file(path) as file:
        file.write(b"half")
        raise error
