"""Make the inputs of each graph from samples and from the outputs of the graph that feeds it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from internvl_edge.export.models.graph_modules.specs import PAST
from internvl_edge.export.models.graphs import GraphRow
from internvl_edge.runtime.bundle.graph_roles import Ids

Shape = tuple[int | str, ...]
"""Sizes of an input, and the names of its dynamic axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Prompts of a chat, padded on the left."""

    ids: np.ndarray
    """Token ids ``[B, n]``."""
    counts: np.ndarray
    """Mask ``[B, n]`` of the rows that are not padding."""
    tiles: np.ndarray
    """Mask ``[B, n]`` of the places where the first embeddings of a sample's tile stand."""
    embeds: np.ndarray
    """Rows of the embedding table for `ids`, ``[B, n, H]`` in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInputs:
    """Samples for all graphs. Texts are padded with 0 on the right, and None if the model takes none of their kind."""

    pixel_values: np.ndarray
    """Pictures ``[B, 3, S, S]`` in fp32."""
    text_ids: np.ndarray | None = None
    """Ids ``[T, L]`` of texts for the text encoder."""
    match_ids: np.ndarray | None = None
    """Ids ``[B, L]`` of one text for each picture, for matching."""
    prompt_ids: np.ndarray | None = None
    """Ids ``[B, n]``, or ``[1, n]`` for all pictures, of prompts and the tokens after them, without padding."""
    questions: Questions | None = None

    def of(self, row: GraphRow, declared: Mapping[str, Shape], fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the inputs of a graph.

        `declared` has the shapes of its inputs, and `fed` the outputs of the graph that feeds it, if any.
        """
        if row.embeds is not None:
            assert self.questions is not None
            return dict(_embedded(self.questions, declared, fed[row.feeds["inputs_embeds"]]))
        ids = self._ids(row.use.ids) if row.use.ids is not None else None
        return _from_samples(row, self.pixel_values, ids, fed)

    def _ids(self, kind: Ids) -> np.ndarray | None:
        return {
            "texts": self.text_ids,
            "pairs": self.match_ids,
            "prompts": self.prompt_ids,
            "questions": self.questions.ids if self.questions is not None else None,
        }[kind]


def _from_samples(
    row: GraphRow, pixel_values: np.ndarray, ids: np.ndarray | None, fed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the inputs of a graph from pictures, token ids of its kind, and the outputs `fed` of another graph."""
    inputs = {} if row.fed_by is not None or row.use.ids is not None else {"pixel_values": pixel_values}
    for name, source in row.feeds.items():
        inputs |= {name + key.removeprefix(source): values for key, values in fed.items() if key.startswith(source)}
    if row.use.ids is None:
        return inputs
    assert ids is not None
    if row.continues is None:
        return inputs | {"input_ids": ids}
    batch, length, past = len(pixel_values), ids.shape[1], next(iter(inputs.values())).shape[2]
    return {
        "input_ids": np.broadcast_to(ids, (batch, length)),
        "attention_mask": np.ones((batch, past + length), np.int64),
        "position_ids": np.broadcast_to(past + np.arange(length), (batch, length)),
        **inputs,
    }


def _embedded(
    questions: Questions, declared: Mapping[str, Shape], tiles: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the inputs of a language model for whole prompts: embeddings, mask, positions and an empty cache."""
    embeds, counts = questions.embeds.copy(), questions.counts
    for row, tile in enumerate(tiles):
        embeds[row, questions.tiles[row]] = tile[: questions.tiles[row].sum()]
    positions = np.where(counts, counts.cumsum(1) - 1, 1)  # padding has position 1, as in the reference
    yield "inputs_embeds", embeds
    yield "attention_mask", counts.astype(np.int64)
    yield "position_ids", positions
    if "rope_length" in declared:
        yield "rope_length", np.array([positions.max() + 1])
    sizes = {"batch": len(embeds), "past": 0}
    for name, shape in declared.items():
        if name.startswith(PAST):
            yield name, np.zeros([sizes[size] if isinstance(size, str) else size for size in shape], np.float32)


def counting_rows(row: GraphRow, inputs: Mapping[str, np.ndarray], queries: int) -> np.ndarray | None:
    """Return a mask ``[B, rows]`` of the rows of the residual stream that are not padding; None if all count."""
    if row.embeds is not None:
        counts: np.ndarray = inputs["attention_mask"] > 0
        return counts
    if not row.use.takes_texts:
        return None
    leading = queries if row.leading_queries else 0
    return np.pad(inputs["input_ids"] > 0, ((0, 0), (leading, 0)), constant_values=True)
