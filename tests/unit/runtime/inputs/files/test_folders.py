"""A folder's pictures at any depth, through links, once each; the rest is counted and named."""

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.folders import LeftOut, folder_pictures
from internvl_edge.runtime.inputs.files.formats import PICTURE_FORMATS
from internvl_edge.runtime.inputs.read import find_pictures, read_records


def found(folder: Path) -> tuple[list[str], str]:
    left_out = LeftOut()
    names = [path.relative_to(folder).as_posix() for path in folder_pictures(folder, left_out)]
    return names, left_out.text()


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_every_suffix_of_the_table_in_any_case(tmp_path: Path) -> None:
    suffixes = [suffix for known in PICTURE_FORMATS.values() for suffix in known.suffixes]
    names = [f"{index}{suffix.upper() if index % 2 else suffix}" for index, suffix in enumerate(suffixes)]
    assert set(found(touch(tmp_path, *names))[0]) == set(names)
    assert {".jfif", ".avif", ".jp2", ".jpe", ".dib", ".pgm"} <= set(suffixes)


def test_hidden_files_and_what_is_no_picture_are_counted_and_named(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.png", "._a.png", ".thumbs/b.png", "__MACOSX/a.png", "x/notes.txt", "x/y.txt", "x/c.heic", "LICENSE"
    )
    names, text = found(tmp_path)
    assert names == ["a.png"]
    assert text == "3 hidden (._a.png, .thumbs, __MACOSX); 4 no pictures by their names (.txt: 2, LICENSE: 1, .heic: 1)"


def test_links_to_folders_are_followed_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "else/part/b.png", "else/c.png", "far/d.png")
    (tmp_path / "in" / "linked").symlink_to("../else")
    (tmp_path / "else" / "part" / "on").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "one.jpg").symlink_to(tmp_path / "far" / "d.png")
    names, text = found(tmp_path / "in")
    assert names == ["a.png", "linked/c.png", "linked/part/b.png", "linked/part/on/d.png", "one.jpg"]
    assert text == ""


def test_loops_end_and_a_folder_is_read_once_by_its_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.png", "z/deep/b.png")
    (tmp_path / "a-link").symlink_to("z")
    (tmp_path / "z" / "deep" / "up").symlink_to("../..")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "self.png").symlink_to("self.png")
    names, text = found(tmp_path)
    assert names == ["self.png", "z/a.png", "z/deep/b.png"]
    assert "2 links to folders that are read already (a-link, z/deep/up)" in text


def test_many_links_into_each_other_take_no_longer_than_few(tmp_path: Path) -> None:
    """Two ways on from each of 40 folders: followed by path, these were 2**40."""
    for index in range(40):
        touch(tmp_path, f"{index}/p.png")
        for way in "ab":
            (tmp_path / str(index) / way).symlink_to(tmp_path / str(index + 1))
    assert len(found(tmp_path / "0")[0]) == 40


def test_pipes_are_not_opened_and_dangling_links_are_reported_when_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    names, text = found(tmp_path)
    assert names == ["gone.png"]
    assert text == "1 neither files nor folders (pipe.png)"


def test_what_is_left_out_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a\nb.txt", *(f".{index}.png" for index in range(5)))
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        assert [record.file for record in read_records(tmp_path)] == ["a.png"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"{tmp_path}: left out: ")
    assert "5 hidden (.0.png, .1.png, .2.png and 2 more)" in line
    assert "1 no pictures by their names (.txt: 1)" in line
    assert "\n" not in line


def test_a_folder_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    touch(tmp_path, "shard-0.tar", "shard-1.tar")
    with pytest.raises(InputError, match=r"no picture found \(2 no pictures by their names \(.tar: 2\)\); give"):
        find_pictures([tmp_path])


def test_names_that_are_no_utf8_are_found_by_their_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("L", (2, 2)).save(tmp_path / name)
    (picture,) = find_pictures([tmp_path])
    assert os.fsencode(picture.name).endswith(b"caf\xe9.png")
    assert picture.stamp() != (0, 0)
