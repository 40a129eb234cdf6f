"""The connector of a chat checkpoint: pixel shuffle and mlp1 (MODEL.md 6)."""

import math

from torch import Tensor, nn

from internvl_edge.export.models.config import ConnectorConfig

CONNECTOR_NORM_EPS = 1e-5
"""Epsilon of mlp1's LayerNorm: torch's default, unlike the towers' 1e-6."""


def connector_mlp(config: ConnectorConfig, vision_width: int) -> nn.Sequential:
    """Return `mlp1` from a cell of the pixel shuffle to the LLM's width: LayerNorm, Linear, erf GELU, Linear."""
    cell = vision_width * config.factor**2
    return nn.Sequential(
        nn.LayerNorm(cell, CONNECTOR_NORM_EPS),
        nn.Linear(cell, config.llm_hidden_size),
        nn.GELU(),
        nn.Linear(config.llm_hidden_size, config.llm_hidden_size),
    )


def pixel_shuffle(patches: Tensor, factor: int, version: str) -> Tensor:
    """Return ``[B, g, g, C]`` as ``[B, g/f, g/f, f*f*C]``, with channels in the order (row in cell, column in cell, C).

    In version v1 (InternVL-Chat 1.2), the grid of cells is transposed.
    """
    batch, rows, columns, width = patches.shape
    cells = patches.reshape(batch, rows // factor, factor, columns // factor, factor, width)
    order = (0, 1, 3, 2, 4, 5) if version == "v2" else (0, 3, 1, 2, 4, 5)
    return cells.permute(order).flatten(3)


def patch_grid(states: Tensor) -> Tensor:
    """Return the patches of ``[B, 1 + g*g, C]`` as ``[B, g, g, C]``, without the class token."""
    side = math.isqrt(states.shape[1] - 1)
    return states[:, 1:].reshape(states.shape[0], side, side, states.shape[2])


def shuffled(states: Tensor, config: ConnectorConfig) -> Tensor:
    """Return the input of mlp1, ``[B, T, f*f*C]``, of the tower's states ``[B, 1 + g*g, C]``."""
    return pixel_shuffle(patch_grid(states), config.factor, config.ps_version).flatten(1, 2)
