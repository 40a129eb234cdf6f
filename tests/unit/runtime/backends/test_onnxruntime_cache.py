"""A language model's cache on ONNX Runtime: the values of the graph in the file, from arrays that steps write into."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.backends import onnxruntime_cache
from internvl_edge.runtime.backends.array_cache import open_cache
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from internvl_edge.runtime.backends.onnxruntime_cache import OnnxRuntimeCache
from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.errors import BackendError, InputError
from tests.tolerances import GOLDEN_FP32
from tests.unit.runtime.language_caches import CALLS, Call, check_runs_with_arrays, logits_of_calls, past_inputs
from tests.unit.runtime.language_graphs import chunk, empty_cache, write_language_model


def opened(path: Path) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(path, SessionOptions())


@pytest.fixture(scope="module", params=[{}, {"normed": True}, {"kv_heads": 4}, {"follows_length": True}], ids=str)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("model"), **request.param)


@pytest.fixture
def session(tmp_path: Path) -> OnnxRuntimeSession:
    return opened(write_language_model(tmp_path))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("grouped"))


@settings(max_examples=25, deadline=None)
@given(CALLS, st.integers(1, 3), st.sampled_from([2, 5, 256]))
def test_any_calls_give_the_logits_of_the_graph_in_the_file(
    grouped: Path, calls: list[Call], rows: int, block: int
) -> None:
    session = opened(grouped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime_cache, "_BLOCK", block)
        pairs = logits_of_calls(
            calls, rows, grouped, session.inputs, lambda present, count: session.open_cache(present, count, 1)
        )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=GOLDEN_FP32)


def test_the_outputs_are_those_of_the_graph_in_the_file(model: Path, rng: np.random.Generator) -> None:
    session = opened(model)
    check_runs_with_arrays(session, model, rng)
    assert "attentions in a cache" in session.settings


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_computed_in_fp32(dtype: str, tmp_path: Path, rng: np.random.Generator) -> None:
    session = opened(write_language_model(tmp_path, dtype))
    cache = open_cache(session, empty_cache(session.inputs, 1), 1, 8)
    assert isinstance(cache, OnnxRuntimeCache)
    part = chunk(rng, np.zeros((1, 0), np.int64), np.ones((1, 5), np.int64))
    logits = cache.step(part.inputs)
    past = past_inputs(empty_cache(session.inputs, 1))
    np.testing.assert_array_equal(logits, session.run({**part.inputs, **past})["logits"])
    assert logits.dtype == np.float32


def test_a_step_writes_into_the_arrays_and_a_full_array_grows_by_a_block(
    session: OnnxRuntimeSession, rng: np.random.Generator
) -> None:
    cache = session.open_cache(empty_cache(session.inputs, 1), rows=1, length=100_000)
    assert isinstance(cache, OnnxRuntimeCache)
    mask = np.zeros((1, 0), np.int64)
    addresses = []
    for new in (254, 1, 1, 1):
        part = chunk(rng, mask, np.ones((1, new), np.int64))
        mask = part.attention_mask
        cache.step(part.inputs)
        addresses.append({name: values.ctypes.data for name, values in cache._arrays.items()})
    assert addresses[0] == addresses[1] == addresses[2] != addresses[3]
    assert {values.shape[2] for values in cache._arrays.values()} == {512}


def test_what_the_caller_gave_and_got_is_not_written_to(session: OnnxRuntimeSession, rng: np.random.Generator) -> None:
    empty = empty_cache(session.inputs, 2)
    present = {name: rng.standard_normal((*v.shape[:2], 3, v.shape[3])).astype(v.dtype) for name, v in empty.items()}
    before = {name: values.copy() for name, values in present.items()}
    cache = session.open_cache(present, 2, 4)
    cache.select(np.array([1, 0]), 0)
    first = chunk(rng, np.ones((2, 3), np.int64), np.ones((2, 1), np.int64))
    logits = cache.step(first.inputs)
    kept = logits.copy()
    cache.step(chunk(rng, first.attention_mask, np.ones((2, 1), np.int64)).inputs)
    np.testing.assert_array_equal(logits, kept)
    for name, values in present.items():
        np.testing.assert_array_equal(values, before[name])


def test_a_mask_of_another_length_or_number_of_rows_is_refused(
    session: OnnxRuntimeSession, rng: np.random.Generator
) -> None:
    cache = session.open_cache(empty_cache(session.inputs, 1), 1, 8)
    long = chunk(rng, np.ones((1, 2), np.int64), np.ones((1, 3), np.int64))
    with pytest.raises(InputError, match=r"attention_mask is \[1, 5\] instead of \[1, 3\]"):
        cache.step(long.inputs)
    wide = chunk(rng, np.zeros((2, 0), np.int64), np.ones((2, 3), np.int64))
    with pytest.raises(InputError, match=r"attention_mask is \[2, 3\] instead of \[1, 3\]"):
        cache.step(wide.inputs)
    with pytest.raises(InputError, match="input position_ids is missing"):
        cache.step({name: values for name, values in long.inputs.items() if name != "position_ids"})


def test_no_memory_for_a_larger_cache_is_an_error_in_one_line(
    session: OnnxRuntimeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = session.open_cache(empty_cache(session.inputs, 1), 1, 8)

    def refuse(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(onnxruntime_cache.np, "empty", refuse)
    with pytest.raises(BackendError, match="no memory for a cache of 3 rows of 256 positions"):
        cache.select(np.zeros(3, np.int64), 0)
