"""Interface of the files of graphs, and inputs that several graphs have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.qllama import Context

PAST, PRESENT = "past_key_values.", "present."
"""Prefixes of the names of a graph's cache inputs and cache outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """One input of a graph; its dimensions are sizes or names of dynamic axes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """Model configuration and options from which a graph is made."""

    config: ModelConfig
    dtype: torch.dtype = torch.float32
    """Type T of weights and activations."""
    feature_layers: tuple[int, ...] = ()
    """Indexes of blocks whose patch maps are further outputs of the tower."""


class GraphModule(Protocol):
    """Interface of the file of a graph.

    Modules share their submodules with `InternVLModel` under the same attribute names, so that parameters have the
    official names in every graph. Float inputs and outputs for users are fp32; those that only feed another graph
    (`vision_states`, key/value caches) have the model's type T.
    """

    def build(self, options: GraphOptions, model: InternVLModel) -> nn.Module:
        """Return the torch module, which takes `inputs` and returns `outputs` in order."""
        ...

    def inputs(self, options: GraphOptions) -> tuple[GraphInput, ...]:
        """Return the inputs in order."""
        ...

    def outputs(self, options: GraphOptions) -> tuple[str, ...]:
        """Return the names of the outputs in order."""
        ...

    def blocks(self, options: GraphOptions) -> tuple[str, ...]:
        """Return the module paths of the blocks that the graph runs, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """Functions that run the samples of a graph through the blocks of a stack one by one."""

    start: Callable[[], Tensor]
    """Return the residual stream ``[B, n, H]`` before the first block; needs the stack's embeddings."""
    context: Callable[[slice, Tensor | None, int], Context | None] = lambda rows, states, held: None
    """Return the context of a slice of samples, from the states that they attend to and the number of cached rows."""
    valid: Callable[[slice], Tensor | None] = lambda rows: None
    """Return the mask ``[B, n]`` of rows of a slice of samples that are not padding; None if all count."""


StreamOf = Callable[[InternVLModel, Tensor, Tensor | None], Stream]
"""Function from the model, the pictures ``[B, 3, S, S]`` and the graph's ids ``[B, n]`` to its stream."""


def pixel_values(options: GraphOptions) -> GraphInput:
    """Return the input of pictures ``[B, 3, S, S]``."""
    size = options.config.vision.image_size
    return GraphInput(name="pixel_values", dtype=torch.float32, shape=("batch", 3, size, size))


def vision_states(options: GraphOptions) -> GraphInput:
    """Return the input of vision states ``[B, N, Hv]``."""
    vision = options.config.vision
    return GraphInput(name="vision_states", dtype=options.dtype, shape=("batch", vision.tokens, vision.hidden_size))


def input_ids(rows: str) -> GraphInput:
    """Return the input of token ids; `rows` is the name of its first axis."""
    return GraphInput(name="input_ids", dtype=torch.int64, shape=(rows, "length"))


def cache_names(layers: int, prefix: str) -> tuple[str, ...]:
    """Return the names of the key and the value of every layer, in order."""
    return tuple(f"{prefix}{layer}.{part}" for layer in range(layers) for part in ("key", "value"))
