"""The graph `query`: vision states to InternVL-G's feature and to the cache that captions start from."""

import torch
from torch import Tensor, nn

from internvl_edge.export.models.config import QllamaConfig
from internvl_edge.export.models.families.qllama import QLLAMA_STACK
from internvl_edge.export.models.graph_modules.specs import (
    PRESENT,
    GraphInput,
    GraphOptions,
    Stream,
    cache_names,
    vision_states,
)
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.qllama import Context, flat


class QueryGraph(nn.Module):
    """Module from vision states to the query transformer's outputs and the cache that captions start from."""

    def __init__(self, model: InternVLModel) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.query_tokens = model.query_tokens
        self.clip_projector2 = model.clip_projector2

    def forward(self, vision_states: Tensor) -> tuple[Tensor, ...]:
        """Return query_embeds ``[B, D]``, query_states ``[B, Q, Ht]``, then key and value of every layer."""
        rows = self.query_tokens.expand(vision_states.shape[0], -1, -1)
        last, caches = self.qllama.model(rows, self.context(vision_states))
        normed = self.qllama.model.norm(last)
        return self.clip_projector2(normed).float(), normed, *flat(caches)

    def context(self, vision_states: Tensor) -> Context:
        """Return the context in which every row sees all queries and the vision states."""
        batch, queries = vision_states.shape[0], self.query_tokens.shape[1]
        positions = torch.arange(queries).unsqueeze(0).expand(batch, -1)
        return Context(positions=positions, vision_states=vision_states)


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return QueryGraph(model)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the vision states."""
    return (vision_states(options),)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the pooled feature, the states, and the cache."""
    return ("query_embeds", "query_states", *cache_names(options.config.need(QllamaConfig).num_layers, PRESENT))


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return all blocks of QLLaMA."""
    return QLLAMA_STACK.blocks(options.config)


def stream(model: InternVLModel, pixel_values: Tensor, ids: Tensor | None) -> Stream:
    """Return the stream of the queries; it takes no ids."""
    graph = QueryGraph(model)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        assert vision is not None
        return graph.context(vision)

    return Stream(lambda: model.query_tokens.repeat(len(pixel_values), 1, 1), context)
