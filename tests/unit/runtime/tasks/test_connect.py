"""Tiles through vision and connector, in order, a few at a time; the file is whole or not there."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.manifest import TilingInfo
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.inputs.pictures.tiling import tile_image
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS, Stages
from internvl_edge.runtime.tasks.connect import TilingOptions, connect, save_vit_embeds
from tests.unit.runtime.embed_fakes import fake_model
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle

CHAT = dataclasses.replace(MODEL, layout="internvl_chat", text=None, embed_dim=None, logit_scale=None)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[InternVL, list[tuple[str, int]]]:
    return fake_model(write_bundle(tmp_path / "chat", ("vision", "connector"), CHAT, None), monkeypatch)


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "wide.png"
    Image.fromarray(rng.integers(0, 256, (4, 40, 3), dtype=np.uint8)).save(path)
    return path


def test_tiles_come_in_order_with_the_thumbnail_last(
    opened: tuple[InternVL, list[tuple[str, int]]], picture: Path
) -> None:
    model, ran = opened
    embeds = connect(model, picture, TilingOptions(largest=12))
    tiles = tile_image(Image.open(picture).convert("RGB"), tile=4)
    means = model.preprocess(tiles).mean(axis=(2, 3))
    np.testing.assert_allclose(embeds[:, 0], 2 * means, rtol=1e-6)
    assert len(tiles) == 11
    assert ran == [("vision", 8), ("connector", 8), ("vision", 3), ("connector", 3)]


def test_limits_and_thumbnail(opened: tuple[InternVL, list[tuple[str, int]]], picture: Path) -> None:
    model, _ = opened
    assert len(connect(model, picture, TilingOptions(largest=1))) == 1
    assert len(connect(model, picture, TilingOptions(largest=5, thumbnail=False))) == 5
    with pytest.raises(InputError, match="3 to 2 allowed"):
        connect(model, picture, TilingOptions(smallest=3, largest=2))


@pytest.mark.parametrize(
    ("said", "asked", "tiles"),
    [
        ({}, {}, 11),
        ({"most": 1, "thumbnail": False}, {}, 1),
        ({"most": 5, "thumbnail": True}, {}, 6),
        ({"most": 5, "thumbnail": False}, {}, 5),
        ({"most": 5, "thumbnail": False}, {"largest": 8, "thumbnail": True}, 9),
        ({"most": 5, "thumbnail": False}, {"smallest": 7}, 7),
        ({"fewest": 6, "most": 9, "thumbnail": False}, {"largest": 4}, 4),
    ],
)
def test_a_checkpoint_says_how_its_pictures_are_cut_unless_the_caller_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    picture: Path,
    said: dict[str, Any],
    asked: dict[str, Any],
    tiles: int,
) -> None:
    chat = dataclasses.replace(CHAT, tiling=TilingInfo(**{"fewest": 1, **said}) if said else None)
    model, _ = fake_model(write_bundle(tmp_path / "chat", ("vision", "connector"), chat, None), monkeypatch)
    assert len(connect(model, picture, TilingOptions(**asked))) == tiles


def test_the_file_holds_all_pictures(
    opened: tuple[InternVL, list[tuple[str, int]]], picture: Path, tmp_path: Path
) -> None:
    model, _ = opened
    stages = Stages()
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    images, output = [picture, tmp_path / "small.png"], tmp_path / "f.npz"
    line = save_vit_embeds(model, images, TilingOptions(), output, Monitor(stages=stages))
    assert line == f"{output}: 2 pictures, 12 tiles, vit_embeds [12, 1, 3] float32"
    with np.load(output) as arrays:
        assert arrays["images"].tolist() == list(map(str, images))
        assert arrays["tiles"].tolist() == [11, 1]
        np.testing.assert_array_equal(arrays["vit_embeds"][11:], connect(model, images[1]))
    assert {span.stage for span in stages.spans} == {DECODE_IMAGE, PREPROCESS}


def test_what_cannot_work_is_reported_before_anything_runs(
    opened: tuple[InternVL, list[tuple[str, int]]], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ran = opened
    (tmp_path / "bad.png").write_text("no")
    with pytest.raises(InputError, match=r"bad.png \(not a picture\), .*gone.png \(no such file\)"):
        save_vit_embeds(model, [picture, tmp_path / "bad.png", tmp_path / "gone.png"], TilingOptions(), tmp_path / "f")
    with pytest.raises(InputError, match="its folder is not there; make it first"):
        save_vit_embeds(model, [picture], TilingOptions(), tmp_path / "gone" / "f.npz")
    tower, _ = fake_model(write_bundle(tmp_path / "tower", ("vision",), CHAT, None), monkeypatch)
    with pytest.raises(BundleError, match=r"no graph connector .*--graphs vision,connector"):
        connect(tower, picture)
    assert ran == []
