"""How much memory the values of a graph take at once, in the order of its nodes: a bound for a plan's activations."""

from collections.abc import Mapping

from internvl_edge.runtime.inspect.shapes import Shapes
from internvl_edge.runtime.lowering.onnx_model import OnnxModel


def peak_activation_bytes(name: str, model: OnnxModel, sizes: Mapping[str, int]) -> int:
    """Return the most bytes of values that are alive at one node of graph `name`, its axes bound to `sizes`.

    A builder fuses and reuses, so a plan takes less; weights are not counted.

    Raises:
        ExportError: an input has dynamic axes that `sizes` does not name, all of them listed.
    """
    shapes = Shapes(name, model, sizes)
    last = {value: index for index, node in enumerate(model.nodes) for value in node.inputs if value}
    ends: dict[int, list[str]] = {}
    for value, index in last.items():
        if value not in model.outputs and value not in model.initializers:
            ends.setdefault(index, []).append(value)
    held = peak = sum(shapes.bytes(value) for value in model.input_names())
    for index, node in enumerate(model.nodes):
        held += sum(shapes.bytes(value) for value in node.outputs if value)
        peak = max(peak, held)
        held -= sum(shapes.bytes(value) for value in ends.get(index, ()))
    return peak
