"""Make prompts of a chat to verify and to compare a language model on."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from internvl_edge.calib.data.synthetic import synthetic_ids
from internvl_edge.export.check.graph_inputs import Questions
from internvl_edge.export.checkpoint.config.conversation import Conversation
from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import ChatTokenizer
from internvl_edge.runtime.tasks.chat.native_template import NativeTemplate
from internvl_edge.runtime.tasks.chat.prompts import PromptTemplate
from internvl_edge.runtime.tasks.chat.templates import MARK, Piece, find_template

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


def asked_questions(
    texts: Sequence[str], conversation: Conversation, tokens_per_tile: int, table_rows: TableRows
) -> Questions:
    """Return the prompts of a question about one picture for each text, in the words of the checkpoint's template."""
    chat, tokenizer = conversation.chat, conversation.tokenizer
    assert tokenizer is not None
    template, count = _template(conversation, tokenizer), min(tokens_per_tile, MOST_OF_A_TILE)
    picture = f"{chat.start_token}{chat.context_token * count}{chat.end_token}"
    prompts = []
    for text in texts:
        prompt = template.text(None, [[Piece(MARK, picture=True), Piece(f"\n{text}")]])
        ids = tokenizer.encode(prompt.replace(template.placeholder, picture, 1))
        first = ids.index(chat.context_token_id)
        prompts.append((ids[:first], ids[first + count :]))
    return questions_of(prompts, tokens_per_tile, table_rows)


def _template(conversation: Conversation, tokenizer: ChatTokenizer) -> PromptTemplate:
    chat = conversation.chat
    if conversation.template is not None:
        return NativeTemplate(conversation.template, chat.context_token, tokenizer.roles)
    template = find_template(chat.template)
    return replace(template, system_message=chat.system) if chat.system is not None else template


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
