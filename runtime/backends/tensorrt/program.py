"""Run one graph on one lane: copy arrays to the device, run the plans, and copy the outputs back."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.cuda import Cuda
from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.backends.tensorrt.execution import Execution
from internvl_edge.runtime.backends.tensorrt.lanes import Lane
from internvl_edge.runtime.backends.tensorrt.memory import DeviceBuffer, PinnedBuffer
from internvl_edge.runtime.backends.tensorrt.plans.plan import Plan
from internvl_edge.runtime.backends.tensorrt.plans.profiles import Shape
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import COMPUTE, DEVICE_TO_HOST, ENQUEUE, HOST_TO_DEVICE, Stages

logger = logging.getLogger(__name__)

_RECENT_SHAPES = 4
"""Number of shapes whose contexts and CUDA graphs are kept. A service has few shapes, and each takes some memory."""


@dataclass(frozen=True, slots=True)
class DeviceTensor:
    """A tensor on the device in memory of another owner than the program."""

    address: int
    shape: Shape


@dataclass(slots=True, kw_only=True)
class Replay:
    """A switch for CUDA graphs, shared by all lanes of a graph, so that a failure is reported once."""

    on: bool

    def stop(self, graph: str, error: BackendError) -> None:
        """Continue without CUDA graphs."""
        if self.on:
            logger.warning("graph %s: runs without CUDA graphs, capturing one failed (%s)", graph, error)
        self.on = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOnDevice:
    """The parts of one graph that its programs on all lanes share."""

    name: str
    plans: Sequence[Plan]
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    new_execution: Callable[[], Execution]
    keep_kernels: Callable[[], None]
    replay: Replay

    @property
    def scratch_bytes(self) -> int:
        """Return the most activation memory that any plan needs, since plans run one after another."""
        return max(plan.scratch_bytes for plan in self.plans)


class Program:
    """Buffers and executions of one graph on one lane; only the holder of the lane may use it."""

    def __init__(self, graph: GraphOnDevice, cuda: Cuda, lane: Lane) -> None:
        self._graph, self._cuda, self._lane = graph, cuda, lane
        self._executions: OrderedDict[object, Execution] = OrderedDict()
        self._buffers: dict[str, DeviceBuffer] = {}
        self._staging: dict[str, PinnedBuffer] = {}

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        profile: int,
        wanted: Iterable[str],
        stages: Stages,
        held: Mapping[str, DeviceTensor] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the outputs `wanted`; tensors in `held` are read and written in their own memory on the device.

        A run with `held` tensors is never captured, since its shape changes each time.
        """
        held = held or {}
        taken = {name: held[name].shape for name in self._graph.inputs if name in held}
        shapes = {name: value.shape for name, value in inputs.items()} | taken
        key = profile if held else (profile, *shapes.items())
        execution, again = self._execution(key)
        self._prepare(execution, profile, shapes, held)
        results = self._timed_run(execution, inputs, list(wanted), stages)
        if not again:
            self._graph.keep_kernels()
        elif self._graph.replay.on and not held and not execution.captured:
            self._capture(execution)
        return results

    def run_profiled(
        self, inputs: Mapping[str, np.ndarray], profile: int, profiler: Any, runs: int, stages: Stages
    ) -> None:
        """Run `runs` times in contexts that report each layer's time to `profiler`."""
        execution = self._graph.new_execution()
        try:
            for context in execution.contexts:
                context.profiler = profiler
            self._prepare(execution, profile, {name: value.shape for name, value in inputs.items()}, {})
            for _ in range(runs):
                self._timed_run(execution, inputs, [], stages)
        finally:
            execution.close()

    @contextmanager
    def shaped(self, profile: int, inputs: Mapping[str, Shape]) -> Iterator[list[Any]]:
        """Return a context manager with execution contexts whose shapes are set, which are not run."""
        execution = self._graph.new_execution()
        try:
            execution.shape(profile, inputs, self._lane.stream)
            yield execution.contexts
        finally:
            self._lane.drain()  # the selection of a profile is work of the stream
            execution.close()

    def close(self) -> None:
        """Free all memory on the device and the host."""
        for execution in self._executions.values():
            execution.close()
        self._executions.clear()
        for device in self._buffers.values():
            device.free()
        for host in self._staging.values():
            host.free()

    def _execution(self, key: object) -> tuple[Execution, bool]:
        """Return the execution of a shape, and whether that shape ran before; a new one may replace the oldest."""
        if again := key in self._executions:
            self._executions.move_to_end(key)
        elif len(self._executions) < _RECENT_SHAPES:
            self._executions[key] = self._graph.new_execution()
        else:
            _, self._executions[key] = self._executions.popitem(last=False)
        return self._executions[key], again

    def _prepare(
        self, execution: Execution, profile: int, inputs: Mapping[str, Shape], held: Mapping[str, DeviceTensor]
    ) -> None:
        execution.shape(profile, inputs, self._lane.stream)
        addresses = {name: tensor.address for name, tensor in held.items()}
        for plan in self._graph.plans:
            for name in (*plan.record.inputs, *plan.record.outputs):
                if name not in addresses:
                    buffer = self._buffers.setdefault(name, DeviceBuffer(self._cuda))
                    addresses[name] = buffer.reserve(plan.tensor_bytes(name, execution.shapes[name]))
        self._lane.scratch.reserve(self._graph.scratch_bytes)
        execution.bind(addresses, self._lane.scratch)

    def _timed_run(
        self, execution: Execution, inputs: Mapping[str, np.ndarray], wanted: Sequence[str], stages: Stages
    ) -> dict[str, np.ndarray]:
        graph, lane = self._graph.name, self._lane
        with stages.stage(HOST_TO_DEVICE, graph):
            staged = {name: self._staged(name, value) for name, value in inputs.items()}
        lane.mark(0)
        for name, values in staged.items():
            self._cuda.copy_in(self._buffers[name].address, values, lane.stream)
        lane.mark(1)
        with stages.stage(ENQUEUE, graph):
            execution.launch(lane.stream)
        lane.mark(2)
        results = {name: self._host_array(execution, name) for name in wanted}
        for name, values in results.items():
            self._cuda.copy_out(values, self._buffers[name].address, lane.stream)
        lane.mark(3)
        lane.wait()
        for stage, spent in zip((HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST), lane.spans_ms(), strict=True):
            stages.device(stage, graph, spent)
        with stages.stage(DEVICE_TO_HOST, graph):
            return {name: values.copy() for name, values in results.items()}

    def _staged(self, name: str, value: np.ndarray) -> np.ndarray:
        """Return `value` in page-locked memory and in the graph's type."""
        staged = self._pinned(name).array(value.shape, self._graph.inputs[name].dtype)
        np.copyto(staged, value, casting="unsafe")
        return staged

    def _host_array(self, execution: Execution, name: str) -> np.ndarray:
        return self._pinned(name).array(execution.shapes[name], self._graph.outputs[name].dtype)

    def _pinned(self, name: str) -> PinnedBuffer:
        return self._staging.setdefault(name, PinnedBuffer(self._cuda))

    def _capture(self, execution: Execution) -> None:
        try:
            execution.capture(self._lane.stream)
        except BackendError as error:
            self._graph.replay.stop(self._graph.name, error)
