"""The graph `itm`: vision states and a text to the logits of whether they match."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl_edge.export.models.families.qllama import QLLAMA_STACK
from internvl_edge.export.models.graph_modules.specs import (
    GraphInput,
    GraphOptions,
    Stream,
    input_ids,
    vision_states,
)
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.layers import AttentionBias
from internvl_edge.export.models.qllama import Context


class ItmGraph(nn.Module):
    """Module for image-text matching: queries and text see each other, and only padding is masked (MODEL.md 3.8)."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.query_tokens = model.query_tokens
        self.itm_head = model.itm_head
        self.attention_bias = AttentionBias(dtype)

    def forward(self, vision_states: Tensor, input_ids: Tensor) -> Tensor:
        """Return itm_logits ``[B, 2]``; column 1 is the logit of a match."""
        return self.per_query(vision_states, input_ids).mean(dim=1).float()

    def per_query(self, vision_states: Tensor, input_ids: Tensor) -> Tensor:
        """Return the head's logits of every query row, ``[B, Q, 2]``."""
        last, _ = self.qllama.model(self.rows(input_ids), self.context(vision_states, input_ids))
        logits: Tensor = self.itm_head(self.qllama.model.norm(last[:, : self.query_tokens.shape[1]]))
        return logits

    def rows(self, input_ids: Tensor) -> Tensor:
        """Return queries and embedded text, ``[B, Q + L, Ht]``."""
        text = self.qllama.model.embed_tokens(input_ids)
        return torch.cat([self.query_tokens.expand(input_ids.shape[0], -1, -1), text], dim=1)

    def context(self, vision_states: Tensor, input_ids: Tensor) -> Context:
        """Return the context in which every row sees all rows that are not padding."""
        queries = self.query_tokens.shape[1]
        kept = F.pad(input_ids, (queries, 0), value=1) > 0
        length = queries + input_ids.shape[1]
        positions = torch.arange(length).unsqueeze(0).expand(input_ids.shape[0], -1)
        bias = self.attention_bias(kept.unsqueeze(1).expand(-1, length, -1))
        return Context(positions=positions, bias=bias, vision_states=vision_states, num_queries=queries)


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return ItmGraph(model, options.dtype)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the vision states, and the ids of one text for each picture."""
    return (vision_states(options), input_ids("batch"))


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the logits."""
    return ("itm_logits",)


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return all blocks of QLLaMA."""
    return QLLAMA_STACK.blocks(options.config)


def stream(model: InternVLModel, pixel_values: Tensor, ids: Tensor | None) -> Stream:
    """Return the stream of queries followed by the texts ``[B, L]``."""
    assert ids is not None
    known, graph = ids, ItmGraph(model, torch.float32)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        assert vision is not None
        return graph.context(vision, known[rows])

    def valid(rows: slice) -> Tensor:
        return F.pad(known[rows] > 0, (model.query_tokens.shape[1], 0), value=True)

    return Stream(lambda: ItmGraph(model, torch.float32).rows(known), context, valid)
