"""TensorRT without a device: what it takes, in which order, and what it answers; functions of NumPy compute.

A plan is JSON: the name of its function, its tensors, profiles and needs. Whatever the real one leaves undefined
(an address before the shapes, a run without all addresses or without scratch memory) is an error.
"""

import enum
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from tests.unit.runtime.fake_cuda import FakeCuda, FakeStream, Work

Function = Callable[..., Mapping[str, np.ndarray]]
"""The inputs by name -> all outputs by name; its shapes follow from those of its inputs alone."""


class DataType(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT64 = "int64"

    @property
    def itemsize(self) -> int:
        return np.dtype(self.value).itemsize


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class IStreamReaderV2:
    def read(self, num_bytes: int, stream: int) -> bytes:
        raise NotImplementedError

    def seek(self, offset: int, where: "SeekPosition") -> bool:
        raise NotImplementedError


class SeekPosition(enum.Enum):
    SET = 0
    CUR = 1
    END = 2


class IProfiler:
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class IRuntimeCache:
    """Holds a kernel for each shape that ran under `EAGER`."""

    def __init__(self) -> None:
        self.kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        try:
            self.kernels = set(json.loads(bytes(blob)))
        except ValueError:
            return False
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.kernels)).encode()


class IRuntimeConfig:
    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy


