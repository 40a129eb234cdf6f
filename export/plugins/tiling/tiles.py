"""Tiles: the compile-time choices of a kernel that change its speed and not its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from internvl_edge.export.plugins.tiling.tiles_table import TABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Tile sizes by the kernel's names, as ``{"BM": 64, "BN": 64}``, warps of a block, and stages of its loads."""

    constants: Mapping[str, int] = field(hash=False)
    warps: int = 4
    stages: int = 2

    def text(self) -> str:
        """Return the text for the table: ``BM=64 BN=64 warps=4 stages=2``."""
        return " ".join(f"{k}={v}" for k, v in {**self.constants, "warps": self.warps, "stages": self.stages}.items())


def tiles_of(text: str) -> Tiles:
    """Return the tiles of a text that `Tiles.text` wrote."""
    words = {name: int(value) for name, _, value in (word.partition("=") for word in text.split())}
    warps, stages = words.pop("warps"), words.pop("stages")
    return Tiles(constants=words, warps=warps, stages=stages)


def searched_tiles(key: str, sm: int) -> tuple[Tiles, ...]:
    """Return the tiles that the search chose for a variant, the fastest by the model first; none if it found none.

    An SM that was not searched has the tiles of the next lower one that was.
    """
    row = TABLE.get(key, {})
    searched = max((other for other in row if other <= sm), default=None)
    return tuple(tiles_of(text) for text in row[searched]) if searched is not None else ()
