"""Every intermediate is measured and then rounded to its type, as NumPy does after each operation."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.export.check.verify_graph import onnx_outputs
from internvl_edge.export.models.layers import MASKED
from internvl_edge.export.numerics.reach import HEADROOM, MASKED_LIMIT, Reach, most, run_rounded
from internvl_edge.export.numerics.round_values import rounded
from internvl_edge.runtime.errors import VerificationError
from tests.unit.export.dialects.small_graphs import load, ops

CHAIN = """g (float16[b, 8] x, float16[8] w) => (float16[b, 8] y) {
  [square] a = Mul(x, x)
  [shrink] c = Mul(a, w)
  [sum] y = Add(c, x)
}"""
SELF_ATTENTION = """g (float16[b, n, 8] x, float16[8, 8] wq) => (float16[b, n, 8] y) {
  [attn_q] q = MatMul(x, wq)
  [attn_Attention] y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, x)
}"""
MASKED_ATTENTION = """g (float16[b, n, 8] x, bool[b, 1, n, n] allowed, float16 open, float16 shut)
=> (float16[b, n, 8] y) {
  mask = Where(allowed, open, shut)
  [attn_Attention] y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x, mask)
}"""
POOL = """g (float16[b, 16, 8] x, int64[1] axes) => (float16[b, 1, 8] y) {
  [pool_ReduceMean] y = ReduceMean<keepdims = 1>(x, axes)
}"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "g.onnx"


def _saved(file: Path, text: str, **initializers: np.ndarray) -> Path:
    ir.save(load(text, **initializers), file)
    return file


def _by_place(reached: list[Reach]) -> dict[str, Reach]:
    return {reach.place: reach for reach in reached}


def test_pictures_that_overflow_after_verification_are_an_error(file: Path) -> None:
    """The accuracy of a graph is measured on more pictures than it was verified on: inf must not count as an answer."""
    _saved(file, CHAIN, w=np.full(8, 0.01, np.float16))
    assert np.isfinite(onnx_outputs(file, {"x": np.full((1, 8), 200, np.float32)})["y"]).all()
    with pytest.raises(VerificationError, match=r"g\.onnx: overflows .* square reaches 9e\+04 of 65504; .*--samples"):
        onnx_outputs(file, {"x": np.full((1, 8), 300, np.float32)})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["fp16", "bf16"])
def test_outputs_are_those_of_arithmetic_in_the_type(file: Path, rng: np.random.Generator, dtype: type) -> None:
    """Fused in fp32, as ONNX Runtime has it, the square would keep digits that the type drops."""
    text = CHAIN if dtype == np.float16 else CHAIN.replace("float16", "bfloat16")
    x, w = rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=8).astype(dtype)
    found, _ = run_rounded(_saved(file, text, w=w), {"x": x})
    low = x.astype(dtype)
    expected = (low * low).astype(dtype) * w + low
    np.testing.assert_array_equal(found["y"], expected.astype(np.float32))
    unrounded = low.astype(np.float32) ** 2 * w.astype(np.float32) + low.astype(np.float32)
    assert np.abs(found["y"] - unrounded).max() > 0


def test_ranges_are_those_before_rounding(file: Path) -> None:
    x = np.array([[1, -300, 2, 0, 0, 0, 0, 0]], np.float32)
    w = np.full(8, 0.5, np.float16)
    reached = _by_place(run_rounded(_saved(file, CHAIN, w=w), {"x": x})[1])
    assert [reached[place].largest for place in ("x", "square", "shrink")] == [300, 90000, 45000]
    assert reached["sum"].largest == 44992 - 300  # the product as fp16 holds it, in steps of 32
    assert reached["square"].overflows
    assert not reached["shrink"].overflows


def test_what_lies_behind_an_overflow_is_measured_too(file: Path) -> None:
    """As if the node in front were kept in fp32: one pass finds all places, and nothing becomes NaN."""
    x = np.array([[1e3, -1e3, 1, 0, 0, 0, 0, 0]], np.float32)
    found, reached = run_rounded(_saved(file, CHAIN, w=np.full(8, 1e-3, np.float16)), {"x": x})
    by_place = _by_place(reached)
    assert by_place["square"].largest == 1e6
    assert by_place["shrink"].largest == pytest.approx(1e6 * float(np.float16(1e-3)))
    assert np.isfinite(found["y"]).all()


