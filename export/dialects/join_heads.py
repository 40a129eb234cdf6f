"""Split q, k and v of an attention into heads together, so that one kernel moves, norms or rotates all three."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from internvl_edge.calib.qdq.node_writer import NodeWriter
from internvl_edge.export.dialects.decompose_norms import is_rms_norm, root_mean_square

_SWAP = (0, 2, 1, 3)

Three = tuple[ir.Value, ir.Value, ir.Value]


@dataclass(frozen=True, slots=True)
class HeadsMatch:
    """Parts of a self-attention, with or without a cache."""

    rows: Three
    """Packed q, k, v ``[B, N, H*D]``, the outputs of the linears."""
    per_head: Three
    """The q, k, v of the attention and the cache: after norms or rotaries, and per head unless it is packed."""
    between: tuple[ir.Node, ir.Node] | None
    """Norm or rotary of q and of k; None if there are none."""
    heads: int

    @property
    def packed(self) -> ir.Value | None:
        """Return the value ``[B, N, 3*H*D]`` whose parts are q, k, v, or None."""
        splits = {value.producer() for value in self.rows}
        split = splits.pop()
        whole = not splits and split is not None and split.op_type == "Split" and tuple(split.outputs) == self.rows
        return split.inputs[0] if whole and split is not None else None

    @property
    def rotary(self) -> ir.Node | None:
        """Return the rotary of q, or None; that of k has the same angles."""
        return self.between[0] if self.between is not None and self.between[0].op_type == "RotaryEmbedding" else None


class JoinHeadsPass(ir.passes.InPlacePass):
    """Rewrite q, k, v to parts of one ``Transpose(Reshape(qkv))``, with norms or rotaries after it.

    If they are not parts of one product, a Concat joins them. It costs no copy, since builders merge the three
    products. Keys and values in a cache are the same values as before. The statistics of a norm over the whole width
    are computed before the Transpose and applied per head; otherwise a builder would write q and k to memory in fp32.
    The attention is per head afterwards.

    Three products without norm or rotary are left alone, because a builder separates them again.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every self-attention with as many key as query heads."""
        modified = False
        for node in [node for node in model.graph if node.op_type == "Attention"]:
            if (match := match_heads(node)) is not None:
                _rewrite(model.graph, node, match)
                modified = True
        if modified:
            common.TopologicalSortPass()(model)
        return ir.passes.PassResult(model, modified)


def match_heads(node: ir.Node) -> HeadsMatch | None:
    """Return the parts of an attention if q, k and v have one shape and equal numbers of heads, else None."""
    if len(node.inputs) < 3 or len(node.outputs) != 1 or any(value is None for value in node.inputs[:3]):
        return None
    if any(value is not None for value in node.inputs[4:]):
        return None
    packed = node.attributes.get_int("q_num_heads", 0)
    if packed != node.attributes.get_int("kv_num_heads", 0):
        return None
    q, k, v = (_new_rows(value) for value in node.inputs[:3] if value is not None)
    between = _between(q, k)
    sources = (between[0].inputs[0], between[1].inputs[0], v) if between is not None else (q, k, v)
    rows = [_packed_rows(value) if not packed else value for value in sources]
    heads = packed or _heads(q)
    if heads is None or not _side_by_side(rows, heads):
        return None
    a, b, c = rows
    assert a is not None
    assert b is not None
    assert c is not None
    match = HeadsMatch(rows=(a, b, c), per_head=(q, k, v), between=between, heads=heads)
    return match if match.rotary is not None or (packed and match.packed is not None) else None


def _new_rows(value: ir.Value) -> ir.Value:
    """Return keys or values of this call, without the cached ones in front of them."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.inputs[-1] is None:
        return value
    return node.inputs[-1]


