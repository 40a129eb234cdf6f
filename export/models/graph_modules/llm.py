"""The graph `llm`: embeddings and a cache to the logits of the next token of an answer."""

import torch
from torch import Tensor, nn

from internvl_edge.export.models.config import LanguageConfig
from internvl_edge.export.models.families.language_model import LANGUAGE_BLOCK
from internvl_edge.export.models.graph_modules.specs import (
    PAST,
    PRESENT,
    GraphInput,
    GraphOptions,
    cache_names,
)
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.language import LanguageContext
from internvl_edge.export.models.layers import AttentionBias


class LlmGraph(nn.Module):
    """Module for a causal chunk of rows after cached rows: the prompt in chunks first, then one row per step."""

    def __init__(self, model: InternVLModel, config: LanguageConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.language_model = model.language_model
        self.follows_length = config.rope.follows_length
        self.attention_bias = AttentionBias(dtype)

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits of the last row ``[B, V]``, then key and value of every layer ``[B, kv heads, P + n, D]``.

        `attention_mask` ``[B, P + n]`` is 1 for rows that count. `rest` is the cache; where angles depend on the length
        of the whole request, that length ``[1]`` precedes it.
        """
        length, past = (rest[0], rest[1:]) if self.follows_length else (None, rest)
        context = self.context(attention_mask, position_ids, length, past[0].shape[2])
        caches = list(zip(past[::2], past[1::2], strict=True))
        last, caches = self.language_model.model(inputs_embeds, context, caches)
        logits = self.language_model.logits(last[:, -1:])
        return logits.squeeze(1).float(), *(tensor for cache in caches for tensor in cache)

    def context(
        self, attention_mask: Tensor, position_ids: Tensor, length: Tensor | None, held: int
    ) -> LanguageContext:
        """Return the context in which new rows see cached and new rows up to their own that the mask allows."""
        total = held + position_ids.shape[1]
        causal = torch.arange(total).unsqueeze(0) <= torch.arange(held, total).unsqueeze(1)
        bias = self.attention_bias(causal.unsqueeze(0) & (attention_mask > 0).unsqueeze(1))
        cos, sin = self.language_model.model.rotary(position_ids, length)
        return LanguageContext(cos=cos.to(bias.dtype), sin=sin.to(bias.dtype), bias=bias)


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return LlmGraph(model, options.config.need(LanguageConfig), options.dtype)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the embeddings, the mask, the positions, the length if angles depend on it, and the cache."""
    language = options.config.need(LanguageConfig)
    shape = ("batch", language.num_kv_heads, "past", language.head_dim)
    length = GraphInput(name="rope_length", dtype=torch.int64, shape=(1,))
    return (
        GraphInput(name="inputs_embeds", dtype=options.dtype, shape=("batch", "length", language.hidden_size)),
        GraphInput(name="attention_mask", dtype=torch.int64, shape=("batch", "total")),
        GraphInput(name="position_ids", dtype=torch.int64, shape=("batch", "length")),
        *([length] if language.rope.follows_length else []),
        *(GraphInput(name=name, dtype=options.dtype, shape=shape) for name in cache_names(language.num_layers, PAST)),
    )


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the logits, and the cache with the new rows."""
    return ("logits", *cache_names(options.config.need(LanguageConfig).num_layers, PRESENT))


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return all blocks of the language model."""
    return tuple(LANGUAGE_BLOCK.format(i) for i in range(options.config.need(LanguageConfig).num_layers))
