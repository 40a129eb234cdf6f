"""Types of the numbers that options take, each with its bounds."""

import math
from typing import Any

import click

from internvl_edge.commands.options.value_types import Integers
from internvl_edge.runtime.inputs.pictures.tiling import MOST_TILES


class Number(click.FloatRange):
    """A finite number between two bounds: NaN and infinity are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number between {self.min:g} and {self.max:g}", param, ctx)
        return number


class Counts(Integers):
    """A comma-separated list of integers between two bounds."""

    def __init__(self, lowest: int, highest: int) -> None:
        self._lowest, self._highest = lowest, highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # type: ignore[override]
        """Return the numbers."""
        counts = super().convert(value, param, ctx)
        if not all(self._lowest <= count <= self._highest for count in counts):
            self.fail(f"{value!r}: give numbers from {self._lowest} to {self._highest}", param, ctx)
        return counts


PIXELS = click.IntRange(1, 8192)
"""Side of a picture in pixels; no vision tower has a table of position embeddings for more than 8192."""
SAMPLES = click.IntRange(1, 65536)
"""Number of pictures that lie in memory together: 65,536 of 224 px are 39 GB in fp32."""
SITE_COUNT = click.IntRange(0, 65536)
"""Number of sites that stay in high precision."""
MOST_ROWS = 4096
"""Largest number of rows that go through a graph in one call."""
BATCH = click.IntRange(1, MOST_ROWS)
"""Number of rows in one call."""
LENGTH = click.IntRange(1, 65536)
"""Number of tokens; no rotary table is longer."""
TILES = click.IntRange(1, MOST_TILES)
"""Number of tiles of a picture."""
THREAD_COUNT = click.IntRange(1, 1024)
PROCESS_COUNT = click.IntRange(1, 1024)
QUEUE_LENGTH = click.IntRange(1, 1_000_000)
SHARE = Number(0, 1024)
"""Number of CPUs or GPUs of one process on a cluster; a fraction shares one."""
MILLISECONDS = Number(0, 86_400_000)
DEADLINE_MS = Number(0, 86_400_000, min_open=True)
SECONDS = Number(0, 86_400, min_open=True)
