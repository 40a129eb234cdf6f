"""The decoder that a search works on, and the attention mask and positions that all decoders have in common."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np


class Decoder(Protocol):
    """A prompt and a cache of keys and values. A row is a sequence: a caption, an answer, or one of its beams."""

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        ...

    def prefill(self) -> Iterator[np.ndarray]:
        """Append the prompt in one or more chunks; yield the logits ``[R, V]`` of the last position of each chunk."""
        ...

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token ``[R]`` to each row; return the logits ``[R, V]`` of the next one."""
        ...

    def select(self, rows: np.ndarray) -> None:
        """Keep the rows of these indexes, in this order, repeats allowed. Rows stay within their prompt."""
        ...


class AttentionMask:
    """The attention mask ``[R, total]`` of all positions in a cache, and the positions that follow from it."""

    def __init__(self, mask: np.ndarray) -> None:
        self.values = mask
        """1 for tokens, 0 for padding."""

    def grow(self, new: np.ndarray) -> dict[str, np.ndarray]:
        """Append the columns `new` ``[R, n]``; return the inputs `attention_mask` and `position_ids` of a step."""
        self.values = np.concatenate([self.values, new], axis=1)
        positions = np.cumsum(self.values, axis=1) - 1
        positions[self.values == 0] = 1  # the position of padding in the reference
        return {"attention_mask": self.values, "position_ids": positions[:, -new.shape[1] :]}

    def select(self, rows: np.ndarray) -> None:
        """Keep the rows of these indexes."""
        self.values = self.values[rows]
