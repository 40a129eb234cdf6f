"""The prompts of a request to a language model, checked before any graph runs."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from internvl_edge.runtime.bundle.manifest import LanguageInfo
from internvl_edge.runtime.errors import InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptBatch:
    """Prompts ``[B, n]``, padded on the left, and the embeddings of their tiles in the order of the prompts.

    Raises:
        InputError: arrays that do not fit each other; the message names all that is wrong.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray | None = None
    """1 for tokens, 0 for padding, ``[B, n]``; None means that there is no padding."""
    vit_embeds: np.ndarray | None = None
    """Embeddings of tiles ``[tiles, tokens, H]``; None means that there is no picture."""
    context_token_id: int
    """Id whose embeddings are replaced by those of tiles."""

    def __post_init__(self) -> None:
        """Check shapes, padding and the number of tiles."""
        if wrong := [*self._findings()]:
            raise InputError(f"prompt: {'; '.join(wrong)}; see `chat_prompt` for what a prompt is made of")

    @property
    def rows(self) -> int:
        """Return the number of prompts."""
        return len(self.input_ids)

    @property
    def length(self) -> int:
        """Return the number of columns, padding included."""
        return int(self.input_ids.shape[1])

    @property
    def tiles(self) -> int:
        """Return the number of tiles of all prompts."""
        return 0 if self.vit_embeds is None else len(self.vit_embeds)

    @cached_property
    def tokens(self) -> int:
        """Return the number of tokens of the longest prompt, without padding."""
        return int(self.mask.sum(axis=1).max())

    @cached_property
    def mask(self) -> np.ndarray:
        """Return the attention mask ``[B, n]``."""
        given = self.attention_mask
        return np.ones(self.input_ids.shape, np.int64) if given is None else given.astype(np.int64)

    @cached_property
    def context(self) -> np.ndarray:
        """Return the indexes of context tokens in the flattened ids, which tiles replace in order."""
        return np.flatnonzero(self.input_ids.ravel() == self.context_token_id)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """Return a digest of the embeddings of each tile."""
        tiles = () if self.vit_embeds is None else self.vit_embeds
        return tuple(hashlib.blake2b(np.ascontiguousarray(tile).data, digest_size=16).digest() for tile in tiles)

    def trimmed(self) -> "PromptBatch":
        """Return the batch without columns at the beginning that are padding in every prompt."""
        first = int(self.mask.any(axis=0).argmax())
        if not first:
            return self
        return replace(self, input_ids=self.input_ids[:, first:], attention_mask=self.mask[:, first:])

    def require_room(self, language: LanguageInfo, new_tokens: int) -> None:
        """Check that ids are in the table and that the answer fits into the bundle's context.

        Raises:
            InputError: they do not.
        """
        rows = language.embedding.rows
        outside = np.unique(self.input_ids[((self.input_ids < 0) | (self.input_ids >= rows)) & (self.mask > 0)])
        if len(outside):
            raise InputError(f"prompt: ids {outside[:8].tolist()} are not in the table of {rows} tokens; check them")
        needed = self.length + new_tokens
        if needed > language.max_context:
            tiles = f" with {self.tiles} tiles of {language.tokens_per_tile}" if self.tiles else ""
            raise InputError(
                f"prompt: {self.length} tokens{tiles} and {new_tokens} new ones are {needed}, the bundle's context is"
                f" {language.max_context}; give fewer tiles, a shorter history or fewer new tokens, or export with a"
                " larger --max-context"
            )

    def _findings(self) -> list[str]:
        ids, mask = self.input_ids, self.attention_mask
        if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
            return [f"input_ids are {ids.dtype} {list(ids.shape)} instead of integers [prompts, tokens], one or more"]
        wrong = []
        if mask is not None:
            if mask.shape != ids.shape:
                wrong.append(f"attention_mask is {list(mask.shape)} but input_ids {list(ids.shape)}")
            elif not np.isin(mask, (0, 1)).all():
                wrong.append("attention_mask has values beside 0 and 1")
            elif ends := np.flatnonzero(mask[:, -1] == 0).tolist():
                wrong.append(f"prompts {ends} end in padding instead of beginning with it")
        tiles = self.vit_embeds
        if tiles is not None and (tiles.ndim != 3 or tiles.dtype.kind != "f"):
            wrong.append(f"vit_embeds are {tiles.dtype} {list(tiles.shape)} instead of floats [tiles, tokens, H]")
            return wrong
        given = 0 if tiles is None else tiles.shape[0] * tiles.shape[1]
        if given != len(self.context):
            found = "no tile" if tiles is None else f"{len(tiles)} tiles of {tiles.shape[1]} tokens, {given} in all"
            wrong.append(f"{len(self.context)} context tokens stand for pictures, but there is {found}")
        return wrong
