"""Do what TensorRT does with a plugin of `tensorrt.plugin`, beside stub libraries: everything but run it.

Fields of nodes are stand-ins too: bindings of 10.9 to 10.13 misread real ones beside NumPy 2. Formulas of sizes are
made by TensorRT's expression builder, which cannot be had here; a stand-in computes with numbers and remembers whether
they are constants.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

SIZES = {"B": 2, "N": 5, "TOTAL": 21, "CAPACITY": 16}
"""Of the families' inputs; all differ, so that an exchange shows."""


@dataclass
class Expression:
    """What ``trt.IDimensionExpr`` is."""

    value: int
    constant: bool

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        return self.value


class Builder:
    """What ``trt.IExprBuilder`` is."""

    def constant(self, value: int) -> Expression:
        return Expression(value, True)

    def operation(self, operation: Any, left: Expression, right: Expression) -> Expression:
        a, b = left.value, right.value
        found = {
            "SUM": a + b,
            "SUB": a - b,
            "PROD": a * b,
            "FLOOR_DIV": a // b if b else 0,
            "CEIL_DIV": -(-a // (b or 1)),
        }
        assert a >= 0, f"{operation.name} of a negative number: TensorRT may round it otherwise"
        return Expression(found[operation.name], left.constant and right.constant)


class Registry:
    """What ``trt.get_plugin_registry()`` is."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.creators[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))


class LaunchParams:
    """What ``trt.KernelLaunchParams`` is."""


class Setter(dict[int, Any]):
    """What ``trt.ISymExprs`` is."""


def prepared() -> tuple[Any, Registry]:
    """Return ``tensorrt`` with stand-ins for what needs its library."""
    import tensorrt as trt
    import tensorrt.plugin as trtp

    registry = Registry()
    trt.IDimensionExpr = Expression
    trt.DimsExprs = lambda length: [None] * length
    trt.get_plugin_registry = lambda: registry
    trtp._tensor.SymExprImpl = lambda expression: expression._expr
    return trt, registry


def drive(
    trt: Any, registry: Registry, name: str, variant: str, inputs: Mapping[str, tuple[str, Sequence[int]]]
) -> Any:
    """Take plugin `name` through a build; `inputs` have ``trt.DataType`` names and shapes."""
    creator = registry.get_creator(name, "1", "internvl")
    fields = [SimpleNamespace(name="variant", data=np.frombuffer(variant.encode(), np.int8))]
    request = trt.QuickPluginCreationRequest.STRICT_AOT
    plugin = creator.create_plugin(name, "internvl", fields, trt.TensorRTPhase.BUILD, request)
    given = [getattr(trt.DataType, kind) for kind, _ in inputs.values()]
    types = plugin.get_output_data_types(given, [len(shape) for _, shape in inputs.values()])
    sizes = [[Expression(size, False) for size in shape] for _, shape in inputs.values()]
    shapes = [[axis.value for axis in shape] for shape in plugin.get_output_shapes(sizes, [], Builder())]
    told = [*inputs.values(), *((kind.name, shape) for kind, shape in zip(types, shapes, strict=True))]
    descriptions = [_description(trt, kind, shape) for kind, shape in told]
    combinations = plugin.get_supported_format_combinations(descriptions, len(inputs))
    plugin.configure_plugin(descriptions[: len(inputs)], descriptions[len(inputs) :])
    tactics = []
    for tactic in sorted(plugin.get_valid_tactics()):
        plugin.set_tactic(tactic)
        launch, integers = LaunchParams(), Setter()
        plugin.get_launch_params(sizes, descriptions, len(inputs), launch, integers, Builder())
        described = [description.desc for description in descriptions]
        entry, ptx = plugin.get_kernel(described[: len(inputs)], described[len(inputs) :])
        tactics.append(
            {
                **{name: value.value for name, value in vars(launch).items()},
                "integers": [integers[index].value for index in range(integers.nbSymExprs)],  # type: ignore[attr-defined]
                "entry": entry,
                "ptx": ptx.decode(),
            }
        )
    return {
        "types": [kind.name for kind in types],
        "shapes": shapes,
        "aliases": [plugin.get_aliased_input(index) for index in range(len(types))],
        "combinations": [[d.type.name, d.format.name] for d in combinations],
        "tactics": tactics,
    }


def drive_families() -> None:
    """Print as JSON what the families' first variants do as plugins on sm_89, by their best tiles."""
    from internvl_edge.export.plugins import tensorrt_plugins
    from internvl_edge.export.plugins.compile_kernel import parameter_types
    from internvl_edge.export.plugins.families import FAMILIES
    from internvl_edge.export.plugins.launches import KERNEL_TYPES

    trt, registry = prepared()
    tensorrt_plugins._check_fields = lambda trt: None
    found = {}
    for family in FAMILIES:
        types, attributes = family.variants[0]
        launches = family.launches(types, attributes, 89)[:1]
        if not launches:
            continue
        plugin = replace(family.plugin(), launch=lambda types, attributes, sm, launches=launches: launches)
        tensorrt_plugins.register_plugins(trt, [plugin], sm=89)
        shapes = {name: _shape(name, family.name, attributes) for name in family.inputs}
        given = {name: (KERNEL_TYPES[types[name]].tensorrt, shapes[name]) for name in family.inputs}
        built = drive(trt, registry, family.name, tensorrt_plugins.variant_text(attributes), given)
        (tactic,) = built["tactics"]
        found[family.name] = {
            "inputs": shapes,
            "parameters": parameter_types(tactic["ptx"]),
            "integers": tactic["integers"],
            "grid": [tactic[f"grid_{axis}"] for axis in "xyz"],
            "expected_grid": launches[0].grid(launches[0].size_values(shapes)),
            "shapes": built["shapes"],
        }
    print(json.dumps(found))


def _shape(name: str, family: str, attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of input `name` for `SIZES`."""
    batch, rows, total, capacity = SIZES.values()
    heads, head_dim, splits = (int(attributes.get(key, 1)) for key in ("heads", "head_dim", "splits"))
    width = int(attributes.get("width", heads * head_dim))
    return {
        "qkv": (batch, rows, 3 * width),
        "q": (batch, 1 if family == "qllama_decode" else rows, 3 * width),
        "k": (batch, total, width),
        "v": (batch, total, width),
        "statistics": (batch, rows, 2),
        "q_gain": (width,),
        "k_gain": (width,),
        "scales": (6,),
        "cos": (2048, head_dim // 2),
        "sin": (2048, head_dim // 2),
        "mask": (batch, total),
        "positions": (batch, rows),
        "key_cache": (batch, heads, capacity, head_dim),
        "value_cache": (batch, heads, capacity, head_dim),
        "partial": (batch, heads, splits, head_dim),
        "stats": (batch, heads, splits, 2),
    }[name]


def _description(trt: Any, kind: str, shape: Sequence[int]) -> Any:
    description = trt.DynamicPluginTensorDesc()
    description.desc.type, description.desc.format = getattr(trt.DataType, kind), trt.TensorFormat.LINEAR
    description.desc.dims = description.min = description.opt = description.max = trt.Dims(list(shape))
    return description


def _refused(kind: type[Exception], attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except kind as error:
        return str(error)
    return ""


def main() -> None:
    """Print as JSON what the small kernel does as a plugin."""
    from internvl_edge.export.plugins import tensorrt_plugins
    from internvl_edge.runtime.errors import EngineError
    from tests.unit.export.plugins.gram_kernel import GRAM

    trt, registry = prepared()
    said = [_refused(EngineError, lambda: tensorrt_plugins.register_plugins(trt, [], sm=89))]
    said.append(_refused(EngineError, lambda: tensorrt_plugins.require_plugins(trt, ["gram"])))
    tensorrt_plugins._check_fields = lambda trt: None
    first = tensorrt_plugins.register_plugins(trt, [GRAM], sm=89)
    second = tensorrt_plugins.register_plugins(trt, [GRAM], sm=89)
    tensorrt_plugins.require_plugins(trt, ["gram"])
    shapes = {"x": ("HALF", (3, 257, 64)), "shift": ("FLOAT", (3, 257))}
    built = drive(trt, registry, "gram", "width=64\0", shapes)
    wrong = shapes | {"x": ("FLOAT", (3, 257, 64))}
    said.append(_refused(EngineError, lambda: drive(trt, registry, "gram", "width=64", wrong)))
    print(json.dumps({"first": first, "second": second, "built": built, "said": said}))


if __name__ == "__main__":
    main()
    sys.exit()
