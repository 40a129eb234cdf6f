"""The language model of a chat checkpoint: one decoder with switches for all families (CHAT.md 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl_edge.export.models.config import LanguageConfig, RopeConfig
from internvl_edge.export.models.layers import RMSNorm, constant, merge_heads

Cache = tuple[Tensor, Tensor]
"""Keys (after rotation) and values of one layer, each ``[B, kv heads, P, D]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageContext:
    """Inputs of every layer of one forward besides the residual stream."""

    cos: Tensor
    """Cosine of the angle of each pair of channels at each position ``[B, n, D / 2]``."""
    sin: Tensor
    bias: Tensor
    """Bias on the scores ``[B, 1, n, P + n]``."""


class Rotary(nn.Module):
    """The angles of positions by the rule of the family, in fp32; it has no tensors."""

    def __init__(self, config: RopeConfig, head_dim: int) -> None:
        super().__init__()
        self.config = config
        self.head_dim = head_dim

    def forward(self, positions: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return cosine and sine ``[B, n, D / 2]`` of `positions` ``[B, n]``, pairing the halves of a head.

        `length` ``[1]`` is the length of the whole request, for rules that depend on it.
        """
        angles = positions.unsqueeze(2).float() * self._frequencies(positions, length)
        magnitude = self.config.magnitude
        if magnitude == 1:
            return angles.cos(), angles.sin()
        return angles.cos() * magnitude, angles.sin() * magnitude

    def _frequencies(self, positions: Tensor, length: Tensor | None) -> Tensor:
        """Return the frequency of each pair of channels ``[D / 2]`` in a request of `length` positions."""
        rope, plain = self.config, _plain_frequencies(self.config.theta, self.head_dim)

        def fixed(values: np.ndarray) -> Tensor:
            held: Tensor = constant(positions, values.tolist())
            return held

        if rope.kind == "linear":
            return fixed(plain / np.float32(rope.factor))
        if rope.kind == "plain":
            return fixed(plain)
        assert length is not None
        if rope.kind == "su":
            factors = (rope.short_factors, rope.long_factors)
            short, long = (fixed(plain / np.array(values, np.float32)) for values in factors)
            return torch.where(length > rope.limit, long, short)
        # theta' is theta * scale^(d / (d - 2)); up to the limit the scale is at most 1, and 1 leaves theta as it is.
        scale = (length.float() * (rope.factor / rope.limit) - (rope.factor - 1)).clamp(min=1.0)
        exponents = -np.arange(0, self.head_dim, 2) / (self.head_dim - 2)
        return fixed(plain) * scale ** fixed(exponents)


def _plain_frequencies(theta: float, head_dim: int) -> np.ndarray:
    """Return ``theta^(-2 i / D)`` ``[D / 2]``, rounded to fp32 where the reference rounds."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies: np.ndarray = np.float32(1) / np.float32(theta) ** exponents
    return frequencies


class LanguageAttention(nn.Module):
    """Grouped self-attention with a rotation and a cache of earlier rows."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.rows = config.qkv_rows
        width, queries, keys = config.hidden_size, self.heads * self.head_dim, self.kv_heads * self.head_dim
        if config.qkv_rows == "separate":
            self.q_proj = nn.Linear(width, queries, bias=config.qkv_bias)
            self.k_proj = nn.Linear(width, keys, bias=config.qkv_bias)
            self.v_proj = nn.Linear(width, keys, bias=config.qkv_bias)
        else:
            self.qkv_proj = nn.Linear(width, queries + 2 * keys, bias=config.qkv_bias)
        self.q_norm = RMSNorm(self.head_dim, config.eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.eps) if config.qk_norm else nn.Identity()
        self.o_proj = nn.Linear(queries, width, bias=config.out_bias)

    def forward(self, x: Tensor, context: LanguageContext, past: Cache) -> tuple[Tensor, Cache]:
        """Return ``[B, n, H]`` and the cache with the new rows appended."""
        q, k, v = self._projected(x)
        q = _rotated(self.q_norm(q).transpose(1, 2), context)
        k = _rotated(self.k_norm(k).transpose(1, 2), context)
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v.transpose(1, 2)], dim=2)
        attended = F.scaled_dot_product_attention(q, k, v, context.bias, enable_gqa=self.heads > self.kv_heads)
        out: Tensor = self.o_proj(merge_heads(attended))
        return out, (k, v)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries ``[B, n, heads, D]``, keys and values ``[B, n, kv heads, D]``."""
        if self.rows == "separate":
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        elif self.rows == "stacked":
            keys = self.kv_heads * self.head_dim
            q, k, v = self.qkv_proj(x).split([self.heads * self.head_dim, keys, keys], dim=-1)
        else:
            shared = self.heads // self.kv_heads
            groups = self.qkv_proj(x).unflatten(-1, (self.kv_heads, shared + 2, self.head_dim))
            q, k, v = (part.flatten(2) for part in groups.split([shared, 1, 1], dim=3))
        heads = (self.heads, self.kv_heads, self.kv_heads)
        q, k, v = (part.unflatten(-1, (count, self.head_dim)) for part, count in zip((q, k, v), heads, strict=True))
        return q, k, v


def _rotated(x: Tensor, context: LanguageContext) -> Tensor:
    rotated: Tensor = torch.onnx.ops.rotary_embedding(x, context.cos, context.sin)
    return rotated


class LanguageMLP(nn.Module):
    """Gated MLP: ``down(silu(gate(x)) * up(x))``, with gate and up as two matrices or as one."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.stacked = config.stacked_mlp
        if self.stacked:
            self.gate_up_proj = nn.Linear(width, 2 * hidden, bias=False)
        else:
            self.gate_proj = nn.Linear(width, hidden, bias=False)
            self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, n, H]``."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1) if self.stacked else (self.gate_proj(x), self.up_proj(x))
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out


class LanguageLayer(nn.Module):
    """One pre-norm layer: attention, then MLP."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.eps)
        self.self_attn = LanguageAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.eps)
        self.mlp = LanguageMLP(config)

    def forward(self, x: Tensor, context: LanguageContext, past: Cache) -> tuple[Tensor, Cache]:
        """Return the residual stream ``[B, n, H]`` after this layer, and its cache."""
        attended, cache = self.self_attn(self.input_layernorm(x), context, past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class TokenTable(nn.Module):
    """The table of token embeddings, which is the head too in some models."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows ``[B, n, H]`` of ids ``[B, n]``, or the logits ``[B, n, V]`` of floating states."""
        return F.linear(x, self.weight) if x.is_floating_point() else F.embedding(x, self.weight)


class LanguageStack(nn.Module):
    """Embedding table, layers and final norm."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.embed_tokens = TokenTable(config)
        self.rotary = Rotary(config.rope, config.head_dim)
        self.layers = nn.ModuleList(LanguageLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.eps)

    def forward(self, x: Tensor, context: LanguageContext, past: Sequence[Cache]) -> tuple[Tensor, list[Cache]]:
        """Return the last layer's output ``[B, n, H]`` before `norm`, and the caches of all layers."""
        caches = []
        for layer, held in zip(self.layers, past, strict=True):
            x, cache = layer(x, context, held)
            caches.append(cache)
        return x, caches


class LanguageModel(nn.Module):
    """The decoder with its head, which the embedding table is if the checkpoint stores none."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.model = LanguageStack(config)
        if not config.tied_head:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits ``[B, n, V]`` of the last layer's output ``[B, n, H]``."""
        head = getattr(self, "lm_head", self.model.embed_tokens)
        logits: Tensor = head(self.model.norm(states))
        return logits
