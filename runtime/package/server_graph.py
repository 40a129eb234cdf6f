"""A session over a graph that is another model of the same Triton server, which batches its requests."""

from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from internvl_edge.runtime.backends.session import TensorInfo, require_arrays
from internvl_edge.runtime.bundle.manifest import GraphInfo, TensorSpec
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages


class ServerGraph:
    """A session that uses Triton's business logic scripting; `server` is `triton_python_backend_utils`."""

    backend = "triton"

    def __init__(self, server: ModuleType, graph: str, info: GraphInfo) -> None:
        self._server, self._graph = server, graph
        self.inputs = {spec.name: _info(spec) for spec in info.inputs}
        self.outputs = {spec.name: _info(spec) for spec in info.outputs}
        self.settings = {"server": "triton"}

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs, or all.

        Raises:
            InputError: Names, types or shapes do not fit the graph; the message names all of them.
            BackendError: The server refuses the request.
        """
        server, names = self._server, list(self.outputs if outputs is None else outputs)
        require_arrays(self._graph, inputs, names, self.inputs, self.outputs)
        request = server.InferenceRequest(
            model_name=self._graph,
            requested_output_names=names,
            inputs=[
                server.Tensor(name, np.ascontiguousarray(value, self.inputs[name].dtype))
                for name, value in inputs.items()
            ],
            preferred_memory=server.PreferredMemory(server.TRITONSERVER_MEMORY_CPU, 0),
        )
        with stages.stage(COMPUTE, self._graph):
            response = request.exec()
        if response.has_error():
            raise BackendError(
                f"graph {self._graph}: the server refuses it ({response.error().message()}); see its log"
            )
        return {name: server.get_output_tensor_by_name(response, name).as_numpy() for name in names}

    def close(self) -> None:
        """Do nothing, since the server owns its models."""


def _info(spec: TensorSpec) -> TensorInfo:
    return TensorInfo(spec.name, np.dtype(spec.dtype), spec.shape)
