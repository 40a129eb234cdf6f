"""Reduce blocks to narrow width for a tool that runs its graph, and restore full width with the Q/DQ nodes in place."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from internvl_edge.export.models.config import ModelConfig, QllamaConfig

VISION_HEADS, TEXT_HEADS = 5, 7
VISION_INTERMEDIATE, TEXT_INTERMEDIATE = 1000, 1100
"""Narrow widths: all sizes that follow from them differ from each other and from numbers of tokens."""
PACKED = (1, 2, 3)
"""Multiples of the hidden width in a packed axis: states alone, keys and values, and queries as well."""
MOST_SIZES = 8
"""Largest number of integers that are sizes of a Reshape, Split or Slice; longer constants are positions."""


def narrow(config: dict[str, Any]) -> None:
    """Reduce the widths of a checkpoint's configuration in place; heads keep their size, on which kernels depend."""
    for part, heads, intermediate in (
        (config.get("vision_config", config), VISION_HEADS, VISION_INTERMEDIATE),
        (config.get("qllama_config", {}), TEXT_HEADS, TEXT_INTERMEDIATE),
    ):
        if part:
            part["hidden_size"] = part["hidden_size"] // part["num_attention_heads"] * heads
            part.update(num_attention_heads=heads, intermediate_size=intermediate)


def full_widths(small: ModelConfig, full: ModelConfig) -> dict[int, int]:
    """Return narrow width -> full width."""
    found: dict[int, int] = {}
    for mine, theirs in ((small.vision, full.vision), (small.find(QllamaConfig), full.find(QllamaConfig))):
        if mine is not None and theirs is not None:
            found[mine.num_heads] = theirs.num_heads
            found[mine.intermediate_size] = theirs.intermediate_size
            found |= {count * mine.hidden_size: count * theirs.hidden_size for count in PACKED}
    return found


def widen(model: ir.Model, widths: Mapping[int, int]) -> None:
    """Bring `model` to full width in place: vectors repeat, matrices are left without values, shapes are rewritten."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for value in model.graph.initializers.values():
        _widen_constant(value, widths)
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([_wide(dim, widths) for dim in value.shape])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _widen_constant(value: ir.Value, widths: Mapping[int, int]) -> None:
    assert value.const_value is not None
    numbers = value.const_value.numpy()
    if numbers.dtype == np.int64 and numbers.size <= MOST_SIZES:
        wide = np.vectorize(lambda number: widths.get(number, number), otypes=[np.int64])(numbers)
        value.const_value = ir.tensor(wide, name=value.name)
        return
    shape = [widths.get(dim, dim) for dim in numbers.shape]
    if shape == list(numbers.shape):
        return
    value.shape = ir.Shape(shape)
    value.dtype = value.const_value.dtype
    value.const_value = ir.tensor(np.resize(numbers, shape), value.dtype, name=value.name) if len(shape) == 1 else None


def _wide(dim: Any, widths: Mapping[int, int]) -> Any:
    return widths.get(dim, dim) if isinstance(dim, int) else dim
