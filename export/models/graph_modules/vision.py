"""The graph `vision`: pictures to the tower's states and the picture feature."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from internvl_edge.export.models.config import ConnectorConfig, PoolConfig
from internvl_edge.export.models.connector import patch_grid
from internvl_edge.export.models.families.internvit import VISION_BLOCK
from internvl_edge.export.models.graph_modules.specs import GraphInput, GraphOptions, Stream, pixel_values
from internvl_edge.export.models.internvl import InternVLModel

_EMBEDDED_AT_ONCE = 8
"""Pictures of one call of the patch embedding, whose unfolded patches are as large as the pictures."""


class VisionGraph(nn.Module):
    """Module from pictures to vision states, pooled feature and the patch maps of chosen blocks."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype, last: int, feature_layers: Sequence[int]) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.clip_projector = getattr(model, "clip_projector", None)
        self.dtype = dtype
        self.last = last % (len(model.vision_model.encoder.layers) + 1)
        self.features = tuple(layer + 1 for layer in feature_layers)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Return vision_states ``[B, N, Hv]``, image_embeds ``[B, D]`` if pooled, maps ``[B, Hv, g, g]``."""
        states = self.vision_model(pixel_values.to(self.dtype), (self.last, *self.features))
        outputs = [states[self.last]]
        if self.clip_projector is not None:
            outputs.append(self.clip_projector(states[self.last]).float())
        outputs += [patch_grid(states[index]).permute(0, 3, 1, 2) for index in self.features]
        return tuple(outputs)


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return VisionGraph(model, options.dtype, _last(options), options.feature_layers)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the pictures."""
    return (pixel_values(options),)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the states, the pooled feature where the model has it, and the patch maps asked for."""
    pooled = ("image_embeds",) if options.config.find(PoolConfig) is not None else ()
    return ("vision_states", *pooled, *(f"feature_{layer}" for layer in options.feature_layers))


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return the blocks up to the last one that an output needs."""
    last = _last(options) % (options.config.vision.num_layers + 1)
    return tuple(
        VISION_BLOCK.format(index) for index in range(max([last, *(layer + 1 for layer in options.feature_layers)]))
    )


def _last(options: GraphOptions) -> int:
    """Return the index of the tower's states that are the output: 0 is before the first block, -1 after the last."""
    connector = options.config.find(ConnectorConfig)
    return connector.select_layer if connector is not None else -1


def stream(model: InternVLModel, pixel_values: Tensor, ids: Tensor | None) -> Stream:
    """Return the stream of the patches, embedded from a few pictures at a time."""
    embeddings = model.vision_model.embeddings
    return Stream(lambda: torch.cat([embeddings(part) for part in torch.split(pixel_values, _EMBEDDED_AT_ONCE)]))
