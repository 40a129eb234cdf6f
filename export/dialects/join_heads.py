"""Split q, k and v of a rotated attention into heads in one go, so that one kernel moves and rotates all three."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from internvl_edge.export.dialects.node_writer import NodeWriter

_SWAP = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class _Match:
    rows: tuple[ir.Value, ir.Value, ir.Value]
    """q, k, v packed, ``[B, N, H*D]``, as the linears give them."""
    per_head: tuple[ir.Value, ir.Value, ir.Value]
    """What these become for the attention and the cache: rotated, and per head unless the attention is packed."""
    rotary: ir.Node
    """Of q; that of k is its like."""
    heads: int


class JoinHeadsPass(ir.passes.InPlacePass):
    """Rewrite q, k, v to parts of one ``Transpose(Reshape(Concat(q, k, v)))``, q and k rotated together behind it.

    The three products lie side by side anyway, since builders merge them, so the Concat moves nothing. Keys and values
    that are kept in a cache, or follow on one, are the same values as before. The attention is per head afterwards.
    Attention without rotary stays: with nothing to compute behind the Transpose, a builder takes the parts apart again.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every attention of rows on themselves, with as many key as query heads."""
        modified = False
        for node in [node for node in model.graph if node.op_type == "Attention"]:
            if (match := _match(node)) is not None:
                _rewrite(model.graph, node, match)
                modified = True
        if modified:
            common.TopologicalSortPass()(model)
        return ir.passes.PassResult(model, modified)


def _match(node: ir.Node) -> _Match | None:
    if len(node.inputs) < 3 or len(node.outputs) != 1 or any(value is None for value in node.inputs[:3]):
        return None
    if any(value is not None for value in node.inputs[4:]):
        return None
    packed = node.attributes.get_int("q_num_heads", 0)
    if packed != node.attributes.get_int("kv_num_heads", 0):
        return None
    q, k, v = (_new_rows(value) for value in node.inputs[:3] if value is not None)
    of_q, of_k = q.producer(), k.producer()
    if of_q is None or of_k is None or not _alike(of_q, of_k):
        return None
    sources = (of_q.inputs[0], of_k.inputs[0], v)
    rows = [_packed_rows(value) if not packed else value for value in sources]
    heads = packed or _heads(of_q.outputs[0])
    if heads is None or not _side_by_side(rows, heads):
        return None
    a, b, c = rows
    assert a is not None
    assert b is not None
    assert c is not None
    return _Match(rows=(a, b, c), per_head=(q, k, v), rotary=of_q, heads=heads)


def _new_rows(value: ir.Value) -> ir.Value:
    """Return the rows of this call: the last part where keys or values follow on a cache."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.inputs[-1] is None:
        return value
    return node.inputs[-1]


def _alike(first: ir.Node, second: ir.Node) -> bool:
    """Return whether both are rotaries by the same angles."""
    same = first.op_type == second.op_type == "RotaryEmbedding" and first.inputs[1:] == second.inputs[1:]
    return same and first.attributes == second.attributes


def _packed_rows(value: ir.Value | None) -> ir.Value | None:
    """Return ``[B, N, H*D]`` of which `value` is the split into heads, or None."""
    transpose = value.producer() if value is not None else None
    if transpose is None or transpose.op_type != "Transpose":
        return None
    if tuple(transpose.attributes.get_ints("perm", ())) != _SWAP or transpose.inputs[0] is None:
        return None
    reshape = transpose.inputs[0].producer()
    return reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None


def _heads(per_head: ir.Value) -> int | None:
    heads = per_head.shape[1] if per_head.shape is not None and len(per_head.shape) == 4 else None
    return heads if isinstance(heads, int) else None


def _side_by_side(rows: list[ir.Value | None], heads: int) -> bool:
    """Return whether all three have the same shape ``[B, N, H*D]``."""
    shapes = [value.shape for value in rows if value is not None and value.shape is not None]
    if len(shapes) != 3 or any(len(shape) != 3 or shape != shapes[0] for shape in shapes):
        return False
    width = shapes[0][2]
    return isinstance(width, int) and width % heads == 0


def _rewrite(graph: ir.Graph, attention: ir.Node, match: _Match) -> None:
    heads, rotary = match.heads, match.rotary
    shape = match.rows[0].shape
    assert shape is not None
    total = shape[2]
    assert isinstance(total, int)
    width = total // heads
    write = NodeWriter(graph, attention)
    joined = write.op("Concat", list(match.rows), "qkv", axis=2)
    split = write.op("Reshape", [joined, write.ints(0, 0, 3 * heads, width)], "qkv_split")
    per_head = write.op("Transpose", [split], "qkv_heads", perm=_SWAP)
    unrotated = write.op("Slice", [per_head, write.ints(0), write.ints(2 * heads), write.ints(1)], "qk")
    v = write.op("Slice", [per_head, write.ints(2 * heads), write.ints(3 * heads), write.ints(1)], "v")
    angles = [value for value in rotary.inputs[1:] if value is not None]
    rotated = write.op("RotaryEmbedding", [unrotated, *angles], "qk_rotated", **_settings(rotary))
    unrotated.shape = rotated.shape = ir.Shape([shape[0], 2 * heads, shape[1], width])
    q, k = write.parts(rotated, "qk_parts", 2, axis=1)
    for made in (q, k, v):
        made.shape = ir.Shape([shape[0], heads, shape[1], width])
    if "q_num_heads" in attention.attributes:
        _attend_per_head(write, attention, (q, k, v), total)
    else:
        _stand_in(graph, match.per_head, (q, k, v))


def _settings(rotary: ir.Node) -> dict[str, int]:
    """Return the attributes of `rotary` that hold per head, too."""
    return {name: int(attr.value) for name, attr in rotary.attributes.items() if name != "num_heads"}


def _attend_per_head(
    write: NodeWriter, attention: ir.Node, parts: tuple[ir.Value, ir.Value, ir.Value], total: int
) -> None:
    """Write a packed `attention` as one per head, its output packed again."""
    kept = {a.name: a.value for a in attention.attributes.values() if not a.name.endswith("_num_heads")}
    attended = write.op("Attention", [*parts, *_others(attention)], "per_head", **kept)
    attended.shape = parts[0].shape
    merged = write.op("Transpose", [attended], "merged", perm=_SWAP)
    write.replace(write.op("Reshape", [merged, write.ints(0, 0, total)], "packed"))


def _others(attention: ir.Node) -> list[ir.Value]:
    """Return what `attention` reads besides q, k and v: a mask, or nothing."""
    return [value for value in attention.inputs[3:] if value is not None]


def _stand_in(graph: ir.Graph, old: tuple[ir.Value, ...], made: tuple[ir.Value, ...]) -> None:
    """Let `made` stand for `old` wherever they are read, or given out, under their names."""
    for before, after in zip(old, made, strict=True):
        name = before.name
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        before.name, after.name = f"{name}/apart", name
