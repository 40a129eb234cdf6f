"""Rewrite ``DQ(x) @ DQ(w)`` into one integer product with scales, for which ONNX Runtime has fast kernels.

Bundles hold signed activations with zero point 0, as TensorRT needs them. The kernels multiply unsigned by signed
bytes. So 128 is added to the codes and to their zero point, which changes no bit of the quantized values and of the
sums of products in 32 bits. Only the results in floats are rounded at another place: a sum is scaled once, by
``scale(x) * scale(w)``, instead of each factor by its own scale.
"""

from dataclasses import dataclass

import numpy as np

from internvl_edge.runtime.backends.lowering.onnx_model import INT8, MICROSOFT, Node, OnnxModel, Tensor

_ZERO_POINT = "lowering/zero_point_128"
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


def shift_activations(model: OnnxModel) -> int:
    """Change codes of activations from s8 with zero point 0 to u8 with 128; return the number of tensors."""
    uses = model.uses()
    shifted = 0
    for node in model.nodes:
        if node.op_type != _Q or not _is_symmetric(node, model):
            continue
        readers = uses.get(node.outputs[0], [])
        pairs = all(reader.op_type == _DQ and reader.inputs[1:] == node.inputs[1:] for reader in readers)
        if not pairs or node.outputs[0] in model.outputs:
            continue
        for each in (node, *readers):
            each.inputs[2] = model.constant(_ZERO_POINT, np.array(128, np.uint8))
        shifted += 1
    return shifted


def fuse_linears(model: OnnxModel) -> int:
    """Rewrite products of quantized activations and weights to `MatMulIntegerToFloat`; return their number."""
    producers, uses = model.producers(), model.uses()
    nodes: list[Node] = []
    transposed: set[str] = set()
    fused = 0
    for node in model.nodes:
        if (linear := _linear(node, producers, model)) is not None:
            codes, turned = linear.codes, f"{linear.codes}/transposed"
            if linear.is_transposed and codes not in transposed:  # the session folds a transpose of bytes when it opens
                nodes.append(Node("Transpose", [codes], [turned]))
                transposed.add(codes)
            _fuse(node, linear, turned if linear.is_transposed else codes, _bias(node, linear, uses, model))
            fused += 1
        nodes.append(node)
    if fused:
        model.nodes = nodes
        model.require_domain(MICROSOFT)
        model.drop_unused()
    return fused


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """Names of the values of one product."""

    activation: str
    activation_scale: str
    activation_zero_point: str
    codes: str
    """Name of the weights' codes, constants ``[K, N]``, or ``[N, K]`` if they are transposed first."""
    weight_scale: str
    is_transposed: bool


def _linear(node: Node, producers: dict[str, Node], model: OnnxModel) -> _Linear | None:
    """Return the values that `node` multiplies, if it is a product that the kernel supports."""
    if node.op_type != "MatMul" or node.domain:
        return None
    activation, weight = (producers.get(name) for name in node.inputs)
    is_transposed = weight is not None and _is_transpose(weight)
    if is_transposed and weight is not None:
        weight = producers.get(weight.inputs[0])
    if activation is None or weight is None or activation.op_type != _DQ or weight.op_type != _DQ:
        return None
    if len(activation.inputs) != 3 or activation.inputs[2] != _ZERO_POINT:
        return None
    codes, scale = (model.initializers.get(name) for name in weight.inputs[:2])
    if codes is None or scale is None or codes.dtype != INT8 or len(codes.shape) != 2 or len(scale.shape) != 1:
        return None
    if weight.integer("axis", 1) != (0 if is_transposed else 1) or not _is_zero(weight.inputs[2:], model):
        return None
    quantized, activation_scale, zero_point = activation.inputs
    return _Linear(
        activation=quantized,
        activation_scale=activation_scale,
        activation_zero_point=zero_point,
        codes=codes.name,
        weight_scale=scale.name,
        is_transposed=is_transposed,
    )


def _bias(node: Node, linear: _Linear, uses: dict[str, list[Node]], model: OnnxModel) -> tuple[Node, str] | None:
    """Return the `Add` after a product and the constant row that it adds, if the product has no other use."""
    product = node.outputs[0]
    readers = uses.get(product, [])
    if len(readers) != 1 or readers[0].op_type != "Add" or product in model.outputs:
        return None
    row = next(name for name in readers[0].inputs if name != product)
    constant, channels = model.initializers.get(row), model.initializers[linear.weight_scale].shape
    return (readers[0], row) if constant is not None and constant.shape == channels else None


def _fuse(node: Node, linear: _Linear, codes: str, bias: tuple[Node, str] | None) -> None:
    node.op_type, node.domain = "MatMulIntegerToFloat", MICROSOFT
    scales = [linear.activation_scale, linear.weight_scale]
    node.inputs = [linear.activation, codes, *scales, linear.activation_zero_point]
    if bias is not None:
        add, row = bias
        node.inputs += ["", row]  # the weights have no zero point
        node.outputs, add.outputs = add.outputs, []


def _is_transpose(node: Node) -> bool:
    """Return whether `node` swaps the axes of a matrix, as it also does without `perm`."""
    return node.op_type == "Transpose" and node.integers("perm") in ([1, 0], [])


def _is_symmetric(node: Node, model: OnnxModel) -> bool:
    return len(node.inputs) == 3 and bool(node.inputs[2]) and _is_zero(node.inputs[2:], model)


def _is_zero(zero_point: list[str], model: OnnxModel) -> bool:
    """Return whether a zero point is absent, or a constant of signed zeros."""
    if not zero_point or not zero_point[0]:
        return True
    tensor: Tensor | None = model.initializers.get(zero_point[0])
    return tensor is not None and tensor.dtype == INT8 and not tensor.values(model.folder).any()
