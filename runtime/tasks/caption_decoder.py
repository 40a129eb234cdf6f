"""The decoder of captions: token ids behind the keys and values of a picture's queries."""

from collections.abc import Iterator

import numpy as np

from internvl_edge.runtime.backends.session import KeyValueCache
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.stages import UNMEASURED, Stages
from internvl_edge.runtime.tasks.generation.decoder import AttentionMask


class CaptionDecoder:
    """A decoder for prompts ``[R, n]``, left-padded with id 0, whose cache holds `past_length` positions of queries."""

    def __init__(
        self, cache: KeyValueCache, past_length: int, prompt_ids: np.ndarray, stages: Stages = UNMEASURED
    ) -> None:
        self._cache, self._prompt, self._stages = cache, prompt_ids, stages
        self._mask = AttentionMask(np.ones((len(prompt_ids), past_length), np.int64))
        self._shared = past_length + prompt_ids.shape[1]
        """Number of positions that are the same in all beams of a picture."""

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self._mask.values)

    def prefill(self) -> Iterator[np.ndarray]:
        """Append the prompt; yield the logits ``[R, V]`` of its last column."""
        yield self._append(self._prompt, (self._prompt > 0).astype(np.int64))

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token ``[R]`` to each row; return the logits ``[R, V]`` of the next one."""
        ids = tokens[:, None]
        return self._append(ids, np.ones_like(ids))

    def select(self, rows: np.ndarray) -> None:
        """Keep the rows of these indexes, in this order, repeats allowed. Rows stay within their picture."""
        self._mask.select(rows)
        self._cache.select(rows, self._shared)

    def _append(self, ids: np.ndarray, new: np.ndarray) -> np.ndarray:
        logits = self._cache.step({"input_ids": ids, **self._mask.grow(new)}, self._stages)
        return require_finite(np.asarray(logits, np.float32), "rows of logits")
