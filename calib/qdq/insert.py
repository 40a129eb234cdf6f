"""Write a recipe into a graph: Q/DQ before every quantized linear, DQ after its weight, and no layer scale."""

import numpy as np
import onnx_ir as ir

from internvl_edge.calib.qdq.fp8_attention import QuantizeAttentionPass
from internvl_edge.calib.qdq.node_writer import NodeWriter, initializer, make_node
from internvl_edge.calib.recipes.decide import Clip
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.calib.sites import Site
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.numbers.formats import Format


class FoldLayerScalePass(ir.passes.InPlacePass):
    """Remove ``Mul(x, ls)``, whose vector is folded into weight and bias of the linear before it."""

    def __init__(self, layer_scales: frozenset[str]) -> None:
        super().__init__()
        self._names = layer_scales

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove every product with a layer scale."""
        modified = False
        for node in list(model.graph):
            scaled = [value for value in node.inputs if value is None or value.name not in self._names]
            if node.op_type == "Mul" and len(scaled) == 1 and scaled[0] is not None:
                node.outputs[0].replace_all_uses_with(scaled[0])
                model.graph.remove(node, safe=True)
                modified = True
        for name in self._names & set(model.graph.initializers):
            del model.graph.initializers[name]
        return ir.passes.PassResult(model, modified)


class InsertQdqPass(ir.passes.InPlacePass):
    """Quantize the sites of one graph: ``x -> Q -> DQ -> MatMul <- Transpose <- DQ <- codes``.

    Linears that read the same tensor share its Q and DQ. Scales are initializers, weights keep their names. In a graph
    of which nothing was measured, the weights alone are codes: it shares them with the graphs that were.
    """

    def __init__(self, recipe: Recipe, graph: str) -> None:
        super().__init__()
        self._recipe = recipe
        self._graph = graph

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize every site whose linears are in the graph and are not quantized yet."""
        products = {str(node.name): node for node in model.graph if node.op_type == "MatMul"}
        modified = False
        for decision in self._recipe.decisions:
            site, clip = decision.site, decision.clips.get(self._graph)
            nodes = [products[path] for path in site.linears if path in products]
            if not decision.quantized or not nodes or _is_quantized(nodes[0]):
                continue
            if (form := self._recipe.activations) is not None and clip is not None:
                self._quantize_input(model.graph, site, clip, form, nodes)
            if (form := self._recipe.weights) is not None:
                for path, node in zip(site.linears, nodes, strict=True):
                    self._quantize_weight(model.graph, path, form, node)
                    if site.row_multiple > 1:
                        _cut_padding(model.graph, path, node, self._recipe)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _quantize_input(self, graph: ir.Graph, site: Site, clip: Clip, form: Format, nodes: list[ir.Node]) -> None:
        x = nodes[0].inputs[0]
        if x is None or any(node.inputs[0] is not x for node in nodes):
            raise CalibrationError(
                f"{self._graph}: {', '.join(site.linears)} do not read one tensor; report this graph"
            )
        assert x.dtype is not None
        scale = initializer(graph, f"{site.name}.input_scale", np.array(clip.scale, x.dtype.numpy()))
        codes = ir.DataType(form.type.onnx)
        zero = initializer(graph, f"{site.name}.input_zero_point", np.zeros((), codes.numpy()))
        write = NodeWriter(graph, nodes[0], site.name)
        quantized = write.op("QuantizeLinear", [x, scale, zero], "QuantizeLinear")
        quantized.dtype, quantized.shape = codes, x.shape
        back = write.op("DequantizeLinear", [quantized, scale, zero], "DequantizeLinear")
        back.dtype, back.shape = x.dtype, x.shape
        for node in nodes:
            node.replace_input_with(0, back)

    def _quantize_weight(self, graph: ir.Graph, path: str, form: Format, node: ir.Node) -> None:
        transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
        weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else None
        if transpose is None or weight is None or weight.name != f"{path}.weight":
            raise CalibrationError(f"{self._graph}: {path} is no product with its transposed weight; report this graph")
        assert weight.dtype is not None
        dtype = weight.dtype
        scales = self._recipe.linears[path].scale
        scale = ir.Value(name=f"{path}.weight_scale", shape=ir.Shape(scales.shape), type=ir.TensorType(dtype))
        graph.register_initializer(_placeholder(scale))
        weight.const_value = None
        weight.dtype = ir.DataType(form.type.onnx)
        weight.shape = ir.Shape([len(scales), *list(weight.shape or ())[1:]])
        _placeholder(weight)
        write = NodeWriter(graph, transpose, f"{path}.weight")
        wide = write.op("DequantizeLinear", [weight, scale], "DequantizeLinear", **form.granularity.attributes)
        wide.dtype, wide.shape = dtype, weight.shape
        transpose.replace_input_with(0, wide)
        transpose.outputs[0].shape = ir.Shape(list(weight.shape)[::-1])


def quantize_graph(model: ir.Model, recipe: Recipe) -> ir.Model:
    """Quantize the traced graph `model` in place and return it; its weights need no values."""
    scales = frozenset(d.site.layer_scale for d in recipe.decisions if d.site.layer_scale is not None)
    FoldLayerScalePass(scales)(model)
    InsertQdqPass(recipe, str(model.graph.name))(model)
    QuantizeAttentionPass(recipe.attention.get(str(model.graph.name), {}))(model)
    return model


def _is_quantized(node: ir.Node) -> bool:
    """Return whether the input of a product comes from codes, or its weight, which a Transpose follows."""
    x, turned = node.inputs[0], node.inputs[1]
    transpose = turned.producer() if turned is not None else None
    return any(_from_codes(value) for value in (x, transpose.inputs[0] if transpose is not None else None))


def _from_codes(value: ir.Value | None) -> bool:
    source = value.producer() if value is not None else None
    return source is not None and source.op_type == "DequantizeLinear"


def _cut_padding(graph: ir.Graph, path: str, node: ir.Node, recipe: Recipe) -> None:
    """Remove the rows of padding from the product, if there are any."""
    product = node.outputs[0]
    assert product.shape is not None
    assert product.dtype is not None
    rows, stored = product.shape[-1], len(recipe.linears[path].scale)
    if rows == stored or not isinstance(rows, int):
        return
    names = {"starts": 0, "ends": rows, "axes": len(product.shape) - 1}
    bounds = [initializer(graph, f"{path}/Slice.{key}", np.array([value], np.int64)) for key, value in names.items()]
    name, shape = f"{path}/Slice", product.shape
    cut = make_node("Slice", [product, *bounds], name, output=product.name, dtype=product.dtype, shape=shape)
    product.name = f"{path}/padded"  # an output of the graph keeps its name
    product.replace_all_uses_with(cut.outputs[0], replace_graph_outputs=True)
    cut.replace_input_with(0, product)
    graph.insert_after(node, cut)
    product.shape = ir.Shape([*list(product.shape)[:-1], stored])


def _placeholder(value: ir.Value) -> ir.Value:
    """Give an initializer an external tensor without a place, which the weight store sets later."""
    assert value.dtype is not None
    assert value.shape is not None
    value.const_value = ir.ExternalTensor("unplaced", 0, 0, value.dtype, shape=value.shape, name=str(value.name))
    return value
