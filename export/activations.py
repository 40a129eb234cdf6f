"""How much memory the values of a graph take at once, in the order of its nodes: a bound for a plan's activations."""

from collections.abc import Mapping

import onnx_ir as ir

from internvl_edge.export.graph_stats import bind_axes, value_bytes


def peak_activation_bytes(model: ir.Model, sizes: Mapping[str, int]) -> int:
    """Return the most bytes of values that are alive at one node, with dynamic axes bound to `sizes`.

    A builder fuses and reuses, so a plan takes less; weights are not counted.
    """
    graph = bind_axes(model, sizes).graph
    weights = set(graph.initializers.values())
    last = {value: index for index, node in enumerate(graph) for value in node.inputs if value not in weights}
    held = sum(value_bytes(value) for value in graph.inputs)
    peak = held
    ends: dict[int, list[ir.Value]] = {}
    for value, index in last.items():
        if value is not None and not value.is_graph_output():
            ends.setdefault(index, []).append(value)
    for index, node in enumerate(graph):
        held += sum(value_bytes(value) for value in node.outputs)
        peak = max(peak, held)
        held -= sum(value_bytes(value) for value in ends.get(index, ()))
    return peak
