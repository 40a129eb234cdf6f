"""The graph `connector`: vision states to the tokens of a chat checkpoint's language model."""

from torch import Tensor, nn

from internvl_edge.export.models.config import ConnectorConfig
from internvl_edge.export.models.connector import shuffled
from internvl_edge.export.models.graph_modules.specs import GraphInput, GraphOptions, vision_states
from internvl_edge.export.models.internvl import InternVLModel


class ConnectorGraph(nn.Module):
    """Module from vision states to the language model's tokens: pixel shuffle and mlp1 (MODEL.md 6)."""

    def __init__(self, model: InternVLModel, config: ConnectorConfig) -> None:
        super().__init__()
        self.mlp1 = model.mlp1
        self.config = config

    def forward(self, vision_states: Tensor) -> Tensor:
        """Return vit_embeds ``[B, T, H_llm]``."""
        embeds: Tensor = self.mlp1(shuffled(vision_states, self.config))
        return embeds


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return ConnectorGraph(model, options.config.need(ConnectorConfig))


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the vision states."""
    return (vision_states(options),)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the tokens."""
    return ("vit_embeds",)


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return an empty tuple, as the graph has no blocks."""
    return ()
