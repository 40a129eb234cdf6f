"""The numbers that options take, each with its bounds."""

import math
from typing import Any

import click

from internvl_edge.commands.options.parameters import Integers


class Number(click.FloatRange):
    """A number between two bounds, which neither NaN nor infinity is."""

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
"""Side of a picture: more than 8192 are tables of positions that no tower has."""
SAMPLES = click.IntRange(1, 65536)
"""Pictures that lie in memory together: 65,536 of 224 px are 39 GB."""
SITES = click.IntRange(0, 65536)
MOST_ROWS = 4096
"""Rows that go through a graph at once."""
BATCH = click.IntRange(1, MOST_ROWS)
LENGTH = click.IntRange(1, 65536)
"""Tokens: no rotary table is longer."""
THREADS = click.IntRange(1, 1024)
PROCESSES = click.IntRange(1, 1024)
QUEUE = click.IntRange(1, 1_000_000)
SHARE = Number(0, 1024)
"""CPUs or GPUs of a process on a cluster."""
MILLISECONDS = Number(0, 86_400_000)
DEADLINE_MS = Number(0, 86_400_000, min_open=True)
SECONDS = Number(0, 86_400, min_open=True)
