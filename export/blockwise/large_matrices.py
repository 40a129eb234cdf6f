"""Multiply by a matrix that is larger than a block, as the head of a language model, a part of its rows at a time."""

from collections.abc import Callable, Iterator

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl_edge.calib.qdq.node_writer import make_node
from internvl_edge.export.canonical.block_names import PART

LARGE_VALUES = 64 << 20
"""Values above which a matrix is read in parts: 256 MiB in fp32. The largest matrix of a block has 41 million."""
PART_VALUES = 32 << 20
FetchRows = Callable[[str, Tensor, int], None]
"""Function that fills a tensor with the values of a parameter from a number of values on, in row-major order."""


def large_matrix(unit: nn.Module) -> bool:
    """Return whether `unit` has one large matrix and nothing else, which it multiplies by or takes rows of."""
    parameters = dict(unit.named_parameters())
    return list(parameters) == ["weight"] and parameters["weight"].ndim == 2 and _is_large(parameters["weight"].numel())


def forward_by_rows(unit: nn.Module, path: str, fetch: FetchRows) -> Callable[[Tensor], Tensor]:
    """Return the forward of a unit with a `large_matrix`, in which a part of its rows is in memory at a time."""
    count, width = unit.get_parameter("weight").shape
    step = max(1, PART_VALUES // width)

    def parts() -> Iterator[tuple[int, Tensor]]:
        buffer = torch.empty(min(step, count), width)
        for first in range(0, count, step):
            rows = buffer[: min(step, count - first)]
            fetch(f"{path}.weight", rows, first * width)
            yield first, rows

    def forward(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.cat([F.linear(x, rows) for _, rows in parts()], dim=-1)
        found = torch.empty(*x.shape, width)
        for first, rows in parts():
            here = (x >= first) & (x < first + len(rows))
            found[here] = rows[x[here] - first]
        return found

    return forward


class SplitLargeMatricesPass(ir.passes.InPlacePass):
    """Rewrite ``MatMul(x, W)`` with a large W to products with parts of its output channels, and a Concat of them.

    W is external data ``[out, in]`` behind a Transpose and at most Casts. Each part is a block of its own for `cut`, so
    that a segment holds one part. What the parts give is what the whole gives: no sum changes its order.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Split every product whose matrix nothing else reads."""
        modified = False
        for node in list(model.graph):
            if (chain := _chain(node)) is not None:
                _split(model.graph, node, chain)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_large(values: int) -> bool:
    return values > LARGE_VALUES


def _chain(node: ir.Node) -> list[ir.Node] | None:
    """Return the nodes from the matrix of a product to the product, or None if it is not one to split."""
    value, chain = node.inputs[1] if node.op_type == "MatMul" else None, list[ir.Node]()
    while value is not None and not value.is_initializer():
        made = value.producer()
        if (
            made is None
            or made.op_type not in ("Transpose", "Cast")
            or len(value.uses()) != 1
            or value.is_graph_output()
        ):
            return None
        chain.insert(0, made)
        value = made.inputs[0]
    held = value.const_value if value is not None else None
    turns = [made.op_type for made in chain].count("Transpose")
    if value is None or not isinstance(held, ir.ExternalTensor) or turns != 1 or len(value.uses()) != 1:
        return None
    return chain if len(held.shape) == 2 and _is_large(held.size) else None


def _split(graph: ir.Graph, product: ir.Node, chain: list[ir.Node]) -> None:
    matrix, x, result = chain[0].inputs[0], product.inputs[0], product.outputs[0]
    assert matrix is not None
    held = matrix.const_value
    assert isinstance(held, ir.ExternalTensor)
    count, width = (int(size) for size in held.shape.numpy())
    step, row_bytes = max(1, PART_VALUES // width), held.nbytes // count
    parts: list[ir.Value | None] = []
    for index, first in enumerate(range(0, count, step)):
        rows, name = min(step, count - first), f"{product.name}/{PART}{index}"
        shape = ir.Shape([rows, width])
        place = (held.offset or 0) + first * row_bytes
        tensor = ir.ExternalTensor(
            held.location, place, rows * row_bytes, held.dtype, shape=shape, name=f"{matrix.name}/{index}"
        )
        value = ir.Value(name=tensor.name, shape=shape, type=ir.TensorType(held.dtype), const_value=tensor)
        graph.register_initializer(value)
        for made in chain:
            kept = {key: attribute.value for key, attribute in made.attributes.items()}
            shape = ir.Shape([width, rows]) if made.op_type == "Transpose" else shape
            copy = make_node(
                made.op_type, [value], f"{name}/{made.op_type}", kept, dtype=made.outputs[0].dtype, shape=shape
            )
            graph.insert_before(product, copy)
            value = copy.outputs[0]
        leading = list(result.shape)[:-1] if result.shape is not None else []
        made = make_node("MatMul", [x, value], name, dtype=result.dtype, shape=ir.Shape([*leading, rows]))
        graph.insert_before(product, made)
        parts.append(made.outputs[0])
    joined = make_node("Concat", parts, f"{product.name}/Concat", {"axis": -1}, dtype=result.dtype, shape=result.shape)
    graph.insert_before(product, joined)
    result.replace_all_uses_with(joined.outputs[0], replace_graph_outputs=True)
    graph.remove(product, safe=True)
    for made in reversed(chain):
        graph.remove(made, safe=True)
    graph.initializers.pop(str(matrix.name))
    joined.outputs[0].name = result.name
