"""Attention as the pattern MatMul, Softmax, MatMul: the parts that all rewritings of attention share."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import NodeWriter

SPLIT_HEADS = (0, 2, 1, 3)
"""Permutation that moves the axis of heads before that of rows, and back."""
TRANSPOSED = (0, 1, 3, 2)
_KNOWN = {"scale", "q_num_heads", "kv_num_heads"}
"""Attributes that the pattern can express; others, as ``is_causal`` and ``softcap``, it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """An attention with q, k, v, an optional mask and one output."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    mask: ir.Value | None
    heads: int | None
    """Number of heads that are packed in the last axis; None if heads have an axis of their own."""
    width: int
    """Width of one head."""
    factor: float
    """Factor of the scores."""
    sharing: int = 1
    """Consecutive query heads that a key head and its value head serve; above 1 only with an axis of heads."""

    @property
    def qkv(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values."""
        return self.q, self.k, self.v


def plain_attention(node: ir.Node) -> Attention | None:
    """Return the attention that `node` computes; None if it is none, one that the pattern cannot express, or one with
    fewer key heads than query heads."""
    found = any_attention(node)
    return found if found is not None and found.sharing == 1 else None


def any_attention(node: ir.Node) -> Attention | None:
    """Return the attention that `node` computes, also one whose key heads each serve several query heads."""
    if node.op_type != "Attention" or not set(node.attributes) <= _KNOWN or len(node.outputs) != 1:
        return None
    if len(node.inputs) < 3 or any(value is not None for value in node.inputs[4:]):
        return None
    q, k, v = node.inputs[:3]
    if q is None or k is None or v is None or any(value.shape is None or value.dtype is None for value in (q, k, v)):
        return None
    shapes = [list(value.shape or ()) for value in (q, k, v)]
    width, sharing = shapes[0][-1], 1
    if not isinstance(width, int) or any(shape[-1] != width for shape in shapes):
        return None
    heads: int | None = None
    if len(shapes[0]) == 3:
        heads = node.attributes.get_int("q_num_heads", 0)
        if not 0 < heads == node.attributes.get_int("kv_num_heads", 0):
            return None
        width //= heads
    else:
        queries, keys, values = (shape[1] for shape in shapes)
        if not isinstance(queries, int) or not isinstance(keys, int) or values != keys or queries % keys:
            return None
        sharing = queries // keys
    factor = node.attributes.get_float("scale", 1 / math.sqrt(width))
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    return Attention(q=q, k=k, v=v, mask=mask, heads=heads, width=width, factor=factor, sharing=sharing)


def split_heads(
    write: NodeWriter, x: ir.Value, heads: int | None, width: int, name: str, perm: tuple[int, ...] = SPLIT_HEADS
) -> ir.Value:
    """Return packed `x` ``[B, N, H*D]`` with an axis of heads, its axes in the order of `perm`; else `x` itself."""
    if heads is None:
        return x
    split = write.op("Reshape", [x, write.ints(0, 0, heads, width)], f"{name}_split")
    return write.op("Transpose", [split], f"{name}_heads", perm=perm)


def write_products(
    write: NodeWriter,
    found: Attention,
    queries: ir.Value,
    keys: ir.Value,
    values: Callable[[], ir.Value],
    *,
    on_scores: bool = False,
    weights: Callable[[ir.Value], ir.Value] = lambda x: x,
) -> None:
    """Replace the attention by products of its queries, keys and values.

    Args:
        write: Writer whose anchor is the attention.
        found: The attention.
        queries: ``[B, H, N, D]``.
        keys: ``[B, H, D, M]``.
        values: Function that writes and returns ``[B, H, M, D]``; it is called after the softmax is written.
        on_scores: Whether the scores are multiplied by the factor; otherwise the queries have been already.
        weights: Function from the probabilities to what multiplies the values.
    """
    scores = write.op("MatMul", [queries, keys], "scores")
    if on_scores:
        scores = write.op("Mul", [scores, write.number(found.factor, found.q.dtype)], "scaled")
    attended = weighted_values(write, scores, found.mask, values, weights)
    if found.heads is not None:
        merged = write.op("Transpose", [attended], "merged", perm=SPLIT_HEADS)
        attended = write.op("Reshape", [merged, write.ints(0, 0, found.heads * found.width)], "packed")
    write.replace(attended)


def weighted_values(
    write: NodeWriter,
    scores: ir.Value,
    mask: ir.Value | None,
    values: Callable[[], ir.Value],
    weights: Callable[[ir.Value], ir.Value] = lambda x: x,
) -> ir.Value:
    """Return the values weighted by the softmax of the masked scores; see `write_products`."""
    if mask is not None:
        scores = write.op("Add", [scores, mask], "masked")
    probabilities = weights(write.op("Softmax", [scores], "probabilities", axis=-1))
    return write.op("MatMul", [probabilities, values()], "attended")
