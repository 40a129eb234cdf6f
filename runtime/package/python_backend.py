"""The model of Triton's Python backend: a graph on this runtime, or a task whose graphs are other Triton models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import Manifest
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.server_graph import ServerGraph
from internvl_edge.runtime.serve.models import served_models
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import FailedError, RefusalError
from internvl_edge.runtime.serve.requests import Request
from internvl_edge.runtime.serve.validation import validated_request
from internvl_edge.runtime.serve.workers.messages import Arrays, Job
from internvl_edge.runtime.serve.workers.model_runner import ModelRunner


class TritonPythonModel:
    """One instance of a model; Triton finds the class by its name."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the ``graph`` or ``task`` that the parameters of `config.pbtxt` name."""
        import triton_python_backend_utils as server  # Triton's module, which exists only in its process

        self._server = server
        config = json.loads(args["model_config"])
        settings = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        batch = max(int(config["max_batch_size"]), 1)
        if "graph" in settings:
            model = InternVL.open(folder, settings["backend"], batch_size=batch)
        else:
            batch = int(settings["max_batch"])
            model = InternVL(Bundle(folder, Manifest.load(folder / "manifest.json")), self._graph, batch)
            _ = model.tokenizer
        self._name = settings.get("graph") or settings["task"]
        self._served = served_models(model.bundle.manifest)[self._name]
        self._options = ServeOptions(max_batch=batch)
        self._info = model.info
        self._runner = ModelRunner(model, self._options)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests; those of a graph are computed together, since Triton joins only requests of equal shapes."""
        taken = [self._taken(request) for request in requests]
        parts = [request for request in taken if isinstance(request, Request)]
        results = iter(self._results(parts))
        return [self._response(next(results) if isinstance(request, Request) else request) for request in taken]

    def finalize(self) -> None:
        """Close the model."""
        self._runner.close()

    def _graph(self, bundle: Bundle, graph: str, options: SessionOptions) -> ServerGraph:
        return ServerGraph(self._server, graph, bundle.manifest.graphs[graph])

    def _taken(self, request: Any) -> Request | RefusalError:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        asked = Request(
            model=self._name,
            inputs=tensors,
            outputs=tuple(request.requested_output_names()) or None,
            parameters=json.loads(request.parameters() or "{}"),
        )
        try:
            return validated_request(asked, self._served, self._info, self._options)
        except RefusalError as refusal:
            return refusal

    def _results(self, requests: Sequence[Request]) -> Sequence[Arrays | RefusalError]:
        """Return the result of each request; requests of a graph are one job, those of a task one job each."""
        served = self._served
        jobs = [requests] if served.axes else [[request] for request in requests]
        results: list[Arrays | RefusalError] = []
        for number, members in enumerate(job for job in jobs if job):
            first = members[0]
            job = Job(
                id=number,
                model=self._name,
                parts=tuple(served.part(member, 0, served.rows(member)) for member in members),
                shared=served.shared(first),
                parameters=served.parameters(first),
                outputs=None,
            )
            results += self._runner.answer(self._runner.prepare(job))
        return results

    def _response(self, result: Arrays | RefusalError) -> Any:
        server = self._server
        if isinstance(result, RefusalError):
            code = server.TritonError.INTERNAL if isinstance(result, FailedError) else server.TritonError.INVALID_ARG
            return server.InferenceResponse(error=server.TritonError(str(result), code))
        tensors = [server.Tensor(name, np.ascontiguousarray(values)) for name, values in result.items()]
        return server.InferenceResponse(output_tensors=tensors)
