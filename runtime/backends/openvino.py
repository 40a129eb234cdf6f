"""Run graphs with OpenVINO, on processors of any maker and on Intel GPUs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from internvl_edge.runtime.backends.array_cache import ArrayCache
from internvl_edge.runtime.backends.openvino_cache import OpenVinoCache, as_present, read_states, write_states
from internvl_edge.runtime.backends.openvino_states import PAST, PRESENT, ROWS, cache_type, keep_cache
from internvl_edge.runtime.backends.session import (
    KeyValueCache,
    SessionOptions,
    TensorInfo,
    require_arrays,
    run_failure,
)
from internvl_edge.runtime.bundle.manifest import TensorSpec
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.backends.layer_times.layers import LayerTime

Device = Literal["CPU", "GPU"]

_CACHE_TYPE = "KV_CACHE_PRECISION"
"""Property with the type of keys and values in states. OpenVINO's own choice has 8 bits, which moves logits by 1e-2."""
_BACKENDS: dict[Device, str] = {"CPU": "openvino", "GPU": "openvino_gpu"}


class OpenVinoSession:
    """One graph on OpenVINO; `declared` are its inputs in the manifest, whose axes have names.

    On a processor, inputs and outputs in fp16 or bf16 are changed to fp32; on a GPU only those in bf16, which NumPy
    lacks.

    Raises:
        BackendError: OpenVINO is not installed, has no such device, or refuses the graph.
    """

    def __init__(
        self,
        graph_file: Path,
        options: SessionOptions,
        device: Device = "CPU",
        declared: Sequence[TensorSpec] = (),
    ) -> None:
        self.backend = _BACKENDS[device]
        try:
            import openvino
        except ImportError as error:
            raise BackendError(
                f"backend {self.backend}: not installed; pip install 'internvl-edge[openvino]'"
            ) from error
        self._file, self._options, self._device = graph_file, options, device
        self._core = process_core()
        if device not in {name.partition(".")[0] for name in self._core.available_devices}:
            raise BackendError(
                f"backend {self.backend}: OpenVINO finds no {device} here; install the driver of an Intel GPU, or take"
                " --backend openvino"
            )
        try:
            model, stateful = self._read(), self._with_states()
            self._keeps_cache = stateful is not None
            self._compiled = self._compile(stateful or model)
        except RuntimeError as error:
            raise BackendError(
                f"{graph_file.name}: OpenVINO refuses the graph ({_reason(error)}); take --backend onnxruntime"
            ) from error
        self._idle: list[Any] = []
        axes = {spec.name: spec.shape for spec in declared}
        self.inputs = {info.name: info for info in (_info(port, axes) for port in model.inputs)}
        self.outputs = {info.name: info for info in (_info(port, {}) for port in model.outputs)}
        self.settings = self._settings(openvino.__version__)

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs; floats and integers are cast to the width of the graph's types.

        Raises:
            InputError: the graph does not take some names, types or shapes, all of them named.
            BackendError: the graph fails on inputs that fit its signature.
        """
        names = list(self.outputs if outputs is None else outputs)
        require_arrays(self._file.stem, inputs, names, self.inputs, self.outputs)
        arrays = self._arrays(inputs)
        with self._request() as request:
            self.infer(request, self._given(request, arrays), stages)
            held = read_states(request) if any(name.startswith(PRESENT) for name in names) and self._keeps_cache else {}
            return {name: held[name] if name in held else request.get_tensor(name).data.copy() for name in names}

    def infer(self, request: Any, arrays: Mapping[str, np.ndarray], stages: Stages) -> None:
        """Run the graph on `arrays`, which `request` reads in place.

        Raises:
            BackendError: the graph fails.
        """
        _set_inputs(request, arrays)
        try:
            with stages.stage(COMPUTE, self._file.stem):
                request.infer(share_outputs=True)
        except RuntimeError as error:
            raise BackendError(run_failure(self._file.name, _reason(error))) from error

    def open_cache(self, present: Mapping[str, np.ndarray], rows: int, length: int) -> KeyValueCache:
        """Return a cache that begins with `present`; it grows with its steps, whatever `rows` and `length` are."""
        if self._keeps_cache:
            return OpenVinoCache(self, self._compiled.create_infer_request(), present)
        return ArrayCache(lambda inputs, stages: self.run(inputs, stages=stages), present)

    def layer_times(self, inputs: Mapping[str, np.ndarray], runs: int) -> "list[LayerTime]":
        """Return the layers as they run, from a graph that is compiled again with performance counters."""
        from internvl_edge.runtime.backends.layer_times.openvino import layers_of_runs

        compiled = self._compile(self._with_states() or self._read(), profile=True)
        request = compiled.create_infer_request()
        arrays = self._arrays(inputs)
        self.infer(request, self._given(request, arrays), UNMEASURED)  # the first run allocates memory
        found = []
        for _ in range(runs):
            self.infer(request, self._given(request, arrays), UNMEASURED)
            found.append(request.get_profiling_info())
        model = compiled.get_runtime_model()  # after the runs, so that it has their shapes
        results = [name for name in self.outputs if not (self._keeps_cache and name.startswith(PRESENT))]
        return layers_of_runs(found, model, results)

    def close(self) -> None:
        """Free the graph."""
        self._compiled, self._idle = None, []

    @property
    def graph(self) -> str:
        """Return the name of the graph."""
        return self._file.stem

    @contextmanager
    def _request(self) -> Iterator[Any]:
        """Return a context with an infer request for one call; there are as many requests as concurrent calls."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.append(request)

    def _arrays(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return arrays that tensors can share. OpenVINO does not write to them, but refuses read-only ones."""
        return {name: np.require(inputs[name], info.dtype, ["C", "W"]) for name, info in self.inputs.items()}

    def _given(self, request: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the inputs of a run of its own; the cache among `arrays` becomes the states of `request`."""
        if not self._keeps_cache:
            return dict(arrays)
        write_states(request, as_present(arrays))
        given = {name: values for name, values in arrays.items() if not name.startswith(PAST)}
        rows = len(next(iter(given.values())))
        return {**given, ROWS: np.arange(rows, dtype=np.int32)}

    def _settings(self, version: str) -> dict[str, str]:
        settings = {
            "openvino": version.partition("-")[0],
            "device": str(self._core.get_property(self._device, "FULL_DEVICE_NAME")),
            "computes in": self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        }
        if self._device == "CPU":
            settings["threads"] = str(self._options.threads or "all cores")
        if self._keeps_cache:
            settings["cache"] = f"states in {self._compiled.get_property(_CACHE_TYPE).get_type_name()}"
        return settings

    def _read(self) -> Any:
        """Return the graph of the file, with the types of `inputs` and `outputs` and with mapped weights."""
        model = self._core.read_model(self._file)
        _widen_inputs_and_outputs(model, ("bf16", "f16") if self._device == "CPU" else ("bf16",))
        return model

    def _with_states(self) -> Any | None:
        """Return the graph of the file with its cache as states; None for graphs without one, and on a GPU."""
        if self._device != "CPU":
            return None
        model = keep_cache(self._core.read_model(self._file))
        if model is not None:
            _widen_inputs_and_outputs(model, ("bf16", "f16"))
        return model

    def _compile(self, model: Any, profile: bool = False) -> Any:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": self._options.streams,
            "INFERENCE_PRECISION_HINT": self._precision(model),
            "PERF_COUNT": profile,
        }
        if self._device == "CPU" and self._options.threads:
            settings["INFERENCE_NUM_THREADS"] = self._options.threads
        if (kept := cache_type(model)) is not None:
            settings[_CACHE_TYPE] = kept
        return self._core.compile_model(model, self._device, settings)

    def _precision(self, model: Any) -> str:
        """Return the type of the arithmetic, which is never less exact than the graph's unless the user allowed bf16.

        By default OpenVINO computes fp32 graphs in bf16 on processors that have it, and in fp16 on GPUs. Here a GPU
        keeps
        the type of each layer, and a processor computes fp16 in fp32, since its fp16 would include norms.
        """
        from openvino import Type

        if self._device == "GPU":
            return "dynamic"
        has_bf16 = any(port.get_element_type() == Type.bf16 for node in model.get_ops() for port in node.outputs())
        may = has_bf16 or self._options.bf16
        return "bf16" if may and "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


