"""Building blocks that InternViT and QLLaMA share: norms, attention over split heads, and the row selector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -3.0e4
"""Added to a masked fp16 score. Finite even on top of the score, so that a row without any key stays finite."""
DEEPLY_MASKED = -1.0e30
"""The same in types that hold it: scores of any size stay below it."""


class AttentionBias(nn.Module):
    """Turn "may row i see key j" into what is added to the scores: 0, or what no score outweighs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.masked = MASKED if dtype == torch.float16 else DEEPLY_MASKED

    def forward(self, allowed: Tensor) -> Tensor:
        """Return ``[B, 1, n, m]`` in the model's type of the boolean ``[B, n, m]`` (or broadcastable)."""
        return torch.where(allowed, 0.0, self.masked).to(self.dtype).unsqueeze(1)


class RMSNorm(nn.Module):
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last axis, fp32 inside."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` ``[..., C]`` normalised over C."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return ``[B, N, H*D]`` as ``[B, H, N, D]``."""
    batch, rows, width = x.shape
    return x.view(batch, rows, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return ``[B, H, N, D]`` as ``[B, N, H*D]``."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(D) + bias) v of packed heads ``[B, N, H*D]``, packed again."""
    q, k, v = (split_heads(t, heads) for t in (q, k, v))
    return merge_heads(F.scaled_dot_product_attention(q, k, v, bias))


@torch.library.custom_op("internvl_edge::select_rows", mutates_args=())
def select_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return row ``index[b]`` of ``x[b]``: ``[B, N, C]`` and ``[B]`` give ``[B, C]``; -1 is the last row.

    An operator of its own because torch's indexing would reach ONNX as a chain of eight nodes; this is one GatherND.
    """
    return x[torch.arange(x.shape[0]), index]


@select_rows.register_fake
def _(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2])
