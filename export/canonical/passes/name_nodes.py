"""Name nodes by module path; reports about layers and plans show these names."""

import ast
from collections import Counter

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
_OWNING_OPS = ("MatMul", "Conv", "Gather", "RMSNormalization", "LayerNormalization", "Gemm")


class NameNodesPass(ir.passes.InPlacePass):
    """Name each node that applies a parameter by the module that owns it, and all others ``<module path>/<op>``.

    ``vision_model.encoder.layers.3.attn.qkv`` is the product with that weight, ``....attn.qkv/Add`` adds its bias, and
    ``....attn/Attention`` has no parameter. Equal names get ``_1``, ``_2``.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename every node of `model`."""
        parameters = set(model.graph.initializers)
        taken: Counter[str] = Counter()
        modified = False
        for node in model.graph:
            wanted = _owner(node, parameters) or f"{_scope(node) or model.graph.name}/{node.op_type}"
            name = wanted if taken[wanted] == 0 else f"{wanted}_{taken[wanted]}"
            taken[wanted] += 1
            if node.name != name:
                node.name = name
                modified = True
        return ir.passes.PassResult(model, modified)


def _owner(node: ir.Node, parameters: set[str]) -> str | None:
    """Return the module whose weight `node` applies, directly or through a Transpose."""
    if node.op_type not in _OWNING_OPS:
        return None
    for value in node.inputs:
        source = value.producer() if value is not None else None
        if source is not None and source.op_type == "Transpose":
            value = source.inputs[0]
        if value is not None and value.name in parameters and _is_parameter(value.name):
            return value.name.removesuffix(".weight")
    return None


def _is_parameter(name: str | None) -> bool:
    return name is not None and (name.endswith(".weight") or name == "text_projection")


def _scope(node: ir.Node) -> str:
    """Return the path of the module of `node`; nodes without the exporter's scopes have that of their first input."""
    scopes = node.metadata_props.get(_SCOPES)
    if scopes is None:
        source = next((v.producer() for v in node.inputs if v is not None and v.producer() is not None), None)
        return _scope(source) if source is not None else ""
    path = ""
    for module in ast.literal_eval(scopes)[:-1]:
        if module.startswith(path) and "empty_nn_module" not in module:
            path = module
    return path
