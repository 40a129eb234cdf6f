"""Plans built on this CPU for a GPU that is not here: what gets into them, and what is refused in which words."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors.numpy import save_file

from internvl_edge.export.engine.builder import build_plan
from internvl_edge.runtime.bundle.bundle import sha256_file
from internvl_edge.runtime.bundle.engines import Shapes
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.data_sheet import Target

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'
SM89 = Target(name="rtx-4090", sm=89)

BLOCK = """g (float16[batch, 16, 256] x, int64[batch, 16] positions,
  float16[256] gamma, float16[256] beta, float16[64, 32] cos, float16[64, 32] sin, float16[768, 256] w)
=> (float16[batch, 16, 256] y) {
  [block_norm] normed = RMSNormalization<stash_type = 1, epsilon = 1e-6>(x, gamma)
  [block_turn] turned = Transpose<perm = [1, 0]>(w)
  [block_qkv] qkv = MatMul(normed, turned)
  [block_split] q, k, v = Split<axis = 2, num_outputs = 3>(qkv)
  heads = Constant<value_ints = [0, 0, 4, 64]>()
  flat = Constant<value_ints = [0, 0, 256]>()
  q4 = Reshape(q, heads)
  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
  [block_rotary] rotated = RotaryEmbedding(qh, cos, sin, positions)
  [block_relu] kv = Relu(rotated)
  [block_attn4] mixed = Attention(rotated, kv, kv)
  back = Transpose<perm = [0, 2, 1, 3]>(mixed)
  a = Reshape(back, flat)
  [block_attn3] b = Attention<q_num_heads = 4, kv_num_heads = 4>(a, k, v)
  [block_gelu] c = Gelu(b)
  [block_ln] y = LayerNormalization<epsilon = 1e-5>(c, gamma, beta)
}"""


def shapes(*tail: int, largest: int = 4) -> Shapes:
    """A dynamic batch of 1 to `largest` in front of `tail`."""
    return (1, *tail), (2, *tail), (largest, *tail)


BLOCK_PROFILE = {"x": shapes(16, 256), "positions": shapes(16)}
ONE_INPUT = [{"x": shapes(4, 4)}]


def save(text: str, path: Path) -> Path:
    path.write_bytes(onnx.parser.parse_model(HEADER + text).SerializeToString())
    return path


@pytest.fixture
def block(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray]]:
    """The graph `BLOCK` with its weights by offset in a safetensors file beside it, and those weights."""
    model = ir.from_proto(onnx.parser.parse_model(HEADER + BLOCK))
    held = model.graph.inputs[2:]
    del model.graph.inputs[2:]
    weights = {str(v.name): rng.standard_normal(v.shape.numpy()).astype(np.float16) for v in held if v.shape}
    file = tmp_path / "weights.safetensors"
    save_file(weights, file)
    content = file.read_bytes()
    for value in held:
        data = weights[str(value.name)].tobytes()
        value.const_value = ir.ExternalTensor(
            file.name, content.index(data), len(data), ir.DataType.FLOAT16, shape=value.shape, name=str(value.name)
        )
        model.graph.register_initializer(value)
    ir.save(model, tmp_path / "block.onnx")
    return tmp_path / "block.onnx", weights


def test_a_block_builds_with_weights_read_in_place(block: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    graph, weights = block
    plan = tmp_path / "block.plan"
    info = build_plan(graph, plan, target=SM89, profiles=[BLOCK_PROFILE])
    content = plan.read_bytes()
    assert (info.flavour, info.sm, info.bytes, info.sha256) == ("tensorrt_rtx", 89, len(content), sha256_file(plan))
    assert info.seconds > 0
    assert info.profiles == [BLOCK_PROFILE]
    assert all(weights[name].tobytes() in content for name in ("gamma", "beta", "cos", "sin"))  # w is packed anew
    for node in ("block_norm", "block_qkv", "block_rotary", "block_attn4", "block_attn3", "block_gelu", "block_ln"):
        assert f"[ONNX Layer: {node}]".encode() in content, node
    assert b"_gemm_mha" in content, "attention is not one kernel"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block.onnx", "block.plan", "weights.safetensors"]


def test_other_weights_give_another_plan(block: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    graph, weights = block
    before = build_plan(graph, tmp_path / "plan", target=SM89, profiles=[BLOCK_PROFILE])
    save_file({name: np.negative(values) for name, values in weights.items()}, tmp_path / "weights.safetensors")
    after = build_plan(graph, tmp_path / "plan", target=SM89, profiles=[BLOCK_PROFILE])
    assert after.bytes == before.bytes
    assert after.sha256 != before.sha256


def test_one_plan_holds_two_profiles(block: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    graph, _ = block
    wide = {"x": shapes(16, 256, largest=64), "positions": shapes(16, largest=64)}
    one = build_plan(graph, tmp_path / "one.plan", target=SM89, profiles=[BLOCK_PROFILE])
    two = build_plan(graph, tmp_path / "two.plan", target=SM89, profiles=[BLOCK_PROFILE, wide])
    assert two.profiles == [BLOCK_PROFILE, wide]
    assert two.bytes > one.bytes


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 120, 121])
def test_every_architecture_builds(sm: int, tmp_path: Path) -> None:
    graph = save("g (float16[b, 4, 4] x) => (float16[b, 4, 4] y) { y = Gelu(x) }", tmp_path / "g.onnx")
    assert build_plan(graph, tmp_path / "g.plan", target=Target(name="any", sm=sm), profiles=ONE_INPUT).bytes > 0


@pytest.mark.parametrize("shape", ["2, 1, 96", "4, 16, 13"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float"])
def test_attention_without_a_kernel_of_its_own_builds(dtype: str, shape: str, tmp_path: Path) -> None:
    names = ", ".join(f"{dtype}[b, {shape}] {name}" for name in "qkv")
    graph = save(f"g ({names}) => ({dtype}[b, {shape}] y) {{ y = Attention(q, k, v) }}", tmp_path / "g.onnx")
    profile = {name: shapes(*(int(size) for size in shape.split(","))) for name in "qkv"}
    assert build_plan(graph, tmp_path / "g.plan", target=SM89, profiles=[profile]).bytes > 0


def refused(graph: Path, profiles: list[dict[str, Shapes]], target: Target = SM89) -> str:
    """Return the words of the refusal; an earlier plan must stay as it was, and nothing else be left."""
    plan = graph.with_suffix(".plan")
    plan.write_bytes(b"an earlier plan")
    before = sorted(graph.parent.iterdir())
    with pytest.raises(EngineError) as caught:
        build_plan(graph, plan, target=target, profiles=profiles)
    assert plan.read_bytes() == b"an earlier plan"
    assert sorted(graph.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{graph.name}: ")
    return message


def test_an_unsupported_node_is_named_with_its_operator(tmp_path: Path) -> None:
    text = "g (float16[b, 4, 4] x) => (float16[b] y) { [head_det] y = Det(x) }"
    message = refused(save(text, tmp_path / "g.onnx"), ONE_INPUT)
    assert "cannot parse head_det (Det): UNSUPPORTED_NODE" in message
    assert "leave out --target" in message


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"not a graph")
    assert "cannot parse the file: MODEL_DESERIALIZE_FAILED" in refused(tmp_path / "g.onnx", [])


def test_a_weight_that_is_not_there_is_named(block: tuple[Path, dict[str, np.ndarray]]) -> None:
    graph, _ = block
    graph.with_name("weights.safetensors").unlink()
    assert "Failed to import initializer: gamma" in refused(graph, [BLOCK_PROFILE])


def test_a_refusal_of_the_builder_gives_its_reason_not_the_absent_gpu(tmp_path: Path) -> None:
    text = """g (float16[b, 4, 16, 64] q, float16[b, 4, 16, 64] k, float16[b, 4, 16, 64] v, float[b, 1, 16, 16] m)
    => (float16[b, 4, 16, 64] y) { y = Attention(q, k, v, m) }"""
    profile = {name: shapes(4, 16, 64) for name in "qkv"} | {"m": shapes(1, 16, 16)}
    message = refused(save(text, tmp_path / "g.onnx"), [profile])
    assert "cannot build it for sm_89" in message
    assert "element type (half) differs from input 1's element type (float)" in message
    assert "CUDA driver" not in message


def test_fp8_for_ampere_is_refused(tmp_path: Path) -> None:
    text = """g (float16[b, 16, 64] x) => (float16[b, 16, 64] y) {
      q = QuantizeLinear(x, scale, zero)
      xq = DequantizeLinear(q, scale, zero)
      p = QuantizeLinear(w, scale, zero)
      wq = DequantizeLinear(p, scale, zero)
      y = MatMul(xq, wq)
    }"""
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.ones((64, 64), np.float16), "w"),
            onnx.numpy_helper.from_array(np.array(0.5, np.float16), "scale"),
            onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
        ]
    )
    graph = tmp_path / "g.onnx"
    graph.write_bytes(proto.SerializeToString())
    profile = {"x": shapes(16, 64)}
    assert build_plan(graph, tmp_path / "ada", target=SM89, profiles=[profile]).bytes > 0
    assert "cannot build it for sm_86" in refused(graph, [profile], Target(name="a10", sm=86))


def test_all_that_profiles_miss_or_invent_is_named_at_once(block: tuple[Path, dict[str, np.ndarray]]) -> None:
    graph, _ = block
    message = refused(graph, [{"x": BLOCK_PROFILE["x"], "pixels": shapes(3)}, {}])
    assert "profile 0 shapes pixels, which is no input" in message
    assert "profile 0 lacks positions" in message
    assert "profile 1 lacks positions, x" in message


def test_dynamic_inputs_need_a_profile(block: tuple[Path, dict[str, np.ndarray]]) -> None:
    assert "no profile for dynamic inputs positions, x" in refused(block[0], [])


def test_a_profile_out_of_order_is_refused(block: tuple[Path, dict[str, np.ndarray]]) -> None:
    smallest, usual, largest = BLOCK_PROFILE["x"]
    message = refused(block[0], [{**BLOCK_PROFILE, "x": (largest, usual, smallest)}])
    assert "min <= opt <= max" in message


@pytest.mark.usefixtures("small_files")
def test_a_plan_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    graph = save("g (float16[b, 4, 4] x) => (float16[b, 4, 4] y) { y = Gelu(x) }", tmp_path / "g.onnx")
    with pytest.raises(OSError, match="File too large"):
        build_plan(graph, tmp_path / "g.plan", target=SM89, profiles=ONE_INPUT)
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]


def test_a_device_that_this_library_does_not_build_for(tmp_path: Path) -> None:
    graph = save("g (float16[b, 4, 4] x) => (float16[b, 4, 4] y) { y = Gelu(x) }", tmp_path / "g.onnx")
    with pytest.raises(EngineError, match=r"h100: tensorrt_rtx builds for sm_75, .*build on the device, from a kit"):
        build_plan(graph, tmp_path / "g.plan", target=Target(name="h100", sm=90), profiles=ONE_INPUT)
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"pip install 'internvl-edge\[rtx\]'"):
        build_plan(tmp_path / "g.onnx", tmp_path / "g.plan", target=SM89, profiles=[])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_plugins_is_refused_where_there_are_none(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20, "internvl": 1]> g (float16[1, 8, 192] qkv) => (float16[1, 8, 64] out)'
        "{ out = internvl.vit_attention_plain (qkv) }"
    )
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(EngineError, match=r"internvl::vit_attention_plain, and tensorrt_rtx .* --attention pattern"):
        build_plan(tmp_path / "graph.onnx", tmp_path / "out.plan", target=SM89, profiles=[])
    assert not list(tmp_path.glob("*.plan*"))
