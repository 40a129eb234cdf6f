"""Make Attention split and merge heads itself: with the number of heads as attribute, it takes ``[B, N, H*D]``."""

from dataclasses import dataclass

import onnx_ir as ir

_SWAP = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class _Match:
    """Parts of a match."""

    packed: tuple[ir.Value, ir.Value, ir.Value]
    """q, k, v as ``[B, N, H*D]``, before a rotary if there is one."""
    heads: tuple[int, int]
    """Number of heads of q and of k."""
    """Number of heads of q and of k."""
    merged: ir.Node
    """Reshape that merges the heads of the output."""


class AbsorbHeadLayoutPass(ir.passes.InPlacePass):
    """Rewrite ``Reshape, Transpose -> [RotaryEmbedding] -> Attention -> Transpose, Reshape`` to packed attention.

    Attention whose keys or values are also a cache is left alone, because a cache is stored per head.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every attention whose values per head have no other reader."""
        modified = False
        for node in list(model.graph):
            if (match := _match(node)) is not None:
                _rewrite(model.graph, node, match)
                modified = True
        return ir.passes.PassResult(model, modified)


def _match(node: ir.Node) -> _Match | None:
    if node.op_type != "Attention" or "q_num_heads" in node.attributes or len(node.outputs) != 1:
        return None
    merged = _merging_reshape(node.outputs[0])
    q, k, v = (_packed(value) for value in node.inputs[:3])
    if merged is None or q is None or k is None or v is None:
        return None
    return _Match(packed=(q[0], k[0], v[0]), heads=(q[1], k[1]), merged=merged)


def _packed(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """Return the packed source of per-head `value` and its number of heads; None if there are other readers."""
    transpose = _sole_producer(value, "Transpose", "RotaryEmbedding")
    if transpose is not None and transpose.op_type == "RotaryEmbedding":
        transpose = _sole_producer(transpose.inputs[0], "Transpose")
    if transpose is None or not _swaps_heads(transpose):
        return None
    reshape = _sole_producer(transpose.inputs[0], "Reshape")
    if reshape is None or reshape.inputs[0] is None:
        return None
    shape = reshape.outputs[0].shape
    if shape is None or len(shape) != 4 or not isinstance(shape[2], int):
        return None
    return reshape.inputs[0], shape[2]


def _sole_producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    node = value.producer()
    return node if node is not None and node.op_type in op_types else None


def _swaps_heads(node: ir.Node) -> bool:
    return tuple(node.attributes.get_ints("perm", ())) == _SWAP


def _merging_reshape(attended: ir.Value) -> ir.Node | None:
    transpose = _sole_consumer(attended, "Transpose")
    if transpose is None or not _swaps_heads(transpose):
        return None
    reshape = _sole_consumer(transpose.outputs[0], "Reshape")
    shape = reshape.outputs[0].shape if reshape is not None else None
    return reshape if shape is not None and len(shape) == 3 else None


def _sole_consumer(value: ir.Value, op_type: str) -> ir.Node | None:
    consumers = list(value.consumers())
    if value.is_graph_output() or len(consumers) != 1:
        return None
    return consumers[0] if consumers[0].op_type == op_type else None


def _rewrite(graph: ir.Graph, attention: ir.Node, match: _Match) -> None:
    q, k, v = match.packed
    query = _rotate_packed(graph, attention, attention.inputs[0], q, match.heads[0])
    key = _rotate_packed(graph, attention, attention.inputs[1], k, match.heads[1])
    packed = ir.Node(
        "",
        "Attention",
        [query, key, v, *attention.inputs[3:]],
        attributes=[*attention.attributes.values(), *_ints(q_num_heads=match.heads[0], kv_num_heads=match.heads[1])],
        metadata_props=attention.metadata_props,
    )
    _describe_like(packed.outputs[0], match.merged.outputs[0])
    graph.insert_before(attention, packed)
    match.merged.outputs[0].replace_all_uses_with(packed.outputs[0], replace_graph_outputs=True)


def _rotate_packed(
    graph: ir.Graph, before: ir.Node, per_head: ir.Value | None, packed: ir.Value, heads: int
) -> ir.Value:
    """Return `packed` with the rotary of `per_head`, or `packed` itself if there is none."""
    rotary = per_head.producer() if per_head is not None else None
    if rotary is None or rotary.op_type != "RotaryEmbedding":
        return packed
    rotated = ir.Node(
        "",
        "RotaryEmbedding",
        [packed, *rotary.inputs[1:]],
        attributes=[*rotary.attributes.values(), *_ints(num_heads=heads)],
        metadata_props=rotary.metadata_props,
    )
    _describe_like(rotated.outputs[0], packed)
    graph.insert_before(before, rotated)
    return rotated.outputs[0]


def _ints(**values: int) -> list[ir.Attr]:
    return [ir.AttrInt64(name, value) for name, value in values.items()]


def _describe_like(value: ir.Value, other: ir.Value) -> None:
    value.shape, value.type = other.shape, other.type
