"""Which dialect a TensorRT gets, and whole graphs lowered to it."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from internvl_edge.export.dialects import FEWEST_LAUNCHES, FEWEST_LAUNCHES_8_BITS, PORTABLE, Dialect, dialect_for, lower
from internvl_edge.runtime.errors import EngineError
from tests.unit.export.dialects.small_graphs import load, ops, run

BLOCK = """g (float[b, n, 8] x, float[8] gain, float[24, 8] w) => (float[b, n, 8] y) {
  [block_norm] normed = RMSNormalization<epsilon = 1e-6>(x, gain)
  [block_turn] turned = Transpose<perm = [1, 0]>(w)
  [block_qkv] qkv = MatMul(normed, turned)
  [block_split] q, k, v = Split<axis = 2, num_outputs = 3>(qkv)
  [block_q_norm] qn = RMSNormalization<epsilon = 1e-6>(q, gain)
  [block_attn] a = Attention<q_num_heads = 2, kv_num_heads = 2>(qn, k, v)
  [block_gelu] h = Gelu(a)
  [block_add] y = Add(x, h)
}"""
NEWER = {"Attention", "RMSNormalization", "RotaryEmbedding", "Gelu"}


def test_capabilities_choose() -> None:
    assert dialect_for(attention=True) == dialect_for(attention=True, wanted="pattern") == FEWEST_LAUNCHES
    assert dialect_for(attention=True, quantized=True) == FEWEST_LAUNCHES_8_BITS
    assert dialect_for(attention=True, wanted="op") == Dialect()
    assert dialect_for(attention=False) == PORTABLE
    assert dialect_for(attention=True, opset=20) == PORTABLE


def test_an_operator_that_is_not_parsed_is_refused() -> None:
    with pytest.raises(EngineError, match="--attention op: this TensorRT does not parse"):
        dialect_for(attention=False, wanted="op")


@pytest.mark.parametrize("attention", [True, False])
def test_without_plugins_the_pattern_stands_for_them(attention: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert dialect_for(attention=attention, wanted="plugin") == dialect_for(attention=attention, wanted="pattern")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no ahead-of-time plugins" in caplog.text


def test_plugins_are_for_one_device() -> None:
    asked = dialect_for(attention=True, wanted="plugin", plugins=True, sm=90)
    assert asked == replace(FEWEST_LAUNCHES, attention="plugin", sm=90)
    older = dialect_for(attention=False, wanted="plugin", plugins=True, sm=87)
    assert (older.attention, older.sm, older.opset, older.norms) == ("plugin", 87, PORTABLE.opset, "decomposed")


def test_auto_weighs_plugins_where_there_are_any() -> None:
    chosen = dialect_for(attention=True, plugins=True, sm=90, batch=8, quantized=True)
    assert chosen == replace(FEWEST_LAUNCHES_8_BITS, attention="best", sm=90, batch=8)
    assert dialect_for(attention=True, wanted="pattern", plugins=True, sm=90) == FEWEST_LAUNCHES


def test_all_unknown_forms_are_named_at_once() -> None:
    with pytest.raises(EngineError, match=r"scale k: unknown.*norms none: unknown.*opset 16: not written"):
        Dialect(scale="k", norms="none", opset=16)


def test_a_dialect_is_its_record() -> None:
    assert Dialect(**asdict(PORTABLE)) == PORTABLE


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(),
        Dialect(attention="pattern"),
        FEWEST_LAUNCHES,
        Dialect(attention="pattern", scale="gain", keys="twice", qkv="slices", norms="decomposed"),
        PORTABLE,
    ],
)
def test_a_block_in_every_dialect(rng: np.random.Generator, dialect: Dialect) -> None:
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("gain", 8), ("w", (24, 8)))}
    feeds = {"x": rng.normal(size=(3, 5, 8)).astype(np.float32)}
    expected = run(load(BLOCK, **constants), feeds)[0]
    model = lower(load(BLOCK, **constants), dialect)
    np.testing.assert_allclose(run(model, feeds)[0], expected, atol=1e-5)  # sums of 8 products up to 10
    assert model.graph.initializers["w"].const_value is not None
    if dialect == PORTABLE:
        assert not NEWER & set(ops(model))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert [node.name for node in lower(model, dialect).graph] == names
