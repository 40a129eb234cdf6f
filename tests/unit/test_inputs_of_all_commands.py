"""One set of pictures and captions in every form that is read gives every command the same rows."""

import csv
import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from internvl_edge.calib.data.calibration import load_data
from internvl_edge.calib.data.dataset import open_data
from internvl_edge.calib.data.synthetic import STOCK_TEXTS
from internvl_edge.export.run.samples import load_samples
from internvl_edge.runtime.inputs.pictures.decode import decode, load_pictures
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.inputs.read import find_pictures, find_texts

COUNT = 18
"""Calibration takes no fewer than 16."""
SETTINGS = Preprocessing(image_size=8)
NAMES = [f"{index:02}.png" for index in range(COUNT)]
LISTS = [[f"picture {index}", f"Bild {index}\u2028zweite Zeile"][: 1 + index % 2] for index in range(COUNT)]
ONE = [captions[0] for captions in LISTS]
LANGUAGES = [{"en": text, "de": [f"a {text}", f"b {text}"], "fr": None} for text in ONE]
NONE: list[object] = [None] * COUNT


def pixels() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(COUNT)]


def encoded(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(array).save(target, "png")
    return target.getvalue()


FILES = {name: encoded(array) for name, array in zip(NAMES, pixels(), strict=True)}
Rows = Sequence[Mapping[str, object]]


def rows_of(captions: Sequence[object], key: str = "caption") -> Rows:
    return [{"file": name, key: text} for name, text in zip(NAMES, captions, strict=True)]


def lines(rows: Rows, end: str = "\n") -> bytes:
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def columns(captions: Sequence[object], name: str = "caption") -> dict[str, list[object]]:
    return {"file": list(NAMES), name: list(captions)}


def coco() -> bytes:
    images = [{"id": 100 + index, "file_name": name, "width": 7} for index, name in enumerate(NAMES)]
    annotations = [
        {"id": 7 * index + place, "image_id": 100 + index, "caption": text}
        for place in (0, 1)
        for index, captions in enumerate(LISTS)
        for text in captions[place : place + 1]
    ]
    return json.dumps({"info": {}, "images": images, "annotations": annotations}).encode()


def separated(delimiter: str, end: str = "\n", captions: Sequence[object] = ONE, name: str = "file") -> bytes:
    target = io.StringIO()
    writer = csv.writer(target, delimiter=delimiter, lineterminator=end)
    writer.writerow([name, "caption"])
    writer.writerows(zip(NAMES, captions, strict=True))
    return target.getvalue().encode()


def karpathy() -> bytes:
    rows = [
        {"filename": name, "split": "test", "sentences": [{"raw": text, "tokens": text.split()} for text in captions]}
        for name, captions in zip(NAMES, LISTS, strict=True)
    ]
    return json.dumps({"dataset": "flickr30k", "images": rows}).encode()


def write_parquet(path: Path, table: Mapping[str, object]) -> None:
    parquet.write_table(pyarrow.table(table), path, row_group_size=5)


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def sample_files(ending: str, content: Callable[[int], bytes]) -> dict[str, bytes]:
    """A WebDataset shard: what belongs together lies together, the description before the picture."""
    members: dict[str, bytes] = {}
    for index, (name, picture) in enumerate(FILES.items()):
        members[f"a/{Path(name).stem}{ending}"] = content(index)
        members[f"a/{name}"] = picture
        members[f"a/{Path(name).stem}.seg.png"] = b"a mask, never opened"
    return members


BOM = b"\xef\xbb\xbf"
TABLES: dict[str, tuple[bytes, Sequence[object]]] = {
    "plain.jsonl": (lines(rows_of(LISTS)), LISTS),
    "BIG.JSONL": (lines(rows_of(ONE, "text")), ONE),
    "bom.jsonl": (BOM + lines(rows_of(LISTS)), LISTS),
    "crlf.jsonl": (lines(rows_of(LISTS), "\r\n"), LISTS),
    "blank.jsonl": (b"\n\n \r\n" + lines(rows_of(LISTS), "\n\n\n") + b"\n\n", LISTS),
    "languages.jsonl": (lines(rows_of(LANGUAGES, "label")), LANGUAGES),
    "escaped.ndjson": (json.dumps(rows_of(LISTS)).replace("}, {", "}\n{")[1:-1].encode(), LISTS),
    "packed.jsonl.gz": (gzip.compress(lines(rows_of(LISTS))), LISTS),
    "PACKED.NDJSON.GZ": (gzip.compress(lines(rows_of(LISTS))), LISTS),
    "array.json": (json.dumps(rows_of(LISTS)).encode(), LISTS),
    "bom.json": (BOM + json.dumps(rows_of(LISTS)).encode(), LISTS),
    "lines.json": (lines(rows_of(LISTS)), LISTS),
    "columns.json": (json.dumps(columns(LISTS)).encode(), LISTS),
    "pandas.json": (
        json.dumps({name: dict(enumerate(column)) for name, column in columns(LISTS).items()}).encode(),
        LISTS,
    ),
    "coco.json": (coco(), LISTS),
    "coco.json.gz": (gzip.compress(coco()), LISTS),
    "karpathy.json": (karpathy(), LISTS),
    "by-index.json": (json.dumps(dict(enumerate(rows_of(LISTS)))).encode(), LISTS),
    "comma.csv": (separated(","), ONE),
    "filename.csv": (separated(",", name="filename"), ONE),
    "json-lists.csv": (separated(",", captions=[json.dumps(captions) for captions in LISTS]), LISTS),
    "python-lists.csv": (separated(",", captions=LISTS), LISTS),
    "languages.tsv": (separated("\t", captions=[json.dumps(each) for each in LANGUAGES]), LANGUAGES),
    "excel.csv": (BOM + separated(",", "\r\n"), ONE),
    "tabs.tsv": (separated("\t"), ONE),
    "packed.csv.gz": (gzip.compress(separated(",")), ONE),
    "none.jsonl": (lines(rows_of(NONE)), NONE),
}
OTHERS: dict[str, tuple[Callable[[Path], object], Sequence[object]]] = {
    "both.parquet": (
        lambda path: write_parquet(
            path, {"image": list(FILES.values()), "filename": ["elsewhere"] * COUNT, "caption": LISTS}
        ),
        LISTS,
    ),
    "names.parquet": (lambda path: write_parquet(path, columns(LISTS)), LISTS),
    "bytes.parquet": (
        lambda path: write_parquet(path, {"image": list(FILES.values()), "caption": LISTS, "width": [7] * COUNT}),
        LISTS,
    ),
    "hub.PARQUET": (
        lambda path: write_parquet(path, {"image": [{"bytes": c, "path": n} for n, c in FILES.items()], "text": ONE}),
        ONE,
    ),
    "paths.parquet": (
        lambda path: write_parquet(
            path, {"image": pyarrow.array([{"bytes": None, "path": n} for n in NAMES], pyarrow.struct(HUB))}
        ),
        NONE,
    ),
    "plain.tar": (lambda path: write_tar(path, FILES), NONE),
    "shard.tar": (lambda path: write_tar(path, sample_files(".txt", lambda i: ONE[i].encode() + b"\n")), ONE),
    "shard.tar.gz": (
        lambda path: write_tar(path, sample_files(".json", lambda i: json.dumps({"caption": LISTS[i]}).encode())),
        LISTS,
    ),
    "shard.TGZ": (lambda path: write_tar(path, sample_files(".txt", lambda i: ONE[i].encode())), ONE),
    "pictures.zip": (lambda path: write_zip(path, FILES), NONE),
    "shard.zip": (lambda path: write_zip(path, sample_files(".txt", lambda i: ONE[i].encode())), ONE),
}
HUB = [("bytes", pyarrow.binary()), ("path", pyarrow.string())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All forms beside the pictures that they name."""
    made = tmp_path_factory.mktemp("inputs")
    for name, content in FILES.items():
        (made / name).write_bytes(content)
    for name, (table, _) in TABLES.items():
        (made / name).write_bytes(table)
    for name, (write, _) in OTHERS.items():
        write(made / name)
    (made / "beside").mkdir()
    (made / "beside" / "zipped.jsonl").write_bytes(lines(rows_of(LISTS)))
    write_zip(made / "beside" / "zipped.zip", FILES)
    (made / "anywhere").mkdir()
    absolute = [{"file": str(made / name), "caption": text} for name, text in zip(NAMES, LISTS, strict=True)]
    (made / "anywhere" / "absolute.jsonl").write_bytes(lines(absolute))
    climbing = [{"file": f"../{name}", "caption": text} for name, text in zip(NAMES, LISTS, strict=True)]
    (made / "anywhere" / "climbing.jsonl").write_bytes(lines(climbing))
    (made / "tree" / "deep").mkdir(parents=True)
    (made / "tree" / "linked").symlink_to(made / "linked")
    (made / "linked").mkdir()
    for index, (name, content) in enumerate(FILES.items()):
        place = made / ("tree/deep" if index < COUNT // 2 else "linked")
        (place / name.upper()).write_bytes(content)
    return made


FORMS: dict[str, Sequence[object]] = {
    **{name: captions for name, (_, captions) in TABLES.items()},
    **{name: captions for name, (_, captions) in OTHERS.items()},
    "beside/zipped.jsonl": LISTS,
    "anywhere/absolute.jsonl": LISTS,
    "anywhere/climbing.jsonl": LISTS,
    "tree": NONE,
}


def flat(value: object) -> list[str]:
    """Return the captions of one row in order."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in flat(part)]
    return [] if value is None else [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


@pytest.mark.parametrize("form", FORMS)
def test_every_command_sees_the_same_pictures_and_captions(folder: Path, form: str) -> None:
    source, captions = folder / form, [flat(value) for value in FORMS[form]]
    expected = preprocess(pixels(), SETTINGS)

    evaluated = open_data(source)  # eval, compare and the gate
    np.testing.assert_array_equal([np.asarray(evaluated.picture(row)) for row in evaluated.rows], pixels())
    assert [[text for _, text in row.captions()] for row in evaluated.rows] == captions

    calibrated = load_data(str(source), SETTINGS, COUNT)
    np.testing.assert_array_equal(calibrated.pixel_values, expected)
    assert calibrated.texts == tuple(
        own[index % len(own)] if own else STOCK_TEXTS[index % len(STOCK_TEXTS)] for index, own in enumerate(captions)
    )

    verified = load_samples(source, SETTINGS, COUNT)  # export
    np.testing.assert_array_equal(verified.pixel_values, expected)
    texts = [text for own in captions for text in own][:COUNT]
    assert verified.texts == (tuple(texts) or tuple(STOCK_TEXTS[i % len(STOCK_TEXTS)] for i in range(COUNT)))

    pictures = find_pictures([source])  # run
    np.testing.assert_array_equal([np.asarray(picture) for picture in load_pictures(pictures)], pixels())
    sent = pickle.loads(pickle.dumps(pictures))  # to a worker of a cluster
    np.testing.assert_array_equal([np.asarray(decode(picture)) for picture in sent], pixels())
    assert [picture.stamp() for picture in sent] == [picture.stamp() for picture in pictures]
    assert len({str(picture) for picture in pictures}) == COUNT


@pytest.mark.parametrize("form", [form for form, captions in FORMS.items() if captions is not NONE])
def test_texts_of_every_table_are_the_captions(folder: Path, form: str) -> None:
    columns = {"BIG.JSONL": "text", "languages.jsonl": "label", "hub.PARQUET": "text", "karpathy.json": "sentences"}
    column = columns.get(form, "caption")
    assert find_texts([folder / form], column) == [text for value in FORMS[form] for text in flat(value)]


def test_languages_are_kept(folder: Path) -> None:
    data = open_data(folder / "languages.jsonl")
    assert data.languages == ("en", "de")
    assert data.rows[3].texts == {"en": ("picture 3",), "de": ("a picture 3", "b picture 3")}


def test_captions_take_turns_over_all_of_a_picture(folder: Path) -> None:
    texts = load_data(str(folder / "languages.jsonl"), SETTINGS, COUNT).texts
    assert texts[:4] == ("picture 0", "a picture 1", "b picture 2", "picture 3")
