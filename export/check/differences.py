"""Measure the difference of a tensor to its reference, and find where a chain of blocks begins to differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MARGIN_DB = 10.0
"""Levels further above the threshold than this count as equal when drops are compared.

The first 8-bit block always drops from 60 or 120 dB to about 35, which would be larger than the drop of any later one.
"""
_LOWEST_DB = -100.0
"""Level used for -inf, so that drops between blocks with values that are not finite are finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Difference of one block's residual stream, or of one output, to the reference."""

    name: str
    cosine: float
    """Cosine of the flattened tensors; NaN if a value is not finite."""
    sqnr_db: float
    """Power of the reference over power of the difference; inf if equal, -inf if a value is not finite."""
    max_abs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Place where a graph begins to differ from the reference."""

    graph: str
    place: str
    """First block below the threshold; without one, the first output below it; else the block with the largest drop."""
    sqnr_db: float
    below: bool
    """Whether `place` is below the threshold."""
    steepest: str | None
    """Block up to `place` with the largest drop from the block before it; None if there is no drop."""
    drop_db: float
    """Drop at `steepest`; levels above the threshold plus `MARGIN_DB` count as that level."""

    @property
    def keep_high(self) -> tuple[str, ...]:
        """Patterns for ``export --keep-high`` that may repair it; empty if no quantized part is concerned."""
        blocks = (f"{self.steepest}.*",) if self.steepest is not None else ()
        return (*blocks, "qllama.lm_head") if self.place == "logits" else blocks


def difference(name: str, a: np.ndarray, b: np.ndarray, rows: np.ndarray | None = None) -> Difference:
    """Return the difference of `a` to the reference `b`; with `rows` ``[B, n]``, only of the rows where it is True.

    Sums are in fp64 and sample by sample, as a copy of a whole batch in fp64 may be larger than a block's weights.
    """
    ab = aa = bb = noise = largest = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for index in range(len(b)):
            kept = slice(None) if rows is None else rows[index]
            x, y = (np.asarray(values[index][kept], np.float64).ravel() for values in (a, b))
            error = x - y
            ab, aa, bb, noise = ab + float(x @ y), aa + float(x @ x), bb + float(y @ y), noise + float(error @ error)
            largest = float(np.maximum(largest, np.abs(error).max(initial=0.0)))
    return Difference(name=name, cosine=_cosine(ab, aa, bb), sqnr_db=_decibels(bb, noise), max_abs=largest)


def divergence(
    graph: str, blocks: Sequence[Difference], outputs: Sequence[Difference], threshold_db: float
) -> Divergence | None:
    """Return the place where `graph` begins to differ, or None if every level is above threshold plus `MARGIN_DB`.

    `outputs` are searched if no block is below the threshold, since nodes after the last block may lose accuracy too.
    """
    place = next((item for item in (*blocks, *outputs) if item.sqnr_db < threshold_db), None)
    before = blocks[: blocks.index(place) + 1] if place in blocks else blocks
    steepest, drop = _steepest(before, threshold_db + MARGIN_DB)
    found = place or steepest
    if found is None:
        return None
    return Divergence(
        graph=graph,
        place=found.name,
        sqnr_db=found.sqnr_db,
        below=place is not None,
        steepest=steepest.name if steepest is not None else None,
        drop_db=drop,
    )


def _steepest(blocks: Sequence[Difference], ceiling_db: float) -> tuple[Difference | None, float]:
    """Return the block with the largest drop below `ceiling_db` and the drop, or None and 0."""
    levels = [ceiling_db, *(min(max(block.sqnr_db, _LOWEST_DB), ceiling_db) for block in blocks)]
    drops = [before - after for before, after in pairwise(levels)]
    largest = max(drops, default=0.0)
    return (blocks[drops.index(largest)], largest) if largest > 0 else (None, 0.0)


def _cosine(ab: float, aa: float, bb: float) -> float:
    norms = math.sqrt(aa) * math.sqrt(bb)
    if norms == 0:
        return 1.0 if aa == bb else 0.0
    return ab / norms if math.isfinite(norms) else math.nan


def _decibels(signal: float, noise: float) -> float:
    if not math.isfinite(noise) or not math.isfinite(signal):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
