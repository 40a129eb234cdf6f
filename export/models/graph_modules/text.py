"""The graph `text`: token ids to the text feature."""

import torch
from torch import Tensor, nn

from internvl_edge.export.models.families.qllama import QLLAMA_STACK
from internvl_edge.export.models.graph_modules.specs import GraphInput, GraphOptions, Stream, input_ids
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.layers import AttentionBias, select_rows
from internvl_edge.export.models.qllama import Context


class TextGraph(nn.Module):
    """Module for the text feature: causal attention, padding (id 0) masked, projection of the last row of the text."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.text_projection = model.text_projection
        self.attention_bias = AttentionBias(dtype)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return text_embeds ``[T, D]`` of ids ``[T, L]``."""
        normed = self.hidden_states(input_ids)
        last = (input_ids > 0).sum(dim=1) - 1
        embeds: Tensor = select_rows(normed, last) @ self.text_projection
        return embeds.float()

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Return the normed states ``[T, L, Ht]``."""
        last, _ = self.qllama.model(self.qllama.model.embed_tokens(input_ids), self.context(input_ids))
        normed: Tensor = self.qllama.model.norm(last)
        return normed

    def context(self, input_ids: Tensor) -> Context:
        """Return the context in which every row sees rows up to its own that are not padding."""
        steps = torch.arange(input_ids.shape[1])
        causal = steps.unsqueeze(0) <= steps.unsqueeze(1)
        allowed = causal.unsqueeze(0) & (input_ids > 0).unsqueeze(1)
        positions = steps.unsqueeze(0).expand(input_ids.shape[0], -1)
        return Context(positions=positions, bias=self.attention_bias(allowed))


def build(options: GraphOptions, model: InternVLModel) -> nn.Module:
    """Return the torch module."""
    return TextGraph(model, options.dtype)


def inputs(options: GraphOptions) -> tuple[GraphInput, ...]:
    """Return the ids; the number of texts does not depend on that of pictures."""
    return (input_ids("texts"),)


def outputs(options: GraphOptions) -> tuple[str, ...]:
    """Return the text feature."""
    return ("text_embeds",)


def blocks(options: GraphOptions) -> tuple[str, ...]:
    """Return all blocks of QLLaMA."""
    return QLLAMA_STACK.blocks(options.config)


def stream(model: InternVLModel, pixel_values: Tensor, ids: Tensor | None) -> Stream:
    """Return the stream of texts ``[T, L]``."""
    assert ids is not None
    known, graph = ids, TextGraph(model, torch.float32)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        return graph.context(known[rows])

    return Stream(lambda: model.qllama.model.embed_tokens(known), context, lambda rows: known[rows] > 0)
