"""The graph `decoder`: token ids and a cache to the logits of the next token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl_edge.export.models.config import QllamaConfig
from internvl_edge.export.models.families.qllama import QLLAMA_STACK
from internvl_edge.export.models.graph_modules.specs import (
    PAST,
    PRESENT,
    GraphInput,
    GraphOptions,
    Stream,
    cache_names,
    input_ids,
)
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.layers import AttentionBias
from internvl_edge.export.models.qllama import Context, flat


class DecoderGraph(nn.Module):
    """Module for a causal chunk of tokens after cached rows: the prompt first, then one token per step."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.attention_bias = AttentionBias(dtype)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits of the last row ``[B, V]``, then key and value of every layer ``[B, H, P + n, D]``.

        `attention_mask` ``[B, P + n]`` is 1 for rows that count: queries, kept prompt ids and new tokens.
        """
        context = self.context(attention_mask, position_ids, past[0].shape[2])
        caches = list(zip(past[::2], past[1::2], strict=True))
        last, caches = self.qllama.model(self.qllama.model.embed_tokens(input_ids), context, caches)
        normed = self.qllama.model.norm(last[:, -1:])
        return self.qllama.lm_head(normed).squeeze(1).float(), *flat(caches)

    def context(self, attention_mask: Tensor, position_ids: Tensor, held: int) -> Context:
        """Return the context in which new rows see cached and new rows up to their own that the mask allows."""
        total = held + position_ids.shape[1]
        causal = torch.arange(total).unsqueeze(0) <= torch.arange(held, total).unsqueeze(1)
        allowed = causal.unsqueeze(0) & (attention_mask > 0).unsqueeze(1)
        return Context(positions=position_ids, bias=self.attention_bias(allowed))


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return DecoderGraph(model, options.dtype)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the ids, the mask, the positions, and the cache."""
    qllama = options.config.need(QllamaConfig)
    shape = ("batch", qllama.num_heads, "past", qllama.head_dim)
    mask = GraphInput(name="attention_mask", dtype=torch.int64, shape=("batch", "total"))
    positions = GraphInput(name="position_ids", dtype=torch.int64, shape=("batch", "length"))
    names = cache_names(qllama.num_layers, PAST)
    past = (GraphInput(name=name, dtype=options.dtype, shape=shape) for name in names)
    return (input_ids("batch"), mask, positions, *past)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the logits, and the cache with the new rows."""
    return ("logits", *cache_names(options.config.need(QllamaConfig).num_layers, PRESENT))


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return all blocks of QLLaMA."""
    return QLLAMA_STACK.blocks(options.config)


def stream(model: InternVLModel, pixel_values: Tensor, ids: Tensor | None) -> Stream:
    """Return the stream of captions ``[B, n]`` after the cached rows."""
    assert ids is not None
    known, graph = ids, DecoderGraph(model, torch.float32)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        kept = known[rows] > 0
        mask = F.pad(kept.long(), (held, 0), value=1)
        positions = (held + torch.arange(known.shape[1])).expand(kept.shape[0], -1)
        return graph.context(mask, positions, held)

    return Stream(lambda: model.qllama.model.embed_tokens(known), context, lambda rows: known[rows] > 0)
