"""The cache of the last request, kept for a next one whose prompt begins in the same way."""

import threading
from dataclasses import dataclass

import numpy as np

from internvl_edge.runtime.backends.session import KeyValueCache
from internvl_edge.runtime.tasks.chat.batch import PromptBatch


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class KeptPrompt:
    """A cache of one row and what its positions were computed from."""

    cache: KeyValueCache
    ids: np.ndarray
    """Id of each position ``[n]``."""
    digests: tuple[bytes, ...]
    """Digests of the tiles, in order."""
    tile_tokens: int
    """Number of positions of a tile."""
    context_token_id: int

    def common(self, batch: PromptBatch) -> int:
        """Return how many positions at the beginning are those of a prompt without padding."""
        ids = batch.input_ids[0]
        length = min(len(ids), len(self.ids))
        different = np.flatnonzero(ids[:length] != self.ids[:length])
        same = int(different[0]) if len(different) else length
        places = np.flatnonzero(ids[:same] == self.context_token_id)
        for tile, first in enumerate(places[:: self.tile_tokens]):
            if self.digests[tile : tile + 1] != batch.digests[tile : tile + 1]:
                return int(first)
        return same


class PromptStore:
    """A place for one kept prompt. Threads may share it: who takes the prompt has it alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: KeptPrompt | None = None

    def take(self) -> KeptPrompt | None:
        """Return the kept prompt, if nobody has taken it."""
        with self._lock:
            kept, self._kept = self._kept, None
        return kept

    def keep(self, prompt: KeptPrompt | None) -> None:
        """Keep a prompt instead of the one before, whose cache is freed."""
        with self._lock:
            before, self._kept = self._kept, prompt
        if before is not None:
            before.cache.close()
