"""The graph `vision` of a chat checkpoint: tiles to the embeddings that the language model takes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from internvl_edge.export.models.config import ConnectorConfig
from internvl_edge.export.models.connector import patch_grid, shuffled
from internvl_edge.export.models.graph_modules import vision
from internvl_edge.export.models.graph_modules.specs import GraphInput, GraphOptions
from internvl_edge.export.models.internvl import InternVLModel


class TilesGraph(nn.Module):
    """Module for tower, pixel shuffle and mlp1 in one, and the patch maps of chosen blocks."""

    def __init__(
        self, model: InternVLModel, config: ConnectorConfig, dtype: torch.dtype, feature_layers: Sequence[int]
    ) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.mlp1 = model.mlp1
        self.config = config
        self.dtype = dtype
        self.last = config.select_layer % (len(model.vision_model.encoder.layers) + 1)
        self.features = tuple(layer + 1 for layer in feature_layers)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Return vit_embeds ``[B, T, H_llm]``, then maps ``[B, Hv, g, g]``."""
        states = self.vision_model(pixel_values.to(self.dtype), (self.last, *self.features))
        embeds = self.mlp1(shuffled(states[self.last], self.config))
        return embeds, *(patch_grid(states[index]).permute(0, 3, 1, 2) for index in self.features)


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return TilesGraph(model, options.config.need(ConnectorConfig), options.dtype, options.feature_layers)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the tiles."""
    return vision.inputs(options)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the embeddings, and the patch maps asked for."""
    return ("vit_embeds", *(f"feature_{layer}" for layer in options.feature_layers))


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return the blocks up to the last one that an output needs."""
    return vision.blocks(options)
