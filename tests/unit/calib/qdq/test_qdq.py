"""Q/DQ in a graph: where the nodes stand, what stays untouched, and outputs that are those of fake quantization."""

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from internvl_edge.calib.formats import scale_of
from internvl_edge.calib.qdq.insert import FoldLayerScalePass, InsertQdqPass, quantize_graph
from internvl_edge.calib.recipes.decide import Clip, Decision, Rules
from internvl_edge.calib.recipes.recipe import LinearWeights, Recipe
from internvl_edge.calib.sites import Site
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.numbers.formats import FP8, INT8, QUANTIZED, Format

Arrays = dict[str, np.ndarray]
both = pytest.mark.parametrize("form", [row.weights for row in QUANTIZED.values()], ids=list(QUANTIZED))

BLOCK = """<ir_version: 11, opset_import: ["": 23]>
g (float[b, 3, 8] x, float[6, 8] q_weight, float[6, 8] k_weight, float[8, 6] fc_weight, float[8] fc_bias, float[8] ls)
=> (float[b, 3, 6] a, float[b, 3, 6] c, float[b, 3, 8] y) {
  q_turned = Transpose<perm = [1, 0]>(q_weight)
  [q] a = MatMul(x, q_turned)
  k_turned = Transpose<perm = [1, 0]>(k_weight)
  [k] c = MatMul(x, k_turned)
  r = Mul(a, c)
  fc_turned = Transpose<perm = [1, 0]>(fc_weight)
  [fc] p = MatMul(r, fc_turned)
  o = Add(p, fc_bias)
  scaled = Mul(o, ls)
  [residual] y = Add(x, scaled)
}"""
"""Two linears on one tensor, then one with a bias and a layer scale, on the residual stream."""

HEAD = """<ir_version: 11, opset_import: ["": 23]>
g (float[b, 1, 8] x, float[10, 8] head_weight) => (float[b, 10] y) {
  axes = Constant<value_ints = [1]>()
  turned = Transpose<perm = [1, 0]>(head_weight)
  [head] p = MatMul(x, turned)
  y = Squeeze(p, axes)
}"""

SITES = {"q": ("q", "k"), "fc": ("fc",), "head": ("head",)}
AMAX = {"q": 2.0, "fc": 3.0, "head": 2.5}
"""Clips: some values of each tensor lie beyond."""


@pytest.fixture
def weights(rng: np.random.Generator) -> Arrays:
    shapes = {
        "q.weight": (6, 8),
        "k.weight": (6, 8),
        "fc.weight": (8, 6),
        "fc.bias": (8,),
        "ls": (8,),
        "head.weight": (10, 8),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, 3, 8)).astype(np.float32)


def load(text: str, weights: Arrays) -> ir.Model:
    """Return the graph with its weights as initializers, which have the type of its input."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    held = model.graph.inputs[1:]
    del model.graph.inputs[1:]
    for value in held:
        assert value.dtype is not None
        value.name = str(value.name).replace("_", ".")
        value.const_value = ir.tensor(weights[value.name].astype(value.dtype.numpy()), name=value.name)
        model.graph.register_initializer(value)
    return model


def run(model: ir.Model, x: np.ndarray, *, as_written: bool = False) -> list[np.ndarray]:
    """Run it; `as_written` keeps ONNX Runtime from quantizing the inputs of products that have a quantized weight."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def decision(name: str, form: Format, *, quantized: bool = True, multiple: int = 1) -> Decision:
    site = Site(
        name=name,
        linears=SITES[name],
        tower="qllama",
        block=0,
        kind=name,
        channels=6 if name == "fc" else 8,
        fold=None,
        layer_scale="ls" if name == "fc" else None,
        row_multiple=multiple,
    )
    clip = Clip(
        threshold=AMAX[name],
        scale=AMAX[name] / form.largest,
        method="max",
        clipped_share=0.0,
        sqnr_db=30.0,
        errors={"max": 1e-3},
    )
    return Decision(
        site=site,
        alpha=None,
        smoothing=None,
        smoothing_errors={},
        clips={"g": clip},
        quantized=quantized,
        reason="a linear of a block",
        prescription="none",
    )