@cache
def process_core() -> Any:
    """Return OpenVINO's core, of which the process has one until it ends.

    Each core of 2026.4 gives the thread a new stack for signals, and restores the earlier stack when it is deleted. If
    two cores are deleted in the order of their creation, the second restores a stack that the first has freed, and the
    next signal, such as Ctrl-C, ends the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _set_inputs(request: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Set `arrays` as inputs of `request`, which reads them in place, so that they must outlive its runs."""
    from openvino import Tensor

    for name, array in arrays.items():
        request.set_tensor(name, Tensor(array, shared_memory=True))


def _widen_inputs_and_outputs(model: Any, narrow: Sequence[str]) -> None:
    """Change inputs and outputs of the `narrow` types to float32."""
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    processor = PrePostProcessor(model)
    for index, port in enumerate(model.inputs):
        if port.get_element_type().get_type_name() in narrow:
            processor.input(index).tensor().set_element_type(Type.f32)
    for index, port in enumerate(model.outputs):
        if port.get_element_type().get_type_name() in narrow:
            processor.output(index).tensor().set_element_type(Type.f32)
    processor.build()


def _info(port: Any, axes: Mapping[str, Sequence[int | str]]) -> TensorInfo:
    """Return type and shape of an input or output; OpenVINO keeps no names of axes, so that they come from `axes`.

    `port` belongs to the graph before compilation, in which tensors may get the names of others.
    """
    name = port.get_any_name()
    sizes = [dimension.get_length() if dimension.is_static else None for dimension in port.get_partial_shape()]
    named = axes.get(name, sizes)
    shape = tuple(axis if size is None else size for size, axis in zip(sizes, named, strict=True))
    return TensorInfo(name, np.dtype(port.get_element_type().to_dtype()), shape)


def _reason(error: RuntimeError) -> str:
    """Return the last line of OpenVINO's message, since those before it name positions in its source."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
