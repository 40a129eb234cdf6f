"""Compute the outputs of a graph's torch module with one block of weights in memory at a time."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

from internvl_edge.export.blockwise.streamed import Change, Fetch, run_streamed
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.graphs import GraphSpec, graph_spec
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.layers import RMSNorm


def torch_outputs(
    name: str,
    config: ModelConfig,
    inputs: Mapping[str, np.ndarray],
    fetch: Fetch,
    feature_layers: tuple[int, ...] = (),
    changed: Mapping[str, Change] | None = None,
) -> dict[str, np.ndarray]:
    """Return the outputs of the torch module of graph `name` in fp32.

    `changed` maps paths of linears to functions for their inputs, such as fake quantization.
    """
    spec = _without_weights(name, config, feature_layers)
    tensors = [torch.from_numpy(np.array(inputs[item.name])) for item in spec.inputs]
    outputs = run_streamed(spec.module, fetch, *tensors, changed=changed)
    return {output: tensor.numpy() for output, tensor in zip(spec.outputs, outputs, strict=True)}


def module_parts(name: str, config: ModelConfig) -> dict[str, torch.nn.Module]:
    """Return the norms and linears of the torch module of graph `name`, by path."""
    kinds = (torch.nn.Linear, torch.nn.LayerNorm, RMSNorm)
    module = _without_weights(name, config, ()).module
    return {path: part for path, part in module.named_modules() if isinstance(part, kinds)}


@lru_cache(maxsize=8)
def _without_weights(name: str, config: ModelConfig, feature_layers: tuple[int, ...]) -> GraphSpec:
    """Return graph `name` on the meta device. It is cached, because sensitivity runs it for every linear."""
    with torch.device("meta"):
        return graph_spec(name, config, InternVLModel(config).eval(), torch.float32, feature_layers)
