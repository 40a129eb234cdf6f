"""What each graph of the demo is run on, and what ONNX Runtime makes of it: no GPU is needed for either."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from internvl_edge.calib.data.synthetic import synthetic_pixels
from internvl_edge.runtime import InternVL
from tests.decoder_steps import Cache

CASES = ("vision", "query", "text", "itm", "prompt", "step")
"""A graph each; the decoder twice: a prompt on the queries' cache, then one token on the longer cache."""

_PICTURES = 2
_TEXT_IDS = np.array([[1, 50, 60, 2, 0], [1, 70, 2, 0, 0]], np.int64)
PROMPT_IDS = np.array([[1, 50, 60, 61], [0, 1, 70, 71]], np.int64)
"""The second is shorter: padded on the left with 0, as `generate` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of one graph."""

    graph: str
    profile: int
    """Index of the plan's optimization profile that the shapes are for."""
    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    """What ONNX Runtime puts out."""


def case_of(model: InternVL, name: str) -> Case:
    """Return the case called `name`, one of `CASES`, with what the graphs before it put out."""
    if name == "prompt":
        query = case_of(model, "query").expected
        return _ran(model, "decoder", 0, decoder_inputs(query, PROMPT_IDS, prompt_mask(query)))
    if name == "step":
        return _ran(model, "decoder", 1, _step_inputs(case_of(model, "prompt")))
    return _ran(model, name, 0, _encoder_inputs(model, name))


def decoder_inputs(held: Cache, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return the decoder's inputs for new `ids` ``[R, n]``, as `runtime.tasks.generation` makes them.

    `held` has the caches ``present.*`` ``[R, heads, past, head]``, `mask` is ``[R, past + n]`` and 0 at padding.
    """
    positions = np.cumsum(mask, axis=1) - 1
    positions[mask == 0] = 1
    past = {name.replace("present", "past_key_values", 1): held[name] for name in held if name.startswith("present.")}
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions[:, -ids.shape[1] :], **past}


def prompt_mask(query: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mask ``[R, queries + n]`` of `PROMPT_IDS` behind the queries' cache."""
    queries = query["present.0.key"].shape[2]
    return np.concatenate([np.ones((len(PROMPT_IDS), queries), np.int64), (PROMPT_IDS > 0).astype(np.int64)], axis=1)


def _step_inputs(prompt: Case) -> dict[str, np.ndarray]:
    ids = prompt.expected["logits"].argmax(axis=1)[:, None].astype(np.int64)
    mask = np.pad(prompt.inputs["attention_mask"], ((0, 0), (0, 1)), constant_values=1)
    return decoder_inputs(prompt.expected, ids, mask)


def _encoder_inputs(model: InternVL, graph: str) -> dict[str, np.ndarray]:
    pixels = {"pixel_values": synthetic_pixels(model.info.vision.image_size, _PICTURES)}
    if graph == "vision":
        return pixels
    if graph == "text":
        return {"input_ids": _TEXT_IDS}
    states = {"vision_states": model.run_graph("vision", pixels)["vision_states"]}
    return states if graph == "query" else {**states, "input_ids": _TEXT_IDS}


def _ran(model: InternVL, graph: str, profile: int, inputs: Mapping[str, np.ndarray]) -> Case:
    return Case(graph=graph, profile=profile, inputs=inputs, expected=model.run_graph(graph, inputs))
