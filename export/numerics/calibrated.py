"""Find the largest magnitudes that calibration measured for the 16-bit values of a graph."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from internvl_edge.calib.ranges.collector import RESIDUAL
from internvl_edge.calib.ranges.observer import Statistics
from internvl_edge.calib.ranges.stored import Ranges
from internvl_edge.calib.recipes.decide import Decision
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.export.blockwise.block_outputs import residual_streams
from internvl_edge.export.numerics.reach import Reach
from internvl_edge.export.numerics.values import LARGEST, typed

_PROJECTIONS = ("proj", "o_proj")
"""Names of linears after an attention; their smoothing divides the attention's values."""


def calibrated_reach(model: ir.Model, ranges: Ranges, recipe: Recipe) -> list[Reach]:
    """Return the reach of the 16-bit values of graph `model` that calibration measured, over all of its samples.

    These are the inputs of linears after smoothing, q, k and v, and the residual stream after each block. They are
    fewer values than verification measures, but on many more pictures.
    """
    name = str(model.graph.name)
    if name not in ranges.info.graphs:
        return []
    graph = typed(model).graph
    found = _Values(graph)
    decisions = {decision.site.name: decision for decision in recipe.decisions}
    reached: list[Reach] = []
    for path in ranges.info.blocks:
        seen = {tensor: statistics for (of, tensor), statistics in ranges.block(path).items() if of == name}
        reached += _of_block(path, seen, found, decisions)
    return reached


def _of_block(
    path: str, seen: Mapping[str, Statistics], found: "_Values", decisions: Mapping[str, Decision]
) -> Iterator[Reach]:
    for tensor, statistics in seen.items():
        base, _, part = tensor.rpartition(".")
        if part == RESIDUAL:
            value, smoothing = found.residual(path), None
        elif part in ("q", "k", "v"):
            value, smoothing = found.attended(base, "qkv".index(part)), None
            if part == "v":
                smoothing = next(
                    (s for name in _PROJECTIONS if (s := _smoothing(decisions, f"{base}.{name}")) is not None), None
                )
        else:
            value, smoothing = found.read_by(tensor), _smoothing(decisions, tensor)
        if value is not None and value.dtype in LARGEST:
            amax = statistics.amax if smoothing is None else statistics.amax / smoothing
            yield _reach(value, float(amax.max()))


def _smoothing(decisions: Mapping[str, Decision], site: str) -> np.ndarray | None:
    decision = decisions.get(site)
    return decision.smoothing if decision is not None and decision.quantized else None


def _reach(value: ir.Value, largest: float) -> Reach:
    node = value.producer()
    name = str(value.name)
    assert value.dtype is not None
    limit = LARGEST[value.dtype]
    return Reach(value=name, node=str(node.name) if node else name, inside="", largest=largest, limit=limit)


class _Values:
    """Lookup of the values of a graph by their names in calibration."""

    def __init__(self, graph: ir.Graph) -> None:
        self._nodes = {str(node.name): node for node in graph}
        self._residuals = {path: name for name, path in residual_streams(graph).items()}
        self._values = {str(value.name): value for node in graph for value in node.outputs}

    def residual(self, path: str) -> ir.Value | None:
        """Return the residual stream after the block at `path`, or None."""
        name = self._residuals.get(path)
        return self._values.get(name) if name is not None else None

    def attended(self, path: str, index: int) -> ir.Value | None:
        """Return input `index` (q, k or v) of the attention at `path`, or None if it is written as several."""
        node = self._nodes.get(f"{path}/Attention")
        return node.inputs[index] if node is not None and node.op_type == "Attention" else None

    def read_by(self, linear: str) -> ir.Value | None:
        """Return the input of a linear before its Q/DQ nodes, or None."""
        node = self._nodes.get(linear)
        value = node.inputs[0] if node is not None else None
        for op_type in ("DequantizeLinear", "QuantizeLinear"):
            source = value.producer() if value is not None else None
            if source is not None and source.op_type == op_type:
                value = source.inputs[0]
        return value
