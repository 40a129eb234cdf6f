"""Change fp16 and bf16 in a graph to fp32, since CPUs have few kernels for them and casts between are slow.

Widening a constant is exact. Results are rounded less often than in the original graph, so that they are closer to
those of the checkpoint.
"""

import numpy as np

from internvl_edge.runtime.backends.lowering.onnx_model import BFLOAT16, FLOAT, Node, OnnxModel, Tensor
from internvl_edge.runtime.numbers import tensor_types as types

NARROW = {row.onnx: row.short for row in (types.FLOAT16, types.BFLOAT16)}
"""Names of the types that are widened."""
INLINE_VALUES = 1 << 16
"""Most values of a constant that is widened in memory, where a model is limited to 2 GiB. Larger ones stay in their
file and get a `Cast`."""
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "softmax_precision")


def widen(model: OnnxModel) -> frozenset[int]:
    """Widen the model with its inputs and outputs; return the narrow types that it had."""
    narrow = [tensor for tensor in model.initializers.values() if tensor.dtype in NARROW]
    found = {tensor.dtype for tensor in narrow} | model.retype_inputs_and_outputs(set(NARROW), FLOAT)
    for node in model.nodes:
        found |= _widen_attributes(node, model)
    for tensor in narrow:
        if tensor.size <= INLINE_VALUES:
            model.initializers[tensor.name] = _widened(tensor, model)
    _cast_behind({tensor.name for tensor in narrow if tensor.size > INLINE_VALUES}, model)
    return frozenset(found)


def _widened(tensor: Tensor, model: OnnxModel) -> Tensor:
    values = tensor.values(model.folder)
    if tensor.dtype == BFLOAT16:  # bf16 is the upper half of an fp32 number
        return Tensor.of(tensor.name, (values.astype(np.uint32) << 16).view(np.float32))
    return Tensor.of(tensor.name, values.astype(np.float32))


def _widen_attributes(node: Node, model: OnnxModel) -> set[int]:
    """Widen the type attributes of a node and its constant; return the narrow types that they had."""
    named = {name: node.integer(name, FLOAT) for name in _TYPE_ATTRIBUTES}
    found = {name: dtype for name, dtype in named.items() if dtype in NARROW}
    for name in found:
        node.put_integer(name, FLOAT)
    tensor = node.tensor("value")
    if tensor is None or tensor.dtype not in NARROW:
        return set(found.values())
    node.put_tensor("value", _widened(tensor, model))
    return {*found.values(), tensor.dtype}


def _cast_behind(large: set[str], model: OnnxModel) -> None:
    """Cast large constants where they are used, or only the rows that a `Gather` takes of them."""
    nodes: list[Node] = []
    cast: set[str] = set()
    for node in model.nodes:
        if node.op_type == "Gather" and node.inputs[0] in large:
            rows = node.outputs[0]
            node.outputs = [f"{rows}/narrow"]
            nodes += [node, _cast(f"{rows}/narrow", rows)]
            continue
        used = large.intersection(node.inputs)
        nodes += [_cast(name, f"{name}/fp32") for name in sorted(used - cast)]
        cast |= used
        node.inputs = [f"{name}/fp32" if name in used else name for name in node.inputs]
        nodes.append(node)
    model.nodes = nodes


def _cast(source: str, target: str) -> Node:
    node = Node("Cast", [source], [target])
    node.put_integer("to", FLOAT)
    return node
