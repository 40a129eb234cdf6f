"""Attention in FP8: the operator written out, with Q/DQ on q, k, v and on the probabilities."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from internvl_edge.runtime.numbers.formats import FP8

FEWEST_KEYS = 32
"""Rows that an attention must see in every call. Of fewer, TensorRT-RTX 1.7 makes up to eight kernels in FP8 where it
has one in 16 bits (seen in plans of sm_89, sm_120 and sm_121, masked or not; the number of queries does not matter)."""
PROBABILITY_SCALE = 1 / 448
"""Probabilities lie in [0, 1]: the largest code of E4M3 stands for 1, as TensorRT's kernels expect."""
_CODES = ir.DataType(FP8.type.onnx)
_SWAP = (0, 2, 1, 3)
_WRITTEN_OUT = {"scale", "q_num_heads", "kv_num_heads"}
"""Attributes that the rewriting knows; any other (``is_causal``, ``softcap``) makes another function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRange:
    """Largest magnitudes of what one attention reads, as the graph has it (v after smoothing)."""

    q: float
    k: float
    v: float


class QuantizeAttentionPass(ir.passes.InPlacePass):
    """Rewrite ``Attention(q, k, v, mask)`` to ``softmax(q k^T / sqrt(d) + mask) v`` with Q/DQ on both products' inputs.

    Attentions without a range (the pools, those that see few rows), and those that compute more than that, stay.
    """

    def __init__(self, ranges: Mapping[str, AttentionRange]) -> None:
        super().__init__()
        self._ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every attention whose module has a range."""
        modified = False
        for node in list(model.graph):
            path = str(node.name).rpartition("/")[0]
            if node.op_type == "Attention" and path in self._ranges and _is_plain(node):
                _Writer(model.graph, node, path).write(self._ranges[path])
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_plain(node: ir.Node) -> bool:
    """Return whether an attention has q, k, v and a mask, one output, and nothing that is not written out."""
    return set(node.attributes) <= _WRITTEN_OUT and len(node.inputs) <= 4 and len(node.outputs) == 1


class _Writer:
    """Writes one attention out in front of the node it replaces."""

    def __init__(self, graph: ir.Graph, node: ir.Node, path: str) -> None:
        self._graph = graph
        self._node = node
        self._path = path
        q = node.inputs[0]
        assert q is not None
        assert q.dtype is not None
        assert q.shape is not None
        self._dtype = q.dtype
        self._packed = len(q.shape) == 3

    def write(self, found: AttentionRange) -> None:
        q, k, v = (self._per_head(index) for index in range(3))
        factor = self._node.attributes.get_float("scale", 1 / math.sqrt(self._head_dim()))
        scaled = self._op("Mul", [q, self._constant("factor", np.array(factor))], "q_scaled")
        queries = self._quantized(scaled, found.q * factor, "q")
        keys = self._op("Transpose", [self._quantized(k, found.k, "k")], "k_transposed", perm=(0, 1, 3, 2))
        scores = self._op("MatMul", [queries, keys], "scores")
        mask = self._node.inputs[3] if len(self._node.inputs) > 3 else None
        if mask is not None:
            scores = self._op("Add", [scores, mask], "masked")
        probabilities = self._op("Softmax", [scores], "probabilities", axis=-1)
        weights = self._quantized(probabilities, PROBABILITY_SCALE * FP8.largest, "probabilities")
        attended = self._op("MatMul", [weights, self._quantized(v, found.v, "v")], "attended")
        if self._packed:
            swapped = self._op("Transpose", [attended], "merged", perm=_SWAP)
            attended = self._op("Reshape", [swapped, self._ints("merged_shape", [0, 0, -1])], "packed")
        old = self._node.outputs[0]
        assert old.dtype is not None
        attended.shape, attended.dtype, attended.name = old.shape, old.dtype, old.name
        old.replace_all_uses_with(attended, replace_graph_outputs=True)
        self._graph.remove(self._node, safe=True)

    def _per_head(self, index: int) -> ir.Value:
        value = self._node.inputs[index]
        assert value is not None
        if not self._packed:
            return value
        name = "qkv"[index]
        heads = self._node.attributes.get_int("q_num_heads" if index == 0 else "kv_num_heads", 1)
        split = self._op("Reshape", [value, self._ints(f"{name}_shape", [0, 0, heads, -1])], f"{name}_split")
        return self._op("Transpose", [split], f"{name}_heads", perm=_SWAP)

    def _head_dim(self) -> int:
        q = self._node.inputs[0]
        assert q is not None
        assert q.shape is not None
        width = q.shape[-1]
        assert isinstance(width, int)
        return width // self._node.attributes.get_int("q_num_heads", 1) if self._packed else width

    def _quantized(self, x: ir.Value, amax: float, name: str) -> ir.Value:
        scale = self._constant(f"{name}_scale", np.array(max(amax, 1e-3) / FP8.largest))
        zero = self._initializer(f"{name}_zero_point", np.zeros((), _CODES.numpy()))
        codes = self._op("QuantizeLinear", [x, scale, zero], f"{name}_codes")
        codes.dtype = _CODES
        return self._op("DequantizeLinear", [codes, scale, zero], f"{name}_dequantized")

    def _op(self, op_type: str, inputs: list[ir.Value], name: str, **attributes: object) -> ir.Value:
        made = ir.node(op_type, inputs, attributes=attributes, name=f"{self._path}/{name}")  # type: ignore[arg-type]
        made.outputs[0].name = f"{self._path}/{name}"
        made.outputs[0].dtype = self._dtype
        self._graph.insert_before(self._node, made)
        return made.outputs[0]

    def _constant(self, name: str, value: np.ndarray) -> ir.Value:
        return self._initializer(name, value.astype(self._dtype.numpy()))

    def _ints(self, name: str, values: list[int]) -> ir.Value:
        return self._initializer(name, np.array(values, np.int64))

    def _initializer(self, name: str, value: np.ndarray) -> ir.Value:
        tensor = ir.tensor(value, name=f"{self._path}/{name}")
        made = ir.Value(
            name=tensor.name, shape=ir.Shape(value.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._graph.register_initializer(made)
        return made
