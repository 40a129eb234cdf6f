"""Separate packed q, k, v by Slices instead of one Split, so that the builder sees three views."""

import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import NodeWriter


class SlicePackedPass(ir.passes.InPlacePass):
    """Rewrite ``Split(x)`` into equal parts to one ``Slice`` for each part."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every Split along an axis of known size."""
        modified = False
        for node in list(model.graph):
            if (part := _part_size(node)) is not None:
                _rewrite(model.graph, node, part)
                modified = True
        return ir.passes.PassResult(model, modified)


def _part_size(node: ir.Node) -> int | None:
    """Return the size of each part, or None if sizes differ or are not known."""
    x = node.inputs[0] if node.inputs else None
    if node.op_type != "Split" or len(node.inputs) != 1 or x is None or x.shape is None:
        return None
    size = x.shape[node.attributes.get_int("axis", 0)]
    return size // len(node.outputs) if isinstance(size, int) and size % len(node.outputs) == 0 else None


def _rewrite(graph: ir.Graph, node: ir.Node, part: int) -> None:
    x = node.inputs[0]
    assert x is not None
    write = NodeWriter(graph, node)
    axis = node.attributes.get_int("axis", 0)
    for index, output in enumerate(node.outputs):
        bounds = [write.ints(index * part), write.ints((index + 1) * part), write.ints(axis)]
        made = write.op("Slice", [x, *bounds], f"Slice_{index}")
        made.shape = output.shape
        output.replace_all_uses_with(made, replace_graph_outputs=True)
        made.name, output.name = output.name, f"{output.name}/old"
    graph.remove(node, safe=True)
