"""A language model's cache in OpenVINO's states: the values of the graph in the file, kept in the type of its cache."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.backends.array_cache import ArrayCache, open_cache
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from internvl_edge.runtime.backends.openvino import OpenVinoSession
from internvl_edge.runtime.backends.openvino_cache import OpenVinoCache
from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.errors import InputError
from tests.tolerances import BF16_WEIGHTS_RELATIVE, FP16_RELATIVE, GOLDEN_FP32
from tests.unit.runtime.language_caches import CALLS, Call, check_runs_with_arrays, logits_of_calls
from tests.unit.runtime.language_graphs import LAYERS, chunk, empty_cache, write_language_model


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("grouped"))


@pytest.fixture(scope="module")
def session(grouped: Path) -> OpenVinoSession:
    return OpenVinoSession(grouped, SessionOptions())


@settings(max_examples=25, deadline=None)
@given(CALLS, st.integers(1, 3))
def test_any_calls_give_the_logits_of_the_graph_in_the_file(
    grouped: Path, session: OpenVinoSession, calls: list[Call], rows: int
) -> None:
    pairs = logits_of_calls(
        calls, rows, grouped, session.inputs, lambda present, count: session.open_cache(present, count, 1)
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=GOLDEN_FP32)


@pytest.mark.parametrize("changes", [{}, {"normed": True}, {"kv_heads": 4}, {"follows_length": True}], ids=str)
def test_a_run_takes_and_returns_the_cache_as_arrays(
    changes: dict[str, int], tmp_path: Path, rng: np.random.Generator
) -> None:
    path = write_language_model(tmp_path, **changes)
    check_runs_with_arrays(OpenVinoSession(path, SessionOptions()), path, rng)


@pytest.mark.parametrize("changes", [{}, {"normed": True}, {"kv_heads": 4}, {"dtype": "float16"}], ids=str)
def test_state_heads_and_attention_are_one_kernel(changes: dict[str, int], tmp_path: Path) -> None:
    session = OpenVinoSession(write_language_model(tmp_path, **changes), SessionOptions())
    given = {
        "inputs_embeds": np.ones((1, 1, 24), np.float32),
        "attention_mask": np.ones((1, 4), np.int64),
        "position_ids": np.array([[3]]),
        **{
            name: np.ones((1, info.shape[1], 3, 8), np.float32)
            for name, info in session.inputs.items()
            if "past" in name
        },
    }
    layers = session.layer_times(given, runs=2)
    kernels = [layer for layer in layers if layer.op.startswith("ScaledDotProductAttention")]
    assert {layer.op for layer in kernels} == {"ScaledDotProductAttentionWithKVCache"}
    assert len(kernels) == LAYERS
    assert not [layer.name for layer in layers if layer.op in ("Tile", "IsNaN", "Select")]


@pytest.mark.parametrize(
    ("dtype", "kept", "bound"),
    [("float", "f32", GOLDEN_FP32), ("float16", "f16", FP16_RELATIVE), ("bfloat16", "bf16", BF16_WEIGHTS_RELATIVE)],
)
def test_keys_and_values_are_kept_in_the_type_of_the_cache(
    dtype: str, kept: str, bound: float, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = write_language_model(tmp_path, dtype)
    session, other = OpenVinoSession(path, SessionOptions()), OnnxRuntimeSession(path, SessionOptions())
    assert session.settings["cache"] == f"states in {kept}"
    caches = [open_cache(each, empty_cache(each.inputs, 1), 1, 8) for each in (session, other)]
    mask = np.zeros((1, 0), np.int64)
    for new in (40, 1):
        part = chunk(rng, mask, np.ones((1, new), np.int64))
        mask = part.attention_mask
        found, expected = (cache.step(part.inputs) for cache in caches)
        assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


def test_what_the_caller_gave_and_got_is_not_written_to(session: OpenVinoSession, rng: np.random.Generator) -> None:
    empty = empty_cache(session.inputs, 2)
    present = {name: rng.standard_normal((*v.shape[:2], 3, v.shape[3])).astype(v.dtype) for name, v in empty.items()}
    before = {name: values.copy() for name, values in present.items()}
    caches = [session.open_cache(present, 2, 4) for _ in range(2)]
    first = chunk(rng, np.ones((2, 3), np.int64), np.ones((2, 1), np.int64))
    logits = caches[0].step(first.inputs)
    kept = logits.copy()
    caches[0].step(chunk(rng, first.attention_mask, np.ones((2, 1), np.int64)).inputs)
    np.testing.assert_array_equal(caches[1].step(first.inputs), kept)
    np.testing.assert_array_equal(logits, kept)
    for name, values in present.items():
        np.testing.assert_array_equal(values, before[name])


def test_a_mask_of_another_length_is_refused(session: OpenVinoSession, rng: np.random.Generator) -> None:
    cache = session.open_cache(empty_cache(session.inputs, 1), 1, 8)
    assert isinstance(cache, OpenVinoCache)
    with pytest.raises(InputError, match=r"attention_mask is \[1, 5\] instead of \[1, 3\]"):
        cache.step(chunk(rng, np.ones((1, 2), np.int64), np.ones((1, 3), np.int64)).inputs)


def test_another_cache_stays_inputs_and_outputs(tmp_path: Path) -> None:
    path = write_language_model(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"inputs_embeds", b"input_states!"))
    session = OpenVinoSession(path, SessionOptions())
    assert "cache" not in session.settings
    assert isinstance(open_cache(session, empty_cache(session.inputs, 1), 1, 8), ArrayCache)
