"""Attention kernels for TensorRT 10.3 to 10.8 as plugins that Python launches, on the device too.

Plans of these versions hold the PTX as a plugin field, and the runtime launches it through the CUDA driver. So these
plans need our runtime on the device, unlike plans with ahead-of-time plugins.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial, reduce
from types import ModuleType
from typing import Any

from internvl_edge.export.plugins.compile_kernel import CompiledKernel, compile_kernel
from internvl_edge.export.plugins.launches import Launch
from internvl_edge.export.plugins.tensorrt_plugins import Plugin, data_types, read_variant
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import (
    NAMESPACE,
    RECORD_FIELD,
    KernelDriver,
    KernelLauncher,
    KernelRecord,
    StoredKernel,
    kernel_creator,
    kernel_plugin,
    plugin_maker,
    register_creators,
)
from internvl_edge.runtime.backends.tensorrt_module import tensorrt_version
from internvl_edge.runtime.errors import BackendError, EngineError

_VARIANT_FIELD = "variant"


def register_v3(trt: ModuleType, plugins: Iterable[Plugin], sm: int, driver: KernelDriver) -> tuple[str, ...]:
    """Register `plugins` with `trt` for a build on this device; return the names of those not registered yet.

    Raises:
        EngineError: the bindings take no plugins in Python, or misread their fields.
    """
    if not hasattr(trt, "IPluginV3OneBuild"):
        raise EngineError(f"TensorRT {tensorrt_version(trt)} takes no plugins from Python; use --attention pattern")
    known = {plugin.name: plugin for plugin in plugins}
    try:
        return register_creators(trt, known, lambda name: _creator(trt, known[name], sm, driver))
    except BackendError as error:
        raise EngineError(str(error)) from error


def record_of(launches: Sequence[Launch], kernels: Sequence[CompiledKernel]) -> KernelRecord:
    """Return the record, for a plan, of launches that differ in tiles only."""
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


def _creator(trt: ModuleType, plugin: Plugin, sm: int, driver: KernelDriver) -> Any:
    """Return the plugin creator that makes `plugin` from a node's attributes or from a plan's fields."""
    built, opened = _build_class(trt, plugin, sm, driver), plugin_maker(trt, driver)
    empty = KernelRecord(plugin=plugin.name, outputs=len(plugin.outputs), sizes={}, integers=(), kernels=())

    def make(fields: Mapping[str, bytes]) -> Any:
        if RECORD_FIELD in fields:  # a plan is opened in the process that built it
            return opened(fields)
        return built(KernelLauncher(empty, driver), variant=fields[_VARIANT_FIELD].decode())

    return kernel_creator(trt, plugin.name, make, _VARIANT_FIELD)


def _build_class(trt: ModuleType, plugin: Plugin, sm: int, driver: KernelDriver) -> Any:
    """Return the class whose instances give TensorRT's builder types, shapes and tactics."""
    theirs = data_types(trt)
    ours = {value: name for name, value in theirs.items()}

    def launches(variant: str, types: Sequence[Any]) -> Sequence[Launch]:
        named = {name: ours.get(kind, str(kind)) for name, kind in zip(plugin.inputs, types, strict=True)}
        if found := plugin.launch(named, read_variant(variant), sm):
            return found
        typed = ", ".join(f"{name} {kind}" for name, kind in named.items())
        raise EngineError(f"{NAMESPACE}::{plugin.name}: no kernel of {variant!r} with {typed}")

    def shaped(variant: str) -> Launch:
        """Return a launch with the right output shapes; these do not depend on types, which are not known yet."""
        for types in plugin.types:
            if found := plugin.launch(types, read_variant(variant), sm):
                return found[0]
        raise EngineError(f"{NAMESPACE}::{plugin.name}: no kernel of {variant!r} for sm_{sm}")

    @cache
    def launcher(variant: str, types: tuple[Any, ...]) -> KernelLauncher:
        """Return the launcher of a variant; it is cached, since the blocks of a tower are equal."""
        found = launches(variant, types)
        return KernelLauncher(record_of(found, [compile_kernel(launch, sm) for launch in found]), driver)

    class BuildPlugin(kernel_plugin(trt, trt.IPluginV3OneBuild)):  # type: ignore[misc]
        def __init__(self, launcher: KernelLauncher, tactic: int = 1, variant: str = "") -> None:
            super().__init__(launcher, tactic)
            self.variant = variant

        def clone(self) -> Any:
            return type(self)(self.launcher, self.tactic, self.variant)

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            return [theirs[output.type] for output in launches(self.variant, input_types)[0].outputs]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
            launch, product = shaped(self.variant), partial(builder.operation, trt.DimensionOperation.PROD)
            sizes = {
                name: reduce(product, [inputs[plugin.inputs.index(tensor)][axis] for tensor, axis in axes])
                for name, axes in launch.sizes.items()
            }
            return [
                trt.DimsExprs([sizes[axis] if isinstance(axis, str) else builder.constant(axis) for axis in each.shape])
                for each in launch.outputs
            ]

        def supports_format_combination(self, position: int, tensors: Sequence[Any], inputs: int) -> bool:
            """Return whether a tensor is packed and has the right type; inputs have any type, as in the typed graph."""
            asked = tensors[position].desc
            if asked.format != trt.TensorFormat.LINEAR or asked.type not in ours:
                return False
            if position < inputs:
                return True
            types = self.get_output_data_types([tensor.desc.type for tensor in tensors[:inputs]])
            return bool(types[position - inputs] == asked.type)

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            self.launcher = launcher(self.variant, tuple(tensor.desc.type for tensor in inputs))

        def get_valid_tactics(self) -> list[int]:
            return list(range(1, len(self.launcher.record.kernels) + 1))

    return BuildPlugin
