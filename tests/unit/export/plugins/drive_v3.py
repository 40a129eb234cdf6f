"""Do what TensorRT 10.3 to 10.8 does with a plugin of ours, beside stub libraries: everything but run it.

Classes, fields and descriptions are the real bindings'. Stand-ins are the registry, formulas of sizes and the driver.
Plugins are kept and the process ends at once: bindings of 10.3 crash when Python frees one that TensorRT does not own.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from internvl_edge.export.plugins.compile_kernel import parameter_types
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.tensorrt_plugins import Plugin, data_types, require_plugins, variant_text
from internvl_edge.export.plugins.v3_plugin import register_v3
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import provide_plugins
from internvl_edge.runtime.errors import EdgeError
from tests.unit.export.plugins.drive_plugins import Builder, Expression, Registry, _shape
from tests.unit.export.plugins.gram_kernel import GRAM, gram_launch

KEPT: list[Any] = []
SOME = ("vit_attention", "qllama_prompt", "attention_pool")
"""Gains, caches and integers, and two inputs that the sizes come from."""
SHAPES = {"x": (3, 257, 64), "shift": (3, 257)}


class Driver:
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.launched: list[dict[str, Any]] = []

    def load(self, ptx: bytes, entry: str, shared_bytes: int) -> Any:
        self.loaded.append(entry)
        return ptx.decode()

    def launch(
        self,
        function: str,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[tuple[str, int]],
        stream: int,
    ) -> None:
        told = {"grid": grid, "threads": threads, "shared_bytes": shared_bytes, "arguments": arguments}
        self.launched.append({**told, "stream": stream, "parameters": parameter_types(function)})


def small_plugin() -> Plugin:
    """The small kernel; its second output has memory of its own, since these plugins cannot share an input's."""

    def launch(types: Mapping[str, str], attributes: Mapping[str, Any], sm: int) -> list[Any]:
        if types["x"] not in ("fp16", "bf16"):
            return []
        launches = [gram_launch(types["x"], width=int(attributes["width"]), tile=tile) for tile in (64, 32)]
        out = launches[0].outputs[0]
        return [replace(each, outputs=(out, replace(out, name="copy", shape=("B", "N", 64)))) for each in launches]

    return replace(GRAM, launch=launch, types=({"x": "fp16", "shift": "fp32"},))


class Board:
    """A TensorRT with a registry and a driver of its own: the machine that builds, or the one that runs."""

    def __init__(self, trt: Any) -> None:
        self.trt, self.registry, self.driver = trt, Registry(), Driver()
        self.use()

    def use(self) -> None:
        trt: Any = self.trt
        trt.get_plugin_registry = lambda: self.registry

    def create(self, name: str, field: str, content: bytes, phase: str) -> Any:
        trt = self.trt
        fields = trt.PluginFieldCollection([trt.PluginField(field, content, trt.PluginFieldType.CHAR)])
        creator = self.registry.get_creator(name, "3", "internvl")
        assert [each.name for each in creator.field_names] == ["variant" if phase == "BUILD" else "kernels"]
        plugin = creator.create_plugin(name, trt.PluginFieldCollection_(fields), getattr(trt.TensorRTPhase, phase))
        KEPT.append(plugin)
        return plugin


def tensors(trt: Any, kinds: Sequence[Any], shapes: Sequence[Sequence[int]]) -> list[Any]:
    """Return descriptions of packed tensors."""
    found = []
    for kind, shape in zip(kinds, shapes, strict=True):
        tensor = trt.DynamicPluginTensorDesc()
        tensor.desc.type, tensor.desc.format = kind, trt.TensorFormat.LINEAR
        tensor.desc.dims = tensor.min = tensor.opt = tensor.max = trt.Dims(list(shape))
        found.append(tensor)
    return found


def pointer(place: int, first: int = 0) -> int:
    """Return an aligned address that tells the place of a tensor."""
    return 16 * (1 + first + place)


def enqueue(plugin: Any, given: Sequence[Any], made: Sequence[Any]) -> None:
    """Run `plugin` on pointers that tell their places."""
    described = [tensor.desc for tensor in given], [tensor.desc for tensor in made]
    plugin.on_shape_change(*described)
    inputs, outputs = [pointer(i) for i in range(len(given))], [pointer(i, 64) for i in range(len(made))]
    plugin.enqueue(*described, inputs, outputs, 0, 7)


