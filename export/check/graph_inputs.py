"""Make the inputs of each graph from samples and from the outputs of the graph that feeds it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from internvl_edge.export.models.graphs import graph_row
from internvl_edge.runtime.bundle.graph_roles import Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInputs:
    """Samples for all graphs. Token ids are padded with 0 on the right, and None if the model takes no texts."""

    pixel_values: np.ndarray
    """Pictures ``[B, 3, S, S]`` in fp32."""
    text_ids: np.ndarray | None = None
    """Ids ``[T, L]`` of texts for the text encoder."""
    match_ids: np.ndarray | None = None
    """Ids ``[B, L]`` of one text for each picture, for matching."""
    prompt_ids: np.ndarray | None = None
    """Ids ``[B, n]``, or ``[1, n]`` for all pictures, of prompts and the tokens after them, without padding."""

    def of(self, graph: str, fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the inputs of `graph`; `fed` has the outputs of the graph that feeds it, if any."""
        row = graph_row(graph)
        ids = self._ids(row.use.ids) if row.use.ids is not None else None
        return inputs_of(graph, self.pixel_values, ids, fed)

    def _ids(self, kind: Ids) -> np.ndarray | None:
        return {"texts": self.text_ids, "pairs": self.match_ids, "prompts": self.prompt_ids}[kind]


def inputs_of(
    graph: str, pixel_values: np.ndarray, ids: np.ndarray | None, fed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the inputs of `graph` from pictures, token ids of its kind, and the outputs `fed` of another graph."""
    row = graph_row(graph)
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


def counting_rows(graph: str, inputs: Mapping[str, np.ndarray], queries: int) -> np.ndarray | None:
    """Return a mask ``[B, rows]`` of the rows of the residual stream that are not padding; None if all count."""
    row = graph_row(graph)
    if not row.use.takes_texts:
        return None
    leading = queries if row.leading_queries else 0
    return np.pad(inputs["input_ids"] > 0, ((0, 0), (leading, 0)), constant_values=True)
