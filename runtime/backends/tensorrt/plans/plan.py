"""Load a plan, with the sizes of its tensors and of its activation memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from internvl_edge.runtime.backends.tensorrt.plans.failures import refusal
from internvl_edge.runtime.backends.tensorrt.plans.library import Library
from internvl_edge.runtime.backends.tensorrt.plans.plan_reader import deserialize
from internvl_edge.runtime.bundle.engines import PlanRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A loaded plan of a graph or of a segment of it. All contexts share its weights on the device."""

    record: PlanRecord
    engine: Any
    item_bytes: Mapping[str, int]
    """Bytes of one element of each tensor, by name."""

    @property
    def scratch_bytes(self) -> int:
        """Return the most bytes of activation memory that a run takes, over all profiles."""
        return int(self.engine.device_memory_size_v2)

    def tensor_bytes(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the bytes of the tensor `name` with this shape."""
        return prod(shape) * self.item_bytes[name]


def load_plan(library: Library, folder: Path, record: PlanRecord, graph: str) -> Plan:
    """Load the plan in file `record.file` of `folder` onto the device.

    Raises:
        BackendError: TensorRT refuses it, or the device has not enough memory.
    """
    if record.plugins:
        from internvl_edge.runtime.backends.cuda.kernels import KernelLoader
        from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import provide_plugins

        provide_plugins(library.trt, record.plugins, KernelLoader(), record.file)
    engine = deserialize(library, folder / record.file)
    if engine is None:
        raise refusal(graph, f"does not load {record.file}", library, "build the plans again on this machine")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    item_bytes = {name: int(engine.get_tensor_dtype(name).itemsize) for name in names}
    return Plan(record=record, engine=engine, item_bytes=item_bytes)
