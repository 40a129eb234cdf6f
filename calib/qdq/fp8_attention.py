"""Attention in FP8: the pattern of products, with Q/DQ on q, k, v and on the probabilities."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from internvl_edge.calib.qdq.attention_pattern import (
    TRANSPOSED,
    Attention,
    plain_attention,
    split_heads,
    write_products,
)
from internvl_edge.calib.qdq.node_writer import NodeWriter
from internvl_edge.calib.recipes.recipe import AttentionRange
from internvl_edge.runtime.numbers.formats import FP8

FEWEST_KEYS = 32
"""Smallest number of key rows with which an attention is quantized.

With fewer, TensorRT-RTX 1.7 builds up to eight kernels in FP8 where it has one in 16 bits. This is so in plans for
sm_89, sm_120 and sm_121, with and without a mask, for any number of queries.
"""
PROBABILITY_SCALE = 1 / 448
"""Scale of the probabilities, which lie in [0, 1]: the largest code of E4M3 stands for 1, as TensorRT expects."""
_CODES = ir.DataType(FP8.type.onnx)


class QuantizeAttentionPass(ir.passes.InPlacePass):
    """Rewrite ``Attention(q, k, v, mask)`` to ``softmax(q k^T / sqrt(d) + mask) v`` with Q/DQ on both products' inputs.

    Attentions without ranges (pools, and those with few key rows) and those that the pattern cannot express stay.
    """

    def __init__(self, ranges: Mapping[str, AttentionRange]) -> None:
        super().__init__()
        self._ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every attention whose module has ranges."""
        modified = False
        for node in list(model.graph):
            path = str(node.name).rpartition("/")[0]
            if path in self._ranges and (found := plain_attention(node)) is not None:
                _rewrite(NodeWriter(model.graph, node, path), found, self._ranges[path])
                modified = True
        return ir.passes.PassResult(model, modified)


def _rewrite(write: NodeWriter, found: Attention, largest: AttentionRange) -> None:
    """Write the pattern of one attention before the node that it replaces."""
    q, k, v = (split_heads(write, x, found.heads, found.width, name) for x, name in zip(found.qkv, "qkv", strict=True))
    assert q.dtype is not None
    factor = write.constant("factor", np.array(found.factor).astype(q.dtype.numpy()))
    scaled = write.op("Mul", [q, factor], "q_scaled")
    queries = _quantized(write, scaled, largest.q * found.factor, "q")
    keys = write.op("Transpose", [_quantized(write, k, largest.k, "k")], "k_transposed", perm=TRANSPOSED)
    write_products(
        write,
        found,
        queries,
        keys,
        lambda: _quantized(write, v, largest.v, "v"),
        weights=lambda x: _quantized(write, x, PROBABILITY_SCALE * FP8.largest, "probabilities"),
    )


def _quantized(write: NodeWriter, x: ir.Value, amax: float, name: str) -> ir.Value:
    assert x.dtype is not None
    scale = write.constant(f"{name}_scale", np.array(max(amax, 1e-3) / FP8.largest).astype(x.dtype.numpy()))
    zero = write.constant(f"{name}_zero_point", np.zeros((), _CODES.numpy()))
    codes = write.op("QuantizeLinear", [x, scale, zero], f"{name}_codes")
    codes.dtype = _CODES
    back = write.op("DequantizeLinear", [codes, scale, zero], f"{name}_dequantized")
    back.dtype = x.dtype
    return back
