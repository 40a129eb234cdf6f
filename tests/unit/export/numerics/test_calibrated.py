"""Ranges of calibration, for the values of a graph that carry them: as smoothing leaves them."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.calib.qdq.fp8_attention import QuantizeAttentionPass
from internvl_edge.calib.ranges.magnitudes import Magnitudes
from internvl_edge.calib.ranges.observer import Statistics
from internvl_edge.calib.ranges.stored import Ranges, RangesInfo, save_block
from internvl_edge.calib.recipes.decide import Decision, Rules
from internvl_edge.calib.recipes.recipe import AttentionRange, Recipe
from internvl_edge.calib.sites import Site
from internvl_edge.export.numerics.calibrated import calibrated_reach
from internvl_edge.runtime.numbers.formats import QUANTIZED
from tests.unit.export.dialects.small_graphs import load

BLOCK = "vision_model.encoder.layers.0"
TEXT = f"""vision (float16[b, n, 4] x, float16[4, 4] w, float16 s, int8 z) => (float16[b, n, 4] y) {{
  ["{BLOCK}.attn/Attention"] a = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x)
  ["{BLOCK}.attn.proj/Q"] q = QuantizeLinear(a, s, z)
  ["{BLOCK}.attn.proj/DQ"] d = DequantizeLinear(q, s, z)
  ["{BLOCK}.attn.proj"] p = MatMul(d, w)
  ["{BLOCK}.mlp.fc1"] f = MatMul(p, w)
  ["{BLOCK}/Add"] r = Add(f, x)
  ["head"] y = Identity(r)
}}"""
SEEN = {
    "attn.proj": [4.0, 8.0, 2.0, 2.0],
    "attn.q": [1.0, 3.0, 1.0, 1.0],
    "attn.k": [5.0, 1.0, 1.0, 1.0],
    "attn.v": [6.0, 8.0, 1.0, 1.0],
    "mlp.fc1": [7.0, 1.0, 1.0, 1.0],
    "mlp.fc2": [99.0, 1.0, 1.0, 1.0],
    "residual": [60000.0, 1.0, 1.0, 1.0],
}
SMOOTHING = np.array([1, 4, 1, 1], np.float32)


def statistics(amax: list[float]) -> Statistics:
    return Statistics(
        amax=np.array(amax, np.float32),
        mean=np.zeros(4, np.float32),
        counted_rows=1,
        magnitudes=Magnitudes(),
        rows=np.zeros((1, 4), np.float32),
        curve=np.zeros(1, np.float32),
        token_amax=1.0,
        token_median=1.0,
    )


@pytest.fixture
def ranges(tmp_path: Path) -> Ranges:
    save_block(tmp_path, BLOCK, {("vision", f"{BLOCK}.{name}"): statistics(amax) for name, amax in SEEN.items()})
    info = RangesInfo(
        checkpoint="m",
        fingerprint="f",
        image_size=8,
        data=(),
        method="auto",
        compute="fp32",
        producer={},
        code="c",
        graphs=("vision",),
        blocks=(BLOCK,),
    )
    return Ranges(tmp_path, info)


@pytest.fixture
def model() -> ir.Model:
    constant = {"w": np.eye(4, dtype=np.float16), "s": np.array(0.5, np.float16), "z": np.array(0, np.int8)}
    return load(TEXT, **constant)


def recipe(quantized: bool) -> Recipe:
    name = f"{BLOCK}.attn.proj"
    decision = Decision(
        site=Site(name=name, linears=(name,), tower="vision", block=0, kind="proj", channels=4, fold=None),
        alpha=0.5,
        smoothing=SMOOTHING,
        smoothing_errors={},
        clips={},
        quantized=quantized,
        reason="",
        prescription="",
    )
    return Recipe(rules=Rules(precision=QUANTIZED["int8"], dtype="float16"), decisions=(decision,), attention={})


@pytest.mark.parametrize(("quantized", "projected"), [(True, 4.0), (False, 8.0)])
def test_every_value_that_calibration_saw(model: ir.Model, ranges: Ranges, quantized: bool, projected: float) -> None:
    """Smoothing by 4 brings the second channel of v, and of what the projection reads, from 8 to 2."""
    found = {reach.value: reach.largest for reach in calibrated_reach(model, ranges, recipe(quantized))}
    assert found == {"a": projected, "x": 6.0 if quantized else 8.0, "p": 7.0, "r": 60000.0}


def test_an_attention_in_8_bits_is_no_node_whose_inputs_could_overflow(model: ir.Model, ranges: Ranges) -> None:
    """Its products replace it. The last node of them has its name, but two inputs."""
    held = AttentionRange(q=3.0, k=5.0, v=8.0)
    assert QuantizeAttentionPass({f"{BLOCK}.attn": held})(model).modified
    found = {reach.value: reach.largest for reach in calibrated_reach(model, ranges, recipe(True))}
    assert found == {"a": 4.0, "p": 7.0, "r": 60000.0}


def test_the_value_its_node_and_its_limit(model: ir.Model, ranges: Ranges) -> None:
    found = {
        (reach.value, reach.node, reach.inside, reach.limit) for reach in calibrated_reach(model, ranges, recipe(True))
    }
    assert found == {
        ("a", f"{BLOCK}.attn/Attention", "", 65504.0),
        ("x", "x", "", 65504.0),
        ("p", f"{BLOCK}.attn.proj", "", 65504.0),
        ("r", f"{BLOCK}/Add", "", 65504.0),
    }


def test_what_is_not_of_16_bits_needs_no_look(ranges: Ranges) -> None:
    wide = load(
        TEXT.replace("float16", "float"),
        w=np.eye(4, dtype=np.float32),
        s=np.array(0.5, np.float32),
        z=np.array(0, np.int8),
    )
    assert calibrated_reach(wide, ranges, recipe(True)) == []


def test_a_graph_that_was_not_measured(model: ir.Model, ranges: Ranges) -> None:
    model.graph.name = "text"
    assert calibrated_reach(model, ranges, recipe(True)) == []
