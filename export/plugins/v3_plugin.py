"""Attention kernels for TensorRT 10.3 to 10.8 as plugins whose launches go through Python, on the device too.

Where a plan cannot hold PTX as code, it holds it as a field: `runtime.attention_plugin` launches it by the driver.
Built plans therefore need our runtime and pycuda on the device, unlike ahead-of-time plugins.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from internvl_edge.export.plugins.compile import CompiledKernel, compile_kernel
from internvl_edge.export.plugins.launches import Launch
from internvl_edge.export.plugins.tensorrt_plugins import Plugin, data_types, read_variant
from internvl_edge.runtime.attention_plugin import (
    NAMESPACE,
    VERSION,
    KernelDriver,
    KernelLauncher,
    KernelRecord,
    StoredKernel,
    kernel_creator,
    kernel_plugin,
)
from internvl_edge.runtime.errors import EngineError

_VARIANT_FIELD = "variant"


def register_v3(trt: ModuleType, plugins: Iterable[Plugin], sm: int, driver: KernelDriver) -> tuple[str, ...]:
    """Make `plugins` known to the `trt` that builds on the device; return the names of those that were not yet.

    Raises:
        EngineError: its bindings take no plugins written in Python.
    """
    if not hasattr(trt, "IPluginV3OneBuild"):
        version = getattr(trt, "__version__", "of unknown version")
        raise EngineError(f"TensorRT {version} takes no plugins from Python; use --attention pattern")
    registry, added = trt.get_plugin_registry(), []
    for plugin in plugins:
        if registry.get_creator(plugin.name, VERSION, NAMESPACE) is None:
            registry.register_creator(build_creator(trt, plugin, sm, driver), NAMESPACE)
            added.append(plugin.name)
    return tuple(added)


def build_creator(trt: ModuleType, plugin: Plugin, sm: int, driver: KernelDriver) -> Any:
    """Return what makes `plugin` of an ONNX node's attributes."""
    made = _build_class(trt, plugin, sm, driver)

    def make(fields: Mapping[str, bytes], phase: Any) -> Any:
        return made(fields[_VARIANT_FIELD].decode())

    return kernel_creator(trt, plugin.name, make, _VARIANT_FIELD)


def record_of(launches: Sequence[Launch], kernels: Sequence[CompiledKernel]) -> KernelRecord:
    """Return what a plan keeps of launches that differ in tiles alone."""
    first, places = launches[0], {tensor.name: index for index, tensor in enumerate(launches[0].inputs)}
    return KernelRecord(
        plugin=first.plugin,
        outputs=len(first.outputs),
        sizes={name: tuple((places[tensor], axis) for tensor, axis in axes) for name, axes in first.sizes.items()},
        integers=first.integers,
        kernels=tuple(
            StoredKernel(
                entry=kernel.entry,
                ptx=kernel.ptx,
                threads=kernel.threads,
                shared_bytes=kernel.shared_bytes,
                grid=kernel.grid,
            )
            for kernel in kernels
        ),
    )


def _build_class(trt: ModuleType, plugin: Plugin, sm: int, driver: KernelDriver) -> Any:
    """Return the class that TensorRT's builder asks for types, shapes and tactics before it runs and keeps it."""
    ours = {value: name for name, value in data_types(trt).items()}
    theirs = data_types(trt)

    class BuildPlugin(kernel_plugin(trt, trt.IPluginV3OneBuild)):  # type: ignore[misc]
        def __init__(self, variant: str, types: tuple[str, ...] = (), tactic: int = 1) -> None:
            self.variant, self.types = variant, types
            empty = KernelRecord(plugin=plugin.name, outputs=len(plugin.outputs), sizes={}, integers=(), kernels=())
            super().__init__(KernelLauncher(empty, driver), tactic)
            if types:
                self._settle(types)

        def clone(self) -> Any:
            return type(self)(self.variant, self.types, self.tactic)

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            return [theirs[tensor.type] for tensor in self._launches(_names(input_types))[0].outputs]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
            launch = self._any_launch()
            sizes = {
                name: _times([_Expression(inputs[place(tensor)][axis], builder, trt) for tensor, axis in axes])
                for name, axes in launch.sizes.items()
            }
            return [
                trt.DimsExprs([_Expression.of(sizes.get(str(axis), axis), builder, trt).value for axis in output.shape])
                for output in launch.outputs
            ]

        def supports_format_combination(self, position: int, tensors: Sequence[Any], inputs: int) -> bool:
            if tensors[position].desc.format != trt.TensorFormat.LINEAR:
                return False
            given = [ours.get(tensor.desc.type, "") for tensor in tensors[: position + 1]]
            return any(_begins(launch, given) for launch in self._possible())

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            self._settle(_names([tensor.desc.type for tensor in inputs]))

        def get_valid_tactics(self) -> list[int]:
            return list(range(1, len(self.launcher.record.kernels) + 1))

        def _settle(self, types: tuple[str, ...]) -> None:
            launches = self._launches(types)
            record = record_of(launches, [compile_kernel(launch, sm) for launch in launches])
            self.types, self.launcher = types, KernelLauncher(record, driver)

        def _launches(self, types: tuple[str, ...]) -> Sequence[Launch]:
            found = plugin.launch(dict(zip(plugin.inputs, types, strict=True)), read_variant(self.variant), sm)
            if not found:
                raise EngineError(f"{NAMESPACE}::{plugin.name}: no kernel of {self.variant!r} with {', '.join(types)}")
            return found

        def _possible(self) -> list[Launch]:
            told = read_variant(self.variant)
            found = [launch for types in plugin.types for launch in plugin.launch(types, told, sm)[:1]]
            if not found:
                raise EngineError(f"{NAMESPACE}::{plugin.name}: no kernel of {self.variant!r} for sm_{sm}")
            return found

        def _any_launch(self) -> Launch:
            return self._launches(self.types)[0] if self.types else self._possible()[0]

    def place(tensor: str) -> int:
        return plugin.inputs.index(tensor)

    def _names(types: Sequence[Any]) -> tuple[str, ...]:
        return tuple(ours.get(each, str(each)) for each in types)

    return BuildPlugin


def _begins(launch: Launch, types: Sequence[str]) -> bool:
    return [tensor.type for tensor in launch.tensors[: len(types)]] == list(types)


def _times(factors: Sequence["_Expression"]) -> "_Expression":
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product


class _Expression:
    """A dimension that the builder knows as a formula."""

    def __init__(self, value: Any, builder: Any, trt: ModuleType) -> None:
        self.value, self._builder, self._trt = value, builder, trt

    @classmethod
    def of(cls, value: Any, builder: Any, trt: ModuleType) -> "_Expression":
        """Return `value`, a number or an expression, as an expression."""
        return value if isinstance(value, cls) else cls(builder.constant(int(value)), builder, trt)

    def __mul__(self, other: "_Expression") -> "_Expression":
        """Return the product."""
        product = self._builder.operation(self._trt.DimensionOperation.PROD, self.value, other.value)
        return _Expression(product, self._builder, self._trt)
