"""How far the values of a 16-bit graph reach on given inputs, beside what its type can hold."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from internvl_edge.export.blockwise.segments import cut, run_segments
from internvl_edge.export.models.layers import MASKED
from internvl_edge.export.numerics.round_values import REACH, Measured, rounded
from internvl_edge.export.numerics.values import LARGEST

HEADROOM = 4.0
"""How many times further than measured a value must be able to reach.

A range is measured on a few pictures and texts, and others go further: `benchmarks/headroom.py` prints how far.
"""
MASKED_LIMIT = -MASKED / 2
"""What fp16 scores that a mask is added to may reach: two that are further apart than the mask is deep would let a
masked key outweigh one that counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The largest magnitude of one value, before it is rounded."""

    value: str
    """In the graph that ships; internals of a node have names of their own."""
    node: str
    """The node that makes it or holds it, by module path; the name of the value for an input."""
    inside: str
    """Which part of the node: ``scores`` of an attention, ``sum`` of a mean; empty for its output."""
    largest: float
    limit: float

    @property
    def overflows(self) -> bool:
        """Whether the type cannot hold it; what is not finite in fp32 either is told by the distance."""
        return math.isfinite(self.largest) and self.largest > self.limit

    @property
    def is_near(self) -> bool:
        """Whether it comes within `HEADROOM` of the limit, or beyond it."""
        return math.isfinite(self.largest) and self.largest * HEADROOM > self.limit

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.node} ({self.inside})" if self.inside else self.node


def run_rounded(onnx_file: Path, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[Reach]]:
    """Return what the graph computes on ONNX Runtime with every 16-bit value rounded, and how far each reaches.

    Runs segment by segment where its weights are large. A segment in which a value overflows runs once more with such
    values kept, so that those behind them are measured too.
    """
    graph = rounded(ir.load(onnx_file))
    feeds, reached = _feeds(graph.model.graph, graph.inputs, inputs)
    rerun = _RerunUnclipped(onnx_file, [item.told for item in graph.measured])
    proto, segments = ir.to_proto(graph.model), cut(graph.model.graph)
    found = run_segments(proto, segments, onnx_file.parent, feeds, rerun.proto)
    for item in graph.measured:
        reached += _reaches(item, float(found.pop(f"{item.told}{REACH}")))
    return found, reached


def most(reached: Iterable[Reach]) -> Reach | None:
    """Return the value that comes closest to its limit; None where nothing is measured."""
    return max(reached, key=lambda reach: reach.largest / reach.limit, default=None)


class _RerunUnclipped:
    """Decides whether a segment has to run once more, and as which graph."""

    def __init__(self, onnx_file: Path, names: Iterable[str]) -> None:
        self._file = onnx_file
        self._outputs = frozenset(f"{name}{REACH}" for name in names)
        self._proto: onnx.ModelProto | None = None

    def proto(self, found: Mapping[str, np.ndarray]) -> onnx.ModelProto | None:
        """Return the graph that keeps what overflows, where something in `found` does."""
        if all(value <= LARGEST[ir.DataType.FLOAT16] for name, value in found.items() if name in self._outputs):
            return None  # bf16 holds what fp32 does, so that nothing is gained by running it again
        if self._proto is None:
            self._proto = ir.to_proto(rounded(ir.load(self._file), finite=True).model)
        return self._proto


def _feeds(
    graph: ir.Graph, narrow: Mapping[str, ir.DataType], inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[Reach]]:
    """Return the inputs rounded to the types of the shipped graph, and how far those of 16 bits reach."""
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
    """Yield what was measured, and what it tells of the inside of its node."""
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
