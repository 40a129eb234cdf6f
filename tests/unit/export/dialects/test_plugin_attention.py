"""Which attention becomes a plugin, which stays, and what the log says of that."""

import logging
from collections.abc import Sequence

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from internvl_edge.export.dialects import Dialect, lower, plugin_attention
from internvl_edge.export.dialects.plugin_attention import PluginAttentionPass
from internvl_edge.export.numerics.islands import keep_wide
from internvl_edge.export.plugins.plugin_or_pattern import Call, Choice, Cost
from internvl_edge.runtime.errors import EngineError

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


@pytest.mark.parametrize("sm", [89, None])
def test_an_island_in_fp32_gets_no_kernel_of_16_bits(sm: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """What overflows in the operator's type would overflow in q and k of the kernel too."""
    model = tower(heads=25, head_dim=128)
    attention = next(node for node in model.graph if node.op_type == "Attention")
    found = PluginAttentionPass(sm)(keep_wide(model, frozenset(), frozenset({str(attention.name)}))).model
    assert "Attention" in names(found)
    assert "no attention kernel: it is kept in fp32, since values of it overflow 16 bits" in caplog.text
    lowered = lower(found, Dialect(attention="pattern", heads="joined"))
    products = [node for node in lowered.graph if node.op_type in ("MatMul", "Softmax")]
    assert {node.outputs[0].dtype for node in products if "scores" in str(node.name)} == {ir.DataType.FLOAT}


def test_a_tower_that_is_served_keeps_no_softmax() -> None:
    found = lower(tower(heads=25, head_dim=128), Dialect(attention="plugin", sm=89))
    assert names(found) == ["vit_norms", "vit_attention"]
    assert np.dtype("float16") == found.graph.outputs[0].dtype.numpy()  # type: ignore[union-attr]


ZEROS = {"int8": np.zeros((), np.int8), "fp8": np.zeros((), ir.DataType.FLOAT8E4M3FN.numpy())}


def quantized(
    kinds: Sequence[tuple[str, float]], *, kind: str = "float", heads: int = 2, head_dim: int = 64
) -> ir.Model:
    """A tower whose result is quantized for each of its readers, by a type and a scale."""
    model = tower(kind=kind, heads=heads, head_dim=head_dim)
    graph, out = model.graph, model.graph.outputs[0]
    graph.outputs.clear()
    for index, (codes, scale) in enumerate(kinds):
        numbers = {"scale": np.array(scale, out.dtype.numpy()), "zero": ZEROS[codes]}  # type: ignore[union-attr]
        held = [
            graph.initializers.setdefault(f"{name}_{index}", initializer(f"{name}_{index}", numbers[name]))
            for name in numbers
        ]
        quantize = ir.node("QuantizeLinear", [out, *held], name=f"quantize_{index}")
        back = ir.node("DequantizeLinear", [quantize.outputs[0], *held], name=f"back_{index}")
        graph.extend([quantize, back])
        quantize.outputs[0].name, back.outputs[0].name = f"codes_{index}", f"back_{index}"
        quantize.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(ZEROS[codes].dtype))
        back.outputs[0].type, back.outputs[0].shape = ir.TensorType(out.dtype), out.shape  # type: ignore[arg-type]
        graph.outputs.append(back.outputs[0])
    return model


def initializer(name: str, value: np.ndarray) -> ir.Value:
    tensor = ir.tensor(value, name=name)
    return ir.Value(name=name, shape=ir.Shape(value.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def results(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"qkv": x}))


@pytest.mark.parametrize("codes", ["int8", "fp8"])
def test_codes_for_the_next_linear_are_written_by_the_attention(codes: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 17, 384), np.float32)
    expected = results(quantized([(codes, 0.02), (codes, 0.02)]), x)
    model = PluginAttentionPass()(quantized([(codes, 0.02), (codes, 0.02)])).model
    assert names(model) == ["vit_norms", "vit_attention_8bit", "DequantizeLinear", "DequantizeLinear"]
    assert model.graph[1].attributes.get_string("variant") == f"heads=2 head_dim=64 out={codes}"
    np.testing.assert_array_equal(model.graph[1].inputs[-1].const_value.numpy(), np.array([1, 1, 1, 0.02], np.float32))  # type: ignore[union-attr]
    for found, wanted in zip(results(model, x), expected, strict=True):
        off = np.abs(found - wanted) > 0
        assert off.mean() < 1e-3, "a code may fall to the other side of a tie, not more"


@pytest.mark.parametrize(
    "kinds", [[("int8", 0.02), ("int8", 0.03)], [("int8", 0.02), ("fp8", 0.02)]], ids=["scales", "types"]
)
def test_readers_that_quantize_otherwise_each_keep_their_own(kinds: list[tuple[str, float]]) -> None:
    model = PluginAttentionPass()(quantized(kinds)).model
    assert names(model)[:2] == ["vit_norms", "vit_attention"]
    assert names(model).count("QuantizeLinear") == 2


def test_a_result_that_is_read_as_it_is_stays_wide() -> None:
    model = quantized([("int8", 0.02)])
    model.graph.outputs.append(model.graph.node("attention").outputs[0])
    assert names(PluginAttentionPass()(model).model)[:2] == ["vit_norms", "vit_attention"]


def test_codes_that_the_device_lacks_stay_apart() -> None:
    model = lower(
        quantized([("fp8", 0.02)], kind="float16", heads=25, head_dim=128), Dialect(attention="plugin", sm=87)
    )
    assert names(model)[:3] == ["vit_norms", "vit_attention", "QuantizeLinear"]


def fast(us: float) -> Cost:
    return Cost(launches=1, bytes=1e6, us=us)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"), [(5, 9, "vit_attention_plain"), (9, 5, "Softmax"), (9, 9, "Softmax")]
)
def test_the_plugin_is_taken_where_it_is_predicted_to_win(
    ours: float, theirs: float, expected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Sequence[Call]] = []

    def weigh(calls: Sequence[Call], sm: int) -> Choice:
        assert sm == 89
        asked.append(calls)
        return Choice(plugin=fast(ours), pattern=fast(theirs))

    monkeypatch.setattr(plugin_attention, "weigh", weigh)
    with caplog.at_level(logging.INFO):
        model = lower(
            tower(normed=False, heads=16, head_dim=64, kind="float16"), Dialect(attention="best", sm=89, batch=4)
        )
    assert expected in names(model)
    assert asked == [
        [
            Call(
                plugin="vit_attention_plain",
                types={"qkv": "fp16"},
                attributes={"heads": 16, "head_dim": 64},
                sizes={"B": 4, "N": 17},
            )
        ]
    ]
    assert (
        f"plugin 1 launches, 1.0 MB, {ours:.0f} us; pattern 1 launches, 1.0 MB, {theirs:.0f} us (predicted)"
        in caplog.text
    )
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_where_no_kernel_can_be_compiled_the_pattern_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def weigh(calls: Sequence[Call], sm: int) -> Choice:
        raise EngineError("Triton is not installed")

    monkeypatch.setattr(plugin_attention, "weigh", weigh)
    with caplog.at_level(logging.INFO):
        model = lower(tower(normed=False, heads=16, head_dim=64), Dialect(attention="best", sm=89))
    assert "Softmax" in names(model)
    assert "Triton is not installed" in caplog.text
