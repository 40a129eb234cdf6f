"""The kernels as TensorRT plugins `internvl::<name>`, whose PTX is in the plan, so that devices need no plugin code.

An ONNX node of such a plugin has four attributes: `plugin_namespace`, `plugin_version`, `aot`, and `variant`, a text
such as ``heads=25 head_dim=128``. It is one text because `tensorrt.plugin` of 10.9 to 10.13 converts numbers by
``int(array)``, which NumPy 2.4 refuses, and passes several attributes in the order of the file.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import GenericAlias, ModuleType
from typing import Any

from internvl_edge.export.plugins.compile_kernel import CompiledKernel, compile_kernel, load_kernel
from internvl_edge.export.plugins.launches import KERNEL_TYPES, Constant, Launch
from internvl_edge.runtime.backends.cuda import Device, find_device
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import NAMESPACE as NAMESPACE
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import absent_creators, misread_fields
from internvl_edge.runtime.backends.tensorrt.plans.grid_sizes import evaluate, formula_from_json
from internvl_edge.runtime.backends.tensorrt_module import tensorrt_version
from internvl_edge.runtime.errors import EngineError

VERSION = "1"
"""Version that `tensorrt.plugin` gives to every plugin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One plugin of TensorRT, for launches with the same tensors."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    launch: Callable[[Mapping[str, str], Mapping[str, Constant], int], Sequence[Launch]]
    """Return the launches for the types of the inputs, the attributes and an SM, the fastest by the model first.

    They differ in tiles only; TensorRT times them when it builds.
    """
    types: tuple[Mapping[str, str], ...] = ()
    """Types of the inputs in each variant."""


def data_types(trt: ModuleType) -> dict[str, Any]:
    """Return our name -> TensorRT's type, for the types that this TensorRT has."""
    return {
        name: getattr(trt.DataType, row.tensorrt)
        for name, row in KERNEL_TYPES.items()
        if hasattr(trt.DataType, row.tensorrt)
    }


def variant_text(attributes: Mapping[str, Constant]) -> str:
    """Return the text of the attribute `variant` of a node."""
    for name, value in attributes.items():
        if any(c.isspace() or c == "=" for c in f"{name}{value}"):
            raise EngineError(f"{name}={value}: a variant's values have no spaces and no =")
    return " ".join(f"{name}={value}" for name, value in attributes.items())


def read_variant(text: str) -> dict[str, Constant]:
    """Return the attributes that `variant_text` wrote."""
    found: dict[str, Constant] = {}
    for word in text.replace("\0", " ").split():
        name, _, value = word.partition("=")
        found[name] = _constant(value)
    return found


def node_attributes(attributes: Mapping[str, Constant], version: str = VERSION) -> dict[str, str | int]:
    """Return the attributes by which TensorRT's parser makes a node a plugin, by default an ahead-of-time one."""
    named: dict[str, str | int] = {"plugin_namespace": NAMESPACE, "plugin_version": version}
    return {**named, **({"aot": 1} if version == VERSION else {}), "variant": variant_text(attributes)}


def register_plugins(
    trt: ModuleType,
    plugins: Iterable[Plugin],
    *,
    sm: int | None = None,
    kernels: Path | None = None,
    lazy: bool = False,
) -> tuple[str, ...]:
    """Register `plugins` with `trt`, and return the ids of those that were not registered yet.

    Args:
        trt: A module like ``tensorrt``.
        plugins: Plugins to register.
        sm: SM of the device that builds; by default that of this machine's GPU.
        kernels: Folder of compiled kernels for machines without Triton; by default kernels are compiled.
        lazy: Whether TensorRT's registry gets a plugin only when a network uses it; the ONNX parser needs it before.

    Raises:
        EngineError: `trt` has no ahead-of-time plugins (before 10.9, and TensorRT-RTX), or NumPy is too new for it.
    """
    trtp = _plugin_module(trt)
    _check_fields(trt)
    added = []
    for plugin in plugins:
        plugin_id = f"{NAMESPACE}::{plugin.name}"
        if hasattr(getattr(trtp.op, NAMESPACE, None) or object(), plugin.name):
            continue
        callbacks = _Callbacks(trt, trtp, plugin, sm, kernels)
        trtp.register(plugin_id, lazy_register=lazy)(callbacks.register())
        trtp.autotune(plugin_id)(callbacks.autotune())
        trtp.aot_impl(plugin_id)(callbacks.aot_impl())
        added.append(plugin_id)
    return tuple(added)


def require_plugins(trt: ModuleType, wanted: Iterable[str], version: str = VERSION) -> None:
    """Check that `trt` has the plugins `wanted`.

    Raises:
        EngineError: with the name and version of each that is missing.
    """
    if absent := absent_creators(trt, [(name, version) for name in wanted]):
        raise EngineError(
            f"TensorRT {tensorrt_version(trt)} has no plugin {', '.join(absent)}; "
            "register_plugins makes them known, or lower the graph without --attention plugin"
        )


