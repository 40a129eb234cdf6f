"""Graphs on ONNX Runtime: its CPU kernels on a graph rewritten for them, or CUDA and TensorRT on the graph as it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from internvl_edge.runtime.backends.lowering.cpu import lower
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.backends.session import SessionOptions, TensorInfo, require_arrays
from internvl_edge.runtime.backends.threads import ALL_CORES, threads_for
from internvl_edge.runtime.errors import BackendError, first_line
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.backends.layer_times.layers import LayerTime
    from internvl_edge.runtime.backends.layer_times.onnxruntime import ProfileFiles

Provider = Literal["cpu", "cuda", "tensorrt"]

_BACKENDS: dict[Provider, str] = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime_cuda",
    "tensorrt": "onnxruntime_tensorrt",
}
_PROVIDERS: dict[Provider, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""The first is the one that is asked for; the others take the operators that it has no kernel for."""
_EXTRAS: dict[Provider, str] = {"cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu"}
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
"""What can cross the border as NumPy arrays; bfloat16 cannot."""
_NO_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "bad allocation")
_WEIGHTS_BESIDE = "session.optimized_model_external_initializers_file_name"
SPINNING = "session.intra_op.allow_spinning"
"""Whether threads poll for the next operator, which keeps the cores from whatever else the machine runs.

Only threads whose number a user has given do: who gives it has the cores to spare.
"""
_FATAL_ONLY = 4
"""Log level: every failure is raised, so that printing it as well would say it twice."""


class OnnxRuntimeSession:
    """One graph on one of ONNX Runtime's execution providers.

    On the CPU it is lowered first: what was fp16 or bf16 computes, and crosses the border, in fp32.

    Raises:
        BackendError: ONNX Runtime or the provider is not installed, or refuses the graph.
    """

    def __init__(self, graph_file: Path, options: SessionOptions, provider: Provider = "cpu") -> None:
        self._file, self._provider = graph_file, provider
        self._check_installed()
        try:
            self._lowered = lower(graph_file, options.bf16) if provider == "cpu" else None
            own = threads_for(self._lowered.weights, options.rows) if self._lowered is not None else ALL_CORES
            self._threads, self._spins = options.threads or own, options.threads is not None
            self._session = self._opened()
        except Exception as error:  # the library raises classes of its own, without a common base but this
            raise BackendError(_refusal(graph_file, error)) from error
        self._check_opened()
        self.backend = _BACKENDS[provider]
        self.inputs = {item.name: _info(item) for item in self._session.get_inputs()}
        self.outputs = {item.name: _info(item) for item in self._session.get_outputs()}
        self.settings = self._settings()

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs; floats and integers are cast to the graph's own width.

        Raises:
            InputError: names, types or shapes that the graph does not take, all of them.
            BackendError: the graph fails on values that its signature allows, or the memory does not suffice.
        """
        names = list(self.outputs if outputs is None else outputs)
        require_arrays(self._file.stem, inputs, names, self.inputs, self.outputs)
        feeds = {name: np.ascontiguousarray(value, self.inputs[name].dtype) for name, value in inputs.items()}
        try:
            with stages.stage(COMPUTE, self._file.stem):
                results = self._session.run(names, feeds)
        except Exception as error:  # as above
            raise BackendError(_failure(self._file, error)) from error
        return dict(zip(names, results, strict=True))

    def layer_times(self, inputs: Mapping[str, np.ndarray], runs: int) -> "list[LayerTime]":
        """Return the layers as they run, from a session of its own that profiles them."""
        from internvl_edge.runtime.backends.layer_times.onnxruntime import profiled_layers

        feeds = {name: np.ascontiguousarray(value, self.inputs[name].dtype) for name, value in inputs.items()}
        return profiled_layers(self._opened, feeds, runs, self._graph_bytes())

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _graph_bytes(self) -> int | None:
        """Return what the graph takes with its weights in fp32; None where a provider compiles what it takes."""
        if self._lowered is None:
            return None
        model = OnnxModel(self._lowered.model, self._file.parent)
        return len(self._lowered.model) + sum(4 * tensor.size for tensor in model.initializers.values())

    def _opened(self, profile: "ProfileFiles | None" = None) -> Any:
        """Return a new session, which writes what `profile` names if it is given."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        settings.intra_op_num_threads = self._threads
        if not self._spins:
            settings.add_session_config_entry(SPINNING, "0")
        if profile is not None:
            settings.enable_profiling, settings.profile_file_prefix = True, str(profile.trace)
            if profile.graph is not None:
                settings.optimized_model_filepath = str(profile.graph)
                settings.add_session_config_entry(_WEIGHTS_BESIDE, "weights.bin")  # a file of protobuf ends at 2 GiB
        providers = list(_PROVIDERS[self._provider])
        if self._lowered is None:
            return onnxruntime.InferenceSession(str(self._file), settings, providers=providers)
        settings.enable_cpu_mem_arena = self._lowered.arena
        for key, value in self._lowered.config.items():
            settings.add_session_config_entry(key, value)
        return onnxruntime.InferenceSession(self._lowered.model, settings, providers=providers)

    def _check_installed(self) -> None:
        remedy = f"pip install 'internvl-edge[{_EXTRAS[self._provider]}]'"
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError(f"backend {_BACKENDS[self._provider]}: not installed; {remedy}") from error
        if (wanted := _PROVIDERS[self._provider][0]) not in onnxruntime.get_available_providers():
            raise BackendError(
                f"backend {_BACKENDS[self._provider]}: this onnxruntime {onnxruntime.__version__} has no {wanted};"
                f" pip uninstall onnxruntime, then {remedy}"
            )

    def _check_opened(self) -> None:
        """Check that the provider took the graph: a library of its that is missing makes it fall back in silence."""
        wanted, found = _PROVIDERS[self._provider][0], self._session.get_providers()
        if wanted not in found:
            raise BackendError(
                f"backend {_BACKENDS[self._provider]}: {wanted} does not load on this machine; install the driver and"
                " the CUDA libraries that this onnxruntime-gpu is built for, see `internvl-edge doctor`"
            )
        tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        if foreign := {item.type for item in tensors if item.type not in _DTYPES}:
            listed = ", ".join(sorted(foreign))
            raise BackendError(f"{self._file.name}: NumPy cannot hold its {listed}; export with --dtype fp16 or fp32")

    def _settings(self) -> dict[str, str]:
        import onnxruntime

        settings = {"onnxruntime": onnxruntime.__version__}
        if self._lowered is not None:
            settings |= {"threads": str(self._threads or "all cores"), **self._lowered.settings}
        return settings


def _info(item: Any) -> TensorInfo:
    return TensorInfo(item.name, np.dtype(_DTYPES[item.type]), tuple(item.shape))


def _refusal(graph_file: Path, error: Exception) -> str:
    reason = first_line(error)
    if _is_memory(reason):
        return f"graph {graph_file.stem}: no memory to open it ({reason}); close other graphs, or export to int8"
    return f"{graph_file.name}: ONNX Runtime refuses the graph ({reason}); export the bundle again"


def _failure(graph_file: Path, error: Exception) -> str:
    reason = first_line(error)
    if _is_memory(reason):
        return f"graph {graph_file.stem}: out of memory ({reason}); lower the batch, the beams or the new tokens"
    return f"{graph_file.name}: failed at run time ({reason}); check its inputs"


def _is_memory(reason: str) -> bool:
    return any(words in reason.lower() for words in _NO_MEMORY)
