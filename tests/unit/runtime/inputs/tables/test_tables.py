"""Tables: any line ends, marks and blank lines give the same rows; what is broken is named by its lines."""

import csv
import gzip
import json
import os
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internvl_edge.calib.data.dataset import open_data
from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.pictures.source import content_of
from internvl_edge.runtime.inputs.read import read_records
from internvl_edge.runtime.inputs.tables.tables import read_table
from tests.tolerances import HANG_S

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
ODD = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\t", "\ufeff", "é", "猫"]
CAPTIONS = st.one_of(TEXTS, st.sampled_from(ODD), st.lists(TEXTS, max_size=3), st.none())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.dictionaries(TEXTS, CAPTIONS, max_size=3), min_size=1, max_size=6),
    ends=st.lists(st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n", "\r\n\r\n"]), min_size=6, max_size=6),
    mark=st.booleans(),
    last=st.booleans(),
    packed=st.booleans(),
    escape=st.booleans(),
)
def test_json_lines_in_any_writing_are_the_same_rows(
    tmp_path: Path,
    rows: list[dict[str, object]],
    ends: list[str],
    mark: bool,
    last: bool,
    packed: bool,
    escape: bool,
) -> None:
    content = ("\ufeff" if mark else "") + "".join(
        json.dumps(row, ensure_ascii=escape) + (end if last or index < len(rows) - 1 else "")
        for index, (row, end) in enumerate(zip(rows, ends, strict=False))
    )
    path = tmp_path / ("t.jsonl.gz" if packed else "t.jsonl")
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    found = read_table(path)
    assert [row.fields for row in found] == rows
    assert all(row.fault is None for row in found)
    breaks = content.split("\n")
    assert all(json.loads(breaks[row.number - 1].lstrip("\ufeff")) == row.fields for row in found)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(good=st.lists(st.booleans(), min_size=1, max_size=12))
def test_broken_lines_are_those_that_are_named(tmp_path: Path, good: list[bool]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join('{"file": "a.png"}' if each else '{"file": "a.p' for each in good))
    wrong = [str(number) for number, each in enumerate(good, start=1) if not each]
    if not wrong:
        assert len(read_records(path)) == len(good)
        return
    shown = ", ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
    with pytest.raises(InputError, match=f"t.jsonl: lines? {shown}: no JSON; repair"):
        read_records(path)


