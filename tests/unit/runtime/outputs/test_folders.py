"""A folder that a user names: links stay, and nothing else than a folder is replaced."""

import os
from pathlib import Path

import pytest

from internvl_edge.export.run.staging import staged
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.outputs.folders import folder_at
from internvl_edge.runtime.package.folders import new_folder


def test_a_link_keeps_pointing_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with staged(tmp_path / "link", {"options": "a"}) as staging:
        (staging.folder / "manifest.json").write_text("{}")
    assert (tmp_path / "link").readlink() == Path("real")
    assert (tmp_path / "real" / "manifest.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_link_to_nothing_creates_its_target(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(f"of-{name}")
    with staged(tmp_path / "a", {"options": "a"}) as staging:
        (staging.folder / "manifest.json").touch()
    with new_folder(tmp_path / "b") as partial:
        (partial / "file").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "of-a", "of-b"]


@pytest.mark.parametrize("name", ["file", "pipe", "null", "loop"])
def test_what_is_no_folder_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(path.name for path in tmp_path.iterdir())
    for open_folder in (lambda path: staged(path, {"options": "a"}), new_folder):
        with (
            pytest.raises(InputError, match=f"{name}: (is there and no folder|cannot be written)"),
            open_folder(tmp_path / name),
        ):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert Path("/dev/null").is_char_device()


def test_names_of_no_folder() -> None:
    with pytest.raises(InputError, match=r"^-: a folder cannot go to the standard output"):
        folder_at(Path("-"))
    with pytest.raises(InputError, match=r"^/: is the root"):
        folder_at(Path("/"))


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_at(Path()) == tmp_path
    assert folder_at(Path("absent")) == tmp_path / "absent"
