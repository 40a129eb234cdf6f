"""QLLaMA: one LLaMA that serves as query transformer, text encoder and caption decoder (MODEL.md 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl_edge.export.models.config import QllamaConfig
from internvl_edge.export.models.layers import RMSNorm, attend, merge_heads, split_heads

Cache = tuple[Tensor, Tensor]
"""Keys (after rotary) and values of one layer, each ``[B, H, P, D]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Inputs of every layer of one forward besides the residual stream."""

    positions: Tensor
    """Rotary positions ``[B, n]``."""
    bias: Tensor | None = None
    """Bias on the scores ``[B, 1, n, P + n]``; None if every row sees every row."""
    vision_states: Tensor | None = None
    """Vision states ``[B, N, Hv]`` for cross-attention; None skips it."""
    num_queries: int | None = None
    """Number of leading rows with cross-attention; None means all rows."""


def flat(caches: Sequence[Cache]) -> list[Tensor]:
    """Return key and value of every layer in one flat list."""
    return [tensor for cache in caches for tensor in cache]


class RotaryTable(nn.Module):
    """Tables of cosine and sine of every position, ``[max_positions, D / 2]``; no checkpoint stores them."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: QllamaConfig) -> None:
        super().__init__()
        shape = config.max_positions, config.head_dim // 2
        self.register_buffer("cos", torch.empty(shape), persistent=False)
        self.register_buffer("sin", torch.empty(shape), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return `x` ``[B, H, n, D]`` rotated by the angles of `positions` ``[B, n]``, pairing the halves of a head."""
        rotated: Tensor = torch.onnx.ops.rotary_embedding(x, self.cos, self.sin, positions)
        return rotated


def rotary_table(config: QllamaConfig, part: str) -> Tensor:
    """Return the fp32 table `part` ("cos" or "sin"), ``[max_positions, D / 2]``."""
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.max_positions, dtype=torch.float32), 1.0 / config.rope_theta**steps)
    return angles.cos() if part == "cos" else angles.sin()


class SelfAttention(nn.Module):
    """Self-attention with rotary embedding and a cache of earlier rows."""

    def __init__(self, config: QllamaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Context, rotary: RotaryTable, past: Cache | None) -> tuple[Tensor, Cache]:
        """Return ``[B, n, Ht]`` and the cache with the new rows appended."""
        q = rotary(split_heads(self.q_proj(x), self.heads), context.positions)
        k = rotary(split_heads(self.k_proj(x), self.heads), context.positions)
        v = split_heads(self.v_proj(x), self.heads)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        attended = F.scaled_dot_product_attention(q, k, v, context.bias)
        out: Tensor = self.o_proj(merge_heads(attended))
        return out, (k, v)


class CrossAttention(nn.Module):
    """Cross-attention of the leading query rows to the vision states, without rotary embedding and mask."""

    def __init__(self, config: QllamaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.norm1 = RMSNorm(width, config.eps)
        self.norm2 = RMSNorm(config.vision_hidden_size, config.eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(config.vision_hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.vision_hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, queries: Tensor, vision_states: Tensor) -> Tensor:
        """Return the update ``[B, Q, Ht]`` of the query rows."""
        vision = self.norm2(vision_states)
        q = self.q_proj(self.norm1(queries))
        out: Tensor = self.o_proj(attend(q, self.k_proj(vision), self.v_proj(vision), self.heads))
        return out


class GatedMLP(nn.Module):
    """Gated MLP: ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: QllamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, n, Ht]``."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """One layer: self-attention, cross-attention if the layer has it, and MLP, in this order."""

    def __init__(self, config: QllamaConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.eps)
        self.self_attn = SelfAttention(config)
        self.cross_attn = CrossAttention(config) if index in config.cross_attention_layers else None
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, context: Context, rotary: RotaryTable, past: Cache | None) -> tuple[Tensor, Cache]:
        """Return the residual stream ``[B, n, Ht]`` after this layer, and its cache."""
        attended, cache = self.self_attn(self.input_layernorm(x), context, rotary, past)
        x = x + attended
        if self.cross_attn is not None and context.vision_states is not None:
            x = self._cross_attend(x, context.vision_states, context.num_queries)
        return x + self.mlp(self.post_attention_layernorm(x)), cache

    def _cross_attend(self, x: Tensor, vision_states: Tensor, num_queries: int | None) -> Tensor:
        assert self.cross_attn is not None
        if num_queries is None:
            every: Tensor = x + self.cross_attn(x, vision_states)
            return every
        queries, rest = x[:, :num_queries], x[:, num_queries:]
        attended: Tensor = self.cross_attn(queries, vision_states)
        return torch.cat([queries + attended, rest], dim=1)


class QllamaModel(nn.Module):
    """Embedding table, layers and final norm."""

    def __init__(self, config: QllamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryTable(config)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.eps)

    def forward(self, x: Tensor, context: Context, past: list[Cache] | None = None) -> tuple[Tensor, list[Cache]]:
        """Return the last layer's output ``[B, n, Ht]`` before `norm`, and the caches of all layers."""
        caches = []
        for index, layer in enumerate(self.layers):
            x, cache = layer(x, context, self.rotary, past[index] if past else None)
            caches.append(cache)
        return x, caches


class Qllama(nn.Module):
    """The language model, with its head if `with_head`."""

    def __init__(self, config: QllamaConfig, *, with_head: bool) -> None:
        super().__init__()
        self.model = QllamaModel(config)
        if with_head:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
