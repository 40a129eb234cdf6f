"""Run graphs with ONNX Runtime: on a CPU after rewriting them for its kernels, on CUDA and TensorRT as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from internvl_edge.runtime.backends.array_cache import ArrayCache
from internvl_edge.runtime.backends.lowering.cpu import lower
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.backends.onnxruntime_cache import OnnxRuntimeCache, rows_of, takes_rows_one_by_one
from internvl_edge.runtime.backends.session import (
    NUMPY_REMEDY,
    KeyValueCache,
    SessionOptions,
    TensorInfo,
    require_arrays,
    run_failure,
)
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
"""Execution providers of each backend. The first is the requested one; the others run operators that it lacks."""
_EXTRAS: dict[Provider, str] = {"cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu"}
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
"""NumPy types of inputs and outputs by ONNX Runtime's names. NumPy has no bfloat16."""
_NO_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "bad allocation")
_WEIGHTS_BESIDE = "session.optimized_model_external_initializers_file_name"
SPINNING = "session.intra_op.allow_spinning"
"""Name of the option by which threads poll for the next operator, which keeps cores from other programs.

It is on only where the options give the number of threads: a user has decided that the cores are free for them, or
`serve` has divided the cores among several workers.
"""
_FATAL_ONLY = 4
"""Log level of ONNX Runtime. Failures are raised as errors, so that logging them would report them twice."""


class OnnxRuntimeSession:
    """One graph on an execution provider of ONNX Runtime.

    On the CPU it is lowered first: values, inputs and outputs of fp16 or bf16 become fp32.

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
        except Exception as error:  # the library's exception classes have no other common base
            raise BackendError(_refusal(graph_file, error)) from error
        self._check_opened()
        self.backend = _BACKENDS[provider]
        self.inputs = {item.name: _info(item) for item in self._session.get_inputs()}
        self.outputs = {item.name: _info(item) for item in self._session.get_outputs()}
        self.settings = self._settings()

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs; floats and integers are cast to the width of the graph's types.

        Raises:
            InputError: the graph does not take some names, types or shapes, all of them named.
            BackendError: the graph fails on inputs that fit its signature, or the memory does not suffice.
        """
        names = list(self.outputs if outputs is None else outputs)
        require_arrays(self._file.stem, inputs, names, self.inputs, self.outputs)
        feeds = {name: np.ascontiguousarray(value, self.inputs[name].dtype) for name, value in inputs.items()}
        try:
            with stages.stage(COMPUTE, self._file.stem):
                if self._appends and takes_rows_one_by_one(feeds):
                    rows = [self._session.run(names, each) for each in rows_of(feeds)]
                    results = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
                else:
                    results = self._session.run(names, feeds)
        except Exception as error:  # as in `__init__`
            raise BackendError(_failure(self._file, error)) from error
        return dict(zip(names, results, strict=True))

    def open_cache(self, present: Mapping[str, np.ndarray], rows: int, length: int) -> KeyValueCache:
        """Return a cache that begins with `present`; it grows with its steps, whatever `rows` and `length` are.

        Raises:
            BackendError: there is not enough memory.
        """
        if self._appends:
            return OnnxRuntimeCache(self, present)
        return ArrayCache(lambda inputs, stages: self.run(inputs, stages=stages), present)

    def binding(self) -> Any:
        """Return a new binding of inputs and outputs to memory, for `run_bound`."""
        return self._session.io_binding()

    def run_bound(self, binding: Any, stages: Stages) -> None:
        """Run the graph on the memory of `binding`.

        Raises:
            BackendError: the graph fails, or the memory does not suffice.
        """
        try:
            with stages.stage(COMPUTE, self._file.stem):
                self._session.run_with_iobinding(binding)
        except Exception as error:  # as in `__init__`
            raise BackendError(_failure(self._file, error)) from error

    def layer_times(self, inputs: Mapping[str, np.ndarray], runs: int) -> "list[LayerTime]":
        """Return the layers as they run, from a separate session with profiling."""
        from internvl_edge.runtime.backends.layer_times.onnxruntime import profiled_layers

        feeds = {name: np.ascontiguousarray(value, self.inputs[name].dtype) for name, value in inputs.items()}
        return profiled_layers(self._opened, feeds, runs, self._graph_bytes())

    def close(self) -> None:
        """Free the session."""
        self._session = None

    @property
    def graph(self) -> str:
        """Return the name of the graph."""
        return self._file.stem

    @property
    def _appends(self) -> bool:
        return self._lowered is not None and self._lowered.appends

    def _graph_bytes(self) -> int | None:
        """Return the bytes of the graph with its weights in fp32; None where the provider compiles parts of it."""
        if self._lowered is None:
            return None
        model = OnnxModel(self._lowered.model, self._file.parent)
        return len(self._lowered.model) + sum(4 * tensor.size for tensor in model.initializers.values())

    def _opened(self, profile: "ProfileFiles | None" = None) -> Any:
        """Return a new session, which writes the files of `profile` if it is given."""
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
                settings.add_session_config_entry(_WEIGHTS_BESIDE, "weights.bin")  # a protobuf file is limited to 2 GiB
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
        """Check that the provider runs the graph, since ONNX Runtime falls back silently where a library is missing."""
        wanted, found = _PROVIDERS[self._provider][0], self._session.get_providers()
        if wanted not in found:
            raise BackendError(
                f"backend {_BACKENDS[self._provider]}: {wanted} does not load on this machine; install the driver and"
                " the CUDA libraries that this onnxruntime-gpu is built for, see `internvl-edge doctor`"
            )
        tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        if foreign := {item.type for item in tensors if item.type not in _DTYPES}:
            listed = ", ".join(sorted(foreign))
            raise BackendError(f"{self._file.name}: NumPy cannot hold its {listed}; {NUMPY_REMEDY}")

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
    return run_failure(graph_file.name, reason)


def _is_memory(reason: str) -> bool:
    return any(words in reason.lower() for words in _NO_MEMORY)
