"""Rewrite attention over a cache to `GroupQueryAttention`, whose kernel writes new keys and values into the cache.

A graph concatenates the cache and the new rows, for which ONNX Runtime copies the whole cache in every step. The kernel
appends in place where `past_key_values.*` and `present.*` have the same memory, and skips the keys behind a row. Its
heads are packed in the last axis, so that the transposes to heads and back are left out too.

In the kernel a row sees at most the rows before it and itself, as the mask of a decoder says. A row of padding, which
sees no key at all, attends to other keys there than in the graph; nothing reads what follows from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from internvl_edge.runtime.backends.lowering.onnx_model import MICROSOFT, DeclaredType, Node, OnnxModel
from internvl_edge.runtime.numbers.tensor_types import INT32

_HEADS_FIRST = [0, 2, 1, 3]
_KNOWN = {"scale"}
"""Attributes that both kernels support; others exclude a node."""
_WIDTHS = 8
"""The kernel takes heads whose width is a multiple of this."""
_EMBEDDINGS, _MASK = "inputs_embeds", "attention_mask"
"""Inputs of a language model. A decoder of captions starts with several rows on the cache of the queries, which the
kernel takes one by one."""
_LENGTH = "lowering/total_int64"
_TOTAL, _LAST = "lowering/total", "lowering/last"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attention:
    """Names of the values of one attention over a cache."""

    node: Node
    past: tuple[str, str]
    new: tuple[str, str]
    heads: int
    kv_heads: int
    width: int


def cached_attention(model: OnnxModel) -> int:
    """Rewrite each attention whose keys and values are a cache and new rows; return their number.

    Either all caches of the graph are rewritten or none, since the caches of a session are of one kind.
    """
    producers, declared = model.producers(), model.declared()
    found = {
        id(node): each for node in model.nodes if (each := _attention(node, producers, declared, model)) is not None
    }
    past = {name for name in model.input_names() if name.startswith("past_key_values.")}
    appended = {name for each in found.values() for name in each.past}
    if not found or appended != past or not {_EMBEDDINGS, _MASK} <= declared.keys():
        return 0
    presents = {name for each in found.values() for name in each.node.inputs[1:3]}
    uses = model.uses()
    others = [node for name in past for node in uses[name] if not presents.intersection(node.outputs)]
    if not all(_is_past_length(node, past) for node in others):
        return 0
    nodes = _lengths()
    for node in model.nodes:
        if id(node) in found:
            nodes += _rewritten(found[id(node)], producers, uses)
        elif _is_past_length(node, past):
            nodes += _past_length(node)
        elif not presents.intersection(node.outputs):
            nodes.append(node)
    model.nodes = nodes
    model.require_domain(MICROSOFT)
    model.drop_unused()
    return len(found)


def _attention(
    node: Node, producers: Mapping[str, Node], declared: Mapping[str, DeclaredType], model: OnnxModel
) -> _Attention | None:
    """Return the values of `node` if it is an attention ``[B, H, n, D]`` with a mask, over a cache that it returns."""
    if node.op_type != "Attention" or node.domain or len(node.inputs) != 4 or len(node.outputs) != 1:
        return None
    appends = [producers.get(name) for name in node.inputs[1:3]]
    pairs = [(each.inputs[0], each.inputs[1]) for each in appends if each is not None and _joins_two(each)]
    if len(pairs) != 2 or not _KNOWN.issuperset(node.attributes) or not set(node.inputs[1:3]) <= model.outputs:
        return None
    (past_key, new_key), (past_value, new_value) = pairs
    query, cache = (declared.get(name) for name in (node.inputs[0], past_key))
    if query is None or cache is None or query.axes is None or cache.axes is None or len(query.axes) != 4:
        return None
    heads, kv_heads, width = query.axes[1], cache.axes[1], cache.axes[3]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or not isinstance(width, int) or width % _WIDTHS:
        return None
    return _Attention(
        node=node,
        past=(past_key, past_value),
        new=(new_key, new_value),
        heads=heads,
        kv_heads=kv_heads,
        width=width,
    )


def _is_past_length(node: Node, past: set[str]) -> bool:
    """Return whether a node gives the length of a cache: the kernel's array has room for more positions."""
    counts = (node.integer("start", 0), node.integer("end", 4)) in ((2, 3), (-2, -1), (2, -1), (-2, 3))
    return node.op_type == "Shape" and node.inputs[0] in past and counts


