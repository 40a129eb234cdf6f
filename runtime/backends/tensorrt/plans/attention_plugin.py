"""Attention kernels that a plan calls through Python, for TensorRT 10.3 to 10.8, whose plans cannot contain PTX.

The plan stores the kernels' PTX and how to launch them as a field of each plugin. On the device `provide_plugins` must
be called before the plan is deserialized; it needs neither Triton nor the exporter.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from internvl_edge.runtime.backends.tensorrt.plans.grid_sizes import Number, evaluate, formula_from_json
from internvl_edge.runtime.backends.tensorrt_module import tensorrt_version
from internvl_edge.runtime.errors import BackendError, InputError

NAMESPACE = "internvl"
VERSION = "3"
"""Version of these plugins. It is not the "1" of ahead-of-time plugins, since TensorRT may have both kinds."""
RECORD_FIELD = "kernels"

_ALIGNMENT_BYTES = 16
"""Alignment of all pointers that the kernels are compiled for. TensorRT aligns to 256 bytes."""

_CREATORS: list[Any] = []
"""All registered creators, which live until the process ends, since TensorRT's registry holds bare pointers to them."""


class KernelDriver(Protocol):
    """A driver that loads and launches kernels."""

    def load(self, ptx: bytes, entry: str, shared_bytes: int) -> Any:
        """Return the function `entry` of `ptx`, which may use `shared_bytes` of shared memory."""
        ...

    def launch(
        self,
        function: Any,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[tuple[str, int]],
        stream: int,
    ) -> None:
        """Launch on the stream with this handle; arguments are ``("u64", pointer)`` or ``("u32", number)``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKernel:
    """A kernel that is compiled for one choice of tile sizes."""

    entry: str
    ptx: str
    threads: int
    shared_bytes: int
    grid: tuple[Any, Any, Any]
    """Numbers of blocks as formulas of the sizes, in the form of `grid_sizes.formula_json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecord:
    """The kernels of one plugin, as a plan stores them."""

    plugin: str
    outputs: int
    sizes: Mapping[str, tuple[tuple[int, int], ...]]
    """Axes (input, axis) whose product is each size, by the size's name."""
    integers: tuple[str, ...]
    kernels: tuple[StoredKernel, ...]
    """Kernels in the order of their tactics, which count from 1."""

    def text(self) -> str:
        """Return the record as text for a field of the plan."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> "KernelRecord":
        """Return the record from its `text`.

        Raises:
            BackendError: the text is damaged.
        """
        try:
            found = json.loads(text.rstrip("\0"))
            kernels = tuple(StoredKernel(**{**kernel, "grid": tuple(kernel["grid"])}) for kernel in found["kernels"])
            sizes = {name: tuple((tensor, axis) for tensor, axis in axes) for name, axes in found["sizes"].items()}
            return cls(**{**found, "kernels": kernels, "sizes": sizes, "integers": tuple(found["integers"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(
                f"an attention plugin's kernels cannot be read ({error}); build the plan again"
            ) from error


class KernelLauncher:
    """The kernels of one plugin on one device. Each is loaded when it is first launched."""

    def __init__(self, record: KernelRecord, driver: KernelDriver) -> None:
        self.record = record
        self._driver = driver
        self._loaded: dict[int, tuple[Any, list[Number]]] = {}
        """Function and grid of each loaded kernel, by its index."""

    def sizes(self, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
        """Return the sizes for inputs of these shapes, by name.

        Raises:
            InputError: an input has no rows.
        """
        if empty := [index for index, shape in enumerate(shapes) if any(size <= 0 for size in shape)]:
            listed = ", ".join(f"input {index} is {list(shapes[index])}" for index in empty)
            raise InputError(f"{NAMESPACE}::{self.record.plugin}: {listed}; give at least one row, within the profile")
        return {
            name: math.prod(shapes[index][axis] for index, axis in axes) for name, axes in self.record.sizes.items()
        }

    def launch(
        self, tactic: int, shapes: Sequence[Sequence[int]], inputs: Sequence[int], outputs: Sequence[int], stream: int
    ) -> None:
        """Launch the kernel of `tactic`, whose PTX takes pointers of inputs, then integers, then pointers of outputs.

        Raises:
            InputError: an input has no rows, or a pointer is not aligned for the kernel's loads.
        """
        if odd := [pointer for pointer in (*inputs, *outputs) if pointer % _ALIGNMENT_BYTES]:
            listed = ", ".join(f"{pointer:#x}" for pointer in odd)
            raise InputError(
                f"{NAMESPACE}::{self.record.plugin}: {listed} not aligned to {_ALIGNMENT_BYTES} bytes; "
                "build the plan with --attention pattern"
            )
        index = max(tactic, 1) - 1
        kernel, sizes = self.record.kernels[index], self.sizes(shapes)
        if index not in self._loaded:
            function = self._driver.load(kernel.ptx.encode(), kernel.entry, kernel.shared_bytes)
            self._loaded[index] = function, [formula_from_json(axis) for axis in kernel.grid]
        function, grid = self._loaded[index]
        x, y, z = (evaluate(axis, sizes) for axis in grid)
        arguments = [("u64", pointer) for pointer in inputs]
        arguments += [("u32", sizes[name]) for name in self.record.integers]
        arguments += [("u64", pointer) for pointer in outputs]
        self._driver.launch(function, (x, y, z), kernel.threads, kernel.shared_bytes, arguments, stream)


def provide_plugins(trt: ModuleType, wanted: Sequence[tuple[str, str]], driver: KernelDriver, what: str | Path) -> None:
    """Register the plugins that the plan `what` needs with TensorRT, as `engine.json` records them.

    Raises:
        BackendError: a plugin is missing, which the message names with its version, or the bindings misread fields.
    """
    if not wanted:
        return
    make = plugin_maker(trt, driver)
    ours = [name for name, version in wanted if version == VERSION]
    register_creators(trt, ours, lambda name: kernel_creator(trt, name, make, RECORD_FIELD))
    if absent := absent_creators(trt, wanted):
        raise BackendError(
            f"{what}: needs plugin {', '.join(absent)}, which {_named(trt)} does not have here; "
            "build the plan with this version of internvl-edge, or with --attention pattern"
        )


def kernel_plugin(trt: ModuleType, *more: type) -> Any:
    """Return the class of plugins that run a `KernelRecord`; `more` are further capability classes of `trt`."""
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneRuntime, *more)

    class KernelPlugin(*bases):  # type: ignore[misc]
        def __init__(self, launcher: KernelLauncher, tactic: int = 1) -> None:
            for base in bases:
                base.__init__(self)
            self.launcher, self.tactic = launcher, tactic
            self.plugin_name, self.plugin_namespace, self.plugin_version = launcher.record.plugin, NAMESPACE, VERSION
            self.num_outputs = launcher.record.outputs

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return type(self)(self.launcher, self.tactic)

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def set_tactic(self, tactic: int) -> None:
            self.tactic = tactic

        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            self.launcher.sizes([tuple(each.dims) for each in inputs])

        def get_fields_to_serialize(self) -> Any:
            text = self.launcher.record.text().encode()
            fields = trt.PluginFieldCollection([trt.PluginField(RECORD_FIELD, text, trt.PluginFieldType.CHAR)])
            self.serialized = text, fields  # kept, since TensorRT reads them later through bare pointers
            return fields

        def enqueue(
            self,
            input_desc: Sequence[Any],
            output_desc: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            shapes = [tuple(each.dims) for each in input_desc]
            self.launcher.launch(self.tactic, shapes, inputs, outputs, stream)

    return KernelPlugin


def kernel_creator(trt: ModuleType, name: str, make: Callable[[Mapping[str, bytes]], Any], field: str) -> Any:
    """Return a creator of the plugins `name` with one field; `make` gets the fields by name."""

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = name, NAMESPACE, VERSION
            self.field_names = trt.PluginFieldCollection([trt.PluginField(field, b"", trt.PluginFieldType.CHAR)])

        def create_plugin(self, name: str, given: Any, phase: Any) -> Any:
            return make({each.name: each.data.tobytes() for each in given})

    return Creator()


def plugin_maker(trt: ModuleType, driver: KernelDriver) -> Callable[[Mapping[str, bytes]], Any]:
    """Return a function that creates plugins from the fields in a plan."""
    plugin = kernel_plugin(trt)

    @cache
    def launcher(record: bytes) -> KernelLauncher:
        return KernelLauncher(KernelRecord.of_text(record.decode(errors="replace")), driver)

    def make(fields: Mapping[str, bytes]) -> Any:
        return plugin(launcher(fields[RECORD_FIELD]))  # equal blocks of a tower share a launcher, which loads once

    return make


def register_creators(trt: ModuleType, names: Iterable[str], creator: Callable[[str], Any]) -> tuple[str, ...]:
    """Register a creator, made by `creator`, for each of `names` that is not registered yet; return those names.

    Raises:
        BackendError: the bindings misread fields.
    """
    if finding := misread_fields(trt):
        raise BackendError(finding)
    registry = trt.get_plugin_registry()
    absent = tuple(name for name in names if registry.get_creator(name, VERSION, NAMESPACE) is None)
    for name in absent:
        _CREATORS.append(creator(name))
        registry.register_creator(_CREATORS[-1], NAMESPACE)
    return absent


def misread_fields(trt: ModuleType) -> str:
    """Return why the fields of a plugin cannot be read here; empty if they can.

    Bindings compiled before NumPy 2 (10.3 to 10.13) return, with NumPy 2, the first value of a field repeated.
    """
    probe = b"ab"
    if bytes(trt.PluginField("probe", probe, trt.PluginFieldType.CHAR).data.tobytes()) == probe:
        return ""
    return f"{_named(trt)} misreads the fields of plugins beside NumPy {np.__version__}; install numpy<2"


def absent_creators(trt: ModuleType, wanted: Iterable[tuple[str, str]]) -> list[str]:
    """Return those of `wanted` (name, version) that `trt` lacks, as text for a message."""
    registry = trt.get_plugin_registry()
    return [
        f"{NAMESPACE}::{name} version {version}"
        for name, version in sorted(set(wanted))
        if registry.get_creator(name, version, NAMESPACE) is None
    ]


def _named(trt: ModuleType) -> str:
    return f"TensorRT {tensorrt_version(trt)}"
