"""Each graph pass on a match, a near miss, a second run, and equal outputs."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from internvl_edge.export.canonical.passes.absorb_head_layout import AbsorbHeadLayoutPass
from internvl_edge.export.canonical.passes.constant_reshape import ConstantReshapePass
from internvl_edge.export.canonical.passes.drop_default_attributes import DropDefaultAttributesPass
from internvl_edge.export.canonical.passes.name_nodes import NameNodesPass

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'

HEADS = """g (float[b, 6, 8] q, float[b, 6, 8] k, float[b, 6, 8] v) => (float[b, 6, 8] y) {
  four = Constant<value_ints=[0, 0, 2, 4]>()
  three = Constant<value_ints=[0, 0, 8]>()
  q4 = Reshape(q, four)
  k4 = Reshape(k, four)
  v4 = Reshape(v, four)
  qh = Transpose<perm=[0, 2, 1, 3]>(q4)
  kh = Transpose<perm=[0, 2, 1, 3]>(k4)
  vh = Transpose<perm=[0, 2, 1, 3]>(v4)
  yh = Attention(qh, kh, vh)
  y4 = Transpose<perm=[0, 2, 1, 3]>(yh)
  y = Reshape(y4, three)
}"""


def load(text: str) -> ir.Model:
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEADER + text))
    return ir.from_proto(proto)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


def clean(model: ir.Model) -> ir.Model:
    return ir.passes.common.RemoveUnusedNodesPass()(model).model


def test_head_layout_is_absorbed_into_attention(rng: np.random.Generator) -> None:
    feeds = {name: rng.normal(size=(3, 6, 8)).astype(np.float32) for name in "qkv"}
    before = run(load(HEADS), feeds)
    model = load(HEADS)
    absorb = AbsorbHeadLayoutPass()
    assert absorb(model).modified
    assert ops(clean(model)) == ["Attention"]
    attributes = next(node for node in model.graph if node.op_type == "Attention").attributes
    assert (attributes.get_int("q_num_heads"), attributes.get_int("kv_num_heads")) == (2, 2)
    np.testing.assert_allclose(run(model, feeds)[0], before[0], atol=1e-6)
    assert not absorb(model).modified


def test_rotary_moves_to_the_packed_layout(rng: np.random.Generator) -> None:
    text = HEADS.replace("float[b, 6, 8] v)", "float[b, 6, 8] v, float[16, 2] c, float[16, 2] s, int64[b, 6] p)")
    text = text.replace("Attention(qh, kh, vh)", "Attention(qr, kr, vh)").replace(
        "  yh =", "  qr = RotaryEmbedding(qh, c, s, p)\n  kr = RotaryEmbedding(kh, c, s, p)\n  yh ="
    )
    angles = rng.normal(size=(16, 2)).astype(np.float32)
    feeds = {name: rng.normal(size=(3, 6, 8)).astype(np.float32) for name in "qkv"}
    feeds |= {"c": np.cos(angles), "s": np.sin(angles), "p": np.tile(np.arange(6)[None] + 3, (3, 1))}
    before = run(load(text), feeds)
    model = load(text)
    assert AbsorbHeadLayoutPass()(model).modified
    assert ops(clean(model)) == ["RotaryEmbedding", "RotaryEmbedding", "Attention"]
    np.testing.assert_allclose(run(model, feeds)[0], before[0], atol=1e-6)


def test_a_mask_stays_where_it_is(rng: np.random.Generator) -> None:
    text = HEADS.replace("float[b, 6, 8] v)", "float[b, 6, 8] v, float[b, 1, 6, 6] m)").replace(
        "Attention(qh, kh, vh)", "Attention(qh, kh, vh, m)"
    )
    feeds = {name: rng.normal(size=(3, 6, 8)).astype(np.float32) for name in "qkv"}
    feeds["m"] = rng.normal(size=(3, 1, 6, 6)).astype(np.float32)
    before = run(load(text), feeds)
    model = load(text)
    assert AbsorbHeadLayoutPass()(model).modified
    assert ops(clean(model)) == ["Attention"]
    np.testing.assert_allclose(run(model, feeds)[0], before[0], atol=1e-6)


def test_heads_of_an_unknown_number_stay() -> None:
    model = load(HEADS)
    reshape = next(node for node in model.graph if node.outputs[0].name == "v4")
    reshape.outputs[0].shape = ir.Shape(["b", 6, "heads", 4])
    assert not AbsorbHeadLayoutPass()(model).modified


def test_a_cache_keeps_its_heads_apart() -> None:
    text = HEADS.replace("=> (float[b, 6, 8] y)", "=> (float[b, 6, 8] y, float[b, 2, 6, 4] kh)")
    model = load(text)
    assert not AbsorbHeadLayoutPass()(model).modified


@pytest.mark.parametrize("read", ["q4", "qh", "kh", "v4", "vh", "yh", "y4"])
def test_what_someone_else_reads_per_head_stays(read: str) -> None:
    """The other reader would need the nodes that the rewrite is to save."""
    other = "(float[b, 6, 8] y, float[b, n, m, d] other) {"
    text = HEADS.replace("(float[b, 6, 8] y) {", other).replace("\n}", f"\n  other = Abs({read})\n}}")
    model = load(text)
    assert not AbsorbHeadLayoutPass()(model).modified
    assert ops(model).count("Transpose") == 4


def test_another_permutation_is_no_head_layout() -> None:
    model = load(HEADS.replace("y4 = Transpose<perm=[0, 2, 1, 3]>(yh)", "y4 = Transpose<perm=[0, 2, 3, 1]>(yh)"))
    assert not AbsorbHeadLayoutPass()(model).modified


DYNAMIC_RESHAPE = """g (float[b, n, 8] x) => (float[b, n, 2, 4] y) {
  sizes = Shape<start=0, end=2>(x)
  heads = Constant<value_ints=[2, 4]>()
  target = Concat<axis=0>(sizes, heads)
  y = Reshape(x, target)
}"""


def test_reshape_gets_a_constant_target(rng: np.random.Generator) -> None:
    feeds = {"x": rng.normal(size=(3, 5, 8)).astype(np.float32)}
    before = run(load(DYNAMIC_RESHAPE), feeds)
    model = load(DYNAMIC_RESHAPE)
    constant = ConstantReshapePass()
    assert constant(model).modified
    assert ops(clean(model)) == ["Reshape"]
    np.testing.assert_array_equal(run(model, feeds)[0], before[0])
    assert not constant(model).modified


def test_reshape_with_two_unknown_axes_stays() -> None:
    text = """g (float[b, n, 8] x, int64[4] target) => (float[c, d, 2, 4] y) { y = Reshape(x, target) }"""
    assert not ConstantReshapePass()(load(text)).modified


def test_default_attributes_go_and_others_stay() -> None:
    text = """g (float[b, 6, 8] q) => (float[b, 6, 8] y) {
      y = Attention<q_num_heads=2, kv_num_heads=2, is_causal=0, softcap=0.0, scale=0.5>(q, q, q)
    }"""
    model = load(text)
    drop = DropDefaultAttributesPass()
    assert drop(model).modified
    assert set(model.graph[0].attributes) == {"q_num_heads", "kv_num_heads", "scale"}
    assert not drop(model).modified
    assert not DropDefaultAttributesPass()(load(text.replace("is_causal=0, softcap=0.0", "is_causal=1"))).modified


def test_defaults_of_casts_and_reshapes_go_and_what_differs_stays() -> None:
    model = load("""g (float[b, 8] x) => (float16[c, 4] y, float16[d, 8] z) {
      shape = Constant<value_ints=[-1, 4]>()
      h = Cast<to=10, saturate=1>(x)
      y = Reshape<allowzero=0>(h, shape)
      z = Reshape<allowzero=1>(h, shape)
    }""")
    assert DropDefaultAttributesPass()(model).modified
    assert [sorted(node.attributes) for node in model.graph] == [["value_ints"], ["to"], [], ["allowzero"]]


def test_nodes_are_named_by_the_module_that_owns_the_weight() -> None:
    text = """g (float[b, 8] x, float[4, 8] w) => (float[b, 4] z) {
      t = Transpose<perm=[1, 0]>(w)
      y = MatMul(x, t)
      z = Relu(y)
    }"""
    model = load(text)
    weight = model.graph.inputs.pop(1)
    weight.name = "tower.qkv.weight"
    weight.const_value = ir.tensor(np.ones((4, 8), np.float32), name=weight.name)
    model.graph.register_initializer(weight)
    for node in model.graph:
        scopes = ["", "tower", "tower.qkv", "linear"] if node.op_type != "Relu" else ["", "tower", "relu"]
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(scopes)
    name = NameNodesPass()
    assert name(model).modified
    assert [node.name for node in model.graph] == ["tower.qkv/Transpose", "tower.qkv", "tower/Relu"]
    assert not name(model).modified


@pytest.mark.parametrize("graph_pass", [AbsorbHeadLayoutPass(), ConstantReshapePass(), DropDefaultAttributesPass()])
def test_a_graph_without_a_match_is_left_alone(graph_pass: ir.passes.InPlacePass) -> None:
    assert not graph_pass(load("g (float[b, 8] x) => (float[b, 8] y) { y = Relu(x) }")).modified
