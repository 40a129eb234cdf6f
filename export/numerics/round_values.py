"""Rewrite a 16-bit graph so that every intermediate is rounded and measured, as in a strongly typed plan.

On CPUs, ONNX Runtime computes fp16 nodes in fp32 and removes the Casts that it inserts between them, even without graph
optimizations; it has no bf16 kernels. The rewritten graph computes in fp32 and rounds explicitly: ONNX Runtime keeps a
Cast down and a Cast up that are nodes of the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import initializer, make_node
from internvl_edge.export.dialects.decompose_attention import DecomposeAttentionPass
from internvl_edge.export.numerics.values import (
    LARGEST,
    constants,
    is_from_table,
    is_narrow,
    masks,
    only_moves,
    only_takes,
    typed,
)

_WIDE = ir.DataType.FLOAT
_ATTENDED = "attended"
"""Last component of the name of the product of probabilities and values in a decomposed attention."""
REACH = "/largest"
"""Suffix that makes a value's name the name of the output with its largest magnitude before rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measured value, and its place in the graph that ships."""

    rounded_value: str
    """Name of the value in the rewritten graph, which has its largest magnitude as an output."""
    value: str
    """Name of the same value in the shipped graph; values inside of a node have names that the rewriting gives."""
    node: str
    """Name of the node of the shipped graph that writes or contains the value."""
    inside: str
    """Part of the node; empty if the value is in the shipped graph."""
    dtype: ir.DataType
    masked: bool
    """Whether a mask is added to the value."""
    terms: int = 1
    """Number of terms that a mean adds up before it divides; 1 for other nodes."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A rewritten graph, with the values that it measures."""

    model: ir.Model
    measured: tuple[Measured, ...]
    inputs: Mapping[str, ir.DataType]
    """16-bit input -> its type in the shipped graph."""


def rounded(model: ir.Model, *, finite: bool = False) -> Rounded:
    """Return `model`, rewritten in place to compute in fp32 and to round and measure every 16-bit value.

    With `finite`, an fp16 value beyond the type's range keeps its magnitude, as if its node were kept in fp32, so that
    values computed from it can be measured; otherwise it becomes infinite. A graph without 16-bit values is unchanged.
    """
    model = typed(model)
    graph = model.graph
    if not any(is_narrow(value) for value in (*graph.inputs, *(v for node in graph for v in node.outputs))):
        return Rounded(model, (), {})
    attentions = {str(n.name): str(n.outputs[0].name) for n in graph if n.op_type == "Attention"}
    DecomposeAttentionPass()(model)
    fixed, added = constants(graph), masks(graph)
    inputs = {str(v.name): v.dtype for v in graph.inputs if v.dtype is not None and is_narrow(v)}
    narrow = {v: v.dtype for node in graph for v in node.outputs if v.dtype is not None and is_narrow(v)}
    measured = [
        _measured(value, dtype, attentions, added)
        for value, dtype in narrow.items()
        if value not in fixed and value not in added and _is_read(value, fixed, added)
    ]
    _widen(graph)
    measured_names = {item.rounded_value for item in measured}
    for value, dtype in narrow.items():
        if value not in fixed and value not in added:
            _round(graph, value, dtype, measure=str(value.name) in measured_names, finite=finite)
    return Rounded(model, tuple(measured), inputs)


def _is_read(value: ir.Value, fixed: set[ir.Value], added: set[ir.Value]) -> bool:
    """Return whether a value is measured; moved values have the reach of their source, masked scores a known one."""
    node = _maker(value)
    return not (only_moves(node) or is_from_table(node, fixed) or _is_masked_sum(node, added))


def _is_masked_sum(node: ir.Node, added: set[ir.Value]) -> bool:
    return node.op_type == "Add" and any(value in added for value in node.inputs)


def _measured(value: ir.Value, dtype: ir.DataType, attentions: Mapping[str, str], added: set[ir.Value]) -> Measured:
    node = _maker(value)
    name = str(node.name)
    owner = next((path for path in attentions if name.startswith(f"{path}/")), name)
    inside = name.removeprefix(f"{owner}/") if owner != name else ""
    if inside == _ATTENDED:  # only moved after this node
        shipped, inside = attentions[owner], ""
    else:
        shipped = str(value.name)
    return Measured(
        rounded_value=str(value.name),
        value=shipped,
        node=owner,
        inside=inside,
        dtype=dtype,
        masked=any(_is_masked_sum(user, added) for user in value.consumers()),
        terms=_terms(node),
    )


