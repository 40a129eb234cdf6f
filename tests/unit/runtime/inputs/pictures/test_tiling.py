"""Grids, tiles and thumbnails equal the reference's."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.inputs.pictures.tiling import tile_grid, tile_image
from tests.project import ROOT


def test_golden_grids(golden_b: Path) -> None:
    cases = json.loads((golden_b / "tiling_cases.json").read_text())
    assert cases
    wrong = [
        case
        for case in cases
        if tile_grid(case["width"], case["height"], largest=case["max_num"]) != (case["columns"], case["rows"])
    ]
    assert wrong == []


def test_golden_grids_of_chat() -> None:
    cases = json.loads((ROOT / "tests" / "golden" / "chat" / "tiling.json").read_text())
    rows = [dict(zip(cases["columns"], row, strict=True)) for row in cases["rows"]]
    assert len(rows) == 768
    for row in rows:
        limits = {"smallest": row["min_num"], "largest": row["max_num"]}
        columns, lines = tile_grid(row["width"], row["height"], tile=cases["tile"], **limits)
        assert (columns, lines) == (row["grid_columns"], row["grid_rows"]), row
        tiles = columns * lines
        assert tiles + (row["use_thumbnail"] and tiles > 1) == row["tiles_with_thumbnail"], row


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1)])
def test_a_line_of_pixels_is_cut_along_its_length(size: tuple[int, int]) -> None:
    tiles = tile_image(Image.new("RGB", size, (200, 0, 0)), tile=28)
    assert [tile.size for tile in tiles] == [(28, 28)] * 13
    assert {tile.getpixel((27, 27)) for tile in tiles} == {(200, 0, 0)}


def test_golden_tiles_and_their_pixel_values(golden_b: Path) -> None:
    golden = load_file(golden_b / "golden.safetensors")
    tiles = tile_image(Image.fromarray(golden["tiling.image_u8"]), tile=28, largest=6)
    np.testing.assert_array_equal(np.stack([np.asarray(tile) for tile in tiles]), golden["tiling.tiles_u8"])
    np.testing.assert_array_equal(preprocess(tiles, Preprocessing(image_size=28)), golden["tiling.pixel_values"])


@pytest.mark.parametrize(
    ("size", "thumbnail", "count"), [((28, 28), True, 1), ((56, 28), True, 3), ((56, 28), False, 2)]
)
def test_only_a_cut_picture_gets_a_thumbnail(size: tuple[int, int], thumbnail: bool, count: int) -> None:
    tiles = tile_image(Image.new("RGB", size), tile=28, largest=2, thumbnail=thumbnail)
    assert [tile.size for tile in tiles] == [(28, 28)] * count


def test_an_exact_tie_goes_to_the_larger_grid_for_a_large_picture() -> None:
    assert tile_grid(100, 100, tile=100, largest=4) == (1, 1)  # 10,000 pixels are not more than half of 4 tiles
    assert tile_grid(150, 150, tile=100, largest=4) == (2, 2)


def test_the_smallest_number_of_tiles_is_kept() -> None:
    columns, rows = tile_grid(448, 448, smallest=3, largest=6)
    assert 3 <= columns * rows <= 6


@pytest.mark.parametrize(("smallest", "largest"), [(0, 4), (5, 4), (1, 0)])
def test_limits_without_a_grid_are_refused(smallest: int, largest: int) -> None:
    with pytest.raises(InputError, match=f"{smallest} to {largest}"):
        tile_grid(10, 10, smallest=smallest, largest=largest)
