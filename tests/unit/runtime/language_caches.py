"""Calls of a cache in any order, and the same calls of a cache of arrays on the graph as it stands in the file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from internvl_edge.runtime.backends.array_cache import ArrayCache, past_name
from internvl_edge.runtime.backends.session import KeyValueCache, Session, TensorInfo
from internvl_edge.runtime.stages import UNMEASURED, Stages
from tests.tolerances import GOLDEN_FP32
from tests.unit.runtime.language_graphs import chunk, empty_cache

Call = tuple[str, int]
"""A call by name, and the seed of its arguments."""
CALLS = st.lists(st.tuples(st.sampled_from(["chunk", "step", "select", "rows", "truncate"]), st.integers(0, 999)))
OpenCache = Callable[[dict[str, np.ndarray], int], KeyValueCache]


def unlowered(path: Path) -> Callable[[Mapping[str, np.ndarray], Stages], dict[str, np.ndarray]]:
    """Return a function that runs the graph of a file as it is, without any of ONNX Runtime's own rewriting."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs, stages: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def logits_of_calls(
    calls: Sequence[Call], rows: int, path: Path, inputs: Mapping[str, TensorInfo], open_cache: OpenCache
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the logits of both caches after each call that gives some; rows start with padding on their left."""
    rng = np.random.default_rng(rows)
    present = empty_cache(inputs, rows)
    caches = (ArrayCache(unlowered(path), present), open_cache(present, rows))
    mask = np.zeros((rows, 0), np.int64)
    first = np.ones((rows, 6), np.int64)
    for row in range(rows):
        first[row, : rng.integers(0, 5)] = 0
    found = []
    for name, seed in [("first", 0), *calls, ("step", 0)]:
        own, count = np.random.default_rng(seed), len(mask)
        if name in ("first", "chunk", "step"):
            new = first if name == "first" else np.ones((count, 1 if name == "step" else 1 + seed % 7), np.int64)
            part = chunk(rng, mask, new)
            mask = part.attention_mask
            expected, given = (cache.step(part.inputs) for cache in caches)
            found.append((given, expected))
        elif name == "truncate":
            length = int(own.integers(6, mask.shape[1] + 1))
            mask = mask[:, :length]
            for cache in caches:
                cache.truncate(length)
        else:
            chosen = own.integers(0, count, count if name == "select" else int(own.integers(1, 5)))
            mask = mask[chosen]
            for cache in caches:
                cache.select(chosen, 0)
    for cache in caches:
        cache.close()
        cache.close()
    return found


def check_runs_with_arrays(session: Session, path: Path, rng: np.random.Generator) -> None:
    """Check that `run` takes and returns the cache as arrays, with the outputs of the graph in the file `path`."""
    plain, mask = unlowered(path), np.zeros((3, 0), np.int64)
    past = past_inputs(empty_cache(session.inputs, 3))
    for new in (4, 3, 1):
        part = chunk(rng, mask, np.ones((3, new), np.int64))
        mask = part.attention_mask
        length = {"rope_length": np.array([9])} if "rope_length" in session.inputs else {}
        given = {**part.inputs, **length, **past}
        found, expected = session.run(given), plain(given, UNMEASURED)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=GOLDEN_FP32, err_msg=name)
        past = past_inputs({name: values for name, values in expected.items() if name != "logits"})


def past_inputs(present: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of one call as the inputs of the next."""
    return {past_name(name): values for name, values in present.items()}
