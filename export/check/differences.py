"""How far one tensor is from its reference, and where a chain of blocks begins to differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MARGIN_DB = 10.0
"""What lies further than this above the threshold counts as exact when drops are compared.

The first 8-bit block always drops, from 60 or 120 dB to about 35: that alone would win over every later block.
"""
_LOWEST_DB = -100.0
"""Stands for -inf, so that two broken blocks in a row have a drop between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One block's residual stream, or one output, against the reference's."""

    name: str
    cosine: float
    """Of the flattened tensors; NaN where a value is not finite."""
    sqnr_db: float
    """Power of the reference over power of the difference; inf: equal, -inf: a value is not finite."""
    max_abs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where one graph begins to differ."""

    graph: str
    place: str
    """The first block below the threshold; without one, the first output below it; else the block of the largest
    drop."""
    sqnr_db: float
    below: bool
    """Whether `place` is below the threshold."""
    steepest: str | None
    """The block with the largest drop against the block before, up to `place`."""
    drop_db: float
    """That drop, from `MARGIN_DB` above the threshold at most."""

    @property
    def keep_high(self) -> tuple[str, ...]:
        """Patterns for ``export --keep-high`` that address it; none where what differs is not quantized."""
        blocks = (f"{self.steepest}.*",) if self.steepest is not None else ()
        return (*blocks, "qllama.lm_head") if self.place == "logits" else blocks


def difference(name: str, a: np.ndarray, b: np.ndarray, rows: np.ndarray | None = None) -> Difference:
    """Return how far `a` is from the reference `b`; of ``[B, rows, C]`` only where `rows` ``[B, rows]`` is True.

    Sums are fp64, taken sample by sample: a copy of a whole batch in fp64 would outweigh a block's weights.
    """
    ab = aa = bb = noise = largest = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for index in range(len(b)):
            kept = slice(None) if rows is None else rows[index]
            x, y = (np.asarray(side[index][kept], np.float64).ravel() for side in (a, b))
            error = x - y
            ab, aa, bb, noise = ab + float(x @ y), aa + float(x @ x), bb + float(y @ y), noise + float(error @ error)
            largest = float(np.maximum(largest, np.abs(error).max(initial=0.0)))
    return Difference(name=name, cosine=_cosine(ab, aa, bb), sqnr_db=_decibels(bb, noise), max_abs=largest)


def divergence(
    graph: str, blocks: Sequence[Difference], outputs: Sequence[Difference], threshold_db: float
) -> Divergence | None:
    """Return where `graph` begins to differ; None if nothing is below the threshold and no block within `MARGIN_DB`.

    `outputs` count where no block is below the threshold: what follows the last block may lose as well.
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
    """Return the block with the largest drop below `ceiling_db`, and the drop; None where there is none."""
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
