"""Files that are replaced as a whole."""

from pathlib import Path

import pytest

from internvl_edge.runtime.replace_file import replace_file, temporary_beside


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    for content in (b"first", memoryview(b"second")):
        replace_file(path, content)
        assert path.read_bytes() == bytes(content)
    assert list(path.parent.iterdir()) == [path]


def test_where_it_cannot_be_written_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_names_differ_and_are_short_beside_long_ones(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    assert temporary_beside(path) != temporary_beside(path)
    assert temporary_beside(path).parent == tmp_path
    replace_file(path, b"fits")
