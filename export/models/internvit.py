"""InternViT (6B and 300M families): patch embedding and pre-norm blocks, no final norm (MODEL.md 3.1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl_edge.export.models.config import VisionConfig
from internvl_edge.export.models.layers import RMSNorm, attend


def norm_layer(config: VisionConfig) -> nn.Module:
    """Return the tower's norm: RMSNorm in the 6B family, LayerNorm in the 300M family."""
    if config.norm_type == "rms_norm":
        return RMSNorm(config.hidden_size, config.eps)
    return nn.LayerNorm(config.hidden_size, config.eps)


class InternVisionEmbeddings(nn.Module):
    """Embedding of patches with the class token in front, plus a position table of fixed size."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.empty(1, config.tokens, width))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return ``[B, 1 + patches, Hv]`` of ``[B, 3, H, W]``."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        classes = self.class_embedding.expand(patches.shape[0], -1, -1)
        return torch.cat([classes, patches], dim=1) + self.position_embedding


class InternAttention(nn.Module):
    """Self-attention with packed qkv; the optional q/k norm spans the whole width, so it couples the heads."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        eps = config.eps if config.qk_eps is None else config.qk_eps
        self.q_norm = RMSNorm(width, eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width, eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention output ``[B, N, Hv]`` before layer scale."""
        q, k, v = self.qkv(x).split(x.shape[-1], dim=-1)
        attended: Tensor = self.proj(attend(self.q_norm(q), self.k_norm(k), v, self.heads))
        return attended


class InternMLP(nn.Module):
    """MLP of a block: fc1, erf GELU, fc2."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, Hv]``."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class InternVisionEncoderLayer(nn.Module):
    """One pre-norm block with layer scale."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = norm_layer(config)
        self.attn = InternAttention(config)
        self.ls1 = nn.Parameter(torch.empty(config.hidden_size))
        self.norm2 = norm_layer(config)
        self.mlp = InternMLP(config)
        self.ls2 = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream ``[B, N, Hv]`` after this block."""
        x = x + self.ls1 * self.attn(self.norm1(x))
        out: Tensor = x + self.ls2 * self.mlp(self.norm2(x))
        return out


class InternVisionEncoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(InternVisionEncoderLayer(config) for _ in range(config.num_layers))


class InternVisionModel(nn.Module):
    """The vision tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = InternVisionEmbeddings(config)
        self.encoder = InternVisionEncoder(config)

    def forward(self, pixel_values: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        """Return the hidden states ``[B, N, Hv]`` at `wanted` indexes: 0 is after the embeddings, i after block i - 1.

        Other states are not kept, because all states of a deep tower take more memory than the weights of a block.
        """
        x = self.embeddings(pixel_values)
        kept = {0: x} if 0 in wanted else {}
        for index, layer in enumerate(self.encoder.layers, start=1):
            x = layer(x)
            if index in wanted:
                kept[index] = x
        return kept


def resize_position_table(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the position table ``[1, S*S + 1, C]`` interpolated to ``[1, gh*gw + 1, C]`` (MODEL.md 7).

    The row of the class token is kept. The others are interpolated bicubically in fp32 without antialiasing and cast
    back. A table of the wanted size is returned unchanged.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if (side, side) == tuple(grid):
        return table
    square = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
