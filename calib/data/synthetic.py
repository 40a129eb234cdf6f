"""Synthetic pictures and texts, for use without a data set."""

import numpy as np

from internvl_edge.runtime.backends.graph_inputs import random_ids

STOCK_TEXTS = (
    "a photo of a red bicycle",
    "deux bateaux près du vieux port",
    "一只猫坐在窗台上",
    "небо над городом ночью",
)


def synthetic_pixels(image_size: int, count: int) -> np.ndarray:
    """Return seeded pictures ``[count, 3, S, S]`` in the range of normalised pixels: a colour gradient plus noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, image_size, dtype=np.float32)
    slopes = rng.normal(size=(count, 3, 2)).astype(np.float32)
    field = slopes[..., :1, None] * ramp[:, None] + slopes[..., 1:, None] * ramp
    return (field + 0.5 * rng.normal(size=field.shape)).astype(np.float32).clip(-2.1, 2.6)


def synthetic_ids(rows: int, length: int, vocabulary: int) -> np.ndarray:
    """Return seeded random ids ``[rows, length]`` for use without a tokenizer: bos first, then no special id."""
    ids = random_ids((rows, length), vocabulary, np.random.default_rng(0))
    ids[:, 0] = 1
    return ids
