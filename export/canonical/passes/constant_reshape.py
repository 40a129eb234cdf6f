"""Give every Reshape a constant target shape, so that no shape is computed at run time."""

import numpy as np
import onnx_ir as ir


class ConstantReshapePass(ir.passes.InPlacePass):
    """Rewrite ``Reshape(x, Concat(...))`` to ``Reshape(x, [0, 0, 25, 128])``: 0 copies an axis, one -1 is inferred."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every Reshape whose shapes are known up to one dynamic axis."""
        modified = False
        for node in list(model.graph):
            if (target := _constant_target(node)) is not None:
                constant = ir.node("Constant", [], attributes={"value": ir.tensor(np.array(target, np.int64))})
                model.graph.insert_before(node, constant)
                node.replace_input_with(1, constant.outputs[0])
                node.attributes.pop("allowzero", None)
                modified = True
        return ir.passes.PassResult(model, modified)


def _constant_target(node: ir.Node) -> list[int] | None:
    """Return a constant target shape for `node`, or None if there is none or it is constant already."""
    if node.op_type != "Reshape" or ir.convenience.get_const_tensor(node.inputs[1]) is not None:  # type: ignore[arg-type]
        return None
    source = node.inputs[0].shape if node.inputs[0] is not None else None
    target = node.outputs[0].shape
    if source is None or target is None:
        return None
    dims = [_target_dim(axis, dim, source) for axis, dim in enumerate(target)]
    return dims if dims.count(-1) <= 1 else None


def _target_dim(axis: int, dim: int | ir.SymbolicDim, source: ir.Shape) -> int:
    if isinstance(dim, int):
        return dim
    return 0 if axis < len(source) and source[axis] == dim and dim.value is not None else -1
