"""Writer of nodes and constants with types and readable names, which all changes of graphs use."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import onnx_ir as ir


def make_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    attributes: Mapping[str, object] | None = None,
    *,
    output: str | None = None,
    dtype: ir.DataType | None = None,
    shape: ir.Shape | None = None,
) -> ir.Node:
    """Return a node with one output, which is in no graph yet; the default name of the output is that of the node."""
    made = ir.node(op_type, inputs, attributes=attributes, name=name)  # type: ignore[arg-type]
    value = made.outputs[0]
    value.name, value.shape = output or name, shape
    _set_dtype(value, dtype)
    return made


def initializer(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    """Return the initializer `name` of `graph`, which is made from `values` if it is not there yet."""
    if (held := graph.initializers.get(name)) is not None:
        return held
    tensor = ir.tensor(values, name=name)
    made = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(made)
    return made


class NodeWriter:
    """Inserts nodes before `anchor`, named ``<prefix>/<name>``; the default prefix is the name of the anchor."""

    def __init__(self, graph: ir.Graph, anchor: ir.Node, prefix: str | None = None) -> None:
        self._graph = graph
        self._anchor = anchor
        self._prefix = prefix or anchor.name or anchor.outputs[0].name

    def op(self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: object) -> ir.Value:
        """Return the output of a new node, which has the type of its first input."""
        made = make_node(op_type, inputs, f"{self._prefix}/{name}", attributes, dtype=inputs[0].dtype)
        self._graph.insert_before(self._anchor, made)
        return made.outputs[0]

    def parts(self, x: ir.Value, name: str, count: int, *, axis: int) -> tuple[ir.Value, ...]:
        """Return `count` equal parts of `x` along `axis`."""
        attributes = {"axis": axis, "num_outputs": count}
        made = ir.node("Split", [x], attributes=attributes, num_outputs=count, name=f"{self._prefix}/{name}")
        for index, output in enumerate(made.outputs):
            output.name = f"{self._prefix}/{name}_{index}"
            _set_dtype(output, x.dtype)
        self._graph.insert_before(self._anchor, made)
        return tuple(made.outputs)

    def cast(self, x: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        """Return `x` as `dtype`, which is `x` itself if it has this type."""
        if x.dtype == dtype:
            return x
        made = self.op("Cast", [x], name, to=dtype.value)
        made.dtype, made.shape = dtype, x.shape
        return made

    def number(self, value: float, dtype: ir.DataType | None) -> ir.Value:
        """Return a scalar of `dtype` as an initializer."""
        assert dtype is not None
        return initializer(self._graph, f"number.{value!r}.{dtype.name}", np.array(value).astype(dtype.numpy()))

    def per_head(self, values: Sequence[float], dtype: ir.DataType | None) -> ir.Value:
        """Return an initializer ``[H, 1, 1]`` of `dtype`: a number for each head of ``[B, H, N, D]``."""
        assert dtype is not None
        name = f"heads.{'_'.join(f'{len(list(run))}x{value!r}' for value, run in groupby(values))}.{dtype.name}"
        return initializer(self._graph, name, np.array(values).astype(dtype.numpy()).reshape(-1, 1, 1))

    def ints(self, *values: int) -> ir.Value:
        """Return a vector of int64 as an initializer."""
        return initializer(self._graph, f"ints.{'_'.join(map(str, values))}", np.array(values, np.int64))

    def constant(self, name: str, values: np.ndarray) -> ir.Value:
        """Return `values` as an initializer, whose name is made as that of a node."""
        return initializer(self._graph, f"{self._prefix}/{name}", values)

    def replace(self, made: ir.Value) -> None:
        """Replace the anchor's only output by `made`, which takes its name, and remove the anchor."""
        old = self._anchor.outputs[0]
        made.shape = old.shape
        _set_dtype(made, old.dtype)
        old.replace_all_uses_with(made, replace_graph_outputs=True)
        self._graph.remove(self._anchor, safe=True)
        made.name = old.name
        node = made.producer()
        assert node is not None
        node.name = self._anchor.name


def _set_dtype(value: ir.Value, dtype: ir.DataType | None) -> None:
    """Give `value` a type object of its own, since values that share one would change together."""
    if dtype is not None:
        value.type = ir.TensorType(dtype)
