"""Run one shape of a graph: contexts of its plans with shapes and addresses set, and their CUDA graph.

A captured graph depends on the state of the contexts it was captured from, so that each shape has contexts of its own.
They are small, since weights and activation memory are shared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from internvl_edge.runtime.backends.cuda import Cuda, CudaError, Stream
from internvl_edge.runtime.backends.tensorrt.memory import DeviceBuffer
from internvl_edge.runtime.backends.tensorrt.plans.failures import refusal
from internvl_edge.runtime.backends.tensorrt.plans.library import Library
from internvl_edge.runtime.backends.tensorrt.plans.plan import Plan
from internvl_edge.runtime.backends.tensorrt.plans.profiles import Shape

_REMEDY = "check the inputs, or build the plans again"


class Execution:
    """The plans of one graph in sequence. The outputs of one stay on the device as inputs of the next."""

    def __init__(
        self, library: Library, cuda: Cuda, graph: str, plans: Sequence[Plan], contexts: Sequence[Any]
    ) -> None:
        self._library, self._cuda, self._graph = library, cuda, graph
        self._steps = list(zip(plans, contexts, strict=True))
        self._given: tuple[int, Mapping[str, Shape]] | None = None
        self.shapes: Mapping[str, Shape] = {}
        """Shapes of all tensors, once those of the inputs are set."""
        self._bound: dict[str, int] = {}
        self._scratch = 0
        self._captured: Any = None

    @property
    def contexts(self) -> list[Any]:
        """Return the contexts, in the order in which they run."""
        return [context for _, context in self._steps]

    @property
    def captured(self) -> bool:
        """Return whether launches replay a CUDA graph."""
        return self._captured is not None

    def shape(self, profile: int, inputs: Mapping[str, Shape], stream: Stream) -> None:
        """Set the shapes of the graph's inputs, which determine those of all tensors.

        Raises:
            BackendError: a plan refuses them.
        """
        if self._given != (profile, inputs):
            self._given = None
            self._unbind()
            shapes = dict(inputs)
            for plan, context in self._steps:
                shapes |= self._shape_one(plan, context, profile, shapes, stream)
            self._given, self.shapes = (profile, dict(inputs)), shapes

    def bind(self, addresses: Mapping[str, int], scratch: DeviceBuffer) -> None:
        """Set the address of each tensor and of the memory for activations."""
        if self._bound == addresses and self._scratch == scratch.address:
            return
        before = self._bound
        self._unbind()  # if a call below fails, no address counts as set
        for plan, context in self._steps:
            if plan.scratch_bytes:
                context.set_device_memory(scratch.address, scratch.size_bytes)
            for name in (*plan.record.inputs, *plan.record.outputs):
                if before.get(name) != addresses[name]:
                    self._require(context.set_tensor_address(name, addresses[name]), f"does not place {name}")
        self._bound, self._scratch = dict(addresses), scratch.address

    def launch(self, stream: Stream) -> None:
        """Enqueue one run on `stream`.

        Raises:
            BackendError: TensorRT refuses to run a plan.
        """
        if self._captured is not None:
            self._cuda.launch(self._captured, stream)
        else:
            self._enqueue(stream)

    def capture(self, stream: Stream) -> None:
        """Capture one run on `stream`, which is empty and has run it before; all further launches replay it.

        Raises:
            CudaError: the run cannot be captured.
        """
        for plan, context in self._steps:
            capturable = getattr(context, "is_stream_capturable", None)
            if capturable is not None and not capturable(stream.handle):
                raise CudaError(f"{plan.record.file} cannot be captured")
        self._captured = self._cuda.capture(stream, lambda: self._enqueue(stream))

    def close(self) -> None:
        """Free the CUDA graph and the contexts."""
        self._drop()
        self._steps.clear()

    def _shape_one(
        self, plan: Plan, context: Any, profile: int, known: Mapping[str, Shape], stream: Stream
    ) -> dict[str, Shape]:
        """Set the input shapes of one plan; return the shapes of its outputs."""
        if context.active_optimization_profile != profile:
            selected = context.set_optimization_profile_async(profile, stream.handle)  # ordered before the run
            self._require(selected, f"does not take profile {profile}")
        for name in plan.record.inputs:
            self._require(context.set_input_shape(name, known[name]), f"does not take {name} {list(known[name])}")
        unknown = context.infer_shapes()
        self._require(not unknown, f"does not know the shape of {', '.join(unknown)}")
        return {name: tuple(context.get_tensor_shape(name)) for name in plan.record.outputs}

    def _enqueue(self, stream: Stream) -> None:
        self._library.errors.clear()
        for plan, context in self._steps:
            self._require(context.execute_async_v3(stream.handle), f"does not run {plan.record.file}")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise refusal(self._graph, what, self._library, _REMEDY)

    def _unbind(self) -> None:
        self._drop()
        self._bound, self._scratch = {}, 0

    def _drop(self) -> None:
        if self._captured is not None:
            self._cuda.drop(self._captured)
            self._captured = None
