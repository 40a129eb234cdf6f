"""Layer times from OpenVINO's counters, with the tensors of the graph that it executes."""

from collections.abc import Sequence
from typing import Any

from internvl_edge.runtime.profile.layers import LayerTensor, LayerTime

_MS_PER_S = 1e3
_CONSTANT, _BORDER = "Const", "Parameter"


def layers_of_runs(runs: Sequence[Sequence[Any]], model: Any, outputs: Sequence[str]) -> list[LayerTime]:
    """Return what ran of each run's profiling, in order; layers that were fused into others did not.

    `model` is the compiled graph as it runs, `outputs` the names of its results in order. A run that took less than a
    microsecond counts as none with OpenVINO: one of them suffices.
    """
    executed = [layer for layer in zip(*runs, strict=True) if any(run.status == run.Status.EXECUTED for run in layer)]
    tensors = _Tensors(model, {layer[0].node_name for layer in executed}, outputs)
    return [
        LayerTime(
            name=layer[0].node_name,
            op=layer[0].node_type,
            tactic=layer[0].exec_type,
            times_ms=tuple(run.real_time.total_seconds() * _MS_PER_S for run in layer),
            **tensors.of(layer[0].node_name),
        )
        for layer in executed
    ]


class _Tensors:
    """What the nodes of a running graph read and write; nodes that do not run pass on what they were given."""

    def __init__(self, model: Any, executed: set[str], outputs: Sequence[str]) -> None:
        self._nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        self._executed = executed
        self._known: dict[tuple[str, int], list[Any]] = {}
        self._results = {}
        for result, name in zip(model.get_results(), outputs, strict=True):
            for port in self._origins(result.input(0).get_source_output()):
                self._results[_place(port)] = name

    def of(self, name: str) -> dict[str, tuple[LayerTensor, ...]]:
        """Return inputs, weights and outputs of a node; nothing of one that the graph does not have."""
        node = self._nodes.get(name)
        if node is None:
            return {}
        sources = [port for each in node.inputs() for port in self._origins(each.get_source_output())]
        return {
            "inputs": tuple(self._tensor(port) for port in sources if not _is_constant(port)),
            "weights": tuple(self._tensor(port) for port in sources if _is_constant(port)),
            "outputs": tuple(self._tensor(port) for port in node.outputs()),
        }

    def _origins(self, port: Any) -> list[Any]:
        """Return what `port` hands on: tensors of nodes that ran, of the caller, and constants."""
        place = _place(port)
        if place not in self._known:
            node = port.get_node()
            told = node.get_friendly_name() in self._executed or node.get_type_name() == _BORDER or _is_constant(port)
            handed = () if told else [self._origins(each.get_source_output()) for each in node.inputs()]
            found = {_place(origin): origin for origins in handed for origin in origins}
            self._known[place] = [port] if told else list(found.values())
        return self._known[place]

    def _tensor(self, port: Any) -> LayerTensor:
        shape = tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape())
        return LayerTensor(self._name(port), port.get_element_type().get_type_name(), shape)

    def _name(self, port: Any) -> str:
        node = port.get_node()
        if node.get_type_name() == _BORDER:
            return str(node.get_friendly_name())
        default = node.get_friendly_name() + (f":{port.get_index()}" if len(node.outputs()) > 1 else "")
        return str(self._results.get(_place(port), default))


def _place(port: Any) -> tuple[str, int]:
    return port.get_node().get_friendly_name(), port.get_index()


def _is_constant(port: Any) -> bool:
    node = port.get_node()
    if node.get_type_name() == "Constant":
        return True
    info = node.get_rt_info()
    return "layerType" in info and str(info["layerType"].value) == _CONSTANT