@dataclass(frozen=True, slots=True)
class _Callbacks:
    """Callbacks of one plugin for `tensorrt.plugin`, which reads names and annotations of their arguments."""

    trt: ModuleType
    trtp: ModuleType
    plugin: Plugin
    sm: int | None
    kernels: Path | None

    def register(self) -> Callable[..., Any]:
        """Return the callback that describes the outputs' shapes and types."""

        def describe(*given: Any, **attributes: str) -> Any:
            inputs, variant = self._inputs(given), attributes.get("variant") or given[-1]
            launch = self._launches(inputs, variant)[0]
            sizes = launch.size_values({name: list(desc.shape_expr) for name, desc in inputs.items()})
            outputs = []
            for output in launch.outputs:
                if output.alias:
                    outputs.append(inputs[output.alias].aliased())
                    continue
                shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in output.shape)
                outputs.append(self.trtp.from_shape_expr(shape, dtype=self._data_type(output.type)))
            return outputs[0] if len(outputs) == 1 else tuple(outputs)

        tensor: Any = self.trtp.TensorDesc
        returned = (
            tensor if len(self.plugin.outputs) == 1 else GenericAlias(tuple, (tensor,) * len(self.plugin.outputs))
        )
        return self._with_signature(describe, {}, returned)

    def autotune(self) -> Callable[..., Any]:
        """Return the callback that lists the types, which are fixed, and a tactic for each choice of tiles."""

        def combinations(*given: Any) -> Any:
            inputs, variant = self._inputs(given), given[len(self.plugin.inputs)]
            launches = self._launches(inputs, variant)
            types = ",".join(self._type_text(tensor.type) for tensor in launches[0].tensors)
            return [self.trtp.AutoTuneCombination(types, "LINEAR", list(range(1, len(launches) + 1)))]

        returned = GenericAlias(list, (self.trtp.AutoTuneCombination,))
        return self._with_signature(combinations, {"outputs": None}, returned)

    def aot_impl(self) -> Callable[..., Any]:
        """Return the callback that returns PTX, grid and integers."""

        def implement(*given: Any) -> Any:
            inputs, variant, tactic = self._inputs(given), given[len(self.plugin.inputs)], given[-1]
            launches = self._launches(inputs, variant)
            launch = launches[max(int(tactic or 1), 1) - 1]
            kernel = self._kernel(launch)
            sizes = launch.size_values({name: list(desc.shape_expr) for name, desc in inputs.items()})
            params = self.trtp.KernelLaunchParams()
            x, y, z = (evaluate(formula_from_json(axis), sizes, self._constant) for axis in kernel.grid)
            params.grid_x, params.grid_y, params.grid_z = x, y, z
            params.block_x = kernel.threads
            params.shared_mem = kernel.shared_bytes
            integers = self.trtp.SymIntExprs(len(launch.integers))
            for index, name in enumerate(launch.integers):
                integers[index] = self.trtp.SymInt32(sizes[name])
            return kernel.entry, kernel.ptx, params, integers

        returned = GenericAlias(tuple, (str, str, self.trtp.KernelLaunchParams, self.trtp.SymIntExprs))
        return self._with_signature(implement, {"outputs": None, "tactic": int}, returned)

    def _with_signature(
        self, function: Callable[..., Any], after: Mapping[str, Any], returned: Any
    ) -> Callable[..., Any]:
        """Return `function` with a signature of named, annotated arguments."""
        either, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        listed = dict.fromkeys(self.plugin.inputs, self.trtp.TensorDesc) | {"variant": str} | dict(after)
        parameters = [
            inspect.Parameter(name, either, annotation=annotation if annotation is not None else empty)
            for name, annotation in listed.items()
        ]
        function.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
        return function

    def _inputs(self, given: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.plugin.inputs, given, strict=False))

    def _launches(self, inputs: Mapping[str, Any], variant: str) -> Sequence[Launch]:
        types = {name: self._our_type(name, desc.dtype) for name, desc in inputs.items()}
        found = self.plugin.launch(types, read_variant(variant), self._device_sm())
        if not found:
            typed = ", ".join(f"{name} {kind}" for name, kind in types.items())
            raise EngineError(f"{NAMESPACE}::{self.plugin.name}: no kernel of {variant!r} with {typed}")
        return found

    def _device_sm(self) -> int:
        if self.sm is not None:
            return self.sm
        device = find_device()
        if not isinstance(device, Device):
            raise EngineError(f"{NAMESPACE}::{self.plugin.name}: for which GPU? {device}; give the target's SM")
        return device.sm

    def _kernel(self, launch: Launch) -> CompiledKernel:
        if self.kernels is not None:
            return load_kernel(launch, self._device_sm(), self.kernels)
        return compile_kernel(launch, self._device_sm())

    def _constant(self, value: int) -> Any:
        return self.trtp.ShapeExpr(value)

    def _data_type(self, name: str) -> Any:
        return data_types(self.trt)[name]

    def _our_type(self, tensor: str, data_type: Any) -> str:
        for name, its in data_types(self.trt).items():
            if its == data_type:
                return name
        raise EngineError(
            f"{NAMESPACE}::{self.plugin.name}: {tensor} is {data_type}; kernels have {', '.join(KERNEL_TYPES)}"
        )

    def _type_text(self, name: str) -> str:
        """Return the name of a type for `AutoTuneCombination`, which differs for two types."""
        return {"fp32": "FP32", "fp16": "FP16"}.get(name, KERNEL_TYPES[name].tensorrt)


def _plugin_module(trt: ModuleType) -> ModuleType:
    """Return the module ``tensorrt.plugin``.

    Raises:
        EngineError: it is missing, or has no ahead-of-time plugins.
    """
    name = getattr(trt, "__name__", "tensorrt")
    version = tensorrt_version(trt)
    try:
        found = import_module(f"{name}.plugin")
    except ImportError as error:
        raise EngineError(f"{name} {version} has no Python plugins: {error}; use --attention pattern or op") from error
    if not hasattr(found, "aot_impl"):
        raise EngineError(
            f"{name} {version} has no ahead-of-time plugins: {found.__name__}.aot_impl is missing, there from 10.9 on; "
            "use --attention pattern or op"
        )
    return found


def _check_fields(trt: ModuleType) -> None:
    """Raise an EngineError for bindings that lose a node's attributes."""
    if finding := misread_fields(trt):
        raise EngineError(finding)


def _constant(text: str) -> Constant:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, text)
