"""The session of a graph that consists of plans."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_edge.runtime.backends.cuda import Cuda, Device, DeviceMemoryError
from internvl_edge.runtime.backends.session import NUMPY_REMEDY, SessionOptions, TensorInfo, require_arrays
from internvl_edge.runtime.backends.tensorrt.cache import TensorRTCache
from internvl_edge.runtime.backends.tensorrt.contexts import ContextFactory
from internvl_edge.runtime.backends.tensorrt.execution import Execution
from internvl_edge.runtime.backends.tensorrt.lanes import SHARED, Lane
from internvl_edge.runtime.backends.tensorrt.plans.failures import out_of_memory
from internvl_edge.runtime.backends.tensorrt.plans.library import Library
from internvl_edge.runtime.backends.tensorrt.plans.plan import load_plan
from internvl_edge.runtime.backends.tensorrt.plans.profiles import choose_profile
from internvl_edge.runtime.backends.tensorrt.program import DeviceTensor, GraphOnDevice, Program, Replay
from internvl_edge.runtime.bundle.engines import GraphEngines
from internvl_edge.runtime.bundle.manifest import GraphInfo, TensorSpec
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.backends.layer_times.layers import LayerTime

logger = logging.getLogger(__name__)

_PAST = "past_key_values."
"""Prefix of inputs of a graph whose past grows with every step."""
_DTYPES = ("float32", "float16", "int64")
"""Types of inputs and outputs that NumPy has without a package that adds bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The library, the CUDA driver and the device that graphs run on."""

    library: Library
    cuda: Cuda
    device: Device


class TensorRTSession:
    """One graph, whose plans are in `folder` and have been checked to be for this device and library.

    Raises:
        BackendError: TensorRT refuses a plan, or the device has not enough memory.
    """

    def __init__(
        self,
        graph: str,
        info: GraphInfo,
        folder: Path,
        engines: GraphEngines,
        machine: Machine,
        options: SessionOptions,
    ) -> None:
        self.backend = machine.library.flavour
        self.inputs = {spec.name: _tensor(graph, spec) for spec in info.inputs}
        self.outputs = {spec.name: _tensor(graph, spec) for spec in info.outputs}
        self._graph, self._engines, self._machine = graph, engines, machine
        self._replay = Replay(on=options.cuda_graph)
        self._closing = threading.Lock()
        with _room_for(graph), machine.cuda.current():
            self._plans = [load_plan(machine.library, folder, record, graph) for record in engines.plans]
            shared = self._on_device()
        self._settings = _settings(machine, len(self._plans), options)
        self._lanes = SHARED.acquire(machine.cuda, options.streams, spin=options.spin)
        with self._lanes.all() as lanes:
            self._programs = [Program(shared, machine.cuda, lane) for lane in lanes]

    @property
    def max_rows(self) -> int | None:
        """Return the most rows that the profiles of the plans allow."""
        return self._engines.max_rows

    @property
    def settings(self) -> Mapping[str, str]:
        """Return the settings that times depend on; the opener of the session may add to them."""
        return {**self._settings, "CUDA graph": "on" if self._replay.on else "off"}

    @settings.setter
    def settings(self, settings: Mapping[str, str]) -> None:
        self._settings = settings

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs; floats and integers are cast to the width of the graph's types.

        Raises:
            InputError: the graph or its plans do not take the names, types or shapes.
            BackendError: a plan fails, or the device has not enough memory.
        """
        names = list(self.outputs if outputs is None else outputs)
        require_arrays(self._graph, inputs, names, self.inputs, self.outputs)
        profile = self._profile({name: value.shape for name, value in inputs.items()})
        with self._program() as program:
            return program.run(inputs, profile, names, stages)

    def run_held(
        self,
        inputs: Mapping[str, np.ndarray],
        held: Mapping[str, DeviceTensor],
        outputs: Sequence[str],
        stages: Stages,
    ) -> dict[str, np.ndarray]:
        """Return the named outputs of a run whose other tensors are `held` on the device.

        Raises:
            InputError: no profile contains the shapes.
            BackendError: as for `run`.
        """
        taken = {name: held[name].shape for name in self.inputs if name in held}
        profile = self._profile({name: value.shape for name, value in inputs.items()} | taken)
        with self._program() as program:
            return program.run(inputs, profile, outputs, stages, held)

    def open_cache(self, present: Mapping[str, np.ndarray], rows: int, length: int) -> TensorRTCache:
        """Return a decoder's cache in device memory that begins with `present`."""
        return TensorRTCache(self, self._machine.cuda, present, rows, length)

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """Return a context that holds a lane of the device, for work other than a run of the graph."""
        with _room_for(self._graph), self._lanes.free() as lane:
            yield lane

    def layer_times(self, inputs: Mapping[str, np.ndarray], runs: int) -> "list[LayerTime]":
        """Return the times of layers from separate contexts that run without CUDA graphs."""
        from internvl_edge.runtime.backends.layer_times.tensorrt import LayerTimer

        clock = LayerTimer(self._machine.library.trt)
        profile = self._profile({name: value.shape for name, value in inputs.items()})
        with self._program() as program:
            program.run_profiled(inputs, profile, clock.profiler, runs + 1, UNMEASURED)
        return clock.layers(runs, self.layer_info(inputs))

    def layer_info(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Return the engine inspector's description of all plans as one, for the shapes of `inputs`."""
        from internvl_edge.runtime.backends.layer_times.tensorrt import inspected

        shapes = {name: value.shape for name, value in inputs.items()}
        profile, engines = self._profile(shapes), [plan.engine for plan in self._plans]
        with self._program() as program, program.shaped(profile, shapes) as contexts:
            found = inspected(self._machine.library.trt, engines, contexts, profile)
        if not all(isinstance(layer, dict) for layer in found["Layers"]):
            logger.warning(
                "graph %s: its plans hold only the names of some layers; build them again for tensors and formats",
                self._graph,
            )
        return found

    def close(self) -> None:
        """Free the graph's memory after all runs have ended; a second call does nothing."""
        with self._closing:
            if not self._programs:
                return
            with self._lanes.all():
                for program in self._programs:
                    program.close()
                self._programs.clear()
                self._plans.clear()
            SHARED.release(self._lanes)

    @contextmanager
    def _program(self) -> Iterator[Program]:
        """Return a context that holds a free lane, with this graph's program on it."""
        with self.lane() as lane:
            if not self._programs:
                raise BackendError(f"graph {self._graph}: is closed; open it again")
            yield self._programs[lane.index]

    def _profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return choose_profile(self._graph, self._engines.profiles, shapes)

    def _on_device(self) -> GraphOnDevice:
        """Return the parts of the graph that its programs share."""
        library, cuda, sm = self._machine.library, self._machine.cuda, self._machine.device.sm
        growing = any(name.startswith(_PAST) for name in self.inputs)
        factories = [ContextFactory(library, plan, self._graph, sm, growing=growing) for plan in self._plans]
        return GraphOnDevice(
            name=self._graph,
            plans=self._plans,
            inputs=self.inputs,
            outputs=self.outputs,
            new_execution=lambda: Execution(
                library, cuda, self._graph, self._plans, [each.new() for each in factories]
            ),
            keep_kernels=partial(_keep_kernels, factories),
            replay=self._replay,
        )


def _settings(machine: Machine, plans: int, options: SessionOptions) -> Mapping[str, str]:
    return {
        machine.library.flavour: machine.library.version,
        "device": f"{machine.device.name}, sm_{machine.device.sm}",
        "plans": str(plans),
        "CUDA graph": "on" if options.cuda_graph else "off",
        "wait": "polling" if options.spin else "blocking",
        "streams": str(options.streams),
    }


def _keep_kernels(factories: Sequence[ContextFactory]) -> None:
    for factory in factories:
        factory.keep_kernels()


@contextmanager
def _room_for(graph: str) -> Iterator[None]:
    """Return a context in which the error of a device without free memory names the graph."""
    try:
        yield
    except DeviceMemoryError as error:
        raise out_of_memory(graph) from error


def _tensor(graph: str, spec: TensorSpec) -> TensorInfo:
    if spec.dtype not in _DTYPES:
        raise BackendError(f"graph {graph}: NumPy cannot hold {spec.name} of type {spec.dtype}; {NUMPY_REMEDY}")
    return TensorInfo(spec.name, np.dtype(spec.dtype), spec.shape)
