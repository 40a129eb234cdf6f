"""The cache in ONNX Runtime's own buffers against the one of arrays, on a decoder of one concatenation."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.array_cache import ArrayCache, move_rows, open_cache
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from internvl_edge.runtime.backends.onnxruntime_cache import OnnxRuntimeCache
from internvl_edge.runtime.backends.session import CacheSession
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import COMPUTE, Stages

DECODER = """
<ir_version: 10, opset_import: ["": 23]>
decoder (int64[batch, length] input_ids, int64[batch, total] attention_mask, int64[batch, length] position_ids,
         float16[batch, 2, past, 3] past_key_values_0_key)
=> (float[batch, 3] logits, float16[batch, 2, total, 3] present_0_key)
{
    axes = Constant<value = int64[2] {1, 3}>()
    places = Add(input_ids, position_ids)
    column = Unsqueeze(places, axes)
    wide = Cast<to = 10>(column)
    shape = Constant<value = int64[4] {1, 2, 1, 3}>()
    new = Expand(wide, shape)
    present_0_key = Concat<axis = 2>(past_key_values_0_key, new)
    counted = Cast<to = 10>(attention_mask)
    mask = Unsqueeze(counted, axes)
    kept = Mul(present_0_key, mask)
    sum_axes = Constant<value = int64[2] {1, 2}>()
    total = ReduceSum<keepdims = 0>(kept, sum_axes)
    logits = Cast<to = 1>(total)
}
"""


@pytest.fixture
def session(tmp_path: Path) -> OnnxRuntimeSession:
    onnx.save(onnx.parser.parse_model(DECODER), tmp_path / "decoder.onnx")
    return OnnxRuntimeSession(tmp_path / "decoder.onnx", SessionOptions())


@pytest.fixture
def present(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"present_0_key": rng.integers(-9, 9, (2, 2, 4, 3)).astype(np.float16)}


def columns(rng: np.random.Generator, rows: int, held: int, new: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": rng.integers(0, 9, (rows, new)),
        "attention_mask": rng.integers(0, 2, (rows, held + new)),
        "position_ids": rng.integers(0, 9, (rows, new)),
    }


def test_both_caches_give_the_same_through_a_search(
    session: OnnxRuntimeSession, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    assert isinstance(session, CacheSession)
    before = {name: values.copy() for name, values in present.items()}
    own = open_cache(session, present, rows=6, length=10)
    arrays = ArrayCache(lambda inputs, stages: session.run(inputs, stages=stages), present)
    assert isinstance(own, OnnxRuntimeCache)
    prompt = columns(rng, 2, 4, 2)
    np.testing.assert_array_equal(own.step(prompt), arrays.step(prompt))
    for cache in (own, arrays):
        cache.select(np.repeat(np.arange(2), 3), shared=6)
    for held in range(6, 10):
        token = columns(rng, 6, held, 1)
        np.testing.assert_array_equal(own.step(token), arrays.step(token))
        parents = np.concatenate([rng.integers(0, 3, 3), rng.integers(3, 6, 3)])
        for cache in (own, arrays):
            cache.select(parents, shared=6)
    np.testing.assert_array_equal(own._present["present_0_key"], arrays._present["present_0_key"])
    np.testing.assert_array_equal(present["present_0_key"], before["present_0_key"])


def test_what_the_caller_gave_is_never_written_to(
    session: OnnxRuntimeSession, present: Mapping[str, np.ndarray]
) -> None:
    before = present["present_0_key"].copy()
    for cache in (open_cache(session, present, rows=2, length=5), ArrayCache(lambda inputs, stages: {}, present)):
        cache.select(np.array([1, 0]), shared=0)
        np.testing.assert_array_equal(cache._present["present_0_key"], before[::-1])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(present["present_0_key"], before)


def test_logits_stay_the_callers(
    session: OnnxRuntimeSession, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    cache = open_cache(session, present, rows=2, length=6)
    first = cache.step(columns(rng, 2, 4, 1))
    kept = first.copy()
    cache.step(columns(rng, 2, 5, 1))
    cache.close()
    cache.close()
    np.testing.assert_array_equal(first, kept)


def test_steps_are_spans_of_the_graph(
    session: OnnxRuntimeSession, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    stages = Stages()
    open_cache(session, present, rows=2, length=6).step(columns(rng, 2, 4, 1), stages)
    assert [(span.stage, span.graph) for span in stages.spans] == [(COMPUTE, "decoder")]


def test_a_step_that_the_graph_refuses_is_one_line(
    session: OnnxRuntimeSession, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    cache = open_cache(session, present, rows=2, length=9)
    with pytest.raises(BackendError, match=r"^graph decoder: failed at run time .*; check its inputs$") as caught:
        cache.step({**columns(rng, 2, 4, 1), "attention_mask": np.ones((2, 8), np.int64)})
    assert "\n" not in str(caught.value)


def test_a_cache_without_room_names_what_to_lower(
    session: OnnxRuntimeSession, present: Mapping[str, np.ndarray]
) -> None:
    with pytest.raises(BackendError, match="no memory for a cache of 1000000 rows and 1000000000 positions; lower"):
        open_cache(session, present, rows=10**6, length=10**9)


def test_only_rows_that_change_move_and_only_behind_what_is_shared(rng: np.random.Generator) -> None:
    values = rng.normal(size=(4, 1, 5, 2))
    values[:, :, :2] = values[:1, :, :2]
    expected = values[[1, 0, 2, 2]]
    move_rows(values, np.array([1, 0, 2, 2]), shared=2)
    np.testing.assert_array_equal(values, expected)
    values[0, :, :2] = 7  # would be seen in row 1 if the shared part moved
    move_rows(values, np.array([0, 0, 2, 3]), shared=2)
    assert not (values[1, :, :2] == 7).any()
    np.testing.assert_array_equal(values[1, :, 2:], values[0, :, 2:])
