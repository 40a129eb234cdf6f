"""Draw the next token at random: temperature, top-k, top-p and min-p in the order of transformers."""

import numpy as np

from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.ranking import most_likely


class Sampler:
    """A source of tokens. Each row has a random generator of its own, so that rows do not depend on each other."""

    def __init__(self, config: GenerationConfig, rows: int) -> None:
        self._config = config
        seed = np.random.SeedSequence(None if config.seed is None else abs(config.seed) * 2 + (config.seed < 0))
        self._rngs = [np.random.default_rng(child) for child in seed.spawn(rows)]

    def draw(self, scores: np.ndarray) -> np.ndarray:
        """Return one token ``[R]`` for each row of `scores` ``[R, V]``."""
        return np.array([self._drawn(row, rng) for row, rng in zip(scores, self._rngs, strict=True)], np.int64)

    def _drawn(self, scores: np.ndarray, rng: "np.random.Generator") -> int:
        ids, probabilities = distribution(scores, self._config)
        cumulative = np.cumsum(probabilities)
        drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
        return int(ids[min(drawn, len(ids) - 1)])


def distribution(scores: np.ndarray, config: GenerationConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that may be drawn and their probabilities, from the scores ``[V]`` of the next token.

    Probabilities are float64, since sums of 150,000 of them decide which ids top-p keeps; scores are fp32, and so are
    their exponentials. Ties with the last one of top-k are kept, as in the reference.
    """
    ids = most_likely(scores, config.top_k) if config.top_k else np.arange(len(scores))
    exponents = scores[ids] / np.float32(config.temperature)
    probabilities = np.exp(exponents - exponents.max()).astype(np.float64)
    if not probabilities.all():  # impossible ids, or too unlikely ones
        ids, probabilities = ids[probabilities > 0], probabilities[probabilities > 0]
    probabilities /= probabilities.sum()
    if config.top_p < 1:
        kept = _largest_until(probabilities, config.top_p)
        ids, probabilities = ids[kept], probabilities[kept]
    if config.min_p > 0:
        kept = probabilities >= config.min_p * probabilities.max()
        ids, probabilities = ids[kept], probabilities[kept]
    return ids, probabilities / probabilities.sum()


def _largest_until(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Return the sorted indexes of the fewest most likely entries whose sum reaches `top_p`, at least one.

    Entries below ``(1 - top_p) / N`` have a sum below ``1 - top_p``, so that none of them is among these. Of the others
    values alone are sorted, which is faster than ranking indexes; of equal values the first ones are taken.
    """
    largest_first = np.sort(probabilities[probabilities >= (1 - top_p) / len(probabilities)])[::-1]
    before = np.cumsum(largest_first) - largest_first
    count = max(int(np.count_nonzero(before < top_p)), 1)
    least = largest_first[count - 1]
    certain, tied = np.flatnonzero(probabilities > least), np.flatnonzero(probabilities == least)
    return np.sort(np.concatenate([certain, tied[: count - len(certain)]]))
