"""Attention kernels that a plan calls through Python, as TensorRT 10.3 to 10.8 need it: they take no PTX into a plan.

The plan holds, as one field of each plugin, the kernels' PTX and how they are launched. On the device,
`register_kernels` must have been called before the plan is deserialized; it needs neither Triton nor an exporter.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, Protocol

from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.sizes import evaluate, from_told

NAMESPACE = "internvl"
VERSION = "3"
"""Not the "1" of ahead-of-time plugins: both kinds may be known to one TensorRT."""
RECORD_FIELD = "kernels"


class KernelDriver(Protocol):
    """What loads and launches a kernel."""

    def load(self, ptx: bytes, entry: str, shared_bytes: int) -> Any:
        """Return the function `entry` of `ptx`, which may use so much shared memory."""
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
        """Launch on the stream of that handle; arguments are ``("u64", pointer)`` or ``("u32", number)``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKernel:
    """One choice of tiles."""

    entry: str
    ptx: str
    threads: int
    shared_bytes: int
    grid: tuple[Any, Any, Any]
    """Formulas of the sizes, as `sizes.told` writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecord:
    """What a plan keeps of one plugin."""

    plugin: str
    outputs: int
    sizes: Mapping[str, tuple[tuple[int, int], ...]]
    """A size -> the axes (input, axis) whose product it is."""
    integers: tuple[str, ...]
    kernels: tuple[StoredKernel, ...]
    """By tactic, which counts from 1."""

    def text(self) -> str:
        """Return it as a field of the plan."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> "KernelRecord":
        """Return what `text` made.

        Raises:
            BackendError: it is damaged.
        """
        try:
            found = json.loads(text.rstrip("\0"))
            kernels = tuple(StoredKernel(**{**kernel, "grid": tuple(kernel["grid"])}) for kernel in found["kernels"])
            sizes = {name: tuple((at[0], at[1]) for at in axes) for name, axes in found["sizes"].items()}
            return cls(**{**found, "kernels": kernels, "sizes": sizes, "integers": tuple(found["integers"])})
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise BackendError(
                f"an attention plugin's kernels cannot be read ({error}); build the plan again"
            ) from error


class KernelLauncher:
    """The kernels of one plugin on one device; each is loaded when it is first launched."""

    def __init__(self, record: KernelRecord, driver: KernelDriver) -> None:
        self.record = record
        self._driver = driver
        self._functions: dict[int, Any] = {}

    def sizes(self, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
        """Return the sizes of inputs of these shapes.

        Raises:
            InputError: an input without rows.
        """
        if empty := [index for index, shape in enumerate(shapes) if any(size <= 0 for size in shape)]:
            listed = ", ".join(f"input {index} is {list(shapes[index])}" for index in empty)
            raise InputError(f"{NAMESPACE}::{self.record.plugin}: {listed}; give at least one row, within the profile")
        return {name: _product(shapes[index][axis] for index, axis in axes) for name, axes in self.record.sizes.items()}

    def launch(
        self, tactic: int, shapes: Sequence[Sequence[int]], inputs: Sequence[int], outputs: Sequence[int], stream: int
    ) -> None:
        """Launch the choice `tactic` on these pointers: inputs, then integers, then outputs, as its PTX takes them."""
        index = max(tactic, 1) - 1
        kernel, sizes = self.record.kernels[index], self.sizes(shapes)
        if index not in self._functions:
            self._functions[index] = self._driver.load(kernel.ptx.encode(), kernel.entry, kernel.shared_bytes)
        x, y, z = (evaluate(from_told(axis), sizes) for axis in kernel.grid)
        arguments = [("u64", pointer) for pointer in inputs]
        arguments += [("u32", sizes[name]) for name in self.record.integers]
        arguments += [("u64", pointer) for pointer in outputs]
        self._driver.launch(self._functions[index], (x, y, z), kernel.threads, kernel.shared_bytes, arguments, stream)


def kernel_plugin(trt: ModuleType, *more: type) -> Any:
    """Return the class of plugins that run a `KernelRecord`; `more` are further capabilities of `trt`."""
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
            kind = trt.PluginFieldType.CHAR
            return trt.PluginFieldCollection(
                [trt.PluginField(RECORD_FIELD, self.launcher.record.text().encode(), kind)]
            )

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


def kernel_creator(trt: ModuleType, name: str, make: Callable[[Mapping[str, bytes], Any], Any], *fields: str) -> Any:
    """Return a creator of plugins `name`: `make` gets the fields by name, and whether TensorRT builds or runs."""

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = name, NAMESPACE, VERSION
            kind = trt.PluginFieldType.CHAR
            self.field_names = trt.PluginFieldCollection([trt.PluginField(field, b"", kind) for field in fields])

        def create_plugin(self, name: str, given: Any, phase: Any) -> Any:
            return make({field.name: bytes(field.data.tobytes()) for field in given}, phase)

    return Creator()


def register_kernels(trt: ModuleType, names: Iterable[str], driver: KernelDriver) -> tuple[str, ...]:
    """Make the plugins `names` known to the TensorRT of a device, for plans that hold their kernels.

    Returns:
        Those that were not known yet.
    """
    registry, plugin = trt.get_plugin_registry(), kernel_plugin(trt)

    def make(fields: Mapping[str, bytes], phase: Any) -> Any:
        return plugin(KernelLauncher(KernelRecord.of_text(fields[RECORD_FIELD].decode()), driver))

    added = []
    for name in names:
        if registry.get_creator(name, VERSION, NAMESPACE) is None:
            registry.register_creator(kernel_creator(trt, name, make, RECORD_FIELD), NAMESPACE)
            added.append(name)
    return tuple(added)


def require_creators(trt: ModuleType, wanted: Iterable[tuple[str, str]], what: str) -> None:
    """Refuse a plan or graph whose plugins (name, version) `trt` does not have.

    Raises:
        BackendError: with the name and version of each that is absent.
    """
    registry = trt.get_plugin_registry()
    absent = [(name, version) for name, version in wanted if registry.get_creator(name, version, NAMESPACE) is None]
    if absent:
        listed = ", ".join(f"{NAMESPACE}::{name} version {version}" for name, version in absent)
        raise BackendError(
            f"{what}: needs plugin {listed}, which TensorRT {getattr(trt, '__version__', '')} does not have here; "
            "open it by internvl_edge.runtime, or build the plan with --attention pattern"
        )


def _product(sizes: Iterable[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
