"""Give the dynamic axes of a traced graph the names of its specification instead of torch's symbols, as s10."""

import re
from collections.abc import Sequence

import onnx_ir as ir

from internvl_edge.export.models.graph_modules.specs import GraphInput

_SYMBOL = re.compile(r"\bs\d+\b")


def name_axes(model: ir.Model, inputs: Sequence[GraphInput]) -> None:
    """Rename the symbols of all values: those of inputs to the names in `inputs`, and sums of symbols accordingly."""
    names: dict[str, str] = {}
    for value, item in zip(model.graph.inputs, inputs, strict=True):
        assert value.shape is not None
        for found, wanted in zip(value.shape, item.shape, strict=True):
            if isinstance(found, ir.SymbolicDim) and isinstance(wanted, str) and _SYMBOL.fullmatch(str(found.value)):
                names[str(found.value)] = wanted
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])
    for value, item in zip(model.graph.inputs, inputs, strict=True):
        value.shape = ir.Shape(item.shape)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _renamed(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    renamed = _SYMBOL.sub(lambda match: names.get(match[0], match[0]), dim.value)
    return " + ".join(sorted(renamed.split(" + "), reverse=True))  # torch orders sums by symbol: one order for all
