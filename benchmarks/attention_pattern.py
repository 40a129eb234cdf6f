"""Cost of attention without plugins, read from plans: `python benchmarks/attention_pattern.py FOLDER`.

Blocks of InternVL are built for sm_89 with the form that the dialect takes, in 16 bits and in INT8; counted are the
launches that compute attention, those that only scale the products before it among them, and the bytes they move as a
multiple of what a plugin of ours moves at least. The lines go into `export/plugins/pattern_costs.py`. Nothing runs on a
GPU.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
from blocks import CASES, attach_stand_ins, canonical

from internvl_edge.export.dialects import FEWEST_LAUNCHES, FEWEST_LAUNCHES_8_BITS, lower
from internvl_edge.export.dialects.cut_blocks import Shapes, axes_profile
from internvl_edge.export.engine.builder import build_plan
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.runtime.inspect.plan.launches import Launch, launches_of
from internvl_edge.runtime.inspect.plan.schedule import Schedule, read_plan
from internvl_edge.runtime.inspect.plan.symbols import sizes_of
from internvl_edge.runtime.inspect.plan.traffic import traffic_of
from internvl_edge.runtime.targets.targets import find_target

TARGET = "sm_89"
_SCALED = re.compile(r"\.weight/DequantizeLinear$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The attention of a plugin family: a module of the block of a case, at the usual sizes of the case."""

    family: str
    case: str
    module: str
    sizes: Mapping[str, int]


PLACES = (
    Place(family="vit_attention", case="6b", module="attn", sizes={"B": 1, "N": 257}),
    Place(family="vit_attention_plain", case="300m", module="attn", sizes={"B": 1, "N": 1025}),
    Place(family="qllama_queries", case="query", module="self_attn", sizes={"B": 1, "N": 96, "TOTAL": 96}),
    Place(family="query_cross_attention", case="query", module="cross_attn", sizes={"B": 1, "Q": 96, "N": 257}),
    Place(family="qllama_text", case="text", module="self_attn", sizes={"B": 1, "N": 16, "TOTAL": 16}),
    Place(family="qllama_prompt", case="step", module="self_attn", sizes={"B": 1, "N": 1, "TOTAL": 113}),
)
POOL = """<ir_version: 11, opset_import: ["": 23]>
pool (float16[batch, 1, 3200] mean, float16[batch, 1025, 3200] rows, float16[3200, 3200] wq, float16[3200, 3200] wk,
      float16[3200, 3200] wv, float16[3200, 3200] wo) => (float16[batch, 1, 3200] out) {
  q = MatMul (mean, wq)
  k = MatMul (rows, wk)
  v = MatMul (rows, wv)
  attended = Attention <q_num_heads = 16, kv_num_heads = 16> (q, k, v)
  out = MatMul (attended, wo)
}"""


def main(folder: Path) -> None:
    """Print a line for each family and format of linears."""
    folder.mkdir(parents=True, exist_ok=True)
    for quantized in (False, True):
        print("CODED" if quantized else "WIDE")
        for place in PLACES:
            schedule, shapes, block = _block(place.case, quantized, folder)
            own = [launch for launch in launches_of(schedule) if _is_of(launch, f"{block}.{place.module}")]
            print(_line(place, own, schedule, shapes))
        if not quantized:
            schedule, shapes = _pool(folder)
            own = [launch for launch in launches_of(schedule) if launch.category != "matmul"]
            pool = Place(family="attention_pool", case="", module="", sizes={"B": 1, "N": 1025})
            print(_line(pool, own, schedule, shapes))


def _block(name: str, quantized: bool, folder: Path) -> tuple[Schedule, Mapping[str, Sequence[int]], str]:
    case = CASES[name]
    model = canonical(case, "int8" if quantized else "fp16")
    attach_stand_ins(model, folder)
    profile = axes_profile(model, case.ranges)
    return *_built(lower(model, FEWEST_LAUNCHES_8_BITS if quantized else FEWEST_LAUNCHES), profile, folder), case.block


def _pool(folder: Path) -> tuple[Schedule, Mapping[str, Sequence[int]]]:
    model = ir.from_proto(onnx.parser.parse_model(POOL))
    for node in model.graph:
        node.name = f"pool.{node.outputs[0].name}"
        rows = 1025 if node.outputs[0].name in ("k", "v") else 1
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(["batch", rows, 3200]), ir.DataType.FLOAT16
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs[2:]):
        value.const_value = ir.tensor(rng.standard_normal((3200, 3200)).astype(np.float16), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    profile = axes_profile(model, {"batch": (1, 1, 8)})
    return _built(lower(model, FEWEST_LAUNCHES), profile, folder)


def _built(
    model: ir.Model, profile: Mapping[str, Shapes], folder: Path
) -> tuple[Schedule, Mapping[str, Sequence[int]]]:
    graph, plan = folder / "attention.onnx", folder / "attention.plan"
    ir.save(model, graph)
    build_plan(graph, plan, target=find_target(TARGET), profiles=[profile])
    return read_plan(plan).schedules[0], {name: shapes[1] for name, shapes in profile.items()}


def _is_of(launch: Launch, module: str) -> bool:
    """Return whether a launch computes attention: a node of the module or its norms of q and k, but no linear."""
    direct = re.compile(rf"{re.escape(module)}(/|\.[qk]_norm/)")
    return launch.category != "matmul" and any(direct.match(layer) for layer in launch.step.layers)


def _line(place: Place, own: Sequence[Launch], schedule: Schedule, shapes: Mapping[str, Sequence[int]]) -> str:
    moved = sum(_bytes(own, schedule, shapes))
    family = next(family for family in FAMILIES if family.name == place.family)
    types, attributes = family.variants[0]
    least = family.work(family.launch(types, attributes, family.choices[0]), place.sizes).unique_bytes
    scaling = sum(any(_SCALED.search(layer) for layer in launch.step.layers) for launch in own)
    kernels = ", ".join(launch.step.name[:40] for launch in own)
    costs = f"launches={len(own)}, passes={moved / least:.2f}, scaling={scaling}"
    return f'    "{place.family}": PatternCost({costs}),  # {kernels}'


def _bytes(own: Sequence[Launch], schedule: Schedule, shapes: Mapping[str, Sequence[int]]) -> Iterator[int]:
    sizes = sizes_of(schedule.program, shapes)
    for launch in own:
        traffic = traffic_of(launch.step, schedule.program, sizes)
        assert traffic is not None, f"{launch.step.name} does not state its bytes"
        yield traffic.bytes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
