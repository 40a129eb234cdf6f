"""Cut pictures dynamically as InternVL-Chat does, into a grid of square tiles plus a thumbnail (MODEL.md 6)."""

from typing import TYPE_CHECKING

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.preprocess import Filter, resampling

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MOST_TILES = 128
"""Most tiles of a picture. 128 tiles of 448 px are 33,000 tokens; the reference uses 12, and up to 40 in training."""


def tile_grid(width: int, height: int, *, tile: int = 448, smallest: int = 1, largest: int = 12) -> tuple[int, int]:
    """Return (columns, rows) of the grid of `smallest` to `largest` tiles nearest to the picture's aspect ratio.

    On an exact tie the later candidate is taken if the picture has more than half of the candidate's pixels.

    Raises:
        InputError: no grid is possible within the limits.
    """
    if not 1 <= smallest <= largest <= MOST_TILES:
        raise InputError(f"tiles: {smallest} to {largest} allowed; give 1 to {MOST_TILES}, the smaller number first")
    # The reference orders grids of equal size as Python's sets do; the same order is needed for equal results.
    candidates = {
        (columns, rows)
        for most in range(smallest, largest + 1)
        for columns in range(1, most + 1)
        for rows in range(1, most + 1)
        if smallest <= columns * rows <= largest
    }
    best, best_difference = (1, 1), float("inf")
    for columns, rows in sorted(candidates, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - columns / rows)
        if difference < best_difference:
            best, best_difference = (columns, rows), difference
        elif difference == best_difference and width * height > 0.5 * tile * tile * columns * rows:
            best = (columns, rows)
    return best


def tile_image(
    picture: "Picture",
    *,
    tile: int = 448,
    smallest: int = 1,
    largest: int = 12,
    thumbnail: bool = True,
    resample: Filter = "bicubic",
) -> "list[Picture]":
    """Return the tiles of an RGB `picture` row by row, `tile` pixels square, then the thumbnail if it was cut."""
    columns, rows = tile_grid(*picture.size, tile=tile, smallest=smallest, largest=largest)
    resized = picture.resize((columns * tile, rows * tile), resampling(resample))
    corners = [(column * tile, row * tile) for row in range(rows) for column in range(columns)]
    tiles = [resized.crop((x, y, x + tile, y + tile)) for x, y in corners]
    if thumbnail and len(tiles) != 1:
        tiles.append(picture.resize((tile, tile), resampling(resample)))
    return tiles