def faults(tmp_path: Path, name: str, content: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_records(path)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "is no JSON (line 1); repair it"),
        ("a.json", '[{"file": "a.png"},\n{"file": }]', "is no JSON (line 2)"),
        ("a.json", "3", "is no array, no columns and no COCO captions"),
        ("a.json", '[{"file": "a.png"}, 3, {"x": 1}]', "row 1: no object; row 2: no `file`, it has x"),
        ("a.json", '{"images": [{"id": 1}], "annotations": []}', "row 0: no `file`, it has id"),
        ("a.json", '{"file": ["a.png", "b.png"], "caption": ["x"]}', "row 0: `file` is no name of a file"),
        ("a.jsonl", "[" + '{"file": "a.png"}' + "]", "line 1: no object"),
        ("a.csv", "file,caption\na.png,x,y\nb.png,z\n", "line 2: 3 cells for 2 columns"),
        ("a.csv", "image,caption\na.png,x\n", "line 2: no `file`, it has image, caption"),
        ("a.csv", "file;caption\na.png;x\n", "line 2: no `file`, it has file;caption"),
        ("a.jsonl", '{"file": "a.png", "x": 1, "file": "b.png"}', "line 1: two values of `file`"),
        ("a.json", '[{"file": "a.png", "label": {"en": "x", "en": "y"}}]', "a.json: two values of `en`; repair it"),
        ("a.csv", "file, file \na.png,b.png\n", "columns of one name (file, file); rename them"),
        ("a.csv", "file,file\na.png,b.png\n", "columns of one name (file, file); rename them"),
        ("a.csv", "file,caption\n\na.png,caf\u00e9\n".encode("latin-1"), "line 3: holds text that is no UTF-8"),
        ("a.csv", 'file,caption\na.png,x\nb.png,"open\nc.png,z\n', "a.csv: line 3 begins no row (a quote that is"),
        ("a.csv", 'file,caption\nb.png,"open\nc.png,"z"\n', "a.csv: line 2 begins no row (a quote that is"),
        ("a.csv", "", "no picture found"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid x\n", "a Git LFS pointer in place of the file"),
        ("a.csv", "<!DOCTYPE html><p>404", "an HTML page, not a table"),
        ("a.json", b"\x89PNG\r\n\x1a\n", "a PNG picture, not a table"),
        ("a.tsv", b"PK\x03\x04" + bytes(40), "a zip archive, not a table"),
        ("a.jsonl", gzip.compress(b'{"file": "a.png"}'), "gzip data, not a table"),
        ("a.jsonl.gz", b'{"file": "a.png"}', "is no whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"file": "a.png"}' * 99)[:-9], "is no whole gzip file"),
        ("a.parquet", b"PAR1" + bytes(40), "cannot be read as Parquet; give a whole .parquet"),
        ("a.parquet", b"<html>", "cannot be read as Parquet: it is an HTML page"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_what(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    assert words in faults(tmp_path, name, content)


def test_a_table_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from internvl_edge.runtime.inputs.tables import tables

    monkeypatch.setattr(tables, "_LARGEST_BYTES", 1 << 30)
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole, which takes no room
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(bytes(1 << 21), 1))
    with pytest.raises(InputError, match="more than 1 GiB; cut it into several tables"):
        read_table(tmp_path / "a.jsonl")
    monkeypatch.setattr(tables, "_LARGEST_BYTES", 1 << 20)
    with pytest.raises(InputError, match="more than 0 GiB"):
        read_table(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize(
    ("row", "texts", "group"),
    [
        ({"label": 3, "caption": "x"}, {"": ("x",)}, None),
        ({"label": "", "caption": "x"}, {"": ("x",)}, None),
        ({"caption": ["x", "", " ", "y"]}, {"": ("x", "y")}, None),
        ({"captions": ["x", "y"], "group": 7}, {"": ("x", "y")}, "7"),
        ({"text": {"en": "x", "de": None, "fr": ["y", "z"], "it": ""}}, {"en": ("x",), "fr": ("y", "z")}, None),
        ({"label": {"en": "x"}, "caption": "y"}, {"en": ("x",)}, None),
        ({"caption": None}, {}, None),
        ({"caption": []}, {}, None),
        ({"caption": ["x", 3]}, {}, None),
        ({"sentences": [{"raw": "x"}, {"raw": "y"}]}, {"": ("x", "y")}, None),
        ({"sentences": [{"raw": "x"}, {"raw": 3}]}, {}, None),
    ],
)
def test_captions_in_every_shape(
    tmp_path: Path, row: dict[str, object], texts: dict[str, tuple[str, ...]], group: str | None
) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"file": "a.png", **row}))
    (record,) = read_records(tmp_path / "t.jsonl")
    assert (record.texts, record.group) == (texts, group)


@pytest.mark.parametrize(
    "text", ["[laughs]", "[1, 2]", "{a", "[]x", "[" * 200 + "]", "{1: 2", "[" + "'a', " * 20_000 + "]"]
)
def test_cells_that_are_no_lists_of_texts_are_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(f'file,caption\na.png,"{text}"\n')
    assert read_records(tmp_path / "t.csv")[0].texts == {"": (text,)}


def test_fields_that_hold_no_captions_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"file": "a.png", "label": 3}, {"file": "b.png", "caption": [1, 2], "group": [1]}, {"file": "c.png"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [record.texts for record in read_records(tmp_path / "t.jsonl")] == [{}, {}, {}]
    assert "2 rows whose captions or class are not used (1: label is a number, 2: caption is a list" in caplog.text


def test_a_name_that_is_no_utf8_in_a_table_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'{"file": "caf\xe9.png"}\n{"file": "caf\\udce9.png"}\n')
    first, second = read_records(tmp_path / "t.jsonl")
    assert first.file == second.file
    assert first.picture == second.picture


