"""What lies beside a picture in an archive: by its name up to the last dot, or up to the first."""

import zipfile
from pathlib import Path

import pytest

from internvl_edge.runtime.inputs.files.archives import open_archive
from internvl_edge.runtime.inputs.files.folders import LeftOut
from internvl_edge.runtime.inputs.tables.shards import ArchiveRow, archive_rows


def rows(folder: Path, members: dict[str, str | bytes]) -> tuple[list[ArchiveRow], str]:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    left_out = LeftOut()
    return archive_rows(open_archive(path), left_out), left_out.text()


def test_fields_a_caption_and_a_class_beside_a_picture(tmp_path: Path) -> None:
    found, left_out = rows(
        tmp_path,
        {
            "b/2.png": b"",
            "1.jpg": b"",
            "1.json": '{"id": 3}',
            "1.txt": "\ufeff a cat \n",
            "1.cls": "7\n",
            "b/2.TXT": "a kite",
        },
    )
    assert found == [
        ArchiveRow("b/2.png", {"caption": "a kite"}),
        ArchiveRow("1.jpg", {"id": 3, "caption": "a cat", "group": "7"}),
    ]
    assert left_out == ""


def test_what_the_fields_say_counts_more_than_the_files(tmp_path: Path) -> None:
    found, _ = rows(tmp_path, {"1.jpg": b"", "1.json": '{"text": "own", "group": "c"}', "1.txt": "other", "1.cls": "9"})
    assert found == [ArchiveRow("1.jpg", {"text": "own", "group": "c"})]


def test_a_further_picture_of_a_sample_is_none_of_its_own(tmp_path: Path) -> None:
    found, left_out = rows(tmp_path, {"1.jpg": b"", "1.seg.png": b"", "1.json": "{}"})
    assert found == [ArchiveRow("1.jpg", {})]
    assert "1.seg.png" in left_out


def test_a_name_with_dots_is_that_up_to_the_last_one_where_something_lies_beside_it(tmp_path: Path) -> None:
    found, _ = rows(tmp_path, {"v1.2.jpg": b"", "v1.2.txt": "two", "v1.3.jpg": b"", "v1.3.txt": "three"})
    assert found == [ArchiveRow("v1.2.jpg", {"caption": "two"}), ArchiveRow("v1.3.jpg", {"caption": "three"})]


def test_a_picture_alone_takes_what_lies_beside_its_first_name(tmp_path: Path) -> None:
    found, left_out = rows(tmp_path, {"1.rgb.jpg": b"", "1.txt": "a cat"})
    assert found == [ArchiveRow("1.rgb.jpg", {"caption": "a cat"})]
    assert left_out == ""


def test_what_belongs_to_no_picture_is_left_out(tmp_path: Path) -> None:
    found, left_out = rows(tmp_path, {"1.jpg": b"", "2.txt": "a", ".git/3.jpg": b"", "notes.md": "b"})
    assert found == [ArchiveRow("1.jpg", {})]
    assert left_out == "1 hidden (.git/3.jpg); 2 no pictures by their names (.md: 1, .txt: 1)"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "1.json is no JSON"),
        ("[" * 100_000, "1.json is no JSON"),
        ("[1]", "1.json is no object"),
        ('{"a": 1, "a": 2}', "1.json has "),
    ],
)
def test_a_file_that_is_no_object_is_the_rows_fault(tmp_path: Path, content: str, fault: str) -> None:
    (row,), _ = rows(tmp_path, {"1.jpg": b"", "1.json": content})
    assert (row.member, row.fields) == ("1.jpg", {})
    assert row.fault is not None
    assert row.fault.startswith(fault)
