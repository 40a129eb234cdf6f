"""Measure the reach of the values of a 16-bit graph on given inputs: the largest magnitude, beside the type's limit."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from internvl_edge.export.blockwise.large_matrices import SplitLargeMatricesPass
from internvl_edge.export.blockwise.segments import cut, run_segments
from internvl_edge.export.models.layers import MASKED
from internvl_edge.export.numerics.round_values import REACH, Measured, rounded
from internvl_edge.export.numerics.values import LARGEST

HEADROOM = 4.0
"""Factor between the largest measured magnitude of a value and the limit that is required.

A few pictures and texts are measured, and others reach further; `benchmarks/headroom.py` prints how much.
"""
MASKED_LIMIT = -MASKED / 2
"""Limit of fp16 scores that a mask is added to.

If two scores differ by more than the mask's depth, a masked key can get more weight than one that counts.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Largest magnitude of one value before rounding."""

    value: str
    """Name of the value in the graph that ships; values inside of a node have names that the rewriting gives."""
    node: str
    """Name of the node that writes or contains the value; for an input of the graph, the value's name."""
    inside: str
    """Part of the node: ``scores`` of an attention, ``sum`` of a mean; empty for the node's output."""
    largest: float
    limit: float

    @property
    def overflows(self) -> bool:
        """Whether the type cannot hold the value. Values that are infinite in fp32 too show up as errors of outputs."""
        return math.isfinite(self.largest) and self.largest > self.limit

    @property
    def is_near(self) -> bool:
        """Whether `largest` times `HEADROOM` is beyond the limit."""
        return math.isfinite(self.largest) and self.largest * HEADROOM > self.limit

    @property
    def place(self) -> str:
        """Node and part, as text for messages."""
        return f"{self.node} ({self.inside})" if self.inside else self.node


def run_rounded(onnx_file: Path, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[Reach]]:
    """Return the outputs of a graph on ONNX Runtime with every 16-bit value rounded, and the reach of each value.

    A graph with large weights runs in segments. A segment in which an fp16 value overflows runs again with such values
    not rounded, so that the values computed from them are measured too.
    """
    graph = rounded(ir.load(onnx_file))
    SplitLargeMatricesPass()(graph.model)
    feeds, reached = _feeds(graph.model.graph, graph.inputs, inputs)
    rerun = _RerunUnclipped(onnx_file, [item.rounded_value for item in graph.measured])
    proto, segments = ir.to_proto(graph.model), cut(graph.model.graph)
    found = run_segments(proto, segments, onnx_file.parent, feeds, rerun.proto)
    for item in graph.measured:
        reached += _reaches(item, float(found.pop(f"{item.rounded_value}{REACH}")))
    return found, reached


def most(reached: Iterable[Reach]) -> Reach | None:
    """Return the value that comes closest to its limit, or None if `reached` is empty."""
    return max(reached, key=lambda reach: reach.largest / reach.limit, default=None)


class _RerunUnclipped:
    """Decides whether a segment has to run once more, and as which graph."""

    def __init__(self, onnx_file: Path, names: Iterable[str]) -> None:
        self._file = onnx_file
        self._outputs = frozenset(f"{name}{REACH}" for name in names)
        self._proto: onnx.ModelProto | None = None

    def proto(self, found: Mapping[str, np.ndarray]) -> onnx.ModelProto | None:
        """Return the graph to run again if an fp16 value in `found` overflows, else None."""
        if all(value <= LARGEST[ir.DataType.FLOAT16] for name, value in found.items() if name in self._outputs):
            return None  # bf16 has the range of fp32, so a second run would find nothing more
        if self._proto is None:
            model = rounded(ir.load(self._file), finite=True).model
            self._proto = ir.to_proto(SplitLargeMatricesPass()(model).model)
        return self._proto


def _feeds(
    graph: ir.Graph, narrow: Mapping[str, ir.DataType], inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[Reach]]:
    """Return the inputs rounded to the types of the shipped graph, and the reach of the 16-bit ones."""
    feeds, reached = {}, []
    for value in graph.inputs:
        name = str(value.name)
        assert value.dtype is not None
        feeds[name] = inputs[name].astype(value.dtype.numpy())
        if (dtype := narrow.get(name)) is not None:
            reached.append(_input_reach(name, feeds[name], LARGEST[dtype]))
            with np.errstate(over="ignore"):
                held = feeds[name].astype(dtype.numpy()).astype(np.float32)
            feeds[name] = np.where(np.isfinite(held), held, feeds[name])
    return feeds, reached


def _input_reach(name: str, values: np.ndarray, limit: float) -> Reach:
    return Reach(value=name, node=name, inside="", largest=float(np.abs(values).max(initial=0.0)), limit=limit)


def _reaches(item: Measured, largest: float) -> Iterator[Reach]:
    """Yield the reach of a measured value, and that of the sum inside of a mean."""
    masked = item.masked and item.dtype == ir.DataType.FLOAT16
    limit = LARGEST[item.dtype]
    yield Reach(
        value=item.value,
        node=item.node,
        inside=item.inside,
        largest=largest,
        limit=MASKED_LIMIT if masked else limit,
    )
    if item.terms > 1:  # a mean may be taken of the sum
        yield Reach(value=item.value, node=item.node, inside="sum", largest=largest * item.terms, limit=limit)
