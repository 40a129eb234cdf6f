"""The kept prompt: how much two prompts have in common, and that one thread alone gets it."""

import numpy as np
import pytest

from internvl_edge.runtime.backends.array_cache import ArrayCache
from internvl_edge.runtime.tasks.chat.batch import PromptBatch
from internvl_edge.runtime.tasks.chat.kept_prompt import KeptPrompt, PromptStore

CONTEXT = 9


class ClosingCache(ArrayCache):
    def __init__(self) -> None:
        super().__init__(lambda inputs, stages: {}, {})
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def batch_of(ids: list[int], tiles: str) -> PromptBatch:
    """Return a prompt whose tiles, of two tokens each, have a letter each."""
    embeds = np.array([[[ord(letter)], [0]] for letter in tiles], np.float32).reshape(-1, 2, 1)
    return PromptBatch(input_ids=np.array([ids]), vit_embeds=embeds if len(embeds) else None, context_token_id=CONTEXT)


def kept(ids: list[int], tiles: str) -> KeptPrompt:
    return KeptPrompt(
        cache=ClosingCache(),
        ids=np.array(ids),
        digests=batch_of([CONTEXT] * (2 * len(tiles)) or [1], tiles).digests,
        tile_tokens=2,
        context_token_id=CONTEXT,
    )


@pytest.mark.parametrize(
    ("own", "own_tiles", "ids", "tiles", "expected"),
    [
        ([1, 2, 3], "", [1, 2, 3, 4], "", 3),
        ([1, 2, 3, 4], "", [1, 2], "", 2),
        ([1, 2, 3], "", [2, 2, 3], "", 0),
        ([1, 9, 9, 9, 9, 5], "ab", [1, 9, 9, 9, 9, 5, 6], "ab", 6),
        ([1, 9, 9, 9, 9, 5], "ab", [1, 9, 9, 9, 9, 5, 6], "ac", 3),
        ([1, 9, 9, 9, 9, 5], "ab", [1, 9, 9, 9, 9, 5, 6], "cb", 1),
        ([1, 9, 9, 4, 9, 9], "ab", [1, 9, 9, 5, 9, 9], "ac", 3),
        ([1, 9, 9], "a", [1, 9, 9, 9, 9], "ab", 3),
        ([1, 9, 9, 9, 9], "a", [1, 9, 9, 9, 9], "ab", 3),  # the last two were generated, as tokens of the table
    ],
)
def test_positions_are_common_up_to_another_id_or_tile(
    own: list[int], own_tiles: str, ids: list[int], tiles: str, expected: int
) -> None:
    assert kept(own, own_tiles).common(batch_of(ids, tiles)) == expected


def test_a_prompt_is_taken_once_and_the_one_before_is_freed() -> None:
    store, first, second = PromptStore(), kept([1], ""), kept([2], "")
    assert store.take() is None
    store.keep(first)
    store.keep(second)
    assert isinstance(first.cache, ClosingCache)
    assert first.cache.closed == 1
    assert (store.take(), store.take()) == (second, None)
    store.keep(None)
