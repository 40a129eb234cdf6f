"""Drop attributes that have their default value: TensorRT's parser refuses some of them with any value."""

import onnx_ir as ir

_DEFAULTS: dict[str, dict[str, int | float | str]] = {
    "Attention": {"is_causal": 0, "qk_matmul_output_mode": 0, "softcap": 0.0},
    "Conv": {"auto_pad": "NOTSET", "group": 1},
    "RMSNormalization": {"stash_type": 1, "axis": -1},
    "LayerNormalization": {"stash_type": 1, "axis": -1},
    "Gelu": {"approximate": "none"},
    "Cast": {"saturate": 1},
    "Reshape": {"allowzero": 0},
}


class DropDefaultAttributesPass(ir.passes.InPlacePass):
    """Remove attributes that have the operator's default value."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove the attributes of every node."""
        modified = False
        for node in model.graph:
            for name, default in _DEFAULTS.get(node.op_type, {}).items():
                if name in node.attributes and node.attributes[name].value == default:
                    del node.attributes[name]
                    modified = True
        return ir.passes.PassResult(model, modified)
