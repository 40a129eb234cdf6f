"""Archives: members by name, descriptions beside pictures, and damage is reported for the member it is in."""

import gc
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.read import find_pictures, find_texts, read_records


def tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def described(path: Path) -> list[tuple[str, list[str], str | None]]:
    return [(r.file, [text for _, text in r.captions()], r.group) for r in read_records(path)]


def test_what_lies_beside_a_picture_describes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {
        "d/0.txt": b"\xef\xbb\xbfa cat\r\n",
        "d/0.JPG": b"",
        "d/0.cls": b"3\n",
        "d/1.json": b'{"caption": ["x", "y"], "group": "beasts", "url": "https://example.org"}',
        "d/1.txt": b"not this",
        "d/1.png": b"",
        "d/1.mask.png": b"",
        "d/2.v1.webp": b"",
        "d/2.v2.webp": b"",
        "d/2.txt": b"of both",
        "e/0.png": b"",
        "e/3.txt": b"of no picture",
        "e/.hidden.png": b"",
        "__MACOSX/d/._0.JPG": b"",
        "e/README": b"",
    }
    assert described(tar(tmp_path / "s.tar", members)) == [
        ("d/0.JPG", ["a cat"], "3"),
        ("d/1.png", ["x", "y"], "beasts"),
        ("d/2.v1.webp", ["of both"], None),
        ("d/2.v2.webp", ["of both"], None),
        ("e/0.png", [], None),
    ]
    assert "1 further pictures of a sample (d/1.mask.png)" in caplog.text
    assert "2 hidden (e/.hidden.png, __MACOSX/d/._0.JPG)" in caplog.text
    assert "2 no pictures by their names (README: 1, .txt: 1)" in caplog.text


def test_pictures_with_dots_in_their_names_are_all_taken_without_descriptions(tmp_path: Path) -> None:
    members = {"IMG.1.png": b"", "IMG.png": b"", "IMG.2.png": b""}
    assert [row[0] for row in described(tar(tmp_path / "s.tar", members))] == list(members)