def row_scales(weight: np.ndarray, form: Format) -> np.ndarray:
    return scale_of(torch.from_numpy(weight).abs().amax(dim=1), form, "float32").numpy()


def recipe(form: Format, weights: Arrays, decisions: Sequence[Decision]) -> Recipe:
    """Return the recipe whose scales are the rows' own."""
    found = {}
    for made in decisions:
        for path in made.site.linears if made.quantized else ():
            rows = padded(stored(weights)[f"{path}.weight"], made.site.row_multiple)
            found[path] = LinearWeights(scale=torch.from_numpy(row_scales(rows, form)))
    return Recipe(
        rules=Rules(precision=QUANTIZED[form.name], dtype="float32"), decisions=tuple(decisions), linears=found
    )


def stored(weights: Arrays) -> Arrays:
    """Return the weights as the store has them: layer scale in the rows of fc and in its bias."""
    ls = weights["ls"]
    return {**weights, "fc.weight": weights["fc.weight"] * ls[:, None], "fc.bias": weights["fc.bias"] * ls}


def padded(weight: np.ndarray, multiple: int) -> np.ndarray:
    return np.pad(weight, ((0, -len(weight) % multiple), (0, 0)))


def codes(values: np.ndarray, scale: np.ndarray | float, form: Format, lowest: float) -> np.ndarray:
    scaled = np.clip(values / np.asarray(scale, np.float32), lowest, form.largest)
    return np.rint(scaled).astype(np.int8) if form.name == "int8" else scaled.astype(ml_dtypes.float8_e4m3fn)


def fake(values: np.ndarray, scale: float, form: Format) -> np.ndarray:
    """Return what a tensor's Q and DQ give back; int8 nodes saturate at -128."""
    lowest = {"int8": -128.0, "fp8": -448.0}[form.name]
    return codes(values, scale, form, lowest).astype(np.float32) * np.float32(scale)


def rounded(weight: np.ndarray, form: Format) -> np.ndarray:
    """Return what a weight's codes stand for, row by row."""
    scales = row_scales(weight, form)[:, None]
    return codes(weight, scales, form, -form.largest).astype(np.float32) * scales


def attach(model: ir.Model, recipe: Recipe, values: Arrays) -> ir.Model:
    """Put codes, scales and parameters where the pass has left placeholders, as the weight store does."""
    found: Arrays = dict(values)
    for path, linear in recipe.linears.items():
        scales = linear.scale.numpy()
        rows = np.pad(values[f"{path}.weight"], ((0, len(scales) - len(values[f"{path}.weight"])), (0, 0)))
        found[f"{path}.weight"] = codes(rows, scales[:, None], recipe.weights, -recipe.weights.largest)
        found[f"{path}.weight_scale"] = scales
    for name, value in model.graph.initializers.items():
        if name in found:
            held = found[name]
            assert value.dtype is not None
            assert value.shape == held.shape
            kept = held if held.dtype.itemsize == 1 else held.astype(value.dtype.numpy())
            assert ir.tensor(kept).dtype == value.dtype
            value.const_value = ir.tensor(kept, name=name)
    return model


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type not in ("Constant", "Transpose")]


