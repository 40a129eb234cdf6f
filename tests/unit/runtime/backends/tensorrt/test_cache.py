"""The decoder's cache in device memory against the one of arrays, through two profiles of one plan."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.array_cache import ArrayCache, open_cache
from internvl_edge.runtime.backends.session import CacheSession
from internvl_edge.runtime.backends.tensorrt.cache import TensorRTCache
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.stages import COMPUTE, Stages
from tests.unit.runtime.fake_plans import BundleOnDevice, bundle_on_device


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleOnDevice:
    return bundle_on_device(tmp_path, monkeypatch, request.param)


@pytest.fixture
def present(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"present.0.key": rng.integers(-9, 9, (2, 2, 4, 3)).astype(np.float16)}


def columns(rng: np.random.Generator, rows: int, held: int, new: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": rng.integers(0, 9, (rows, new)),
        "attention_mask": rng.integers(0, 2, (rows, held + new)),
        "position_ids": rng.integers(0, 9, (rows, new)),
    }


def test_both_caches_give_the_same_through_a_search(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    session = here.open("decoder")
    assert isinstance(session, CacheSession)
    before = present["present.0.key"].copy()
    own = open_cache(session, present, rows=6, length=12)
    arrays = ArrayCache(lambda inputs, stages: session.run(inputs, stages=stages), present)
    assert isinstance(own, TensorRTCache)
    prompt = columns(rng, 2, 4, 2)
    np.testing.assert_array_equal(own.step(prompt), arrays.step(prompt))
    for cache in (own, arrays):
        cache.select(np.repeat(np.arange(2), 3), shared=6)
    for held in range(6, 12):
        token = columns(rng, 6, held, 1)
        np.testing.assert_array_equal(own.step(token), arrays.step(token))
        parents = np.concatenate([rng.integers(0, 3, 3), rng.integers(3, 6, 3)])
        for cache in (own, arrays):
            cache.select(parents, shared=6)
    np.testing.assert_array_equal(present["present.0.key"], before)


def test_steps_take_no_new_memory_and_no_cuda_graph(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    cache = here.open("decoder").open_cache(present, rows=2, length=14)
    cache.step(columns(rng, 2, 4, 2))
    cache.step(columns(rng, 2, 6, 1))
    blocks, contexts = len(here.cuda.memory), len(here.trt.contexts)
    for held in range(7, 13):
        cache.step(columns(rng, 2, held, 1))
    assert (len(here.cuda.memory), len(here.trt.contexts)) == (blocks, contexts)
    assert here.cuda.graphs == []


def test_logits_stay_the_callers(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    cache = here.open("decoder").open_cache(present, rows=2, length=8)
    first = cache.step(columns(rng, 2, 4, 1))
    kept = first.copy()
    cache.step(columns(rng, 2, 5, 1))
    cache.close()
    cache.close()
    np.testing.assert_array_equal(first, kept)


def test_other_graphs_run_between_the_steps(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    session, vision = here.open("decoder"), here.open("vision")
    own = session.open_cache(present, rows=2, length=8)
    arrays = ArrayCache(lambda inputs, stages: session.run(inputs, stages=stages), present)
    for held in range(4, 8):
        token = columns(rng, 2, held, 1)
        np.testing.assert_array_equal(own.step(token), arrays.step(token))
        vision.run({"pixel_values": rng.normal(size=(8, 3, 4))})


def test_steps_are_spans_of_the_graph(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    stages = Stages()
    here.open("decoder").open_cache(present, rows=2, length=8).step(columns(rng, 2, 4, 1), stages)
    assert [span.graph for span in stages.spans if span.stage == COMPUTE] == ["decoder"]


def test_more_than_was_asked_for_is_refused(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    cache = here.open("decoder").open_cache(present, rows=2, length=5)
    cache.step(columns(rng, 2, 4, 1))
    with pytest.raises(InputError, match="cache: 2 rows of 6 positions do not fit"):
        cache.step(columns(rng, 2, 5, 1))
    with pytest.raises(InputError, match="cache: 3 rows of 5 positions do not fit"):
        cache.select(np.array([0, 0, 1]), shared=5)


def test_a_past_beyond_both_profiles_names_both(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    cache = here.open("decoder").open_cache(present, rows=2, length=20)
    cache.step(columns(rng, 2, 4, 2))
    with pytest.raises(InputError, match=r"input_ids \[2, 2\].* which takes .*; or input_ids \[1, 1\] to \[8, 1\]"):
        cache.step(columns(rng, 2, 6, 2))


def test_a_cache_without_room_is_one_line_and_leaves_nothing(
    here: BundleOnDevice, present: Mapping[str, np.ndarray]
) -> None:
    session = here.open("decoder")
    here.cuda.capacity = here.cuda.held + 1024
    held = here.cuda.held
    with pytest.raises(BackendError, match=r"^graph decoder: the device is out of memory; lower the batch, the beams"):
        session.open_cache(present, rows=8, length=16)
    assert here.cuda.held == held


def test_a_cache_is_cut_and_grows(
    here: BundleOnDevice, present: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    session = here.open("decoder")
    own = session.open_cache(present, rows=2, length=6)
    arrays = ArrayCache(lambda inputs, stages: session.run(inputs, stages=stages), present)
    prompt, token, later = columns(rng, 2, 4, 2), columns(rng, 2, 5, 1), columns(rng, 4, 6, 1)
    for cache in (own, arrays):
        cache.step(prompt)
        cache.truncate(5)
    np.testing.assert_array_equal(own.step(token), arrays.step(token))
    blocks = len(here.cuda.memory)
    own.reserve(2, 6)
    own.reserve(4, 9)
    assert len(here.cuda.memory) == blocks  # larger ones stand in for those that were there
    for cache in (own, arrays):
        cache.select(np.array([0, 0, 1, 1]), shared=6)
    np.testing.assert_array_equal(own.step(later), arrays.step(later))
    with pytest.raises(InputError, match="cache: 4 rows of 10 positions do not fit"):
        own.step(columns(rng, 4, 7, 3))
