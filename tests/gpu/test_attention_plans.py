"""Attention in a plan, by our kernels and as the pattern: equal numbers, and times beside the predicted ones."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from internvl_edge.export.dialects import FEWEST_LAUNCHES, Dialect, lower
from internvl_edge.export.engine.builder import build_plan
from internvl_edge.export.plugins.plugin_or_pattern import Call, weigh
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.flavour import load_flavour
from tests.gpu.agree import Record, require_agreement
from tests.gpu.device_targets import device_target
from tests.gpu.marks import GPU
from tests.gpu.plans import LoadedPlan

pytestmark = GPU

TOWER = """<ir_version: 11, opset_import: ["": 23]>
tower (float16[batch, {rows}, {width}] x, float16[{width}, {packed}] w_qkv, float16[{width}, {width}] w_out)
  => (float16[batch, {rows}, {width}] y) {{
  qkv = MatMul (x, w_qkv)
  q, k, v = Split <axis = 2, num_outputs = 3> (qkv)
  attended = Attention <q_num_heads = {heads}, kv_num_heads = {heads}> (q, k, v)
  y = MatMul (attended, w_out)
}}"""


@pytest.mark.parametrize("rows", [257, 1025])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_plan_with_our_attention(
    device: Device, tmp_path: Path, rows: int, batch: int, rng: np.random.Generator, record_property: Record
) -> None:
    """InternViT-300M's attention between its two linears; what is left of the linears is the same in both plans."""
    flavour = _flavour_with_plugins()
    heads, head_dim, target = 16, 64, device_target(device)
    version = "1" if flavour.capabilities.plugins_aot else "3"
    plugins = Dialect(attention="plugin", sm=device.sm, plugin_version=version)
    inputs = _inputs(rng, batch, rows, heads * head_dim)
    found = {}
    for name, dialect in (("pattern", FEWEST_LAUNCHES), ("plugin", plugins)):
        graph, plan = tmp_path / f"{name}.onnx", tmp_path / f"{name}.plan"
        model = lower(_tower(rows, heads, head_dim), dialect)
        assert any(node.domain == "internvl" for node in model.graph) == (name == "plugin")
        model.functions.clear()
        ir.save(model, graph)
        shapes = {key: (value.shape, value.shape, value.shape) for key, value in inputs.items()}
        build_plan(graph, plan, target=target, profiles=[shapes], flavour=flavour.name)
        found[name] = _run(LoadedPlan(flavour, plan), inputs)
    require_agreement({"y": found["plugin"][0]}, {"y": found["pattern"][0]}, "fp16", record_property)
    told = {"heads": heads, "head_dim": head_dim}
    sizes = {"B": batch, "N": rows}
    call = Call(plugin="vit_attention_plain", types={"qkv": "fp16"}, attributes=told, sizes=sizes)
    choice = weigh([call], device.sm)
    record_property("measured us: plugin less pattern", 1e3 * (found["plugin"][1] - found["pattern"][1]))
    record_property("predicted us: plugin less pattern", choice.plugin.us - choice.pattern.us)
    record_property("measured us, two linears included", {name: 1e3 * ms for name, (_, ms) in found.items()})
    record_property("auto takes", "plugin" if choice.wins else "pattern")


def _flavour_with_plugins() -> Any:
    pytest.importorskip("triton", reason="Kernels are compiled by Triton, which is not installed: pip install triton.")
    try:
        flavour = load_flavour("tensorrt")
    except EngineError as error:
        pytest.skip(f"Plans with plugins want the standard TensorRT: {error}")
    if not (flavour.capabilities.plugins_aot or flavour.capabilities.plugins_v3):
        pytest.skip(f"TensorRT {flavour.version} takes no plugins from Python.")
    return flavour


def _tower(rows: int, heads: int, head_dim: int) -> ir.Model:
    width = heads * head_dim
    text = TOWER.format(rows=rows, width=width, packed=3 * width, heads=heads)
    model = ir.from_proto(onnx.parser.parse_model(text))
    widths = {"qkv": 3 * width}
    for node in model.graph:
        node.name = f"tower.{node.outputs[0].name}"
        for value in node.outputs:
            value.shape = ir.Shape(["batch", rows, widths.get(str(value.name), width)])
            value.dtype = ir.DataType.FLOAT16
    return model


def _inputs(rng: np.random.Generator, batch: int, rows: int, width: int) -> dict[str, np.ndarray]:
    shapes = {"x": (batch, rows, width), "w_qkv": (width, 3 * width), "w_out": (width, width)}
    scales = {"x": 1.0, "w_qkv": width**-0.5, "w_out": width**-0.5}
    return {name: (rng.standard_normal(shape) * scales[name]).astype(np.float16) for name, shape in shapes.items()}


def _run(plan: LoadedPlan, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    import torch

    outputs, median_ms = plan.run({name: torch.tensor(value, device="cuda") for name, value in inputs.items()})
    return outputs["y"].cpu().numpy(), median_ms