def named(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def expected(x: np.ndarray, weights: Arrays, form: Format) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the outputs of `BLOCK` in NumPy, with both sites quantized and the layer scale folded."""
    kept = stored(weights)
    read = fake(x, AMAX["q"] / form.largest, form)
    a, c = (read @ rounded(kept[f"{path}.weight"], form).T for path in "qk")
    mixed = fake(a * c, AMAX["fc"] / form.largest, form)
    return a, c, x + mixed @ rounded(kept["fc.weight"], form).T + kept["fc.bias"]


class TestInsert:
    @both
    def test_outputs_are_those_of_fake_quantization(self, form: Format, weights: Arrays, x: np.ndarray) -> None:
        asked = recipe(form, weights, [decision("q", form), decision("fc", form)])
        model = load(BLOCK, weights)
        assert quantize_graph(model, asked) is model
        found = run(attach(model, asked, stored(weights)), x)
        for output, wanted in zip(found, expected(x, weights, form), strict=True):
            np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)  # order of summation
        plain = run(load(BLOCK, weights), x)
        assert np.abs(found[2] - plain[2]).max() > 1e-3, "nothing was rounded"

    def test_linears_of_a_site_share_one_quantizer(self, weights: Arrays) -> None:
        form = INT8
        model = load(BLOCK, weights)
        insert = InsertQdqPass(recipe(form, weights, [decision("q", form), decision("fc", form)]), "g")
        assert insert(model).modified
        assert ops(model).count("QuantizeLinear") == 2
        assert ops(model).count("DequantizeLinear") == 2 + 3
        q, k = named(model, "q"), named(model, "k")
        assert q.inputs[0] is k.inputs[0] is named(model, "q/DequantizeLinear").outputs[0]
        first = named(model, "q/QuantizeLinear")
        assert first.inputs[0] is model.graph.inputs[0]
        assert list(named(model, "q/DequantizeLinear").inputs[1:]) == list(first.inputs[1:])
        assert named(model, "residual").inputs[0] is model.graph.inputs[0], "the residual stream is not quantized"

    @both
    def test_weights_become_placeholders_of_codes_with_a_scale_a_row(self, form: Format, weights: Arrays) -> None:
        model = load(BLOCK, weights)
        InsertQdqPass(recipe(form, weights, [decision("q", form)]), "g")(model)
        held = model.graph.initializers
        kind = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}[form.name]
        for name, dtype, shape in (
            ("q.weight", kind, (6, 8)),
            ("q.weight_scale", ir.DataType.FLOAT, (6,)),
            ("q.input_zero_point", kind, ()),
            ("q.input_scale", ir.DataType.FLOAT, ()),
        ):
            assert (held[name].dtype, held[name].shape) == (dtype, shape), name
        assert isinstance(held["q.weight"].const_value, ir.ExternalTensor)
        assert isinstance(held["q.weight_scale"].const_value, ir.ExternalTensor)
        assert held["q.input_scale"].const_value is not None
        assert float(held["q.input_scale"].const_value.numpy()) == np.float32(AMAX["q"] / form.largest)
        assert named(model, "q.weight/DequantizeLinear").attributes.get_int("axis") == 0
        assert held["fc.weight"].dtype == ir.DataType.FLOAT, "its site is not in the recipe"

    def test_a_second_run_changes_nothing(self, weights: Arrays) -> None:
        form = INT8
        asked = recipe(form, weights, [decision("q", form), decision("fc", form), decision("head", form, multiple=16)])
        for text in (BLOCK, HEAD):
            model = load(text, weights)
            insert = InsertQdqPass(asked, "g")
            assert insert(model).modified
            before = serialized(model)
            assert not insert(model).modified
            assert serialized(model) == before

    def test_what_stays_high_is_untouched(self, weights: Arrays) -> None:
        form = INT8
        high = recipe(form, weights, [decision("q", form, quantized=False)])
        for asked, graph in ((high, "g"), (high, "another graph"), (recipe(form, weights, []), "g")):
            model = load(BLOCK, weights)
            before = serialized(model)
            assert not InsertQdqPass(asked, graph)(model).modified
            assert serialized(model) == before

    @both
    def test_a_graph_that_was_not_measured_reads_the_codes_of_weights_that_it_shares(
        self, form: Format, weights: Arrays, x: np.ndarray
    ) -> None:
        asked = recipe(form, weights, [decision("q", form), decision("fc", form)])
        model = load(BLOCK, weights)
        FoldLayerScalePass(frozenset(["ls"]))(model)
        insert = InsertQdqPass(asked, "another graph")
        assert insert(model).modified
        assert ops(model).count("QuantizeLinear") == 0
        assert ops(model).count("DequantizeLinear") == 3
        before = serialized(model)
        assert not insert(model).modified
        assert serialized(model) == before
        kept = stored(weights)
        a, c = (x @ rounded(kept[f"{path}.weight"], form).T for path in "qk")
        y = x + (a * c) @ rounded(kept["fc.weight"], form).T + kept["fc.bias"]
        found = run(attach(model, asked, kept), x, as_written=True)
        for output, wanted in zip(found, (a, c, y), strict=True):
            np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)  # order of summation

    def test_a_site_of_another_graph_is_passed_over(self, weights: Arrays) -> None:
        form = INT8
        assert not InsertQdqPass(recipe(form, weights, [decision("head", form)]), "g")(load(BLOCK, weights)).modified

    def test_a_linear_that_reads_another_tensor_is_refused(self, weights: Arrays) -> None:
        form = INT8
        text = BLOCK.replace("  [k] c = MatMul(x,", "  other = Relu(x)\n  [k] c = MatMul(other,")
        model = load(text, weights)
        with pytest.raises(CalibrationError, match="g: q, k do not read one tensor; report this graph"):
            InsertQdqPass(recipe(form, weights, [decision("q", form)]), "g")(model)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("[fc] p = MatMul(r, fc_turned)", "[fc] p = MatMul(r, fc_weight)"),
            ("fc_turned = Transpose<perm = [1, 0]>(fc_weight)", "fc_turned = Identity(fc_weight)"),
            ("fc_turned = Transpose<perm = [1, 0]>(fc_weight)", "fc_turned = Transpose<perm = [1, 0]>(k_weight)"),
        ],
    )
    def test_a_product_with_anything_but_its_transposed_weight_is_refused(
        self, old: str, new: str, weights: Arrays
    ) -> None:
        form = INT8
        square = BLOCK.replace(old, new).replace("float[8, 6] fc_weight", "float[6, 8] fc_weight")
        kept = {**weights, "fc.weight": weights["fc.weight"].T.copy()}
        asked = recipe(form, weights, [decision("fc", form)])
        with pytest.raises(CalibrationError, match="g: fc is no product with its transposed weight"):
            InsertQdqPass(asked, "g")(load(square, kept))


class TestPadding:
    @both
    def test_padded_rows_are_cut_off_the_product(self, form: Format, weights: Arrays, x: np.ndarray) -> None:
        asked = recipe(form, weights, [decision("head", form, multiple=16)])
        model = load(HEAD, weights)
        assert InsertQdqPass(asked, "g")(model).modified
        assert model.graph.initializers["head.weight"].shape == (16, 8)
        assert named(model, "head").outputs[0].shape[-1] == 16  # type: ignore[index]
        assert ops(model)[-3:] == ["MatMul", "Slice", "Squeeze"]
        rows = x[:, :1]
        found = run(attach(model, asked, weights), rows)[0]
        wanted = fake(rows[:, 0], AMAX["head"] / form.largest, form) @ rounded(weights["head.weight"], form).T
        assert found.shape == (len(x), 10)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)

    def test_a_product_of_a_matrix_is_cut_along_its_rows_too(self, weights: Arrays, x: np.ndarray) -> None:
        asked = recipe(INT8, weights, [decision("head", INT8, multiple=16)])
        text = HEAD.replace("[head] p =", "[head] y =").replace("  y = Squeeze(p, axes)\n", "")
        model = load(text.replace("float[b, 1, 8] x", "float[b, 8] x"), weights)
        InsertQdqPass(asked, "g")(model)
        found = run(attach(model, asked, weights), x[:, 0])[0]
        wanted = fake(x[:, 0], AMAX["head"] / INT8.largest, INT8) @ rounded(weights["head.weight"], INT8).T
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)

    def test_rows_that_fit_need_no_cut(self, weights: Arrays) -> None:
        form = INT8
        model = load(HEAD, weights)
        InsertQdqPass(recipe(form, weights, [decision("head", form, multiple=5)]), "g")(model)
        assert "Slice" not in ops(model)
        assert model.graph.initializers["head.weight"].shape == (10, 8)

    def test_the_name_of_an_output_is_kept(self, weights: Arrays, x: np.ndarray) -> None:
        form = INT8
        asked = recipe(form, weights, [decision("head", form, multiple=16)])
        text = HEAD.replace("[head] p =", "[head] y =").replace("  y = Squeeze(p, axes)\n", "")
        model = load(text.replace("(float[b, 10] y)", "(float[b, 1, 10] y)"), weights)
        InsertQdqPass(asked, "g")(model)
        assert [value.name for value in model.graph.outputs] == ["y"]
        assert run(attach(model, asked, weights), x[:, :1])[0].shape == (len(x), 1, 10)


class TestFoldLayerScale:
    def test_the_vector_leaves_the_graph_and_stays_in_the_function(self, weights: Arrays, x: np.ndarray) -> None:
        before = run(load(BLOCK, weights), x)
        model = load(BLOCK, weights)
        fold = FoldLayerScalePass(frozenset({"ls", "another block's"}))
        assert fold(model).modified
        assert ops(model) == ["MatMul", "MatMul", "Mul", "MatMul", "Add", "Add"]
        assert "ls" not in model.graph.initializers
        found = run(attach(model, recipe(INT8, weights, []), stored(weights)), x)
        for output, wanted in zip(found, before, strict=True):
            np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)
        assert not fold(model).modified

    def test_the_vector_may_stand_on_either_side(self, weights: Arrays, x: np.ndarray) -> None:
        model = load(BLOCK.replace("Mul(o, ls)", "Mul(ls, o)"), weights)
        assert FoldLayerScalePass(frozenset({"ls"}))(model).modified
        assert ops(model).count("Mul") == 1

    def test_other_products_stay(self, weights: Arrays) -> None:
        for text, names in ((BLOCK, {"another"}), (BLOCK.replace("Mul(o, ls)", "Add(o, ls)"), set())):
            model = load(text, weights)
            before = serialized(model)
            assert not FoldLayerScalePass(frozenset(names))(model).modified
            assert serialized(model) == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scales_have_the_type_of_the_graph(dtype: str, weights: Arrays) -> None:
    form = FP8
    model = load(BLOCK.replace("float[", f"{dtype}["), weights)
    quantize_graph(model, recipe(form, weights, [decision("q", form), decision("fc", form)]))
    kind = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}[dtype]
    scales = {name: value.dtype for name, value in model.graph.initializers.items() if name.endswith("_scale")}
    assert sorted(scales) == ["fc.input_scale", "fc.weight_scale", "k.weight_scale", "q.input_scale", "q.weight_scale"]
    assert set(scales.values()) == {kind}


@both
def test_half_precision_runs_close_to_fp32(form: Format, weights: Arrays, x: np.ndarray) -> None:
    """fp16 rounds at 5e-4 of a value; a value near the border of two codes may fall on either side: one step."""
    asked = recipe(form, weights, [decision("q", form), decision("fc", form)])
    model = load(BLOCK.replace("float[", "float16["), weights)
    quantize_graph(model, asked)
    found = run(attach(model, asked, stored(weights)), x.astype(np.float16))
    for output, wanted in zip(found, expected(x, weights, form), strict=True):
        noise = np.linalg.norm(output.astype(np.float32) - wanted) / np.linalg.norm(wanted)
        assert noise < 2e-2
