"""The graph `connector`: vision states to the tokens of a chat checkpoint's language model."""

from torch import Tensor, nn

from internvl_edge.export.models.config import ConnectorConfig
from internvl_edge.export.models.connector import patch_grid, pixel_shuffle
from internvl_edge.export.models.graph_modules.specs import GraphInput, GraphOptions, vision_states
from internvl_edge.export.models.internvl import InternVLModel


class ConnectorGraph(nn.Module):
    """Module from vision states to the language model's tokens: pixel shuffle and mlp1 (MODEL.md 6)."""

    def __init__(self, model: InternVLModel, downsample: float, version: str) -> None:
        super().__init__()
        self.mlp1 = model.mlp1
        self.factor = round(1 / downsample)
        self.version = version

    def forward(self, vision_states: Tensor) -> Tensor:
        """Return vit_embeds ``[B, T, H_llm]``."""
        cells = pixel_shuffle(patch_grid(vision_states), self.factor, self.version)
        embeds: Tensor = self.mlp1(cells.flatten(1, 2))
        return embeds


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    connector = options.config.need(ConnectorConfig)
    return ConnectorGraph(model, connector.downsample, connector.ps_version)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the vision states."""
    return (vision_states(options),)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the tokens."""
    return ("vit_embeds",)


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return an empty tuple, as the graph has no blocks."""
    return ()
