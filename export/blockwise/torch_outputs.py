"""What the torch module of a graph computes, with one block of weights in memory at a time."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

from internvl_edge.export.blockwise.streamed import Change, Fetch, run_streamed
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.graphs import GraphSpec, graph_spec
from internvl_edge.export.models.internvl import InternVLModel


def torch_outputs(
    name: str,
    config: ModelConfig,
    inputs: Mapping[str, np.ndarray],
    fetch: Fetch,
    feature_layers: tuple[int, ...] = (),
    changed: Mapping[str, Change] | None = None,
) -> dict[str, np.ndarray]:
    """Return what the torch module of graph `name` computes in fp32, holding one block of weights at a time.

    `changed` quantizes the inputs of linears by their path, as a quantized graph does.
    """
    spec = _without_weights(name, config, feature_layers)
    tensors = [torch.from_numpy(np.array(inputs[item.name])) for item in spec.inputs]
    outputs = run_streamed(spec.module, fetch, *tensors, changed=changed)
    return {output: tensor.numpy() for output, tensor in zip(spec.outputs, outputs, strict=True)}


@lru_cache(maxsize=8)
def _without_weights(name: str, config: ModelConfig, feature_layers: tuple[int, ...]) -> GraphSpec:
    """Return graph `name` on the meta device, built once: sensitivity runs it for every linear."""
    with torch.device("meta"):
        return graph_spec(name, config, InternVLModel(config).eval(), torch.float32, feature_layers)
