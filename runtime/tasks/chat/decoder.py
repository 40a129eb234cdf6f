"""The decoder of answers: embeddings of a prompt in chunks, then of one token at a time (CHAT.md 4.3, 4.6 to 4.8)."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from internvl_edge.runtime.backends.array_cache import open_cache
from internvl_edge.runtime.backends.session import KeyValueCache, Session
from internvl_edge.runtime.bundle.embedding_table import EmbeddingTable
from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL
from internvl_edge.runtime.bundle.manifest import LanguageInfo
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.stages import UNMEASURED, Stages
from internvl_edge.runtime.tasks.chat.batch import PromptBatch
from internvl_edge.runtime.tasks.chat.kept_prompt import KeptPrompt, PromptStore
from internvl_edge.runtime.tasks.generation.decoder import AttentionMask
from internvl_edge.runtime.tasks.opened import OpenedGraphs

logger = logging.getLogger(__name__)

CHUNK = 512
"""Most embeddings of a prompt in one step, all rows together, so that memory does not follow the prompt's length."""
_ROPE_LENGTH = "rope_length"
"""Input of graphs whose angles depend on the length of the whole request."""


class TokenTable(Protocol):
    """The embeddings of all tokens."""

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the embeddings ``[..., H]`` of ids ``[...]``."""
        ...


class LanguageModel:
    """The opened language model of a chat bundle. Threads may share it: each request has a decoder of its own.

    The cache of the last request with one prompt is kept, so that a next prompt that begins with the same ids and
    pictures computes only what differs.
    """

    def __init__(self, session: Session, info: LanguageInfo, table: TokenTable, chunk: int = CHUNK) -> None:
        self.info = info
        self._session, self._table, self._chunk = session, table, chunk
        self._store = PromptStore()
        self._takes_length = _ROPE_LENGTH in session.inputs
        self._warned = False

    @classmethod
    def of(cls, model: OpenedGraphs, chunk: int = CHUNK) -> "LanguageModel":
        """Return the language model of an opened bundle; its plans may take shorter chunks.

        Raises:
            BundleError: it has none.
        """
        (graph,) = model.bundle.graphs_of(LANGUAGE_MODEL)
        prompt_tokens = model.bundle.manifest.graphs[graph].use.prompt_tokens
        chunk = min(chunk, prompt_tokens[2]) if prompt_tokens is not None else chunk
        return cls(model.session(graph), model.info.require_language(), EmbeddingTable(model.bundle), chunk)

    @contextmanager
    def decoder(
        self, batch: PromptBatch, new_tokens: int, *, beams: int = 1, stages: Stages = UNMEASURED
    ) -> Iterator["ChatDecoder"]:
        """Return a decoder for an answer of at most `new_tokens` to each prompt, with `beams` rows for each.

        Raises:
            InputError: the prompt and the answer need more positions than the bundle's context, or ids are unknown.
        """
        batch = batch.trimmed()
        batch.require_room(self.info, new_tokens)
        cache, held = self._cache(batch, beams, batch.length + new_tokens)
        decoder = ChatDecoder(cache, batch, held, self._appended(cache, stages), self._embeds, self._chunk)
        try:
            yield decoder
        except GeneratorExit:  # a stream that nobody reads on; no step is under way
            self._store.keep(self._kept(decoder))
            raise
        except BaseException:
            cache.close()
            raise
        self._store.keep(self._kept(decoder))

    def close(self) -> None:
        """Forget the last prompt and free its cache; a later request begins anew."""
        self._store.keep(None)

    def _cache(self, batch: PromptBatch, beams: int, length: int) -> tuple[KeyValueCache, int]:
        """Return a cache with room for the request, and how many positions of its prompt it holds already."""
        rows, kept = batch.rows * beams, self._store.take()
        if kept is not None:
            held = min(kept.common(batch), batch.length - 1) if self._may_share(batch) else 0
            if held > 0 and self._prepared(kept.cache, held, rows, length):
                return kept.cache, held
            kept.cache.close()
        dtype, info = self._session.inputs["inputs_embeds"].dtype, self.info
        empty = np.zeros((batch.rows, info.kv_heads, 0, info.head_dim), dtype)
        present = {f"present.{layer}.{part}": empty for layer in range(info.layers) for part in ("key", "value")}
        return open_cache(self._session, present, rows, length), 0

    def _prepared(self, cache: KeyValueCache, held: int, rows: int, length: int) -> bool:
        """Cut a kept cache and make room in it; return False where the memory does not suffice for both it and more."""
        try:
            cache.truncate(held)
            cache.reserve(rows, length)
        except BackendError:
            return False
        return True

    def _may_share(self, batch: PromptBatch) -> bool:
        """Return whether positions of other requests serve this one: it is one prompt without padding, and its length
        does not change the angles of its first positions."""
        return batch.rows == 1 and bool(batch.mask.all()) and self._same_angles(batch.tokens)

    def _same_angles(self, length: int) -> bool:
        limit = self.info.rope_limit
        return not self._takes_length or (limit is not None and length <= limit)

    def _kept(self, decoder: "ChatDecoder") -> KeptPrompt | None:
        """Return what may be kept of a request: all of one row up to where its length began to change the angles."""
        batch, ids = decoder.batch, decoder.settled_ids
        limit = self.info.rope_limit if self._takes_length else len(ids)
        if not self._may_share(batch) or limit is None or not len(ids):
            decoder.cache.close()
            return None
        if decoder.branched:
            try:
                decoder.cache.truncate(len(ids))
                decoder.cache.select(np.zeros(1, np.int64), len(ids))
            except BackendError:  # no memory for a copy of a row: the answer is there, and nothing is kept
                decoder.cache.close()
                return None
        return KeptPrompt(
            cache=decoder.cache,
            ids=ids[:limit],
            digests=batch.digests,
            tile_tokens=self.info.tokens_per_tile,
            context_token_id=batch.context_token_id,
        )

    def _embeds(self, ids: np.ndarray) -> np.ndarray:
        """Return the embeddings of tokens. Padding may be an id that the table lacks; it is never attended to."""
        return self._table.rows(np.where((ids >= 0) & (ids < self.info.embedding.rows), ids, 0))

    def _appended(self, cache: KeyValueCache, stages: Stages) -> "Append":
        """Return the function that runs one step on a cache."""
        dtype = self._session.inputs["inputs_embeds"].dtype

        def append(embeds: np.ndarray, mask: dict[str, np.ndarray], length: int) -> np.ndarray:
            inputs = {"inputs_embeds": embeds.astype(dtype, copy=False), **mask}
            if self._takes_length:
                inputs[_ROPE_LENGTH] = np.array([length], np.int64)
            self._warn(length)
            return require_finite(np.asarray(cache.step(inputs, stages), np.float32), "rows of logits")

        return append

    def _warn(self, length: int) -> None:
        if length > self.info.max_positions and not self._warned:
            self._warned = True
            logger.warning(
                "a request of %d positions is longer than the %d of the model's training; answers may get worse",
                length,
                self.info.max_positions,
            )


Append = Callable[[np.ndarray, dict[str, np.ndarray], int], np.ndarray]
"""Function from embeddings ``[R, n, H]``, mask and positions, and the length of the request to logits ``[R, V]``."""
Embeds = Callable[[np.ndarray], np.ndarray]
"""Function from ids ``[...]`` to embeddings ``[..., H]``."""


class ChatDecoder:
    """A decoder for a batch of prompts. The first `held` positions are in its cache already."""

    def __init__(
        self, cache: KeyValueCache, batch: PromptBatch, held: int, append: Append, embeds: Embeds, chunk: int
    ) -> None:
        self.cache, self.batch = cache, batch
        self._append, self._embeds = append, embeds
        self._columns = max(chunk // batch.rows, 1)
        self._mask = AttentionMask(batch.mask[:, :held])
        self._fed: list[int] = []
        """Tokens of the answer of the first row that are in the cache, as long as there is one row."""
        self.branched = False
        """Whether rows were selected, so that the cache may hold several answers to a prompt."""
        self._places = np.full(batch.input_ids.shape, -1, np.int64)
        self._places.ravel()[batch.context] = np.arange(len(batch.context))
        """Row of the flattened tiles for each position, or -1."""

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self._mask.values)

    @property
    def settled_ids(self) -> np.ndarray:
        """Return the ids ``[n]`` of the first positions in the cache that all rows of the first prompt share."""
        total = self._mask.values.shape[1]
        return np.concatenate([self.batch.input_ids[0, :total], np.array(self._fed, np.int64)])

    def prefill(self) -> Iterator[np.ndarray]:
        """Append the rest of the prompts in chunks; yield the logits ``[R, V]`` of the last position of each."""
        batch = self.batch
        for start in range(self._mask.values.shape[1], batch.length, self._columns):
            columns = slice(start, start + self._columns)
            mask = self._mask.grow(batch.mask[:, columns])
            yield self._append(self._prompt_embeds(columns), mask, batch.tokens)

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token ``[R]`` to each row; return the logits ``[R, V]`` of the next one."""
        if not self.branched:
            self._fed.append(int(tokens[0]))
        embeds = self._embeds(tokens[:, None])
        mask = self._mask.grow(np.ones((len(tokens), 1), np.int64))
        answered = self._mask.values.shape[1] - self.batch.length
        return self._append(embeds, mask, self.batch.tokens + answered)

    def select(self, rows: np.ndarray) -> None:
        """Keep the rows of these indexes, in this order, repeats allowed. Rows stay within their prompt."""
        self.branched = True
        self._mask.select(rows)
        self.cache.select(rows, self.batch.length)

    def _prompt_embeds(self, columns: slice) -> np.ndarray:
        """Return the embeddings of columns of the prompts, those of tiles in the places of context tokens."""
        batch = self.batch
        embeds = self._embeds(batch.input_ids[:, columns])
        places = self._places[:, columns]
        if batch.vit_embeds is not None and (found := places >= 0).any():
            tiles = batch.vit_embeds.reshape(-1, batch.vit_embeds.shape[-1])
            embeds = embeds.astype(np.result_type(embeds, tiles), copy=True)
            embeds[found] = tiles[places[found]]
        return embeds