def _terms(node: ir.Node) -> int:
    """Return the number of terms of each output of a mean; 1 for other nodes."""
    if node.op_type != "ReduceMean" or node.inputs[0] is None or node.inputs[0].shape is None:
        return 1
    before, after = node.inputs[0].shape, node.outputs[0].shape
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    chosen = axes.numpy().tolist() if axes is not None else range(len(before))
    sizes = [before[axis] for axis in chosen]
    assert after is not None
    return int(np.prod([size for size in sizes if isinstance(size, int)]))


def _widen(graph: ir.Graph) -> None:
    """Set every 16-bit value to fp32, with a Cast after each weight, and make every Cast to 16 bits a Cast to fp32."""
    casts: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is not None and table.is_initializer() and table.dtype in LARGEST:
            _widen_rows(graph, node)
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value.dtype in LARGEST:
                if value not in casts:
                    casts[value] = _cast(value, f"{value.name}/widened")
                    graph.insert_before(node, _maker(casts[value]))
                node.replace_input_with(index, casts[value])
        if node.op_type == "Cast" and node.attributes.get_int("to") in {dtype.value for dtype in LARGEST}:
            node.attributes["to"] = ir.AttrInt64("to", _WIDE)
        for value in node.outputs:
            _widen_value(value)
    for value in graph.inputs:
        _widen_value(value)


def _widen_rows(graph: ir.Graph, node: ir.Node) -> None:
    """Cast the rows gathered from a table instead of the table: a vocabulary in fp32 is larger than a block."""
    rows = node.outputs[0]
    name = str(rows.name)
    made = _cast(rows, f"{name}/widened")
    rows.replace_all_uses_with(made)
    _maker(made).replace_input_with(0, rows)
    graph.insert_after(node, _maker(made))
    rows.name, made.name = f"{name}/rows", name


def _cast(value: ir.Value, name: str) -> ir.Value:
    return make_node("Cast", [value], name, {"to": _WIDE.value}, dtype=_WIDE, shape=value.shape).outputs[0]


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _widen_value(value: ir.Value) -> None:
    if value.dtype in LARGEST:
        value.type = ir.TensorType(_WIDE)


def _round(graph: ir.Graph, exact: ir.Value, dtype: ir.DataType, *, measure: bool, finite: bool) -> None:
    """Round `exact` after its node, under its old name; with `measure`, add its largest magnitude as an output."""
    node, name = _maker(exact), str(exact.name)
    write = _NodeInserter(graph, node, f"{node.name}/{name}")
    if measure:
        highest, lowest = (write.op(f"Reduce{which}", [exact], which, keepdims=0) for which in ("Max", "Min"))
        largest = write.op("Max", [highest, write.op("Neg", [lowest], "Neg")], "Largest")
        largest.name, largest.shape = f"{name}{REACH}", ir.Shape([])
        graph.outputs.append(largest)
    if only_moves(node) or only_takes(node):
        return
    readers = [user for user in exact.uses() if user.node not in write.made]
    made = write.rounded(exact, dtype, finite and dtype == ir.DataType.FLOAT16)
    made.shape = exact.shape
    for user in readers:
        user.node.replace_input_with(user.idx, made)
    if exact.is_graph_output():
        graph.outputs[graph.outputs.index(exact)] = made
    exact.name, made.name = f"{name}/exact", name


class _NodeInserter:
    """Inserts nodes one after the other, behind the node `anchor`."""

    def __init__(self, graph: ir.Graph, anchor: ir.Node, prefix: str) -> None:
        self._graph, self._last, self._prefix = graph, anchor, prefix
        self.made: set[ir.Node] = set()

    def op(self, op_type: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Value:
        made = make_node(op_type, inputs, f"{self._prefix}/{name}", attributes, dtype=_WIDE)
        self._graph.insert_after(self._last, made)
        self._last = made
        self.made.add(made)
        return made.outputs[0]

    def rounded(self, exact: ir.Value, dtype: ir.DataType, finite: bool) -> ir.Value:
        """Return `exact` rounded to `dtype`; with `finite`, the part beyond the type's range is added again."""
        inside = self._clipped(exact, LARGEST[dtype]) if finite else exact
        low = self.op("Cast", [inside], "Down", to=dtype.value)
        low.dtype = dtype
        held = self.op("Cast", [low], "Up", to=_WIDE.value)
        return self.op("Add", [held, self.op("Sub", [exact, inside], "Rest")], "Whole") if finite else held

    def _clipped(self, x: ir.Value, limit: float) -> ir.Value:
        return self.op("Clip", [x, self._number(-limit), self._number(limit)], "Clip")

    def _number(self, value: float) -> ir.Value:
        return initializer(self._graph, f"number.{value!r}.FLOAT", np.array(value, np.float32))
