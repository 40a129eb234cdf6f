"""Graphs on ONNX Runtime's CPU kernels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.session import SessionOptions, TensorInfo, require_arrays
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
"""What can cross the border as NumPy arrays. bfloat16 cannot, and its CPU kernels are missing as well."""
_FATAL_ONLY = 4
"""Log level: every failure is raised, so that printing it as well would say it twice."""


class OnnxRuntimeSession:
    """One graph on the CPU.

    Raises:
        BackendError: ONNX Runtime is not installed or refuses the graph.
    """

    backend = "onnxruntime"

    def __init__(self, graph_file: Path, options: SessionOptions) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError("backend onnxruntime: not installed; pip install 'internvl-edge[cpu]'") from error
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        try:
            self._session = onnxruntime.InferenceSession(str(graph_file), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises classes of its own, without a common base but this
            raise BackendError(_refusal(graph_file, str(error))) from error
        self._file = graph_file
        tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        if foreign := {item.type for item in tensors if item.type not in _DTYPES}:
            listed = ", ".join(sorted(foreign))
            raise BackendError(f"{graph_file.name}: NumPy cannot hold its {listed}; export with --dtype fp16 or fp32")
        self.inputs = {item.name: _info(item) for item in self._session.get_inputs()}
        self.outputs = {item.name: _info(item) for item in self._session.get_outputs()}
        threads = settings.intra_op_num_threads
        self.settings = {"onnxruntime": onnxruntime.__version__, "threads": str(threads) if threads else "all cores"}

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs; floats and integers are cast to the graph's own width.

        Raises:
            InputError: names, types or shapes that the graph does not take, all of them.
            BackendError: the graph fails on values that its signature allows.
        """
        names = list(self.outputs if outputs is None else outputs)
        require_arrays(self._file.stem, inputs, names, self.inputs, self.outputs)
        feeds = {name: np.ascontiguousarray(value, self.inputs[name].dtype) for name, value in inputs.items()}
        try:
            with stages.stage(COMPUTE, self._file.stem):
                results = self._session.run(names, feeds)
        except Exception as error:  # as above
            raise BackendError(
                f"{self._file.name}: failed at run time ({_first_line(str(error))}); check its inputs"
            ) from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _info(item: Any) -> TensorInfo:
    return TensorInfo(item.name, np.dtype(_DTYPES[item.type]), tuple(item.shape))


def _refusal(graph_file: Path, message: str) -> str:
    if "NOT_IMPLEMENTED" in message and graph_file.parent.name == "bf16":  # the folder is named by precision
        return f"{graph_file.name}: ONNX Runtime has no bf16 kernels for CPUs; export with --dtype fp16 or fp32"
    return f"{graph_file.name}: ONNX Runtime refuses the graph ({_first_line(message)}); export the bundle again"


def _first_line(message: str) -> str:
    return message.splitlines()[0] if message else "no reason given"
