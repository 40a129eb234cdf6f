"""Run plans on the device: TensorRT computes, torch holds the buffers and the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle.engines import GraphEngines, PlanRecord
from internvl_edge.runtime.targets.flavour import Flavour

_WARM_RUNS = 10
"""Not timed: the first compile or load kernels, and clocks rise."""
_RUNS = 50
"""Number of runs whose median latency is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRun:
    """One graph, run: all tensors of its plans as arrays, and the median latency, summed over its plans."""

    values: Mapping[str, np.ndarray]
    median_ms: float


class GraphPlans:
    """The plans of one graph on the device, in the order in which they run."""

    def __init__(self, flavour: Flavour, folder: Path, engines: GraphEngines, *, cuda_graph: bool = False) -> None:
        self._records: Sequence[PlanRecord] = engines.plans
        self._plans = [LoadedPlan(flavour, folder / plan.file, cuda_graph=cuda_graph) for plan in engines.plans]

    def run(self, inputs: Mapping[str, np.ndarray], profile: int = 0) -> GraphRun:
        """Return what the graph makes of `inputs` in optimization profile `profile`."""
        import torch

        # torch.tensor copies: an array may be a view that cannot be written
        values = {name: torch.tensor(value, device="cuda") for name, value in inputs.items()}
        total_ms = 0.0
        for record, plan in zip(self._records, self._plans, strict=True):
            found, median_ms = plan.run({name: values[name] for name in record.inputs}, profile)
            values |= found
            total_ms += median_ms
        return GraphRun(values={name: _array(value) for name, value in values.items()}, median_ms=total_ms)


class LoadedPlan:
    """One plan, deserialized, with an execution context and a stream of its own.

    With `cuda_graph` TensorRT-RTX captures what it launches and launches it as one: the host's time falls away.
    """

    def __init__(self, flavour: Flavour, plan: Path, *, cuda_graph: bool = False) -> None:
        import torch

        self._trt = flavour.trt
        self._name = plan.name
        self._log = recording_log(flavour.trt)
        self._log.said.clear()
        self._runtime = flavour.trt.Runtime(self._log)
        self.engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        assert self.engine is not None, f"{plan} does not deserialize on this device: {self._log.said}"
        self._context = _context(flavour.trt, self.engine, cuda_graph)
        assert self._context is not None, f"{plan} gets no execution context: {self._log.said}"
        self._stream = torch.cuda.Stream()
        self._dtypes = _torch_dtypes(flavour.trt)

    def run(self, inputs: Mapping[str, Any], profile: int = 0) -> tuple[dict[str, Any], float]:
        """Run on CUDA tensors; return the outputs as such, and the median latency in ms."""
        import torch

        self._select(profile)
        for name, tensor in inputs.items():
            self._check(name, tensor)
            assert self._context.set_input_shape(name, tuple(tensor.shape)), self._said(f"{name} {tensor.shape}")
            assert self._context.set_tensor_address(name, tensor.data_ptr()), self._said(name)
        assert not (lacking := self._context.infer_shapes()), self._said(f"shapes of {lacking} are not known")
        outputs = {name: self._output(name) for name in self._names() if name not in inputs}
        for name, tensor in outputs.items():
            assert self._context.set_tensor_address(name, tensor.data_ptr()), self._said(name)
        self._stream.wait_stream(torch.cuda.current_stream())
        times = [self._timed() for _ in range(_WARM_RUNS + _RUNS)][_WARM_RUNS:]
        return outputs, float(np.median(times))

    def _select(self, profile: int) -> None:
        """Make `profile` the active one; all input shapes must be set again then, and are."""
        if self._context.active_optimization_profile != profile:
            selected = self._context.set_optimization_profile_async(profile, self._stream.cuda_stream)
            assert selected, self._said(f"profile {profile}")
            self._stream.synchronize()

    def _timed(self) -> float:
        """Run once; return the ms between two events around it: the longer of host's launching and device's work."""
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        assert self._context.execute_async_v3(self._stream.cuda_stream), self._said("a run")
        end.record(self._stream)
        self._stream.synchronize()
        return float(start.elapsed_time(end))

    def _names(self) -> list[str]:
        return [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]

    def _check(self, name: str, tensor: Any) -> None:
        """Refuse what TensorRT would misread in silence: it gets an address and nothing else."""
        wanted = self._dtypes[self.engine.get_tensor_dtype(name)]
        assert tensor.dtype == wanted, f"{self._name}: {name} is {tensor.dtype}, the plan takes {wanted}"
        assert tensor.is_contiguous(), f"{self._name}: {name} is not contiguous"
        assert self.engine.get_tensor_location(name) == self._trt.TensorLocation.DEVICE, (
            f"{self._name}: {name} must lie in host memory, the checks hold all on the device"
        )

    def _output(self, name: str) -> Any:
        import torch

        shape = tuple(self._context.get_tensor_shape(name))
        return torch.empty(shape, dtype=self._dtypes[self.engine.get_tensor_dtype(name)], device="cuda")

    def _said(self, what: str) -> str:
        return f"{self._name}: TensorRT refuses {what}: {self._log.said}"


@cache
def recording_log(trt: Any) -> Any:
    """Return the logger of this process, whose ``said`` holds warnings and errors, in order.

    There is one: TensorRT keeps the first that it is given, and ignores others.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                self.said.append(message)

    return Log()


def _context(trt: Any, engine: Any, cuda_graph: bool) -> Any:
    """Return an execution context that has its final kernels from the first run on.

    TensorRT-RTX would by itself begin with fallback kernels and compile those for the shapes beside the runs.
    """
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    if cuda_graph:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(runtime_config=config)


def _torch_dtypes(trt: Any) -> dict[Any, Any]:
    import torch

    types = trt.DataType
    return {
        types.FLOAT: torch.float32,
        types.HALF: torch.float16,
        types.BF16: torch.bfloat16,
        types.INT64: torch.int64,
        types.INT32: torch.int32,
        types.BOOL: torch.bool,
    }


def _array(tensor: Any) -> np.ndarray:
    """Return a tensor as an array; NumPy has no bfloat16, so that becomes fp32."""
    import torch

    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    found: np.ndarray = wide.cpu().numpy()
    return found
