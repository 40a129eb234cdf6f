"""Tiles of pictures as the checkpoint or the caller says, embedded once for each content, a few at a time."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.graph_roles import TILE_ENCODER, GraphUse
from internvl_edge.runtime.bundle.manifest import TilingInfo
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.inputs.pictures.tiling import tile_image
from internvl_edge.runtime.stages import UNMEASURED, Stages
from internvl_edge.runtime.tasks import opened as opened_module
from internvl_edge.runtime.tasks.chat import pictures as pictures_module
from internvl_edge.runtime.tasks.chat.pictures import EmbedsCache, picture_embeds, pixel_embeds, tile_pictures
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle

CHAT = dataclasses.replace(
    MODEL,
    layout="internvl_chat",
    text=None,
    embed_dim=None,
    logit_scale=None,
    tiling=TilingInfo(fewest=1, most=6, thumbnail=True),
)
USES = {"vision": GraphUse(role=TILE_ENCODER, rows="pictures")}


class Tower:
    """A graph whose embeddings of a tile are its means, as one token; `ran` holds the tiles of each call."""

    backend = "fake"

    def __init__(self, ran: list[int]) -> None:
        self.ran = ran

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        values = inputs["pixel_values"]
        values = np.where(values > 1e8, np.inf, values)  # as a type of 16 bits would hold it
        self.ran.append(len(values))
        return {"vit_embeds": values.mean(axis=(2, 3))[:, None]}

    def close(self) -> None:
        pass


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def open_session(backend: str, bundle: Bundle, graph: str, options: SessionOptions) -> Tower:
        bundle.require(graph)
        return Tower(calls)

    monkeypatch.setattr(opened_module, "open_session", open_session)
    return calls


@pytest.fixture
def model(tmp_path: Path, ran: list[int]) -> InternVL:
    return InternVL.open(write_bundle(tmp_path / "chat", ("vision",), CHAT, None, USES))


@pytest.fixture
def wide(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (4, 40, 3), dtype=np.uint8))


def test_embeddings_are_those_of_the_tiles_in_order(model: InternVL, wide: Image.Image, ran: list[int]) -> None:
    square = Image.new("RGB", (4, 4), (200, 0, 0))
    pictures = tile_pictures(model, [wide, square])
    assert [len(picture.tiles) for picture in pictures] == [7, 1]
    tiles = [*tile_image(wide, tile=4, largest=6), *tile_image(square, tile=4, largest=6)]
    found = picture_embeds(model, pictures)
    assert found is not None
    np.testing.assert_allclose(found[:, 0], model.preprocess(tiles).mean(axis=(2, 3)), rtol=1e-6)
    assert ran == [8]


def test_a_content_is_computed_once_whatever_its_name(model: InternVL, tmp_path: Path, ran: list[int]) -> None:
    picture = Image.new("RGB", (4, 4), (200, 0, 0))
    picture.save(tmp_path / "a.png")
    once = picture_embeds(model, tile_pictures(model, [picture, tmp_path / "a.png"]))
    again = picture_embeds(model, tile_pictures(model, [np.asarray(picture)]))
    assert once is not None
    assert again is not None
    np.testing.assert_array_equal(once[1], again[0])
    assert ran == [1]
    model.close()
    picture_embeds(model, tile_pictures(model, [picture]))
    assert ran == [1, 1]


def test_a_few_tiles_go_through_the_graph_at_a_time(model: InternVL, wide: Image.Image, ran: list[int]) -> None:
    pictures = tile_pictures(model, [wide], max_tiles=20)
    assert len(pictures[0].tiles) == 11
    picture_embeds(model, pictures)
    assert ran == [8, 3]
    assert pixel_embeds(model, np.zeros((9, 3, 4, 4))).shape == (9, 1, 3)
    assert ran == [8, 3, 8, 1]


def test_each_picture_may_have_a_limit_of_its_own(model: InternVL, wide: Image.Image) -> None:
    assert [len(picture.tiles) for picture in tile_pictures(model, [wide, wide], (1, 3))] == [1, 4]


@pytest.mark.parametrize("limit", [0, -1, 129, (1, 0)])
def test_a_limit_that_no_grid_keeps_is_named(model: InternVL, wide: Image.Image, limit: int) -> None:
    wrong = limit if isinstance(limit, int) else 0
    with pytest.raises(InputError, match=rf"^max_tiles: {wrong} tiles for a picture; give 1 to 128$"):
        tile_pictures(model, [wide, wide], limit)


def test_limits_for_another_number_of_pictures(model: InternVL, wide: Image.Image) -> None:
    with pytest.raises(InputError, match="1 numbers for 2 pictures"):
        tile_pictures(model, [wide, wide], (1,))


def test_all_unreadable_pictures_are_named(model: InternVL, wide: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no")
    images = [tmp_path / "gone.png", wide, tmp_path / "text.png"]
    with pytest.raises(InputError, match=re.escape("gone.png (no such file)") + ".*text.png"):
        tile_pictures(model, images)


def test_values_that_are_not_finite_are_found(model: InternVL) -> None:
    with pytest.raises(InputError, match="1 of 2 pictures hold NaN"):
        pixel_embeds(model, np.stack([np.zeros((3, 4, 4)), np.full((3, 4, 4), np.nan)]))
    with pytest.raises(BackendError, match="tiles: 1 of 1 have NaN"):
        pixel_embeds(model, np.full((1, 3, 4, 4), 1e9))


def test_no_picture_has_no_embeddings(model: InternVL) -> None:
    assert picture_embeds(model, tile_pictures(model, [])) is None


class TestCache:
    def test_the_least_recently_used_goes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pictures_module, "MOST_CACHED_BYTES", 16)
        cache, values = EmbedsCache(), np.zeros(1, np.float64)
        cache.put(b"a", values)
        cache.put(b"b", values)
        assert cache.get(b"a") is values
        cache.put(b"c", values)
        assert [cache.get(key) is values for key in (b"a", b"b", b"c")] == [True, False, True]

    def test_what_is_larger_than_the_limit_is_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pictures_module, "MOST_CACHED_BYTES", 16)
        cache = EmbedsCache()
        cache.put(b"a", np.zeros(1))
        cache.put(b"b", np.zeros(3))
        assert cache.get(b"a") is not None
        assert cache.get(b"b") is None
