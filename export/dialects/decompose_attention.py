"""Decompose attention into MatMul, Softmax, MatMul: every TensorRT fuses that, also those without IAttention."""

import math

import onnx_ir as ir

from internvl_edge.calib.qdq.attention_pattern import (
    SPLIT_HEADS,
    TRANSPOSED,
    Attention,
    any_attention,
    split_heads,
    weighted_values,
    write_products,
)
from internvl_edge.calib.qdq.node_writer import NodeWriter

_KEYS_AT_ONCE = (0, 2, 3, 1)
"""Permutation of keys ``[B, N, H, D]`` to ``[B, H, D, N]``."""


class DecomposeAttentionPass(ir.passes.InPlacePass):
    """Rewrite ``Attention(q, k, v, mask)`` to ``softmax(q k^T / sqrt(D) + mask) v``, packed or per head.

    The options are those of `Dialect`: `scale` is the place of 1/sqrt(D); `heads`, `keys` and `values` are the ways to
    split heads and to make k^T. Scores and softmax keep the graph's type, because Casts between them would prevent
    fusion. The fused kernel chooses the type in which it accumulates, as for the Attention operator.
    """

    def __init__(
        self, *, scale: str = "query", heads: str = "apart", keys: str = "once", values: str = "apart"
    ) -> None:
        super().__init__()
        self._scale = scale
        self._heads = heads
        self._keys = keys
        self._values = values

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every attention with one output, with or without a mask."""
        modified = False
        for node in list(model.graph):
            if (found := any_attention(node)) is not None:
                if found.sharing > 1:
                    _rewrite_grouped(NodeWriter(model.graph, node), found)
                else:
                    self._rewrite(model.graph, node, found)
                modified = True
        return ir.passes.PassResult(model, modified)

    def _rewrite(self, graph: ir.Graph, node: ir.Node, found: Attention) -> None:
        heads, width, factor = found.heads, found.width, found.factor
        write = NodeWriter(graph, node)
        q, k, v = found.q, found.k, found.v
        on_scores = False

        def values() -> ir.Value:
            return split_heads(write, v, heads, width, "v")

        if self._heads == "together" and heads is not None and _same_rows(q, k):
            queries, keys = _split_together(write, q, k, heads, width, factor)
        elif self._values == "with keys" and heads is not None and not _same_rows(q, k):
            queries = split_heads(write, q, heads, width, "q")
            keys, beside = _split_keys_and_values(write, k, v, heads, width, factor)
            write_products(write, found, queries, keys, lambda: beside)
            return
        else:
            q, k = self._scaled(graph, write, q, k, factor)
            queries = split_heads(write, q, heads, width, "q")
            keys = self._transposed_keys(write, k, heads, width)
            on_scores = self._scale == "scores"
            if self._scale == "keys":
                keys = write.op("Mul", [keys, write.number(factor, k.dtype)], "k_scaled")
        write_products(write, found, queries, keys, values, on_scores=on_scores)

    def _scaled(
        self, graph: ir.Graph, write: NodeWriter, q: ir.Value, k: ir.Value, factor: float
    ) -> tuple[ir.Value, ir.Value]:
        """Return q and k, multiplied by `factor` if `scale` places it before the split into heads."""
        if self._scale == "gain" and (norm := _own_norm(q)) is not None:
            _scale_gain(graph, norm, factor)
        elif self._scale in ("query", "gain"):
            q = write.op("Mul", [q, write.number(factor, q.dtype)], "q_scaled")
        elif self._scale == "both":
            root = write.number(math.sqrt(factor), q.dtype)
            q, k = write.op("Mul", [q, root], "q_scaled"), write.op("Mul", [k, root], "k_scaled")
        return q, k

    def _transposed_keys(self, write: NodeWriter, k: ir.Value, heads: int | None, width: int) -> ir.Value:
        """Return k^T, ``[B, H, D, M]``."""
        if heads is not None and self._keys == "once":
            return split_heads(write, k, heads, width, "k", _KEYS_AT_ONCE)
        per_head = split_heads(write, k, heads, width, "k")
        return write.op("Transpose", [per_head], "k_transposed", perm=TRANSPOSED)


def _rewrite_grouped(write: NodeWriter, found: Attention) -> None:
    """Rewrite an attention whose key heads serve several query heads: these get an axis of their own.

    Keys and values get an axis of 1 in its place and are not repeated.
    """
    q = write.op("Mul", [found.q, write.number(found.factor, found.q.dtype)], "q_scaled")
    shape = found.k.shape
    assert shape is not None
    heads, width, one = shape[1], found.width, write.ints(2)
    assert isinstance(heads, int)
    queries = write.op("Reshape", [q, write.ints(0, heads, found.sharing, -1, width)], "q_groups")
    keys = write.op("Unsqueeze", [write.op("Transpose", [found.k], "k_transposed", perm=TRANSPOSED), one], "k_group")
    scores = write.op("MatMul", [queries, keys], "scores")
    mask = write.op("Unsqueeze", [found.mask, one], "mask_group") if found.mask is not None else None
    attended = weighted_values(write, scores, mask, lambda: write.op("Unsqueeze", [found.v, one], "v_group"))
    write.replace(write.op("Reshape", [attended, write.ints(0, heads * found.sharing, -1, width)], "heads"))


def _same_rows(q: ir.Value, k: ir.Value) -> bool:
    """Return whether q and k have the same number of rows, as a size or as a named axis."""
    rows, others = (value.shape[1] if value.shape is not None else None for value in (q, k))
    return rows is not None and rows == others and not (isinstance(rows, ir.SymbolicDim) and rows.value is None)


def _split_together(
    write: NodeWriter, q: ir.Value, k: ir.Value, heads: int, width: int, factor: float
) -> tuple[ir.Value, ir.Value]:
    """Return q ``[B, H, N, D]`` and k^T ``[B, H, D, N]`` from one Transpose of both, so that one kernel moves both.

    The root of `factor` is multiplied after the Transpose; without it, the builder separates the two again.
    """
    joined = write.op("Concat", [q, k], "qk", axis=2)
    split = write.op("Reshape", [joined, write.ints(0, 0, 2 * heads, width)], "qk_split")
    per_head = write.op("Transpose", [split], "qk_heads", perm=SPLIT_HEADS)
    scaled = write.op("Mul", [per_head, write.number(math.sqrt(factor), q.dtype)], "qk_scaled")
    queries, keys = write.parts(scaled, "qk_parts", 2, axis=1)
    return queries, write.op("Transpose", [keys], "k_transposed", perm=TRANSPOSED)


def _split_keys_and_values(
    write: NodeWriter, k: ir.Value, v: ir.Value, heads: int, width: int, factor: float
) -> tuple[ir.Value, ir.Value]:
    """Return k^T times `factor` ``[B, H, D, M]`` and v ``[B, H, M, D]`` from one Transpose of both.

    The factor, 1 for the values, is multiplied after the Transpose; without it, the builder separates the two again.
    """
    joined = write.op("Concat", [k, v], "kv", axis=2)
    split = write.op("Reshape", [joined, write.ints(0, 0, 2 * heads, width)], "kv_split")
    per_head = write.op("Transpose", [split], "kv_heads", perm=SPLIT_HEADS)
    scaled = write.op("Mul", [per_head, write.per_head([factor] * heads + [1.0] * heads, k.dtype)], "kv_scaled")
    keys, values = write.parts(scaled, "kv_parts", 2, axis=1)
    return write.op("Transpose", [keys], "k_transposed", perm=TRANSPOSED), values


def _own_norm(q: ir.Value) -> ir.Node | None:
    """Return the norm that writes `q` if nothing else reads its output, or None."""
    norm = q.producer()
    if norm is None or norm.op_type != "RMSNormalization" or q.is_graph_output() or len(q.uses()) != 1:
        return None
    gain = norm.inputs[1]
    return norm if gain is not None and gain.is_initializer() else None


def _scale_gain(graph: ir.Graph, norm: ir.Node, factor: float) -> None:
    """Multiply the gain of `norm` by `factor`, as a product of constants that the builder folds."""
    gain = norm.inputs[1]
    assert gain is not None
    write = NodeWriter(graph, norm)
    scaled = write.op("Mul", [gain, write.number(factor, gain.dtype)], "gain_scaled")
    scaled.shape = gain.shape
    norm.replace_input_with(1, scaled)
