"""Layers that several parts share: norm, attention with heads, attention bias, selection of rows, and constants."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -3.0e4
"""Bias of a masked score in fp16. The sum with a score is finite, so that a row without any key stays finite."""
DEEPLY_MASKED = -1.0e30
"""Bias of a masked score in other types: its magnitude is larger than that of any score."""


class AttentionBias(nn.Module):
    """Convert "row i sees key j" to a bias on the scores: 0, or a large negative number."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.masked = MASKED if dtype == torch.float16 else DEEPLY_MASKED

    def forward(self, allowed: Tensor) -> Tensor:
        """Return the bias ``[B, 1, n, m]`` in the model's type for the boolean `allowed` ``[B, n, m]``."""
        return torch.where(allowed, 0.0, self.masked).to(self.dtype).unsqueeze(1)


class RMSNorm(nn.Module):
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last axis, fp32 inside."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` ``[..., C]`` normalized over C."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return ``[B, N, H*D]`` as ``[B, H, N, D]``."""
    batch, rows, width = x.shape
    return x.view(batch, rows, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return ``[B, H, N, D]`` as ``[B, N, H*D]``."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Return ``softmax(q k^T / sqrt(D) + bias) v`` for packed q, k, v ``[B, N, H*D]``, packed again."""
    q, k, v = (split_heads(t, heads) for t in (q, k, v))
    return merge_heads(F.scaled_dot_product_attention(q, k, v, bias))


@torch.library.custom_op("internvl_edge::select_rows", mutates_args=())
def select_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return row ``index[b]`` of ``x[b]``: ``[B, N, C]`` and ``[B]`` give ``[B, C]``; -1 is the last row.

    It is a custom operator because torch's indexing would become a chain of eight ONNX nodes; this is one GatherND.
    """
    return x[torch.arange(x.shape[0]), index]


@select_rows.register_fake
def _(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2])


@torch.library.custom_op("internvl_edge::constant", mutates_args=())
def constant(beside: Tensor, values: Sequence[float]) -> Tensor:
    """Return `values` as an fp32 tensor ``[N]`` on the device of the tensor `beside`.

    It is a custom operator because a tensor that is made while a graph is traced has no values; this is one Constant.
    """
    return torch.tensor(values, dtype=torch.float32, device=beside.device)


@constant.register_fake
def _(beside: Tensor, values: Sequence[float]) -> Tensor:
    return beside.new_empty(len(values), dtype=torch.float32)