def _past_length(node: Node) -> list[Node]:
    """Return nodes that give the length of the cache as that of the mask without the new rows."""
    out = node.outputs[0]
    return [
        _node("Shape", [_EMBEDDINGS], f"{out}/new", start=1, end=2),
        _node("Sub", [_LENGTH, f"{out}/new"], out),
    ]


def _joins_two(node: Node) -> bool:
    return node.op_type == "Concat" and len(node.inputs) == 2 and node.integer("axis", 0) in (2, -2)


def _lengths() -> list[Node]:
    """Return nodes for the length of the cache with new rows, and for the last position of each row of the batch."""
    total, batch, one = _LENGTH, "lowering/batch", "lowering/one"
    last, scalar = "lowering/last_int64", "lowering/scalar"
    return [
        _node("Shape", [_MASK], total, start=1, end=2),
        _node("Shape", [_MASK], batch, start=0, end=1),
        _constant(one, [1]),
        _constant(scalar, []),
        _node("Sub", [total, one], last),
        _node("Cast", [last], f"{last}/narrow", to=INT32.onnx),
        _node("Expand", [f"{last}/narrow", batch], _LAST),
        _node("Cast", [total], f"{total}/narrow", to=INT32.onnx),
        _node("Reshape", [f"{total}/narrow", scalar], _TOTAL),
    ]


def _rewritten(found: _Attention, producers: Mapping[str, Node], uses: Mapping[str, list[Node]]) -> list[Node]:
    """Return the nodes in place of an attention and of the nodes that append to its cache."""
    query, key, value, mask = found.node.inputs
    nodes: list[Node] = []
    packed = [
        _packed(name, heads, producers, nodes)
        for name, heads in zip((query, *found.new), (found.heads, found.kv_heads, found.kv_heads), strict=True)
    ]
    out = found.node.outputs[0]
    node = Node(
        "GroupQueryAttention",
        [*packed, *found.past, _LAST, _TOTAL, "", "", "", mask],
        [f"{out}/packed", key, value],
        MICROSOFT,
        dict(found.node.attributes),
    )
    node.put_integer("num_heads", found.heads)
    node.put_integer("kv_num_heads", found.kv_heads)
    shape, rows = f"{out}/heads_shape", f"{out}/rows_first"
    nodes += [
        node,
        _constant(shape, [0, 0, found.heads, found.width]),
        _node("Reshape", [f"{out}/packed", shape], rows),
    ]
    for reader in uses.get(out, []):
        if _swaps_heads(reader):  # back to the order in which the kernel returns them
            reader.op_type, reader.inputs, reader.attributes = "Identity", [rows], {}
    nodes.append(_transposed(rows, out))
    return nodes


def _packed(name: str, heads: int, producers: Mapping[str, Node], nodes: list[Node]) -> str:
    """Append nodes that pack the heads of `name` ``[B, H, n, D]`` in the last axis; return the name of their output."""
    packed, shape, source = f"{name}/packed", f"{name}/packed_shape", producers.get(name)
    if source is not None and source.op_type == "RotaryEmbedding" and not source.domain:
        states = _packed(source.inputs[0], heads, producers, nodes)
        rotary = Node("RotaryEmbedding", [states, *source.inputs[1:]], [packed], "", dict(source.attributes))
        rotary.put_integer("num_heads", heads)
        nodes.append(rotary)
        return packed
    nodes.append(_constant(shape, [0, 0, -1]))
    if source is not None and _swaps_heads(source):
        nodes.append(_node("Reshape", [source.inputs[0], shape], packed))
        return packed
    nodes += [_transposed(name, f"{name}/rows_first"), _node("Reshape", [f"{name}/rows_first", shape], packed)]
    return packed


def _swaps_heads(node: Node) -> bool:
    """Return whether `node` swaps the axes of heads and rows."""
    return node.op_type == "Transpose" and node.integers("perm") == _HEADS_FIRST


def _transposed(source: str, target: str) -> Node:
    node = Node("Transpose", [source], [target])
    node.put_integers("perm", _HEADS_FIRST)
    return node


def _constant(name: str, values: list[int]) -> Node:
    node = Node("Constant", [], [name])
    node.put_integers("value_ints", values)
    return node


def _node(op_type: str, inputs: list[str], output: str, **integers: int) -> Node:
    node = Node(op_type, inputs, [output])
    for name, value in integers.items():
        node.put_integer(name, value)
    return node
