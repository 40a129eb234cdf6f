"""Rewrite islands of a 16-bit graph to fp32: nodes that write or read a value which overflows, with Casts around."""

import numpy as np
import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import initializer, make_node
from internvl_edge.export.numerics.values import constants, is_narrow, masks, moved_inputs, only_moves, typed
from internvl_edge.runtime.numbers.tensor_types import BFLOAT16, FLOAT16

_WIDE = ir.DataType.FLOAT
_MASK_FACTOR = 1e30
"""Factor on a mask of -30000 where scores are fp32, since they may be larger than 30000."""


class KeepWidePass(ir.passes.InPlacePass):
    """Compute in fp32 the nodes that write or read the named values, and the named nodes.

    Values between two such nodes stay in fp32; other nodes read them through a Cast. A named value that is an input or
    an output of the graph changes its type. Weights stay as stored, with a Cast after them. Quantized inputs come from
    a DequantizeLinear with an fp32 scale, so that products still are of 8-bit codes.
    """

    def __init__(self, values: frozenset[str], nodes: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._values = values
        self._nodes = nodes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every node of the island that is not in fp32 yet."""
        graph = model.graph
        wide = _with_moved(graph, self._values)
        island = _island(graph, wide, self._nodes)
        if not island and not wide:
            return ir.passes.PassResult(model, False)
        writer = _Writer(graph, wide, island)
        for value in wide & set(graph.inputs):
            writer.widen(value)
        for node in island:
            writer.rewrite(node)
        writer.drop_unread()
        return ir.passes.PassResult(model, True)


def keep_wide(model: ir.Model, values: frozenset[str], nodes: frozenset[str] = frozenset()) -> ir.Model:
    """Return `model` with islands in fp32 around the named values and nodes."""
    return KeepWidePass(values, nodes)(typed(model)).model


def islands_of(graph: ir.Graph, values: frozenset[str], nodes: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the names of the nodes that `KeepWidePass` would rewrite, in the order of the graph."""
    return tuple(str(node.name) for node in _island(graph, _with_moved(graph, values), nodes))


def wide_borders(graph: ir.Graph, values: frozenset[str]) -> frozenset[str]:
    """Return the names of the graph's inputs and outputs that become fp32 if `values` do."""
    wide = _with_moved(graph, values)
    return frozenset(str(value.name) for value in (*graph.inputs, *graph.outputs) if value in wide)


def _with_moved(graph: ir.Graph, names: frozenset[str]) -> set[ir.Value]:
    """Return the 16-bit values of these names, and the outputs of nodes that only move their numbers."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    found = {value for value in values if value.name in names and is_narrow(value)}
    for node in graph:
        if only_moves(node) and any(value in found for value in moved_inputs(node)):
            found |= {value for value in node.outputs if is_narrow(value)}
    return found


def _island(graph: ir.Graph, wide: set[ir.Value], names: frozenset[str]) -> list[ir.Node]:
    """Return the nodes to rewrite, in order: named ones, those that write or read `wide`, Transposes of weights."""
    fixed = constants(graph)
    chosen = {node for node in graph if str(node.name) in names and any(map(is_narrow, node.outputs))}
    chosen |= {node for value in wide for node in (value.producer(), *value.consumers()) if node is not None}
    for node in reversed(list(graph)):
        readers = [user for value in node.outputs for user in value.consumers()]
        if node.op_type == "Transpose" and node.outputs[0] in fixed and readers and chosen.issuperset(readers):
            chosen.add(node)
    return [node for node in graph if node in chosen]


class _Writer:
    """Writer that rewrites the nodes of an island one by one, in the order of the graph."""

    def __init__(self, graph: ir.Graph, wide: set[ir.Value], island: list[ir.Node]) -> None:
        self._graph = graph
        self._wide = wide
        self._island = set(island)
        self._masks = masks(graph)
        self._casts: dict[tuple[ir.Value, bool], ir.Value] = {}
        self._left: set[ir.Node] = set()

    def widen(self, value: ir.Value) -> None:
        """Set the type of a value to fp32."""
        value.type = ir.TensorType(_WIDE)

    def rewrite(self, node: ir.Node) -> None:
        """Make `node` read and write fp32, with Casts to 16 bits for readers outside of the island."""
        deep = node.op_type in ("Attention", "Add")
        for index, value in enumerate(node.inputs):
            if value is not None and is_narrow(value):
                node.replace_input_with(index, self._up(node, value, deep=deep and value in self._masks))
        if node.op_type == "Cast" and ir.DataType(node.attributes.get_int("to", _WIDE.value)) != _WIDE:
            node.attributes["to"] = ir.AttrInt64("to", _WIDE.value)
        for value in node.outputs:
            if is_narrow(value):
                self._down(node, value)

    def drop_unread(self) -> None:
        """Remove the nodes that no longer have a reader because their readers use an fp32 copy."""
        for node in self._left:
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                self._graph.remove(node, safe=True)

    def _up(self, node: ir.Node, value: ir.Value, *, deep: bool) -> ir.Value:
        """Return 16-bit `value` in fp32; a second call for it returns the same value."""
        if (held := self._casts.get((value, deep))) is not None:
            return held
        source = value.producer()
        if source is not None and source.op_type == "DequantizeLinear":
            made = self._dequantized(source)
        elif _is_scale(node, value):
            made = self._constant(value)
        else:
            made = self._cast(node, value)
            if deep:
                made = self._deepened(made)
        self._casts[value, deep] = made
        return made

    def _cast(self, node: ir.Node, value: ir.Value) -> ir.Value:
        name, output = f"{_home(node, value)}/fp32", f"{value.name}/fp32"
        cast = make_node("Cast", [value], name, {"to": _WIDE.value}, output=output, dtype=_WIDE, shape=value.shape)
        source = value.producer()
        if source is not None:
            self._graph.insert_after(source, cast)
        else:
            self._graph.insert_before(node, cast)
        return cast.outputs[0]

    def _deepened(self, mask: ir.Value) -> ir.Value:
        """Return an fp32 mask times `_MASK_FACTOR`, which is below scores of any size; 0 stays 0."""
        factor = initializer(self._graph, f"{mask.name}/factor", np.array(_MASK_FACTOR, np.float32))
        cast = mask.producer()
        assert cast is not None
        name, output = f"{cast.name}/deep", f"{mask.name}/deep"
        node = make_node("Mul", [mask, factor], name, output=output, dtype=_WIDE, shape=mask.shape)
        self._graph.insert_after(cast, node)
        return node.outputs[0]

    def _dequantized(self, source: ir.Node) -> ir.Value:
        """Return the output of the DequantizeLinear `source` in fp32, from a copy of it with an fp32 scale."""
        scale = source.inputs[1]
        assert scale is not None
        inputs = [source.inputs[0], self._constant(scale), *source.inputs[2:]]
        attributes = {name: attribute.as_int() for name, attribute in source.attributes.items()}
        name, old = f"{source.name}/fp32", source.outputs[0]
        output = f"{old.name}/fp32"
        node = make_node("DequantizeLinear", inputs, name, attributes, output=output, dtype=_WIDE, shape=old.shape)
        self._graph.insert_after(source, node)
        self._left.add(source)
        return node.outputs[0]

    def _constant(self, value: ir.Value) -> ir.Value:
        """Return an fp32 copy of an initializer; scales must be constants, not Casts of constants."""
        tensor = value.const_value
        assert tensor is not None
        return initializer(self._graph, f"{value.name}/fp32", tensor.numpy().astype(np.float32))

    def _down(self, node: ir.Node, value: ir.Value) -> None:
        """Set an output to fp32, and insert a Cast to its former type for readers outside of the island."""
        narrow, given_out = value.dtype, value.is_graph_output()
        assert narrow is not None
        self.widen(value)
        others = [use for use in value.uses() if use.node not in self._island]
        if value in self._wide or not (others or given_out):
            return
        name = f"{_made_at(value)}/{_short(narrow)}"
        cast = make_node("Cast", [value], name, {"to": narrow.value}, dtype=narrow, shape=value.shape)
        made = cast.outputs[0]
        made.name, value.name = (value.name, f"{value.name}/fp32") if given_out else (f"{value.name}/cast", value.name)
        self._graph.insert_after(node, cast)
        for use in others:
            use.node.replace_input_with(use.idx, made)
        if given_out:
            self._graph.outputs[self._graph.outputs.index(value)] = made


def _is_scale(node: ir.Node, value: ir.Value) -> bool:
    quantizes = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    return quantizes and value.is_initializer() and len(node.inputs) > 1 and value is node.inputs[1]


def _home(node: ir.Node, value: ir.Value) -> str:
    """Return the prefix of the name of a Cast of `value`: the producer's name, or the weight's own."""
    if value.producer() is not None:
        return _made_at(value)
    return str(value.name) if value.is_initializer() else f"{node.name}/{value.name}"


def _made_at(value: ir.Value) -> str:
    """Return the name of the node that writes `value`, with the output's index if the node has several."""
    node = value.producer()
    assert node is not None
    return str(node.name) if len(node.outputs) == 1 else f"{node.name}/{value.index()}"


def _short(dtype: ir.DataType) -> str:
    return {ir.DataType(row.onnx): row.short for row in (FLOAT16, BFLOAT16)}[dtype]