def build(board: Board, plugin: Any, kinds: Sequence[Any], shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Take `plugin` through a build: every tactic runs once."""
    trt = board.trt
    capabilities = [plugin.get_capability_interface(kind) for kind in trt.PluginCapabilityType.__members__.values()]
    assert all(one is plugin for one in capabilities)
    expressions = [[Expression(size, False) for size in shape] for shape in shapes]
    out_shapes = [[axis.value for axis in shape] for shape in plugin.get_output_shapes(expressions, [], Builder())]
    types = plugin.get_output_data_types(list(kinds))
    given, made = tensors(trt, kinds, shapes), tensors(trt, types, out_shapes)
    assert all(plugin.supports_format_combination(i, [*given, *made], len(given)) for i in range(len([*given, *made])))
    plugin.configure_plugin(given, made)
    for tactic in plugin.get_valid_tactics():
        clone = plugin.clone()
        KEPT.append(clone)
        clone.set_tactic(tactic)
        enqueue(clone, given, made)
    return {
        "types": [kind.name for kind in types],
        "shapes": out_shapes,
        "outputs": plugin.num_outputs,
        "named": [plugin.plugin_name, plugin.plugin_namespace, plugin.plugin_version],
        "launched": board.driver.launched,
        "loaded": board.driver.loaded,
    }


def serialized(trt: Any, plugin: Any) -> bytes:
    """Return what a plan would hold of `plugin`, read after all that it does not keep is gone."""
    fields = trt.PluginFieldCollection_(plugin.get_fields_to_serialize())
    gc.collect()
    others = [b"Z" * fields[0].size for _ in range(64)]
    assert len(others) == 64
    assert [fields[0].name, len(fields)] == ["kernels", 1]
    content: bytes = fields[0].data.tobytes()
    return content


def said(attempt: Callable[[], object]) -> str:
    """Return the words of a refusal."""
    try:
        attempt()
    except EdgeError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Print as JSON what the small kernel does as a plugin, where it is built and where it runs."""
    import tensorrt as trt

    trt.DimsExprs = list
    here, plugin = Board(trt), small_plugin()
    found: dict[str, Any] = {"absent": said(lambda: require_plugins(trt, ["gram"], "3"))}
    found["registered"] = [register_v3(trt, [plugin], 89, here.driver) for _ in range(2)]
    require_plugins(trt, ["gram"], "3")
    kinds = [trt.DataType.HALF, trt.DataType.FLOAT]
    built = here.create("gram", "variant", b"width=64\0", "BUILD")
    found["before"] = built.get_valid_tactics()
    found["built"] = build(here, built, kinds, list(SHAPES.values()))
    found["formats"] = formats(trt, built)
    wrong = here.create("gram", "variant", b"width=64", "BUILD")
    wide = [trt.DataType.FLOAT, trt.DataType.FLOAT]
    found["wrong"] = said(lambda: wrong.get_output_data_types(wide))

    plan = serialized(trt, built)
    there = Board(trt)
    foreign = [("gram", "3"), ("gram", "4"), ("other", "1")]
    found["refused"] = said(lambda: provide_plugins(trt, foreign, there.driver, "vision.plan"))
    provide_plugins(trt, [("gram", "3")], there.driver, "vision.plan")
    blocks = [there.create("gram", "kernels", plan, "RUNTIME").attach_to_context(None) for _ in range(2)]
    KEPT.extend(blocks)
    given = tensors(trt, kinds, list(SHAPES.values()))
    for block in blocks:
        block.set_tactic(2)
        enqueue(block, given, given)
    found["ran"] = {"launched": there.driver.launched, "loaded": there.driver.loaded, "plan": len(plan)}
    found["same"] = serialized(trt, blocks[0]) == plan
    empty = tensors(trt, kinds, [(3, 0, 64), (3, 0)])
    found["empty"] = said(lambda: enqueue(blocks[0], empty, empty))
    found["damaged"] = said(lambda: there.create("gram", "kernels", plan[: len(plan) // 2], "RUNTIME"))

    here.use()
    again = here.registry.get_creator("gram", "3", "internvl")
    fields = trt.PluginFieldCollection([trt.PluginField("kernels", plan, trt.PluginFieldType.CHAR)])
    KEPT.append(again.create_plugin("gram", trt.PluginFieldCollection_(fields), trt.TensorRTPhase.RUNTIME))
    found["opened where it was built"] = serialized(trt, KEPT[-1]) == plan
    finish(found)


def formats(trt: Any, plugin: Any) -> dict[str, bool]:
    """Return which of some combinations `plugin` takes."""
    half, single = trt.DataType.HALF, trt.DataType.FLOAT

    def taken(position: int, *kinds: Any, form: Any = trt.TensorFormat.LINEAR) -> bool:
        asked = tensors(trt, kinds, [(1, 1, 64)] * len(kinds))
        asked[position].desc.format = form
        return bool(plugin.supports_format_combination(position, asked, 2))

    return {
        "input": taken(0, half),
        "bool": taken(0, trt.DataType.BOOL),
        "channels last": taken(0, half, form=trt.TensorFormat.HWC8),
        "output": taken(2, half, single, half),
        "other output": taken(2, half, single, single),
    }


def families() -> None:
    """Print as JSON how some families' first variants are launched on sm_89, by their best tiles."""
    import tensorrt as trt

    trt.DimsExprs = list
    board, found = Board(trt), {}
    for family in (family for family in FAMILIES if family.name in SOME):
        types, attributes = family.variants[0]
        launches = family.launches(types, attributes, 89)[:1]
        plugin = replace(family.plugin(), launch=lambda types, attributes, sm, launches=launches: launches)
        register_v3(trt, [plugin], 89, board.driver)
        shapes = {name: _shape(name, family.name, attributes) for name in family.inputs}
        made = board.create(family.name, "variant", variant_text(attributes).encode(), "BUILD")
        built = build(board, made, [data_types(trt)[types[name]] for name in family.inputs], list(shapes.values()))
        found[family.name] = {
            "inputs": shapes,
            "launched": built["launched"][-1],
            "expected_grid": launches[0].grid(launches[0].size_values(shapes)),
            "shapes": built["shapes"],
        }
    finish(found)


def finish(found: Mapping[str, Any]) -> None:
    """Print and end."""
    print(json.dumps(found), flush=True)
    sys.stderr.flush()
    os._exit(0)
