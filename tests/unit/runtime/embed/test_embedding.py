"""Folders and tables to files: all formats agree, killed runs are resumed, bad inputs are reported or listed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.embed import embedding
from internvl_edge.runtime.embed.embedding import embed, embed_texts, kept_line
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.inputs.pictures.source import SourcePicture
from internvl_edge.runtime.inputs.read import find_pictures
from internvl_edge.runtime.monitor import Monitor
from tests.unit.runtime.embed_fakes import FakeGraph, fake_model, greys, write_pictures

Ran = list[tuple[str, int]]


@pytest.fixture
def opened(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[InternVL, Ran]:
    monkeypatch.setattr(embedding, "_SHARD_ROWS", 8)
    return fake_model(bundle_folder, monkeypatch)


@pytest.fixture
def pictures(tmp_path: Path) -> list[SourcePicture]:
    write_pictures(tmp_path / "pictures", 30)
    return find_pictures([tmp_path / "pictures"])


def options(output: Path, **more: object) -> EmbedOptions:
    return EmbedOptions(output=output, **{"mode": "c", "batch_size": 4, **more})  # type: ignore[arg-type]


class Stop(BaseException):
    """Stands in for Ctrl-C at a given picture."""


def stop_after(pictures: int) -> object:
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        if done >= pictures:
            raise Stop

    return advance


def test_every_format_holds_the_same_in_order(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    model, _ = opened
    told: list[int] = []
    reports = [
        embed(model, pictures, options(tmp_path / f"f.{suffix}"), monitor=Monitor(advance=told.append))
        for suffix in ("npy", "npz", "parquet")
    ]
    rows = np.load(tmp_path / "f.npy")
    assert greys(rows) == list(range(30))
    np.testing.assert_array_equal(rows, model.encode_image([picture.content() for picture in pictures]))
    with np.load(tmp_path / "f.npz") as arrays:
        np.testing.assert_array_equal(arrays["image_embeds"], rows)
        assert arrays["images"].tolist() == [picture.name for picture in pictures]
    np.testing.assert_array_equal(np.stack(parquet.read_table(tmp_path / "f.parquet")[1].to_numpy()), rows)
    assert sum(told) == 90
    assert [(report.shapes, report.computed, report.earlier) for report in reports] == [
        ({"image_embeds": (30, 3)}, 30, 0)
    ] * 3
    assert not list(tmp_path.glob(".*"))


def test_a_stopped_run_goes_on_where_it_was_and_writes_the_same_bytes(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    model, ran = opened
    embed(model, pictures, options(tmp_path / "whole.npy"))
    settings = options(tmp_path / "f.npy")
    with pytest.raises(Stop):
        embed(model, pictures, settings, monitor=Monitor(advance=stop_after(20)))  # type: ignore[arg-type]
    assert not (tmp_path / "f.npy").exists()
    assert kept_line(tmp_path / "f.npy").endswith(
        "interrupted, 16 rows are kept in .f.npy.partial; the same command goes on there"
    )
    ran.clear()
    report = embed(model, pictures, settings)
    assert sum(rows for _, rows in ran) == report.computed == 14
    assert "; 16 were there from an earlier run" in report.summary()
    assert (tmp_path / "f.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_settings_of_a_run_that_finished_nothing_bind_no_other(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        embed(opened[0], pictures, options(tmp_path / "f.npy"), monitor=Monitor(advance=stop_after(1)))  # type: ignore[arg-type]
    assert kept_line(tmp_path / "f.npy").endswith("f.npy: interrupted, nothing was finished yet; run it again")
    assert embed(opened[0], pictures, options(tmp_path / "f.npy", dtype="float16")).computed == 30


@pytest.mark.parametrize(
    ("change", "named"),
    [({"mode": "g"}, "mode c instead of g"), ({"dtype": "float16"}, "dtype"), ({"batch_size": 8}, "batch size 4")],
)
def test_other_settings_do_not_go_into_one_file(
    opened: tuple[InternVL, Ran],
    pictures: list[SourcePicture],
    tmp_path: Path,
    change: dict[str, object],
    named: str,
) -> None:
    with pytest.raises(Stop):
        embed(opened[0], pictures, options(tmp_path / "f.npy"), monitor=Monitor(advance=stop_after(9)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"other settings .*{named}.*finish that run"):
        embed(opened[0], pictures, options(tmp_path / "f.npy", **change))


def test_bf16_does_not_go_into_a_file_without(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        embed(opened[0], pictures, options(tmp_path / "f.npy"), monitor=Monitor(advance=stop_after(9)))  # type: ignore[arg-type]
    opened[0].options = SessionOptions(bf16=True)
    with pytest.raises(InputError, match=r"other settings .*in bf16"):
        embed(opened[0], pictures, options(tmp_path / "f.npy"))


def test_a_picture_that_changed_in_between_is_read_again(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        embed(opened[0], pictures, options(tmp_path / "f.npy"), monitor=Monitor(advance=stop_after(20)))  # type: ignore[arg-type]
    Image.new("RGB", (9, 9), (99, 99, 99)).save(pictures[1].name)
    report = embed(opened[0], pictures, options(tmp_path / "f.npy"))
    assert report.computed == 30 - 8
    assert greys(np.load(tmp_path / "f.npy")) == [0, 99, *range(2, 30)]


def test_unreadable_pictures_end_the_run_all_named_and_what_is_done_is_kept(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    for index in (17, 18, 25, 29):
        Path(pictures[index].name).write_text("no")
    with pytest.raises(
        InputError, match=r"017.png \(not a pic.*018.*025.*029.*; repair them, or .*--on-error skip"
    ) as e:
        embed(opened[0], pictures, options(tmp_path / "f.npy"))
    assert "\n" not in str(e.value)
    report = embed(opened[0], pictures, options(tmp_path / "f.npy", on_error="skip"))
    assert (report.computed, report.earlier) == (14, 16)
    assert report.shapes == {"image_embeds": (26, 3)}
    bad = [json.loads(line) for line in (tmp_path / "f.bad.jsonl").read_text().splitlines()]
    assert bad == [{"input": pictures[index].name, "reason": "not a picture"} for index in (17, 18, 25, 29)]
    assert "4 left out, see" in report.summary()
    assert len((tmp_path / "f.names.jsonl").read_text().splitlines()) == 26
    for index in (17, 18, 25, 29):
        Path(pictures[index].name).write_bytes(Path(pictures[0].name).read_bytes())
    embed(opened[0], pictures, options(tmp_path / "f.npy"))
    assert not (tmp_path / "f.bad.jsonl").exists()


def test_what_an_earlier_run_skipped_is_reported_by_one_that_does_not(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    Path(pictures[2].name).write_text("no")
    skipping = options(tmp_path / "f.npy", on_error="skip")
    with pytest.raises(Stop):
        embed(opened[0], pictures, skipping, monitor=Monitor(advance=stop_after(20)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"002.png \(not a picture\)"):
        embed(opened[0], pictures, options(tmp_path / "f.npy"))


def test_nothing_readable_is_reported(opened: tuple[InternVL, Ran], tmp_path: Path) -> None:
    gone = find_pictures([tmp_path / "gone.png"])
    with pytest.raises(InputError, match=r"nothing readable: .*gone.png \(no such file\); give"):
        embed(opened[0], gone, options(tmp_path / "f.npy", on_error="skip"))


def test_texts_stand_beside_pictures_in_an_npz(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path
) -> None:
    model, _ = opened
    report = embed(model, pictures, options(tmp_path / "f.npz"), texts=["a", "b"])
    assert report.summary().startswith(f"{tmp_path / 'f.npz'}: image_embeds [30, 3], text_embeds [2, 3]; ")
    embed(model, [], options(tmp_path / "t.npz"), texts=["a", "b"])
    with np.load(tmp_path / "t.npz") as arrays:
        assert sorted(arrays) == ["text_embeds", "texts"]
    with pytest.raises(InputError, match=r"has no place for -t; name an .npz, or embed a table"):
        embed(model, pictures, options(tmp_path / "f.npy"), texts=["a"])
    with pytest.raises(InputError, match="neither pictures nor texts given"):
        embed(model, [], options(tmp_path / "f.npy"))


def test_tables_of_texts(opened: tuple[InternVL, Ran], tmp_path: Path) -> None:
    model, ran = opened
    texts = [f"text {index}" for index in range(21)]
    with pytest.raises(Stop):
        embed_texts(model, texts, options(tmp_path / "t.parquet"), monitor=Monitor(advance=stop_after(9)))  # type: ignore[arg-type]
    ran.clear()
    assert embed_texts(model, texts, options(tmp_path / "t.parquet")).computed == 13
    assert ran == [("text", 4), ("text", 4), ("text", 4), ("text", 1)]
    read = parquet.read_table(tmp_path / "t.parquet")
    assert read["text"].to_pylist() == texts
    with pytest.raises(InputError, match="does not suit tables of texts"):
        embed_texts(model, texts, options(tmp_path / "t.npz"))
    with pytest.raises(InputError, match="no text given"):
        embed_texts(model, [], options(tmp_path / "t.npy"))


def test_texts_that_cannot_be_encoded(opened: tuple[InternVL, Ran], tmp_path: Path) -> None:
    texts = ["a", " ", "b", "\ud800", "c" * 1_000_000]
    with pytest.raises(InputError, match=r"text 1 \(empty\), text 3 \(no valid Unicode\)"):
        embed_texts(opened[0], texts, options(tmp_path / "t.npy"))
    report = embed_texts(opened[0], texts, options(tmp_path / "t.npy", on_error="skip"))
    assert report.shapes == {"text_embeds": (3, 3)}
    assert report.bad == (("text 1", "empty"), ("text 3", "no valid Unicode"))


def test_features_that_do_not_fit_are_reported(
    opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = opened
    run = FakeGraph.run
    monkeypatch.setattr(FakeGraph, "run", lambda *given, **more: {k: v + 1e5 for k, v in run(*given).items()})
    with pytest.raises(BackendError, match=r"up to 1e\+05, too large for float16; write float32"):
        embed(model, pictures, options(tmp_path / "f.npy", dtype="float16"))
    monkeypatch.setattr(FakeGraph, "run", lambda *given, **more: {k: v * np.nan for k, v in run(*given).items()})
    with pytest.raises(BackendError, match="pictures: 4 of 4 have NaN or inf"):
        embed(model, pictures, options(tmp_path / "g.npy"))


def test_float16_is_a_cast(opened: tuple[InternVL, Ran], pictures: list[SourcePicture], tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        embed(opened[0], pictures, options(tmp_path / f"{dtype}.npy", dtype=dtype))
    half = np.load(tmp_path / "float16.npy")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, np.load(tmp_path / "float32.npy").astype(np.float16))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"on_error": "ignore"}])
def test_settings_are_checked(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="give 1 or more, and fail or skip"):
        options(tmp_path / "f.npy", **wrong)