def test_broken_descriptions_are_reported_by_their_place(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", {"0.png": b"", "1.json": b"{", "1.png": b"", "2.json": b"[]", "2.png": b""})
    with pytest.raises(InputError, match=r"row 1: 1.json is no JSON; row 2: 2.json is no object"):
        read_records(path)
    assert len(find_pictures([path], "skip")) == 3
    assert len(find_texts([path], "caption", "skip")) == 3


LINKS: Mapping[str, tuple[bytes, str, bytes | str]] = {
    "./d/hard.png": (tarfile.LNKTYPE, "./a.png", b"one"),
    "d/soft.png": (tarfile.SYMTYPE, "../a.png", b"one"),
    "d/chain.png": (tarfile.SYMTYPE, "soft.png", b"one"),
    "out.png": (tarfile.SYMTYPE, "/etc/passwd", "a link to what is not in the archive"),
    "up.png": (tarfile.SYMTYPE, "../../etc/passwd", "a link to what is not in the archive"),
    "loop.png": (tarfile.SYMTYPE, "loop.png", "a link to what is not in the archive"),
    "pipe.png": (tarfile.FIFOTYPE, "", "not held as a whole file in its archive"),
}


def test_links_of_a_tar_lead_to_its_members_and_nowhere_else(tmp_path: Path) -> None:
    """GNU tar writes the second of two files with one content in one place as a link: it is a picture as well."""
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        info = tarfile.TarInfo("./a.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"one"))
        for name, (kind, target, _) in LINKS.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    records = read_records(tmp_path / "s.tar")
    assert [record.file for record in records] == ["./a.png", *LINKS]
    for record, (_, _, expected) in zip(records[1:], LINKS.values(), strict=True):
        if isinstance(expected, bytes):
            assert record.picture.content() == expected
        else:
            with pytest.raises(UnreadableError, match=expected):
                record.picture.content()


@pytest.mark.parametrize("damage", ["cut in a header", "a header overwritten", "cut in the last header"])
def test_a_tar_that_ends_early_is_reported(tmp_path: Path, damage: str) -> None:
    """Python's tarfile takes a header that is broken, but for the first one, for the end of the archive."""
    path = tar(tmp_path / "s.tar", {f"{index}.png": b"x" * 600 for index in range(3)})
    content = bytearray(path.read_bytes())
    if damage == "a header overwritten":
        content[3 * 512 : 3 * 512 + 8] = b"damaged!"
    else:
        del content[3 * 512 * (2 if "last" in damage else 1) + 100 :]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"s.tar: a broken or cut-off archive; give a whole"):
        read_records(path)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_tar_without_blocks_at_its_end_is_whole(tmp_path: Path, blocks: int) -> None:
    path = tar(tmp_path / "s.tar", {f"{index}.png": b"x" * 600 for index in range(3)})
    with path.open("r+b") as file:
        file.truncate(3 * 3 * 512 + 512 * blocks)
    assert len(read_records(path)) == 3


def test_two_values_of_one_name_beside_a_picture_are_reported(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", {"0.png": b"", "0.json": b'{"caption": "x", "caption": "y"}'})
    with pytest.raises(InputError, match=r"row 0: 0.json has two values of `caption`"):
        read_records(path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no archive but an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no archive but a Git LFS pointer in place of the file"),
        (b"<!doctype html>", "no archive but an HTML page"),
        (b"PAR1" + bytes(600), "no archive but a Parquet table"),
        (b"PK\x03\x04" + bytes(600), "a broken or cut-off archive"),
        (gzip.compress(bytes(range(256)) * 9)[:-20], "a broken or cut-off archive"),
    ],
)
def test_what_is_no_archive_is_reported_as_what_it_is(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {words}"):
        read_records(tmp_path / name)


@pytest.mark.parametrize("name", ["gone.zip", "gone.tar", "gone.tar.gz", "gone.parquet", "gone.csv", "gone.json.gz"])
def test_what_is_not_there_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no such file or directory; give"):
        read_records(tmp_path / name)


def test_a_tar_cut_off_in_a_picture_is_reported(tmp_path: Path) -> None:
    whole = tar(tmp_path / "s.tar", {"0.png": bytes(5000), "1.png": bytes(5000)}).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:8000])
    with pytest.raises(InputError, match="a broken or cut-off archive"):
        read_records(tmp_path / "s.tar")


def test_encrypted_and_damaged_members_are_reported_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", b"good")
        archive.writestr("bad.png", bytes(range(256)) * 40)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    start = content.index(b"bad.png") + len("bad.png")
    content[start + 20 : start + 40] = bytes(20)
    (tmp_path / "a.zip").write_bytes(content)
    good, bad = find_pictures([tmp_path / "a.zip"])
    assert good.content() == b"good"
    with pytest.raises(UnreadableError, match="broken in its archive"):
        bad.content()
    (tmp_path / "a.zip").write_bytes(encrypted())
    (locked,) = find_pictures([tmp_path / "a.zip"])
    with pytest.raises(UnreadableError, match="encrypted in its archive; unpack it"):
        locked.content()


def encrypted() -> bytes:
    """A zip whose only member claims to be encrypted."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.png", b"1234")
    content = bytearray(target.getvalue())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def test_a_member_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from internvl_edge.runtime.inputs.files import archives

    monkeypatch.setattr(archives, "_LARGEST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1001))
    tar(tmp_path / "a.tar", {"bomb.png": bytes(1001)})
    for name in ("a.zip", "a.tar"):
        (picture,) = find_pictures([tmp_path / name])
        with pytest.raises(UnreadableError, match="1001 bytes unpacked, more than 1000"):
            picture.content()


def test_texts_of_an_archive_are_a_field_of_what_describes_its_pictures(tmp_path: Path) -> None:
    members = {"0.png": b"", "0.json": json.dumps({"alt": ["a", "b"]}).encode(), "1.png": b"", "1.txt": b"c"}
    path = tar(tmp_path / "s.tar", members)
    assert find_texts([path], "alt", "skip")[:2] == ["a", "b"]
    with pytest.raises(InputError, match="row 1: no text in alt"):
        find_texts([path], "alt")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "parquet"])
def test_many_archives_are_few_open_files(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{index:02}.{suffix}" for index in range(30)]
    for path in paths:
        if suffix == "parquet":
            parquet.write_table(pyarrow.table({"image": [path.name.encode()]}), path)
        elif suffix == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.png", path.name)
        else:
            tar(path, {"a.png": path.name.encode()})
            if suffix == "tar.gz":
                path.write_bytes(gzip.compress(path.read_bytes()))
    before = len(list(Path("/proc/self/fd").iterdir()))
    pictures = find_pictures(paths)
    for each in (pictures, pictures[::-1]):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda picture: picture.content(), each)) == [
                picture.name.split("/")[-1 if suffix == "parquet" else -2].split(":")[0].encode() for picture in each
            ]
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8


@pytest.mark.parametrize("column", ["caption", "image"])
def test_a_table_that_is_damaged_between_its_rows_is_reported(tmp_path: Path, column: str) -> None:
    path = tmp_path / "t.parquet"
    marks = {"caption": b"the caption", "image": b"the picture"}
    table = pyarrow.table({"image": [marks["image"]] * 3, "caption": [marks["caption"].decode()] * 3})
    parquet.write_table(table, path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    begin = content.index(marks[column]) - 4
    content[begin : begin + 4] = b"\xff\xff\xff\x7f"  # a length that nothing has
    path.write_bytes(content)
    if column == "caption":
        with pytest.raises(InputError, match=r"t.parquet: rows from 0 on are damaged, or text that is no UTF-8; give"):
            read_records(path)
    else:
        (first, *_) = read_records(path)
        with pytest.raises(UnreadableError, match="broken in its table"):
            first.picture.content()


def test_text_that_is_no_utf8_in_a_table_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"file": ["a.png"], "caption": ["caf\u00e9"]}), path, compression="none")
    path.write_bytes(path.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9\xe9"))
    for read in (lambda: read_records(path), lambda: find_texts([path], "caption")):
        with pytest.raises(InputError, match="text that is no UTF-8; give a whole"):
            read()
