"""The graph `embed_tokens`: token ids to the embeddings that `llm` takes."""

from torch import Tensor, nn

from internvl_edge.export.models.graph_modules.specs import GraphInput, GraphOptions, input_ids
from internvl_edge.export.models.internvl import InternVLModel


class EmbedTokensGraph(nn.Module):
    """Module for rows of the table of token embeddings."""

    def __init__(self, model: InternVLModel) -> None:
        super().__init__()
        self.language_model = model.language_model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return inputs_embeds ``[B, n, H]`` of ids ``[B, n]``."""
        embeds: Tensor = self.language_model.model.embed_tokens(input_ids)
        return embeds


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return EmbedTokensGraph(model)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the ids."""
    return (input_ids("batch"),)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the embeddings."""
    return ("inputs_embeds",)


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return an empty tuple, as the graph has no blocks."""
    return ()
