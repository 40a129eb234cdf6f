"""Which attention becomes a plugin, which stays, and what the log says of that."""

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from internvl_edge.export.dialects import Dialect, lower
from internvl_edge.export.dialects.plugin_attention import PluginAttentionPass

TOWER = """<ir_version: 11, opset_import: ["": 23]>
tower ({type}[batch, 17, {packed}] qkv) => ({type}[batch, 17, {width}] out) <{type}[{width}] gain = {{{ones}}}> {{
  q, k, v = Split <axis = 2, num_outputs = 3> (qkv)
  {norms}
  [attention] out = Attention <q_num_heads = {heads}, kv_num_heads = {heads}{more}> ({q}, {k}, v)
}}"""

NORMS = """
  q_normed = RMSNormalization <axis = -1, epsilon = 1e-6> (q, gain)
  k_normed = RMSNormalization <axis = -1, epsilon = 1e-6> (k, gain)"""


def tower(
    *, normed: bool = True, heads: int = 2, head_dim: int = 64, kind: str = "float16", more: str = ""
) -> ir.Model:
    width = heads * head_dim
    text = TOWER.format(
        type=kind, width=width, packed=3 * width, heads=heads, more=more, ones=", ".join(["1"] * width),
        norms=NORMS if normed else "", q="q_normed" if normed else "q", k="k_normed" if normed else "k",
    )  # fmt: skip
    model = ir.from_proto(onnx.parser.parse_model(text))
    for value in (node.outputs[0] for node in model.graph):
        value.shape = value.shape or ir.Shape(["batch", 17, width])
    for node in model.graph:
        for value in node.outputs:
            value.shape, value.type = ir.Shape(["batch", 17, width]), model.graph.inputs[0].type
    return model


def names(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_a_tower_with_norms_takes_a_pass_over_rows_and_the_attention() -> None:
    model = PluginAttentionPass()(tower()).model
    assert names(model) == ["vit_norms", "vit_attention"]
    assert {name for _, name, _ in model.functions} == {"vit_norms", "vit_attention"}
    node = model.graph[1]
    assert node.domain == "internvl"
    assert node.attributes.get_string("variant") == "heads=2 head_dim=64"
    assert node.outputs[0].is_graph_output()
    assert node.outputs[0].name == "out"


def test_a_tower_without_norms_takes_the_attention_alone() -> None:
    assert names(PluginAttentionPass()(tower(normed=False)).model) == ["vit_attention_plain"]


@pytest.mark.parametrize(
    ("model", "sm", "reason"),
    [
        (tower(heads=25, head_dim=128), 75, "Triton emits no tensor-core code"),
        (tower(heads=25, head_dim=128, kind="float"), 89, "no kernel takes fp32; bf16, fp16 are there"),
        (tower(heads=2, head_dim=72), 89, "no tiles were found for head dim 72"),
        (tower(normed=False, more=", softcap = 3.0"), 89, "it has softcap"),
        (tower(normed=False, more=", scale = 0.5"), 89, "its scale is 0.5, kernels have 1/sqrt(D), 0.125"),
    ],
    ids=["turing", "fp32", "head-dim", "another-function", "another-scale"],
)
def test_what_no_kernel_serves_stays_and_the_log_says_why(
    model: ir.Model, sm: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = lower(model, Dialect(attention="plugin", sm=sm))
    assert not {node.domain for node in found.graph} & {"internvl"}
    assert reason in caplog.text
    assert "no attention kernel" in caplog.text
    assert not found.functions


def test_a_tower_that_is_served_keeps_no_softmax() -> None:
    found = lower(tower(heads=25, head_dim=128), Dialect(attention="plugin", sm=89))
    assert names(found) == ["vit_norms", "vit_attention"]
    assert np.dtype("float16") == found.graph.outputs[0].dtype.numpy()  # type: ignore[union-attr]
