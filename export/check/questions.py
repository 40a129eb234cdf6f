"""Make prompts of a chat to verify and to compare a language model on."""

from collections.abc import Callable, Sequence

import numpy as np

from internvl_edge.calib.data.synthetic import synthetic_ids
from internvl_edge.export.check.graph_inputs import Questions

TableRows = Callable[[np.ndarray], np.ndarray]
"""Function from ids ``[B, n]`` to their rows ``[B, n, H]`` of the embedding table in fp32."""
MOST_OF_A_TILE = 32
"""Most embeddings of a tile in a prompt: all of them would make verification slow, and find nothing more."""
_BEFORE, _BEHIND = 4, 24
"""Ids before and behind the embeddings of a tile in a prompt without a tokenizer."""
_SHORTER = 5
"""Ids by which each prompt without a tokenizer is shorter than the one before, so that padding is verified."""


def seeded_questions(count: int, tokens_per_tile: int, vocabulary: int, table_rows: TableRows) -> Questions:
    """Return prompts of random ids around embeddings of a tile, for use without a tokenizer."""
    ids = synthetic_ids(count, _BEFORE + _BEHIND, vocabulary)
    rows = [row[: max(_BEFORE + 1, len(row) - _SHORTER * index)].tolist() for index, row in enumerate(ids)]
    return questions_of([(row[:_BEFORE], row[_BEFORE:]) for row in rows], tokens_per_tile, table_rows)


def questions_of(
    prompts: Sequence[tuple[Sequence[int], Sequence[int]]], tokens_per_tile: int, table_rows: TableRows
) -> Questions:
    """Return prompts of the ids before and behind the embeddings of a tile."""
    tile = min(tokens_per_tile, MOST_OF_A_TILE)
    length = max(len(before) + tile + len(behind) for before, behind in prompts)
    ids = np.zeros((len(prompts), length), np.int64)
    counts, tiles = np.zeros(ids.shape, np.bool_), np.zeros(ids.shape, np.bool_)
    for row, (before, behind) in enumerate(prompts):
        start = length - len(before) - tile - len(behind)
        first = start + len(before)
        ids[row, start:first], ids[row, first + tile :] = before, behind
        counts[row, start:], tiles[row, first : first + tile] = True, True
    return Questions(ids=ids, counts=counts, tiles=tiles, embeds=table_rows(ids))