class EngineInspector:
    """Tells details of plans that were built with them, sizes and formats only where a context has shapes."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        profiles = range(max(len(self._plan["profiles"]), 1))
        layers = [self._layer(profile) for profile in profiles]
        bindings = [_of_profile(name, profile) for profile in profiles for name in self._plan["tensors"]]
        return json.dumps({"Layers": layers, "Bindings": bindings})

    def _layer(self, profile: int) -> Any:
        name = _of_profile(self._plan["layer"], profile)
        if not self._plan.get("detailed", True):
            return name
        sides = {
            side: [self._tensor(tensor, profile) for tensor in self._plan[side.lower()]]
            for side in ("Inputs", "Outputs")
        }
        more = {"ParameterType": "gemm", "TacticName": "fake", "StreamId": 0}
        return {"Name": name, "LayerType": "gemm", **sides, **more}

    def _tensor(self, name: str, profile: int) -> dict[str, Any]:
        known = {"float16": "Row major linear FP16 format", "float32": "Row major linear FP32"}
        dtype, context = str(np.dtype(self._plan["tensors"][name])), self.execution_context
        shaped = context is not None and context.active_optimization_profile == profile
        told = known.get(dtype, "Row major linear Int64 format") if shaped else "N/A due to dynamic shapes"
        sizes = list(context.get_tensor_shape(name)) if context is not None and shaped else [-1]
        return {"Name": _of_profile(name, profile), "Location": "Device", "Dimensions": sizes, "Format/Datatype": told}


def _of_profile(name: str, profile: int) -> str:
    return f"{name} [profile {profile}]" if profile else name


class ICudaEngine:
    def __init__(self, world: "FakeTensorRT", plan: Mapping[str, Any]) -> None:
        self.world, self.plan = world, plan
        self._names = list(plan["tensors"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    @property
    def device_memory_size_v2(self) -> int:
        return int(self.plan["scratch"])

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self.plan["tensors"][name])

    def create_execution_context(self, how: Any = ExecutionContextAllocationStrategy.STATIC) -> Any:
        self.world.cuda.require_current()
        config = how if isinstance(how, IRuntimeConfig) else None
        strategy = config.strategy if config else how
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED, "the context takes memory of its own"
        context = IExecutionContext(self, config)
        self.world.contexts.append(context)
        return context

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self.plan)


class RtxEngine(ICudaEngine):
    """With what only TensorRT-RTX offers."""

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()


class IExecutionContext:
    """One context; `state` counts its changes, so that graphs captured before are known to be stale."""

    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None) -> None:
        self.engine, self.config = engine, config
        self.state = 0
        self.active_optimization_profile = 0
        self.profiler: IProfiler | None = None
        self._world, self._plan = engine.world, engine.plan
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._ran = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._world.cuda.streams, "no such stream"
        if profile_index >= len(self._plan["profiles"]):
            return self._refuse(f"profile {profile_index} is not there")
        self.active_optimization_profile = profile_index
        self._changed()
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in self._plan["inputs"], f"{name} is no input"
        bounds = self._bounds().get(name)
        if bounds is not None and not all(a <= n <= b for a, n, b in zip(bounds[0], shape, bounds[2], strict=True)):
            return self._refuse(f"IExecutionContext::setInputShape: {name} {shape} is outside of the profile")
        self._changed()
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        lacking = [name for name in self._plan["inputs"] if name not in self._shapes]
        if not lacking:
            found = self._compute(
                {name: np.zeros(self._shapes[name], self._dtype(name)) for name in self._plan["inputs"]}
            )
            self._shapes |= {name: values.shape for name, values in found.items()}
        return lacking

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert all(each in self._shapes for each in self._plan["inputs"]), f"{name} is placed before the shapes are set"
        self._world.cuda.block_of(memory)
        self._changed(shapes=False)
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2, "too little scratch memory"
        self._changed(shapes=False)
        self._scratch = (memory, size)

    def is_stream_capturable(self, stream: int) -> bool:
        return self._world.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda, stream = self._world.cuda, self._world.cuda.streams[stream_handle]
        cuda.require_current()
        if self._world.runs_fail:
            return self._refuse("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
        missing = [name for name in self._plan["tensors"] if name not in self._addresses]
        assert not missing, f"a run without the addresses of {missing}"
        assert self._scratch[1] >= self.engine.device_memory_size_v2, "a run without scratch memory"
        self._keep_order(stream)
        cuda.put(stream, Work(self._run(dict(self._shapes), dict(self._addresses)), self._memory()))
        self._ran = True
        if self.config is not None and self.config.cache is not None:
            eager = DynamicShapesKernelSpecializationStrategy.EAGER
            kernel = str(sorted(self._shapes.items()))
            if self.config.dynamic_shapes_kernel_specialization_strategy is eager:
                self._world.compiled += kernel not in self.config.cache.kernels
                self.config.cache.kernels.add(kernel)
        return True

    def _keep_order(self, stream: FakeStream) -> None:
        if stream.capturing is not None:
            assert self._ran, "captured before the shape ran once"
            assert self.profiler is None, "a profiled context is captured"
            stream.contexts[self] = self.state

    def _memory(self) -> tuple[int, ...]:
        cuda = self._world.cuda
        written = [self._addresses[name] for name in self._plan["outputs"]]
        return tuple(
            cuda.block_of(address) for address in (*written, *([self._scratch[0]] if self._scratch[1] else []))
        )

    def _run(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> Callable[[], None]:
        cuda, scratch, profiler = self._world.cuda, self._scratch, self.profiler
        profile = self.active_optimization_profile

        def run() -> None:
            given = {name: self._read(name, shapes[name], addresses[name]) for name in self._plan["inputs"]}
            if scratch[1]:
                cuda.write(scratch[0], np.full(self.engine.device_memory_size_v2, 0x5A, np.uint8))
            for name, values in self._compute(given).items():
                assert values.shape == shapes[name]
                cuda.write(addresses[name], values.astype(self._dtype(name)))
            if profiler is not None:
                profiler.report_layer_time(_of_profile(self._plan["layer"], profile), 0.25)

        return run

    def _read(self, name: str, shape: tuple[int, ...], address: int) -> np.ndarray:
        dtype = self._dtype(name)
        count = int(np.prod(shape))
        return self._world.cuda.read(address, count * dtype.itemsize).view(dtype).reshape(shape)

    def _compute(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return self._world.functions[self._plan["function"]](**{n.replace(".", "_"): v for n, v in inputs.items()})

    def _dtype(self, name: str) -> "np.dtype[Any]":
        return np.dtype(self._plan["tensors"][name])

    def _bounds(self) -> Mapping[str, Any]:
        profiles = self._plan["profiles"]
        return profiles[self.active_optimization_profile] if profiles else {}

    def _changed(self, *, shapes: bool = True) -> None:
        self.state += 1
        self._ran = self._ran and not shapes

    def _refuse(self, message: str) -> bool:
        self._world.logger.log(Severity.ERROR, message)
        return False


class Runtime:
    def __init__(self, logger: ILogger, world: "FakeTensorRT") -> None:
        self._world = world
        world.logger = logger

    def deserialize_cuda_engine(self, source: Any) -> ICudaEngine | None:
        self._world.cuda.require_current()
        content = self._streamed(source) if isinstance(source, IStreamReaderV2) else bytes(source)
        if self._world.plans_fail:
            self._world.logger.log(Severity.ERROR, self._world.plans_fail)
            return None
        return (RtxEngine if self._world.rtx else ICudaEngine)(self._world, json.loads(content))

    def _streamed(self, reader: IStreamReaderV2) -> bytes:
        """Read as TensorRT does: a header, back to the start, then pieces."""
        header = reader.read(8, 0)
        reader.seek(0, SeekPosition.SET)
        pieces = []
        while piece := reader.read(64, 0):
            pieces.append(piece)
        assert b"".join(pieces).startswith(header)
        return b"".join(pieces)


class FakeTensorRT:
    """A TensorRT on a device: `module` is what ``import tensorrt`` gives."""

    def __init__(self, cuda: FakeCuda, functions: Mapping[str, Function], *, rtx: bool, version: str) -> None:
        self.cuda, self.functions, self.rtx = cuda, functions, rtx
        self.logger = ILogger()
        self.contexts: list[IExecutionContext] = []
        self.compiled = 0
        """Kernels that were compiled for a shape, because no cache held them."""
        self.plans_fail = ""
        self.runs_fail = False
        self.capturable = True
        self.module = ModuleType("tensorrt")
        offered: dict[str, Any] = {each.__name__: each for each in OFFERED}
        if rtx:
            offered |= {each.__name__: each for each in OFFERED_BY_RTX}
        offered |= {"__version__": version, "Runtime": lambda logger: Runtime(logger, self)}
        for name, value in offered.items():
            setattr(self.module, name, value)


OFFERED = (
    DataType,
    EngineInspector,
    ExecutionContextAllocationStrategy,
    ICudaEngine,
    IExecutionContext,
    ILogger,
    IProfiler,
    LayerInformationFormat,
)
OFFERED_BY_RTX = (
    DynamicShapesKernelSpecializationStrategy,
    IRuntimeCache,
    IRuntimeConfig,
    IStreamReaderV2,
    SeekPosition,
)
