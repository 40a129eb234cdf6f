"""Blocks cut out of a graph, and forms compared by the plans that come of them."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.export.dialects import PORTABLE, Dialect
from internvl_edge.export.dialects.cut_blocks import axes_profile, cut_blocks
from internvl_edge.export.plans.forms import BlockCost, Form, cheapest_form, search_forms
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.targets import find_target
from tests.unit.export.dialects.small_graphs import load, run

WIDTH, HEADS = 256, 4
BLOCK = """
  [tower_layers_{i}_norm] n{i} = RMSNormalization<epsilon = 1e-6>(x{i}, gain)
  [tower_layers_{i}_qkv] p{i} = MatMul(n{i}, w)
  [tower_layers_{i}_split] q{i}, k{i}, v{i} = Split<axis = 2, num_outputs = 3>(p{i})
  [tower_layers_{i}_attention] a{i} = Attention<q_num_heads = 4, kv_num_heads = 4>(q{i}, k{i}, v{i})
  [tower_layers_{i}_add] x{j} = Add(x{i}, a{i})"""


def tower(blocks: int, dtype: type[np.generic] = np.float32) -> ir.Model:
    """A tower of `blocks` blocks between an embedding and a head."""
    kind = {np.float32: "float", np.float16: "float16"}[dtype]
    text = f"""g ({kind}[batch, 32, {WIDTH}] pixels, {kind}[{WIDTH}] gain, {kind}[{WIDTH}, {3 * WIDTH}] w)
    => ({kind}[batch, 32, {WIDTH}] y) {{
      [embed] x0 = Relu(pixels){"".join(BLOCK.format(i=i, j=i + 1) for i in range(blocks))}
      [head] y = Relu(x{blocks})
    }}"""
    rng = np.random.default_rng(1)
    weight = (rng.normal(size=(WIDTH, 3 * WIDTH)) / 16).astype(dtype)
    model = load(text, gain=rng.normal(size=WIDTH).astype(dtype), w=weight)
    for node in model.graph:
        node.name = str(node.name).replace("_", ".")  # ONNX text has no dots in names
    return model


def test_the_middle_blocks_are_cut_out_and_compute_the_same(rng: np.random.Generator) -> None:
    whole = tower(5)
    part, middle = cut_blocks(whole)
    assert middle == "tower.layers.2"
    assert [value.name for value in part.graph.inputs] == ["x1"]
    assert [value.name for value in part.graph.outputs] == ["x4"]
    states = rng.normal(size=(2, 32, WIDTH)).astype(np.float32)
    only = tower(3)
    expected = run(only, {"pixels": np.abs(states)})[0]
    np.testing.assert_allclose(run(part, {"x1": np.abs(states)})[0].clip(0), expected, atol=1e-5)


def test_too_few_blocks_are_said() -> None:
    with pytest.raises(EngineError, match="has 2 blocks, 3 are needed"):
        cut_blocks(tower(2))


def test_sums_of_axes_get_the_sums_of_their_ranges() -> None:
    model = load("g (float[b, past, 4] x, float[b, n] m) => (float[b, past, 4] y) { y = Relu(x) }")
    model.graph.inputs[1].shape = ir.Shape(["b", "past + n"])
    ranges = {"b": (1, 1, 8), "past": (96, 112, 176), "n": (1, 1, 1)}
    found = axes_profile(model, ranges)
    assert found == {"x": ((1, 96, 4), (1, 112, 4), (8, 176, 4)), "m": ((1, 97), (1, 113), (8, 177))}
    with pytest.raises(EngineError, match="no range for axes n, past; give"):
        axes_profile(model, {"b": (1, 1, 8)})


def form(launches: int, moved: int | None) -> Form:
    return Form(
        dialect=PORTABLE, block="b", costs=(BlockCost(launches=launches, bytes=moved, kernels=("k",) * launches),)
    )


def test_the_leanest_of_few_launches() -> None:
    forms = [form(9, 300), form(10, 200), form(11, 100), form(10, None)]
    assert cheapest_form(forms) is forms[0]
    assert cheapest_form(forms, 10) is forms[1]
    assert cheapest_form(forms, 11) is forms[2]
    assert cheapest_form(forms, 8) is forms[0]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Form], Path]:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    folder = tmp_path_factory.mktemp("forms")
    part, middle = cut_blocks(tower(3, np.float16))
    profiles = [axes_profile(part, {"batch": (1, 1, 4)})]
    dialects = (Dialect(), Dialect(attention="pattern"), Dialect(attention="pattern", scale="gain"), PORTABLE)
    return search_forms(part, middle, folder, target=find_target("sm_89"), profiles=profiles, forms=dialects), folder


def test_forms_are_ranked_by_what_their_plans_show(found: tuple[list[Form], Path]) -> None:
    forms, folder = found
    assert len(forms) == 4
    assert [f.launches for f in forms] == sorted(f.launches for f in forms)
    for each in forms:
        (cost,) = each.costs
        assert cost.launches == len(cost.kernels) >= 3
        assert any("mha" in kernel for kernel in cost.kernels)
        assert cost.bytes is not None
        assert cost.bytes > 2 * 3 * WIDTH * WIDTH  # the weight in fp16 is read at least
    assert list(folder.iterdir()) == []


def test_forms_that_are_one_graph_cost_the_same(found: tuple[list[Form], Path]) -> None:
    """No norm stands before q: the gain form is the pattern on q."""
    by_scale = {
        f.dialect.scale: f.costs for f in found[0] if f.dialect.attention == "pattern" and f.dialect != PORTABLE
    }
    assert by_scale["gain"] == by_scale["query"]


def test_the_record_is_json(found: tuple[list[Form], Path]) -> None:
    record = json.loads(json.dumps(found[0][0].record()))
    assert record["costs"][0]["launches"] == found[0][0].launches
    assert Dialect(**record["dialect"]) == found[0][0].dialect


def test_a_target_that_builds_no_form_says_why(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    part, middle = cut_blocks(tower(3, np.float16))
    with pytest.raises(EngineError, match=r"no form of it builds for sm_89: .*no profile for dynamic inputs x0"):
        search_forms(part, middle, tmp_path, target=find_target("sm_89"), profiles=[], forms=[Dialect()])
