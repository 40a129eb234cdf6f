"""Graphs on ONNX Runtime's CPU kernels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_edge.runtime.backends.onnxruntime_cache import OnnxRuntimeCache
from internvl_edge.runtime.backends.session import SessionOptions, TensorInfo, require_arrays
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.profile.layers import LayerTime

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
        self._file, self._threads = graph_file, options.threads or 0  # 0: its own choice
        try:
            self._session = self._opened()
        except Exception as error:  # the library raises classes of its own, without a common base but this
            raise BackendError(_refusal(graph_file, str(error))) from error
        tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        if foreign := {item.type for item in tensors if item.type not in _DTYPES}:
            listed = ", ".join(sorted(foreign))
            raise BackendError(f"{graph_file.name}: NumPy cannot hold its {listed}; export with --dtype fp16 or fp32")
        self.inputs = {item.name: _info(item) for item in self._session.get_inputs()}
        self.outputs = {item.name: _info(item) for item in self._session.get_outputs()}
        self.settings = {"onnxruntime": onnxruntime.__version__, "threads": str(self._threads or "all cores")}

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

    def open_cache(self, present: Mapping[str, np.ndarray], rows: int, length: int) -> OnnxRuntimeCache:
        """Return a decoder's cache that begins with `present` and has room for `rows` rows of `length` positions."""
        return OnnxRuntimeCache(self._session, self._file.stem, self.inputs, present, rows, length)

    def layer_times(self, inputs: Mapping[str, np.ndarray], runs: int) -> "list[LayerTime]":
        """Return the layers as they run, from a session of its own that profiles them."""
        from internvl_edge.runtime.profile.onnxruntime_layers import profiled_layers

        feeds = {name: np.ascontiguousarray(value, self.inputs[name].dtype) for name, value in inputs.items()}
        return profiled_layers(self._opened, feeds, runs)

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _opened(self, profile: Path | None = None) -> Any:
        """Return a new session, which writes a trace to the prefix `profile` if one is given."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        settings.intra_op_num_threads = self._threads
        if profile is not None:
            settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
        return onnxruntime.InferenceSession(str(self._file), settings, providers=["CPUExecutionProvider"])


def _info(item: Any) -> TensorInfo:
    return TensorInfo(item.name, np.dtype(_DTYPES[item.type]), tuple(item.shape))


def _refusal(graph_file: Path, message: str) -> str:
    if "NOT_IMPLEMENTED" in message and graph_file.parent.name == "bf16":  # the folder is named by precision
        return f"{graph_file.name}: ONNX Runtime has no bf16 kernels for CPUs; export with --dtype fp16 or fp32"
    return f"{graph_file.name}: ONNX Runtime refuses the graph ({_first_line(message)}); export the bundle again"


def _first_line(message: str) -> str:
    return message.splitlines()[0] if message else "no reason given"
