"""Cut a few consecutive blocks out of a canonical graph; plans of them show what a block of the tower costs."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx.utils import Extractor

from internvl_edge.export.canonical.block_names import block_of
from internvl_edge.runtime.errors import EngineError

BLOCKS = 3
"""Number of blocks: the middle one has a neighbour on both sides, so that fusion across its borders is as usual."""

Range = tuple[int, int, int]
"""Minimum, optimum and maximum of an axis."""
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Minimum, optimum and maximum shape of an input."""


def cut_blocks(model: ir.Model, first: int | None = None, count: int = BLOCKS) -> tuple[ir.Model, str]:
    """Return `count` blocks of `model` as a graph, and the path of the middle one.

    `first` is the index of the first block; by default the blocks are from the middle of the graph. Values that cross
    the borders become inputs and outputs; weights stay external data.

    Raises:
        EngineError: the graph has too few blocks.
    """
    blocks = blocks_of(model.graph)
    start = (len(blocks) - count) // 2 if first is None else first
    if start < 0 or start + count > len(blocks):
        raise EngineError(
            f"{model.graph.name}: has {len(blocks)} blocks, {count} are needed; build it without a search"
        )
    names = list(blocks)[start : start + count]
    inputs, outputs = _borders(model.graph, [node for name in names for node in blocks[name]])
    part = ir.from_proto(Extractor(ir.to_proto(model)).extract_model(inputs, outputs))
    part.graph.name = str(model.graph.name)
    return part, names[count // 2]


def axes_profile(model: ir.Model, ranges: Mapping[str, Range]) -> dict[str, Shapes]:
    """Return min, opt and max shapes of every dynamic input of `model`, from `ranges` of its axes.

    The range of an axis ``a + b`` is the sum of two.

    Raises:
        EngineError: with all axes that have no range.
    """
    found: dict[str, Shapes] = {}
    unknown: set[str] = set()
    for value in model.graph.inputs:
        dims = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
        unknown |= {part for dim in dims if isinstance(dim, str) for part in dim.split(" + ") if part not in ranges}
        if not unknown and any(isinstance(dim, str) for dim in dims):
            low, usual, high = (tuple(_bound(dim, ranges, which) for dim in dims) for which in range(3))
            found[str(value.name)] = (low, usual, high)
    if unknown:
        raise EngineError(f"{model.graph.name}: no range for axes {', '.join(sorted(unknown))}; give min, opt and max")
    return found


def _bound(dim: int | str, ranges: Mapping[str, Range], which: int) -> int:
    return dim if isinstance(dim, int) else sum(ranges[part][which] for part in dim.split(" + "))


def blocks_of(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """Return the nodes of each block by its path, in the order of the graph."""
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        if (block := block_of(node.name)) is not None:
            found.setdefault(block, []).append(node)
    return found


def _borders(graph: ir.Graph, nodes: Sequence[ir.Node]) -> tuple[list[str], list[str]]:
    """Return the names of values that `nodes` read from other nodes, and of values that other nodes read from them."""
    inside = set(nodes)
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    inputs = [value for value in read if value not in made and not value.is_initializer()]
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or any(user not in inside for user in value.consumers())
    ]
    return [str(value.name) for value in inputs], [str(value.name) for value in outputs]