def test_equal_values_and_columns_without_a_name_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"file": "a.png", "file": "a.png", "caption": "x"}\n')
    (tmp_path / "a.csv").write_text("file,caption,,\na.png,x,y,z\n")
    for name in ("a.jsonl", "a.csv"):
        (record,) = read_records(tmp_path / name)
        assert (record.file, record.captions()) == ("a.png", [("", "x")])


def test_captions_of_no_image_are_not_those_of_an_image_without_a_number(tmp_path: Path) -> None:
    content = {"images": [{"file_name": "a.png"}], "annotations": [{"caption": "of another"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_records(tmp_path / "a.json")[0].captions() == []


def test_names_longer_than_names_can_be_are_reported(tmp_path: Path) -> None:
    name = "n" * 300
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other.png", b"")
    (tmp_path / "a.jsonl").write_text(json.dumps({"file": name}))
    for source in (tmp_path / "a.jsonl", tmp_path / name):
        (record,) = read_records(source)
        with pytest.raises(UnreadableError):
            content_of(record.picture)
    with pytest.raises(InputError, match="file name too long"):
        read_records(tmp_path / f"{name}.jsonl")
    with pytest.raises(InputError, match="no such file or folder"):
        open_data(tmp_path / f"{name}.jsonl")


def test_what_unpacks_to_anything_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from internvl_edge.runtime.inputs.files import archives

    monkeypatch.setattr(archives, "_ANY_BYTES", 1 << 20)
    monkeypatch.setattr(archives, "_PART_BYTES", 1 << 18)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(InputError, match=r"a.jsonl.gz: unpacks to more than 200 times its size; give it unpacked"):
        read_records(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.tar.gz").write_bytes((tmp_path / "a.jsonl.gz").read_bytes())
    with pytest.raises(InputError, match=r"a.tar.gz: unpacks to more than 200 times its size; give it unpacked"):
        read_records(tmp_path / "a.tar.gz")
    rows = b"".join(b'{"file": "%06d.png", "caption": "a"}\n' % index for index in range(40_000))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(rows))
    assert len(read_records(tmp_path / "b.jsonl.gz")) == 40_000


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ("['a cat' 'two cats']", ("a cat", "two cats")),
        ("['it''s' 'x']".replace("''", "\\'"), ("it's", "x")),
        ("[\"it's\"\n 'x']", ("it's", "x")),
        ("['a cat', \"it's\"]", ("a cat", "it's")),
        ("['one']", ("one",)),
        ("[\"say 'x' 'y'\"]", ("say 'x' 'y'",)),
    ],
)
def test_lists_as_pandas_writes_arrays_are_several_texts(tmp_path: Path, cell: str, texts: tuple[str, ...]) -> None:
    """`to_csv` writes an array without commas, and Python takes two texts side by side for one."""
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "caption"], ["a.png", cell]])
    assert read_records(tmp_path / "t.csv")[0].texts == {"": texts}


def test_folders_and_pipes_in_the_place_of_tables_are_reported(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"file": "a.png"}')
    (tmp_path / "prompts.json").mkdir()
    with pytest.raises(InputError, match=r"prompts.json: a folder; give a file that can be read"):
        open_data(tmp_path / "t.jsonl")
    (tmp_path / "prompts.json").rmdir()
    os.mkfifo(tmp_path / "prompts.json")
    os.mkfifo(tmp_path / "p.parquet")
    found = []

    def read() -> None:  # to open a pipe waits for who writes to it
        with pytest.raises(InputError, match=r"prompts.json: neither a file nor a folder"):
            open_data(tmp_path / "t.jsonl")
        found.append("prompts")
        with pytest.raises(InputError, match=r"p.parquet: neither a file nor a folder"):
            read_records(tmp_path / "p.parquet")
        found.append("parquet")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert found == ["prompts", "parquet"]
