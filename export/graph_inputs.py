"""What every graph is fed when graphs are tried one by one: samples for the first, outputs of another for the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FEEDS = {"query": "vision", "itm": "vision", "connector": "vision", "decoder": "query"}
"""Graph -> the graph whose outputs it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInputs:
    """The samples of all graphs; ids are None where the model has no text, and right-padded with 0."""

    pixel_values: np.ndarray
    """``[B, 3, S, S]`` fp32."""
    text_ids: np.ndarray | None = None
    """``[T, L]`` for `text`."""
    match_ids: np.ndarray | None = None
    """``[B, L]`` for `itm`."""
    prompt_ids: np.ndarray | None = None
    """``[B, n]`` for `decoder`, or ``[1, n]`` for all pictures; without padding."""

    def of(self, graph: str, fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the inputs of `graph`; `fed` are the outputs of the graph that `FEEDS` names, if any."""
        if graph == "vision":
            return {"pixel_values": self.pixel_values}
        if graph == "text":
            return {"input_ids": _held(self.text_ids)}
        if graph == "decoder":
            return self._decoder_inputs(fed)
        inputs = {"vision_states": fed["vision_states"]}
        return inputs if graph != "itm" else inputs | {"input_ids": _held(self.match_ids)}

    def _decoder_inputs(self, query: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        cache = {k.replace("present", "past_key_values"): v for k, v in query.items() if k.startswith("present.")}
        batch, past = len(self.pixel_values), next(iter(cache.values())).shape[2]
        ids = _held(self.prompt_ids)
        length = ids.shape[1]
        return {
            "input_ids": np.broadcast_to(ids, (batch, length)),
            "attention_mask": np.ones((batch, past + length), np.int64),
            "position_ids": np.broadcast_to(past + np.arange(length), (batch, length)),
            **cache,
        }


def counting_rows(graph: str, inputs: Mapping[str, np.ndarray], queries: int) -> np.ndarray | None:
    """Return which rows of the residual stream count, ``[B, rows]``: those that are no padding. None: all of them."""
    if graph not in ("text", "itm"):
        return None
    kept = inputs["input_ids"] > 0
    return kept if graph == "text" else np.pad(kept, ((0, 0), (queries, 0)), constant_values=True)


def _held(ids: np.ndarray | None) -> np.ndarray:
    assert ids is not None
    return ids
