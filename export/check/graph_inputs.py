"""What every graph is fed when graphs are tried one by one: samples for the first, outputs of another for the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from internvl_edge.export.models.graphs import graph_row
from internvl_edge.runtime.bundle.graph_roles import Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInputs:
    """The samples of all graphs; ids are None where the model has no text, and right-padded with 0."""

    pixel_values: np.ndarray
    """``[B, 3, S, S]`` fp32."""
    text_ids: np.ndarray | None = None
    """``[T, L]``: texts of their own."""
    match_ids: np.ndarray | None = None
    """``[B, L]``: a text for each picture."""
    prompt_ids: np.ndarray | None = None
    """``[B, n]``, or ``[1, n]`` for all pictures: what is written so far, without padding."""

    def of(self, graph: str, fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the inputs of `graph`; `fed` are the outputs of the graph that feeds it, if any."""
        row = graph_row(graph)
        ids = self._ids(row.use.ids) if row.use.ids is not None else None
        return inputs_of(graph, self.pixel_values, ids, fed)

    def _ids(self, kind: Ids) -> np.ndarray | None:
        return {"texts": self.text_ids, "pairs": self.match_ids, "prompts": self.prompt_ids}[kind]


def inputs_of(
    graph: str, pixel_values: np.ndarray, ids: np.ndarray | None, fed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the inputs of `graph` from pictures, ids of its kind where it takes them, and what feeds it."""
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
    """Return which rows of the residual stream count, ``[B, rows]``: those that are no padding. None: all of them."""
    row = graph_row(graph)
    if not row.use.takes_texts:
        return None
    leading = queries if row.leading_queries else 0
    return np.pad(inputs["input_ids"] > 0, ((0, 0), (leading, 0)), constant_values=True)
