"""Pictures and texts of folders, archives and tables, with a finding for each that names none."""

import io
import json
import random
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.pictures.decode import decode
from internvl_edge.runtime.inputs.pictures.source import PictureFile, SourcePicture
from internvl_edge.runtime.inputs.read import UnusableText, find_pictures, find_texts
from internvl_edge.runtime.inputs.tables import parquet as parquet_module
from tests.unit.runtime.embed_fakes import write_pictures


def lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def table(path: Path, rows_of_a_group: int = 2, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows_of_a_group)
    return path


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 3), grey).save(buffer, "png")
    return buffer.getvalue()


def grey(picture: SourcePicture) -> int:
    value = decode(picture.content()).getpixel((0, 0))
    assert isinstance(value, tuple)
    return int(value[0])


def test_a_folder_is_searched_to_any_depth_and_sorted(tmp_path: Path) -> None:
    write_pictures(tmp_path / "b", 2)
    write_pictures(tmp_path / "a", 1)
    (tmp_path / "z.JPG").write_bytes(png(3))
    (tmp_path / "notes.txt").write_text("no picture")
    names = [Path(picture.name).relative_to(tmp_path).as_posix() for picture in find_pictures([tmp_path])]
    assert names == ["a/000.png", "b/000.png", "b/001.png", "z.JPG"]


def test_what_is_listed_is_taken_in_order_and_as_often_as_listed(tmp_path: Path) -> None:
    one, two = write_pictures(tmp_path / "p", 2)
    table_path = lines(tmp_path / "list.jsonl", [{"file": "p/001.png", "caption": "x"}, {"file": "p/001.png"}])
    found = find_pictures([two, table_path, tmp_path / "gone", one, two])
    names = [two, tmp_path / "p/001.png", tmp_path / "p/001.png", tmp_path / "gone", one, two]
    assert [picture.name for picture in found] == list(map(str, names))


def test_an_archive_beside_the_table_holds_its_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "list.zip", "w") as archive:
        for index in range(20):
            archive.writestr(f"{index}.png", png(index))
    found = find_pictures([lines(tmp_path / "list.jsonl", [{"file": f"{index}.png"} for index in range(21)])])
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(grey, found[:20])) == list(range(20))
    assert found[0].stamp() != found[1].stamp()
    assert found[20].stamp() == (0, 0)
    with pytest.raises(UnreadableError, match="no such file in the archive"):
        found[20].content()
    (tmp_path / "list.zip").write_text("<html>gone")
    with pytest.raises(InputError, match=r"list.zip: no archive but an HTML page; give a whole .zip"):
        find_pictures([tmp_path / "list.jsonl"])


def test_a_stamp_shows_a_change(tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path, 1)
    picture = PictureFile(path)
    before = picture.stamp()
    assert picture.stamp() == before != (0, 0)
    path.write_bytes(png(1))
    assert picture.stamp() != before
    path.unlink()
    assert picture.stamp() == (0, 0)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"image": "a.png", "caption": "x"}, "no `file`, it has image, caption"),
        ({"file": 3}, "`file` is no name of a file"),
        ({"file": " "}, "`file` is no name of a file"),
        ({"file": "https://example.org/a.png"}, "`file` is an address, which no command fetches"),
        ({"file": "a\0.png"}, "`file` is no name that a file can have"),
        ({"file": "\ud800.png"}, "`file` is no name that a file can have"),
        (["a.png"], "no object"),
        (None, "no object"),
    ],
)
def test_rows_that_name_no_file_are_reported(tmp_path: Path, row: object, why: str) -> None:
    path = lines(tmp_path / "list.jsonl", [{"file": "a.png"}, row])
    with pytest.raises(InputError, match=rf"list.jsonl: line 2: {re.escape(why)}; repair or remove them"):
        find_pictures([path])
    found = find_pictures([path], "skip")
    assert [picture.name for picture in found] == [str(tmp_path / "a.png"), f"{path}:2"]
    with pytest.raises(UnreadableError, match=re.escape(why)):
        found[1].content()


def test_files_may_lie_anywhere_on_the_machine(tmp_path: Path) -> None:
    (outside,) = write_pictures(tmp_path / "elsewhere", 1)
    (tmp_path / "tables").mkdir()
    rows = [{"file": str(outside)}, {"file": "../elsewhere/000.png"}]
    found = find_pictures([lines(tmp_path / "tables" / "t.jsonl", rows)])
    assert [decode(picture).size for picture in found] == [(5, 6)] * 2
    with zipfile.ZipFile(tmp_path / "tables" / "t.zip", "w") as archive:
        archive.writestr("in.png", png(7))
    found = find_pictures([lines(tmp_path / "tables" / "t.jsonl", [{"file": str(outside)}, {"file": "in.png"}])])
    assert [decode(picture).size for picture in found] == [(5, 6), (3, 3)]


