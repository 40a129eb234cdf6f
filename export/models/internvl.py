"""The whole model with the official parameter names; which parts exist follows from the config."""

import math

import torch
from torch import Tensor, nn

from internvl_edge.export.config import ConnectorConfig, ModelConfig, QllamaConfig
from internvl_edge.export.models.internvit import InternVisionModel
from internvl_edge.export.models.pool import AttentionPool
from internvl_edge.export.models.qllama import Qllama

CONNECTOR_NORM_EPS = 1e-5
"""mlp1's LayerNorm keeps torch's default eps, unlike the towers' 1e-6."""


class InternVLModel(nn.Module):
    """Holds the parts; the forwards live in `graphs`. Build it on the meta device: construction sets no weight."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vision_model = InternVisionModel(config.vision)
        if config.embed_dim is not None and config.pool_heads is not None:
            self.clip_projector = AttentionPool(config.vision.hidden_size, config.embed_dim, config.pool_heads)
        if config.qllama is not None:
            self._add_qllama(config, config.qllama)
        if config.connector is not None:
            self.mlp1 = connector_mlp(config.connector, config.vision.hidden_size)

    def _add_qllama(self, config: ModelConfig, text: QllamaConfig) -> None:
        """Add QLLaMA and what its graphs need; the plain-PyTorch InternVL-C file has the text encoder alone."""
        assert config.embed_dim is not None
        assert config.pool_heads is not None
        uses = config.qllama_graphs
        self.qllama = Qllama(text, with_head="decoder" in uses)
        self.text_projection = nn.Parameter(torch.empty(text.hidden_size, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        if "query" in uses:
            self.query_tokens = nn.Parameter(torch.empty(1, text.num_queries, text.hidden_size))
            self.clip_projector2 = AttentionPool(text.hidden_size, config.embed_dim, config.pool_heads)
        if "itm" in uses:
            self.itm_head = nn.Linear(text.hidden_size, 2)


def connector_mlp(config: ConnectorConfig, vision_width: int) -> nn.Sequential:
    """Return `mlp1`: LayerNorm, Linear, erf GELU, Linear, from a cell of shuffled pixels to the LLM's width."""
    cell = vision_width * round(1 / config.downsample) ** 2
    return nn.Sequential(
        nn.LayerNorm(cell, CONNECTOR_NORM_EPS),
        nn.Linear(cell, config.llm_hidden_size),
        nn.GELU(),
        nn.Linear(config.llm_hidden_size, config.llm_hidden_size),
    )


def pixel_shuffle(patches: Tensor, factor: int, version: str) -> Tensor:
    """Return ``[B, g, g, C]`` as ``[B, g/f, g/f, f*f*C]``; channels in order (row parity, column parity, C).

    Version v1 (InternVL-Chat 1.2) leaves the grid of cells transposed.
    """
    batch, rows, columns, width = patches.shape
    cells = patches.reshape(batch, rows // factor, factor, columns // factor, factor, width)
    order = (0, 1, 3, 2, 4, 5) if version == "v2" else (0, 3, 1, 2, 4, 5)
    return cells.permute(order).flatten(3)


def patch_grid(states: Tensor) -> Tensor:
    """Return the patch rows of ``[B, 1 + g*g, C]`` as ``[B, g, g, C]``: the class token is dropped."""
    side = math.isqrt(states.shape[1] - 1)
    return states[:, 1:].reshape(states.shape[0], side, side, states.shape[2])
