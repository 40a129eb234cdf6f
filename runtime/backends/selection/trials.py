"""Compare backends: sample inputs of a graph, the difference of two outputs, and the time of a call."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing

import numpy as np

from internvl_edge.runtime.backends.array_cache import open_cache
from internvl_edge.runtime.backends.session import RowLimit, Session
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import ModelInfo

_SECONDS = 0.3
"""Seconds for which one candidate is measured once it has `_FEWEST_CALLS`; a call that has begun is finished."""
_FEWEST_CALLS = 3
"""Calls of which the shortest counts, since other work on the machine makes some of them slower and none faster."""
_LIMIT_SECONDS = 5.0
"""Seconds after which fewer calls suffice: long calls average over other work."""
_MOST_CALLS = 50
_PROMPT_COLUMNS = 64
"""Positions of a language model's prompt that are measured in place of all: as many as make products of matrices."""
_PROMPTS = 2
_ANSWER_TOKENS = 64
"""Steps that count with one prompt of a language model."""
_SEED = 20231222
_MS_PER_S = 1e3
LONGEST_MS = 10e3
"""Longest call of many rows in milliseconds. A batch that would take longer is measured with fewer rows."""


def sample_inputs(bundle: Bundle, graph: str, session: Session, rows: int = 1) -> dict[str, np.ndarray]:
    """Return random inputs of `rows` rows, or of the graph's fixed number; texts end in padding, as most texts do.

    Raises:
        InputError: the graph has an axis of unknown meaning.
    """
    from internvl_edge.runtime.backends.graph_inputs import graph_inputs, sizes_of

    model, info = bundle.manifest.model, bundle.manifest.graphs[graph]
    fixed = {size for info in session.inputs.values() for size in info.shape[:1] if isinstance(size, int)}
    most_frequent = info.use.phases[-1] if info.use.phases else ""
    sizes = sizes_of(graph, most_frequent, model, max(fixed, default=rows))
    inputs = graph_inputs(graph, session.inputs, info.inputs, model, sizes, np.random.default_rng(_SEED))
    if "attention_mask" not in inputs and sizes.length > 1 and "input_ids" in inputs:
        inputs["input_ids"][:, -sizes.length // 2 :] = model.require_text().pad_token_id
    return inputs


def affordable_inputs(bundle: Bundle, graph: str, session: Session, rows: int) -> dict[str, np.ndarray]:
    """Return inputs of `rows` rows, or of as many, at least one, as `session` runs within `LONGEST_MS`.

    A language model answers one question at a time, however many pictures a call has.

    Raises:
        EdgeError: the graph has an axis of unknown meaning, or fails.
    """
    sample = sample_inputs(bundle, graph, session)
    if rows <= row_count(sample) or "inputs_embeds" in sample:
        return sample
    each_ms = quickest_ms(session, sample, bundle.manifest.model) / row_count(sample)
    return sample_inputs(bundle, graph, session, max(min(rows, int(LONGEST_MS / each_ms)), 1))


def row_count(sample: Mapping[str, np.ndarray]) -> int:
    """Return the number of rows of the inputs; 1 if there are no inputs."""
    return len(next(iter(sample.values()), (None,)))


def fitting_inputs(session: Session, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first rows of `sample`, as many as `session` takes in one call."""
    limit = session.max_rows if isinstance(session, RowLimit) else None
    return {name: values[:limit] for name, values in sample.items()}


def difference(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Return the largest relative root mean square difference of one output from the expected one."""
    return max(_relative_rms(found[name], values) for name, values in expected.items())


def quickest_ms(session: Session, sample: Mapping[str, np.ndarray], model: ModelInfo) -> float:
    """Return the shortest time of several calls after one on `sample`.

    For a decoder of captions it is the time of a step; for a language model that of a whole short answer, since
    libraries differ in prompts as much as in steps.
    """
    if "attention_mask" not in sample:
        return _quickest_ms(lambda: session.run(sample), _MOST_CALLS)
    if model.language is None:
        return _step_ms(session, sample, model.require_text().max_positions)
    held = int(sample["attention_mask"].shape[1]) - 1
    columns = min(_PROMPT_COLUMNS, held)
    prompt_ms = _prompt_ms(session, sample, columns) * held / columns
    return prompt_ms + _ANSWER_TOKENS * _step_ms(session, sample, model.language.max_context)


def _step_ms(session: Session, sample: Mapping[str, np.ndarray], longest: int) -> float:
    """Return the shortest time of a step after the cache in `sample`, which grows up to `longest` positions."""
    rows, held = sample["attention_mask"].shape
    steps = max(min(_MOST_CALLS, longest - held), 1)
    present = {
        name.replace("past_key_values", "present", 1): values
        for name, values in sample.items()
        if name.startswith("past_key_values.")
    }
    positions = iter(range(held - 1, held - 1 + steps))
    with closing(open_cache(session, present, rows, held + steps)) as cache:
        return _quickest_ms(lambda: cache.step(_chunk(sample, next(positions), 1)), steps)


def _prompt_ms(session: Session, sample: Mapping[str, np.ndarray], columns: int) -> float:
    """Return the shortest time of the first `columns` positions of a prompt, on an empty cache, after one such call."""
    times: list[float] = []
    for _ in range(_PROMPTS):
        present = {
            name.replace("past_key_values", "present", 1): values[:, :, :0]
            for name, values in sample.items()
            if name.startswith("past_key_values.")
        }
        with closing(open_cache(session, present, row_count(sample), columns)) as cache:
            times.append(_quickest_ms(lambda: cache.step(_chunk(sample, 0, columns)), 1))
    return min(times)


def _chunk(sample: Mapping[str, np.ndarray], position: int, columns: int) -> dict[str, np.ndarray]:
    """Return the inputs of a decoder for `columns` more positions from `position` on."""
    rows, end = row_count(sample), position + columns
    chunk = {
        name: np.repeat(sample[name], columns, axis=1) for name in ("input_ids", "inputs_embeds") if name in sample
    }
    if "rope_length" in sample:
        chunk["rope_length"] = np.array([end])
    places = np.broadcast_to(np.arange(position, end), (rows, columns))
    return {**chunk, "attention_mask": np.ones((rows, end), np.int64), "position_ids": places}


def _quickest_ms(call: Callable[[], object], most: int) -> float:
    times: list[float] = []
    began = start = time.perf_counter()
    while len(times) < most and start - began < (_SECONDS if len(times) >= _FEWEST_CALLS else _LIMIT_SECONDS):
        call()
        end = time.perf_counter()
        times.append(_MS_PER_S * (end - start))
        start = end
    return min(times)


def _relative_rms(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative root mean square; infinite if shapes differ or a value is NaN."""
    if found.shape != expected.shape:
        return np.inf
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(found.astype(np.float64) - expected))
    return error / scale if scale > 0 and np.isfinite(error) else 0.0 if error == 0 else np.inf
