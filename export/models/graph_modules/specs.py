"""What the file of a graph has to offer, and the inputs that several graphs have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.qllama import Context

PAST, PRESENT = "past_key_values.", "present."
"""Prefixes of the cache that a graph takes, and of the one that it gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """One input of a graph: dimensions are sizes, or names of dynamic axes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """The model that a graph is made of, and how."""

    config: ModelConfig
    dtype: torch.dtype = torch.float32
    """The model's own type T."""
    feature_layers: tuple[int, ...] = ()
    """Blocks whose patch maps are outputs too."""


class GraphModule(Protocol):
    """What the file of a graph offers.

    Submodules are shared with `InternVLModel` under the same attribute names, so that the parameters of every graph
    carry the official checkpoint keys. Float inputs and outputs that a user sees are fp32; those that only feed another
    graph (`vision_states`, key/value caches) have the model's own type T.
    """

    def build(self, options: GraphOptions, model: InternVLModel) -> nn.Module:
        """Return the torch module; it takes `inputs` in order, and returns `outputs` in order."""
        ...

    def inputs(self, options: GraphOptions) -> tuple[GraphInput, ...]:
        """Return the inputs in order."""
        ...

    def outputs(self, options: GraphOptions) -> tuple[str, ...]:
        """Return the names of the outputs in order."""
        ...

    def blocks(self, options: GraphOptions) -> tuple[str, ...]:
        """Return the paths of the blocks that the graph runs, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """How samples of a graph pass through the blocks of a stack one by one."""

    start: Callable[[], Tensor]
    """Gives the residual stream ``[B, n, H]`` before the first block; needs the stack's embeddings."""
    context: Callable[[slice, Tensor | None, int], Context | None] = lambda rows, states, held: None
    """Gives what the layers see of some samples, from the states that they attend to and the number of cached rows."""
    valid: Callable[[slice], Tensor | None] = lambda rows: None
    """Tells which rows ``[B, n]`` of some samples are no padding; None: all of them."""


StreamOf = Callable[[InternVLModel, Tensor, Tensor | None], Stream]
"""Gives the stream of a graph from the model, the pictures ``[B, 3, S, S]`` and the graph's ids ``[B, n]``."""


def pixel_values(options: GraphOptions) -> GraphInput:
    """Return the input of pictures ``[B, 3, S, S]``."""
    size = options.config.vision.image_size
    return GraphInput(name="pixel_values", dtype=torch.float32, shape=("batch", 3, size, size))


def vision_states(options: GraphOptions) -> GraphInput:
    """Return the input of what the tower gives, ``[B, N, Hv]``."""
    vision = options.config.vision
    return GraphInput(name="vision_states", dtype=options.dtype, shape=("batch", vision.tokens, vision.hidden_size))


def input_ids(rows: str) -> GraphInput:
    """Return the input of token ids, whose first axis is named `rows`."""
    return GraphInput(name="input_ids", dtype=torch.int64, shape=(rows, "length"))


def cache_names(layers: int, prefix: str) -> tuple[str, ...]:
    """Return the names of the key and the value of every layer, in order."""
    return tuple(f"{prefix}{layer}.{part}" for layer in range(layers) for part in ("key", "value"))