def test_a_graph_in_fp32_is_left_alone() -> None:
    model = load(CHAIN.replace("float16", "float"), w=np.ones(8, np.float32))
    text = str(ir.to_proto(model))
    found = rounded(model)
    assert found.measured == ()
    assert str(ir.to_proto(found.model)) == text


def test_values_of_an_fp16_graph_that_are_fp32_are_not_rounded() -> None:
    text = CHAIN.replace(
        "[sum] y = Add(c, x)", "wide = Cast<to = 1>(c)\n  root = Sqrt(wide)\n  y = Cast<to = 10>(root)"
    )
    found = rounded(load(text, w=np.ones(8, np.float16)))
    assert [item.value for item in found.measured] == ["a", "c", "y"]
    assert ops(found.model).count("Cast") == 2 + 1 + 2 * 3  # those of the graph, the weight's, and two a rounding


def test_scores_inside_attention_are_measured(file: Path, rng: np.random.Generator) -> None:
    x = (200 * rng.normal(size=(1, 3, 8))).astype(np.float16).astype(np.float32)
    reached = _by_place(run_rounded(_saved(file, SELF_ATTENTION, wq=np.eye(8, dtype=np.float16)), {"x": x})[1])
    heads = x.reshape(3, 2, 4).transpose(1, 0, 2)
    scores = (heads * 0.5) @ heads.transpose(0, 2, 1)
    found = reached["attn_Attention (scores)"]
    assert found.largest == pytest.approx(np.abs(scores).max(), rel=1e-3)
    assert found.largest > found.limit == 65504
    assert reached["attn_Attention"].value == "y"
    assert reached["attn_Attention"].largest == pytest.approx(np.abs(x).max(), rel=1e-3)


def test_scores_under_a_mask_may_not_outweigh_it(file: Path, rng: np.random.Generator) -> None:
    """The mask itself reaches 30000 by construction, and counts for nothing."""
    x = rng.normal(size=(1, 3, 8)).astype(np.float32)
    numbers = {"open": np.float16(0), "shut": np.float16(MASKED)}
    graph = _saved(file, MASKED_ATTENTION, **{name: np.array(value) for name, value in numbers.items()})
    reached = _by_place(run_rounded(graph, {"x": x, "allowed": np.tri(3, dtype=bool)[None, None]})[1])
    assert reached["attn_Attention (scores)"].limit == MASKED_LIMIT == 15000
    assert max(reach.largest for reach in reached.values()) < 100
    assert not any("masked" in place for place in reached)


def test_the_sum_of_a_mean_counts(file: Path) -> None:
    x = np.full((1, 16, 8), 5000, np.float32)
    reached = _by_place(run_rounded(_saved(file, POOL, axes=np.array([1])), {"x": x})[1])
    assert reached["pool_ReduceMean"].largest == 5000
    assert reached["pool_ReduceMean (sum)"].largest == 16 * 5000
    assert reached["pool_ReduceMean (sum)"].overflows


@pytest.mark.parametrize(
    ("largest", "near", "over"),
    [(65504 / HEADROOM, False, False), (65505 / HEADROOM, True, False), (65504, True, False), (65505, True, True)],
)
def test_the_margin(largest: float, near: bool, over: bool) -> None:
    reach = Reach(value="v", node="n", inside="", largest=largest, limit=65504.0)
    assert (reach.is_near, reach.overflows) == (near, over)


@pytest.mark.parametrize("largest", [np.inf, np.nan])
def test_what_fp32_does_not_hold_is_no_matter_of_islands(largest: float) -> None:
    reach = Reach(value="v", node="n", inside="", largest=largest, limit=65504.0)
    assert (reach.is_near, reach.overflows) == (False, False)


def test_the_closest_value_is_told_by_its_limit() -> None:
    far = Reach(value="a", node="a", inside="", largest=20000, limit=65504)
    close = Reach(value="b", node="b", inside="scores", largest=9000, limit=MASKED_LIMIT)
    assert most([far, close]) == close
    assert most([]) is None
