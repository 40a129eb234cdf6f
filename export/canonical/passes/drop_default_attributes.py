"""Drop attributes that state a default: TensorRT's parser refuses some of them by presence alone."""

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
    """Remove attributes whose value the operator's default already is."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return `modified` true if any attribute went."""
        modified = False
        for node in model.graph:
            for name, default in _DEFAULTS.get(node.op_type, {}).items():
                if name in node.attributes and node.attributes[name].value == default:
                    del node.attributes[name]
                    modified = True
        return ir.passes.PassResult(model, modified)