def _between(q: ir.Value, k: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """Return the two rotaries with the same angles, or the two norms, that write q and k, or None."""
    of_q, of_k = q.producer(), k.producer()
    if of_q is None or of_k is None:
        return None
    rotated = of_q.op_type == of_k.op_type == "RotaryEmbedding" and of_q.inputs[1:] == of_k.inputs[1:]
    alike = rotated and of_q.attributes == of_k.attributes
    return (of_q, of_k) if alike or (is_rms_norm(of_q) and is_rms_norm(of_k)) else None


def _packed_rows(value: ir.Value | None) -> ir.Value | None:
    """Return the value ``[B, N, H*D]`` whose split into heads is `value`, or None."""
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


def _rewrite(graph: ir.Graph, attention: ir.Node, match: HeadsMatch) -> None:
    shape = match.rows[0].shape
    assert shape is not None
    total = shape[2]
    assert isinstance(total, int)
    write = NodeWriter(graph, attention)
    joined = match.packed or write.op("Concat", list(match.rows), "qkv", axis=2)
    split = write.op("Reshape", [joined, write.ints(0, 0, 3 * match.heads, total // match.heads)], "qkv_split")
    per_head = write.op("Transpose", [split], "qkv_heads", perm=_SWAP)
    per_head.shape = ir.Shape([shape[0], 3 * match.heads, shape[1], total // match.heads])
    made = _rotated(write, per_head, match) if match.rotary is not None else _normed(graph, write, per_head, match)
    for value in made:
        value.shape = ir.Shape([shape[0], match.heads, shape[1], total // match.heads])
    if "q_num_heads" in attention.attributes:
        _attend_per_head(write, attention, made, total)
    else:
        _replace_values(match.per_head, made)


def _rotated(write: NodeWriter, per_head: ir.Value, match: HeadsMatch) -> Three:
    """Return q and k, rotated together, and v."""
    heads, rotary = match.heads, match.rotary
    assert rotary is not None
    assert per_head.shape is not None
    unrotated = write.op("Slice", [per_head, write.ints(0), write.ints(2 * heads), write.ints(1)], "qk")
    v = write.op("Slice", [per_head, write.ints(2 * heads), write.ints(3 * heads), write.ints(1)], "v")
    angles = [value for value in rotary.inputs[1:] if value is not None]
    rotated = write.op("RotaryEmbedding", [unrotated, *angles], "qk_rotated", **_settings(rotary))
    sizes = list(per_head.shape)
    unrotated.shape = rotated.shape = ir.Shape([sizes[0], 2 * heads, *sizes[2:]])
    q, k = write.parts(rotated, "qk_parts", 2, axis=1)
    return q, k, v


def _settings(rotary: ir.Node) -> dict[str, int]:
    """Return the attributes of `rotary` that also apply to heads that are split already."""
    return {name: int(attr.value) for name, attr in rotary.attributes.items() if name != "num_heads"}


def _normed(graph: ir.Graph, write: NodeWriter, per_head: ir.Value, match: HeadsMatch) -> Three:
    """Return q and k, with their norms if they had any, and v."""
    q, k, v = write.parts(per_head, "qkv_parts", 3, axis=1)
    if match.between is None:
        return q, k, v
    return _norm_heads(graph, match.between[0], q, match.heads), _norm_heads(graph, match.between[1], k, match.heads), v


def _norm_heads(graph: ir.Graph, norm: ir.Node, x: ir.Value, heads: int) -> ir.Value:
    """Return `x` ``[B, H, N, D]`` after the RMSNormalization `norm` of ``[B, N, H*D]``.

    It multiplies by the reciprocal, since a division costs the builder one more kernel.
    """
    rows, gain = norm.inputs
    assert rows is not None
    assert gain is not None
    assert x.dtype is not None
    write = NodeWriter(graph, norm)
    wide = write.cast(rows, ir.DataType.FLOAT, "Cast")
    inverse = write.op("Reciprocal", [root_mean_square(write, norm, wide)], "Reciprocal")
    per_row = write.op("Unsqueeze", [inverse, write.ints(1)], "per_row")
    unit = write.op("Mul", [write.cast(x, ir.DataType.FLOAT, "HeadsCast"), per_row], "unit")
    gains = write.op("Reshape", [gain, write.ints(heads, 1, -1)], "gains")
    return write.op("Mul", [write.cast(unit, x.dtype, "CastBack"), gains], "Mul")


def _attend_per_head(write: NodeWriter, attention: ir.Node, parts: Three, total: int) -> None:
    """Replace a packed `attention` by one per head of the same name, and pack its output again."""
    kept = {a.name: a.value for a in attention.attributes.values() if not a.name.endswith("_num_heads")}
    attended = write.op("Attention", [*parts, *_others(attention)], "per_head", **kept)
    attended.shape = parts[0].shape
    merged = write.op("Transpose", [attended], "merged", perm=_SWAP)
    packed = write.op("Reshape", [merged, write.ints(0, 0, total)], "packed")
    name = packed.name
    write.replace(packed)
    for made, called in ((packed.producer(), name), (attended.producer(), attention.name)):
        assert made is not None
        made.name = called


def _others(attention: ir.Node) -> list[ir.Value]:
    """Return the inputs of `attention` besides q, k and v: a mask, or nothing."""
    return [value for value in attention.inputs[3:] if value is not None]


def _replace_values(old: Three, made: Three) -> None:
    """Replace the values `old` by `made` under their names, for all readers and as outputs of the graph."""
    for before, after in zip(old, made, strict=True):
        name = before.name
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        before.name, after.name = f"{name}/apart", name
