"""Change the scores of the next token: ids that never come, a penalty for repetition, no end before the minimum."""

import numpy as np

from internvl_edge.runtime.tasks.generation.config import GenerationConfig


class LogitsProcessors:
    """The processors of a generation, in the order of transformers; the ids that never come are excluded first.

    Args:
        config: settings.
        shape: rows and vocabulary ``(R, V)`` of the scores.
        prompt: ids ``[R, n]`` that count as repeated, if those of the prompt do; negative ones are no ids.
    """

    def __init__(self, config: GenerationConfig, shape: tuple[int, int], prompt: np.ndarray | None = None) -> None:
        self._config = config
        self._forbidden = np.array([token for token in config.forbidden_ids if token < shape[1]], np.int64)
        self._seen = np.zeros(shape, bool) if config.repetition_penalty != 1 else None
        if self._seen is not None and prompt is not None:
            rows, columns = np.nonzero((prompt >= 0) & (prompt < shape[1]))
            self._seen[rows, prompt[rows, columns]] = True

    def __call__(self, scores: np.ndarray, written: int) -> np.ndarray:
        """Return `scores` ``[R, V]``, changed for the token that follows `written` new ones; the argument is kept."""
        config = self._config
        early = written < config.min_new_tokens and bool(config.eos_token_ids)
        if not (early or len(self._forbidden) or self._seen is not None):
            return scores
        changed = scores.copy()
        changed[:, self._forbidden] = -np.inf
        if self._seen is not None:
            found = changed[self._seen]
            penalty = np.float32(config.repetition_penalty)
            changed[self._seen] = np.where(found < 0, found * penalty, found / penalty)
        if early:
            changed[:, [token for token in config.eos_token_ids if token < scores.shape[1]]] = -np.inf
        return changed

    def add(self, tokens: np.ndarray) -> None:
        """Take note of the generated tokens ``[R]``."""
        if self._seen is not None:
            rows = np.flatnonzero(tokens < self._seen.shape[1])  # a pad id may be outside of the vocabulary
            self._seen[rows, tokens[rows]] = True

    def select(self, rows: np.ndarray) -> None:
        """Keep the rows of these indexes, in this order, repeats allowed."""
        if self._seen is not None:
            self._seen = self._seen[rows]
