"""Attention in blocks: the same values, and only where the other kernel has nothing to add and gains nothing."""

from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.lowering.flash_attention import FEWEST_ROWS, WIDEST_HEAD
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from tests.tolerances import SUMMED_IN_BLOCKS
from tests.unit.runtime.lowered_graphs import lowered_model, op_types, reference, write_graph

TEXT = """
attend (float[batch, {rows}, {width}] x) => (float[batch, {rows}, {width}] y)
<float[batch, {rows}, {width}] q, float[batch, {rows}, {width}] k, float[batch, {rows}, {width}] v>
{{
    q = Mul(x, a)
    k = Mul(x, b)
    v = Mul(x, c)
    y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}{more}>(q, k, v{mask})
}}
"""


def attention(folder: Path, rng: np.random.Generator, **changes: object) -> Path:
    sizes: dict[str, object] = {"rows": FEWEST_ROWS, "width": 2 * WIDEST_HEAD, "heads": 2, "more": "", "mask": ""}
    sizes |= changes
    weights = {name: rng.normal(size=sizes["width"]).astype(np.float32) for name in "abc"}  # type: ignore[call-overload]
    if sizes["mask"]:
        weights["mask"] = np.tri(FEWEST_ROWS, dtype=np.float32)
    return write_graph(folder, TEXT.format(**sizes), weights)


@pytest.mark.parametrize("more", ["", ", scale = 0.5"])
def test_long_attention_is_the_same_in_blocks(tmp_path: Path, rng: np.random.Generator, more: str) -> None:
    path = attention(tmp_path, rng, more=more)
    assert op_types(lowered_model(path)) == ["Mul"] * 3 + ["MultiHeadAttention"]
    session = OnnxRuntimeSession(path, SessionOptions(threads=1))
    assert session.settings["attentions in blocks"] == "1"
    x = rng.normal(size=(2, FEWEST_ROWS, 2 * WIDEST_HEAD)).astype(np.float32)
    (expected,) = reference(path, {"x": x})
    np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=0, atol=SUMMED_IN_BLOCKS)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": FEWEST_ROWS - 1},
        {"width": 2 * WIDEST_HEAD + 2},
        {"more": ", is_causal = 1"},
        {"more": ", softcap = 30.0"},
        {"mask": ", mask"},
    ],
    ids=["short", "wide", "causal", "capped", "masked"],
)
def test_any_other_attention_stays(tmp_path: Path, rng: np.random.Generator, changes: dict[str, object]) -> None:
    path = attention(tmp_path, rng, **changes)
    assert op_types(lowered_model(path)) == ["Mul"] * 3 + ["Attention"]
    assert "attentions in blocks" not in OnnxRuntimeSession(path, SessionOptions(threads=1)).settings


def test_sizes_that_the_file_does_not_give_are_not_guessed(tmp_path: Path, rng: np.random.Generator) -> None:
    text = TEXT.replace("<float[batch, {rows}, {width}] q, ", "<")
    weights = {name: rng.normal(size=32).astype(np.float32) for name in "abc"}
    path = write_graph(tmp_path, text.format(rows=FEWEST_ROWS, width=32, heads=2, more="", mask=""), weights)
    assert op_types(lowered_model(path)) == ["Mul"] * 3 + ["Attention"]