def test_what_the_archive_beside_lacks_is_looked_for_on_disk(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("d/in.png", png(7))
    (tmp_path / "out.png").write_bytes(png(8))
    rows = [{"file": name} for name in ("./d/in.png", "out.png", "d/../d/in.png", "gone.png")]
    found = find_pictures([lines(tmp_path / "t.jsonl", rows)])
    assert list(map(grey, found[:3])) == [7, 8, 7]
    with pytest.raises(UnreadableError, match="no such file in the archive"):
        found[3].content()


def test_broken_lines_are_numbered_and_of_many_the_first_shown(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text("\n{\n" * 12 + "[" * 100_000, "utf-8")
    with pytest.raises(InputError, match="lines 2, 4, 6, 8, 10, 12, 14, 16 and 5 more: no JSON; repair"):
        find_pictures([path])
    path.write_bytes(b'{"file": "a.png"}\n{"file": "b.png", "caption": "caf\xe9"}\n{"x": 1}\n[]\n')
    with pytest.raises(
        InputError, match=r"line 2: holds text that is no UTF-8; line 3: no `file`, it has x; line 4: no object"
    ):
        find_pictures([path])
    path.write_text('{"file": "a.png"}\n', "utf-16")
    with pytest.raises(InputError, match="UTF-16 text, not a table"):
        find_pictures([path])


@pytest.mark.parametrize("name", ["empty folder", "empty.jsonl", "empty.parquet"])
def test_nothing_is_reported(tmp_path: Path, name: str) -> None:
    if name.endswith("folder"):
        (tmp_path / name).mkdir()
    elif name.endswith("jsonl"):
        (tmp_path / name).write_text("\n")
    else:
        table(tmp_path / name, file=pyarrow.array([], pyarrow.string()))
    with pytest.raises(InputError, match="no picture found; give a folder of pictures, or a table"):
        find_pictures([tmp_path / name])


@pytest.mark.parametrize("struct", [False, True])
def test_pictures_inside_parquet(tmp_path: Path, struct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "_HELD_BYTES", 0)
    contents = [png(index) for index in range(31)]
    values = [{"bytes": content, "path": None} for content in contents] if struct else contents
    found = find_pictures([table(tmp_path / "p.parquet", image=values)])
    assert found[3].name == f"{tmp_path / 'p.parquet'}:3"
    order = list(range(31))
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda index: grey(found[index]), order)) == order


def test_row_groups_are_read_once_by_threads_that_are_batches_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_pictures([table(tmp_path / "p.parquet", image=[png(index) for index in range(40)])])
    read: list[int] = []
    original = parquet.ParquetFile.read_row_group

    def counted(file: object, group: int, **more: object) -> object:
        read.append(group)
        return original(file, group, **more)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    for first in range(20):
        assert grey(found[first]) == first
        assert grey(found[first + 20]) == first + 20
    assert sorted(read) == list(range(20))


def test_parquet_that_names_files_or_has_other_columns(tmp_path: Path) -> None:
    found = find_pictures([table(tmp_path / "names.parquet", file=["a.png", "b.png"])])
    assert [picture.name for picture in found] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    with pytest.raises(InputError, match=r"neither column file nor image \(it has picture\)"):
        find_pictures([table(tmp_path / "other.parquet", picture=["a.png"])])
    (row,) = find_pictures([table(tmp_path / "null.parquet", image=pyarrow.array([None], pyarrow.binary()))])
    with pytest.raises(UnreadableError, match="no bytes in column image"):
        row.content()
    with pytest.raises(InputError, match="column image holds text, no pictures; rename it to file"):
        find_pictures([table(tmp_path / "text.parquet", image=["a.png"])])
    (tmp_path / "broken.parquet").write_text("no table")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        find_pictures([tmp_path / "broken.parquet"])


def test_texts_of_tables_one_or_several_a_row(tmp_path: Path) -> None:
    first = lines(tmp_path / "t.jsonl", [{"caption": "a\u2028b"}, {"caption": ["c", "d"]}])
    second = table(tmp_path / "t.parquet", caption=["e", "f", "g"])
    assert find_texts([first, second], "caption") == ["a\u2028b", "c", "d", "e", "f", "g"]


def test_tables_without_the_texts_are_reported(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", [{"caption": "a"}, {"caption": 3}, {"text": "b"}, {"caption": [None]}])
    with pytest.raises(InputError, match="lines 2, 3, 4: no text in caption; give the name of a field"):
        find_texts([path], "caption")
    with pytest.raises(InputError, match=r"has no column text \(it has caption\)"):
        find_texts([table(tmp_path / "t.parquet", caption=["a"])], "text")
    with pytest.raises(InputError, match=r"t.png: no table; give a .jsonl or .parquet, or"):
        find_texts([tmp_path / "t.png"], "caption")
    with pytest.raises(InputError, match="no text in caption"):
        find_texts([lines(tmp_path / "empty.jsonl", [])], "caption")
    with pytest.raises(InputError, match=r"gone.jsonl: no such file or directory; give a table"):
        find_texts([tmp_path / "gone.jsonl"], "caption")


def test_rows_without_a_text_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"caption": "a"}\n{"caption": null}\n{\n{}\n{"caption": ["b", ""]}\n')
    assert find_texts([path], "caption", "skip") == [
        "a",
        UnusableText(f"{path}:2", "no text in caption"),
        UnusableText(f"{path}:3", "no JSON"),
        UnusableText(f"{path}:4", "no text in caption"),
        "b",
        "",
    ]


def test_texts_by_language_are_all_taken(tmp_path: Path) -> None:
    rows = [{"label": {"en": "a", "de": ["b", "c"], "fr": None}}]
    assert find_texts([lines(tmp_path / "t.jsonl", rows)], "label") == ["a", "b", "c"]
