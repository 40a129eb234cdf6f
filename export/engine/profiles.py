"""Optimization profiles of each graph: min, opt and max of every dynamic axis."""

from collections.abc import Mapping

from internvl_edge.export.config import ModelConfig
from internvl_edge.export.engine.builder import Shapes
from internvl_edge.export.models.graphs import GraphInput, graph_inputs

Range = tuple[int, int, int]

_BATCH: Range = (1, 1, 8)
_TEXT: Range = (1, 16, 80)
"""80 tokens is the model's limit, bos and eos included."""
_PROMPT: Range = (1, 5, 16)
_NEW_TOKENS = 64
"""How far one plan can generate behind the prompt."""


def profiles_for(name: str, config: ModelConfig) -> list[dict[str, Shapes]]:
    """Return the profiles of graph `name`; the decoder has two: a prompt chunk, and one token on a growing past."""
    axes = [{"batch": _BATCH, "texts": _BATCH, "length": _TEXT}]
    if name == "decoder" and config.qllama is not None:
        queries = config.qllama.num_queries
        longest = queries + _PROMPT[2] + _NEW_TOKENS
        prompt = {"batch": _BATCH, "length": _PROMPT, "past": (queries, queries, queries)}
        step = {"batch": _BATCH, "length": (1, 1, 1), "past": (queries + 1, queries + 16, longest)}
        axes = [prompt, step]
    return [_profile(graph_inputs(name, config), ranges) for ranges in axes]


def _profile(inputs: tuple[GraphInput, ...], ranges: Mapping[str, Range]) -> dict[str, Shapes]:
    full = dict(ranges)
    if "past" in full:
        full["total"] = tuple(full["past"][i] + full["length"][i] for i in range(3))  # type: ignore[assignment]
    return {
        item.name: tuple(tuple(full[d][i] if isinstance(d, str) else d for d in item.shape) for i in range(3))  # type: ignore[misc]
        for item in inputs
        if any(isinstance(d, str) for d in item.shape)
    }
