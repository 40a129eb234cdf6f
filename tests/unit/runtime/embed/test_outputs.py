"""Each format gives back rows and names; a file that cannot be written leaves what stood there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from internvl_edge.runtime.embed import outputs
from internvl_edge.runtime.embed.outputs import Features, Kind, require_format, write_features, write_lines
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.inputs.tables import arrow

NAMES = ["a.png", "b c.png", "日本.png", os.fsdecode(b"\xff.png"), "a.png"]


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(5, 3)).astype(np.float32)


def features(folder: Path, rows: np.ndarray, kind: Kind = "image", **more: object) -> Features:
    parts = [folder / "0.part.npy", folder / "1.part.npy"]
    np.save(parts[0], rows[:2])
    np.save(parts[1], rows[2:])
    return Features(kind=kind, names=NAMES, parts=parts, dim=3, dtype=str(rows.dtype), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy_with_names_beside_it(tmp_path: Path, rows: np.ndarray, dtype: str) -> None:
    rows = rows.astype(dtype)
    write_features(tmp_path / "f.npy", features(tmp_path, rows))
    read = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, rows)
    lines = (tmp_path / "f.names.jsonl").read_text("utf-8", "surrogateescape").splitlines()
    assert [json.loads(line) for line in lines] == [{"row": row, "image": name} for row, name in enumerate(NAMES)]


def test_npz_with_texts(tmp_path: Path, rows: np.ndarray) -> None:
    texts = rows[:2] * 2
    write_features(tmp_path / "f.npz", features(tmp_path, rows, texts=["x", "y"], text_embeds=texts))
    with np.load(tmp_path / "f.npz") as read:
        assert read["images"].tolist() == NAMES
        np.testing.assert_array_equal(read["image_embeds"], rows)
        assert read["texts"].tolist() == ["x", "y"]
        np.testing.assert_array_equal(read["text_embeds"], texts)


@pytest.mark.parametrize(("kind", "dtype"), [("image", "float32"), ("text", "float16")])
def test_parquet_in_groups(
    tmp_path: Path, rows: np.ndarray, kind: Kind, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "_GROUP_ROWS", 2)
    rows = rows.astype(dtype)
    write_features(tmp_path / "f.parquet", features(tmp_path, rows, kind))
    file = parquet.ParquetFile(tmp_path / "f.parquet")
    assert file.metadata.num_row_groups == 2
    table = file.read()
    assert table.column_names == [kind, f"{kind}_embeds"]
    assert str(table.schema.field(1).type).startswith("fixed_size_list<")
    np.testing.assert_array_equal(np.array(table[1].to_pylist(), dtype), rows)
    assert table[0].to_pylist() == [*NAMES[:3], r"\xff.png", "a.png"]


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.parquet"])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, rows: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("old")
    given = features(tmp_path, rows)
    monkeypatch.setattr(Path, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); make room"):
        write_features(tmp_path / name, given)
    assert (tmp_path / name).read_text() == "old"
    assert not list(tmp_path.glob("*.tmp"))


def test_lines_keep_what_json_keeps(tmp_path: Path) -> None:
    rows = [{"input": 'quote " and \n line', "reason": "日本\u2028"}]
    write_lines(tmp_path / "l.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "l.jsonl").read_text("utf-8").split("\n")[:-1]] == rows


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("f.csv", r"f.csv: no known format; name it \*\.npz, \*\.npy, \*\.parquet"),
        ("f", "no known format"),
        ("absent/f.npy", "its folder is not there; make it first"),
        ("folder.npy", "is a folder; give the name of a file"),
    ],
)
def test_a_name_that_will_not_do_is_reported_first(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match=found):
        require_format(tmp_path / name)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(arrow.importlib, "import_module", absent)
    require_format(tmp_path / "f.npy")
    with pytest.raises(BackendError, match=r"pip install 'internvl-edge\[parquet\]', or use .jsonl and .npy"):
        require_format(tmp_path / "f.parquet")
