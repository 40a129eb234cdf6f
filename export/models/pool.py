"""Attention pooling: one query, the mean of all tokens, on three separately normalised views (MODEL.md 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl_edge.export.models.layers import attend

POOL_NORM_EPS = 1e-5
"""Epsilon of the pools' LayerNorms: torch's default, unlike the towers' 1e-6."""


class PoolAttention(nn.Module):
    """Multi-head attention whose q, k, v biases are parameters beside linears without bias."""

    def __init__(self, width: int, embed_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.empty(width))
        self.k_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.proj = nn.Linear(width, embed_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return ``[B, 1, D]`` for one query ``[B, 1, C]`` and keys and values from ``[B, N, C]``."""
        q = F.linear(q, self.q.weight, self.q_bias)
        k = F.linear(k, self.k.weight, self.k_bias)
        v = F.linear(v, self.v.weight, self.v_bias)
        out: Tensor = self.proj(attend(q, k, v, self.heads))
        return out


class AttentionPool(nn.Module):
    """Pooling of ``[B, N, C]`` to one feature ``[B, D]``, over all tokens including the class token."""

    def __init__(self, width: int, embed_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1_q = nn.LayerNorm(width, POOL_NORM_EPS)
        self.norm1_k = nn.LayerNorm(width, POOL_NORM_EPS)
        self.norm1_v = nn.LayerNorm(width, POOL_NORM_EPS)
        self.cross_attn = PoolAttention(width, embed_dim, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled feature ``[B, D]``, not normalized to unit length."""
        query = x.mean(dim=1, keepdim=True)
        pooled: Tensor = self.cross_attn(self.norm1_q(query), self.norm1_k(x), self.norm1_v(x))
        return pooled.squeeze(1)
