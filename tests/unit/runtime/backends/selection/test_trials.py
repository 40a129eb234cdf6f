"""What backends are compared by: samples, distances, and a decoder's steps on a cache that grows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.selection import trials
from internvl_edge.runtime.backends.selection.trials import (
    affordable_inputs,
    difference,
    quickest_ms,
    row_count,
    sample_inputs,
)
from internvl_edge.runtime.backends.session import TensorInfo, require_arrays
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.graph_roles import GraphUse
from internvl_edge.runtime.bundle.manifest import EmbeddingInfo, GraphInfo, LanguageInfo, TensorSpec
from internvl_edge.runtime.stages import UNMEASURED, Stages
from tests.unit.runtime.graph_uses import USES
from tests.unit.runtime.tiny_bundle import MODEL
from tests.unit.runtime.toy_bundle import write_toy_bundle

DECODER: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "input_ids": ("int64", ("batch", "length")),
    "attention_mask": ("int64", ("batch", "total")),
    "position_ids": ("int64", ("batch", "length")),
    "past_key_values.0.key": ("float32", ("batch", 1, "past", 2)),
}
LANGUAGE_MODEL: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "inputs_embeds": ("float32", ("batch", "length", 4)),
    **{name: DECODER[name] for name in ("attention_mask", "position_ids")},
    "rope_length": ("int64", (1,)),
    "past_key_values.0.key": DECODER["past_key_values.0.key"],
}
CHAT_MODEL = replace(
    MODEL,
    text=None,
    language=LanguageInfo(
        layers=1,
        kv_heads=1,
        head_dim=2,
        hidden_size=4,
        vocab_size=4,
        max_context=8192,
        max_positions=8192,
        tokens_per_tile=256,
        embedding=EmbeddingInfo(file="weights", offset=0, dtype="float32", rows=4),
    ),
)


class FakeSession:
    """A session with given inputs; a decoder's cache grows by a column each run."""

    backend = "fake"
    settings: Mapping[str, str] = {}
    outputs: Mapping[str, TensorInfo] = {}

    def __init__(self, takes: Mapping[str, tuple[str, tuple[int | str, ...]]]) -> None:
        self.inputs = {name: TensorInfo(name, np.dtype(dtype), shape) for name, (dtype, shape) in takes.items()}
        self.past: list[int] = []
        self.positions: list[int] = []
        self.chunks: list[tuple[int, int]] = []
        self.lengths: list[int] = []

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        require_arrays("fake", inputs, (), self.inputs, {})
        if "attention_mask" not in inputs:
            return {"y": np.ones(1)}
        past = inputs["past_key_values.0.key"]
        self.past.append(past.shape[2])
        self.positions.append(int(inputs["position_ids"][0, 0]))
        rows, new = inputs["position_ids"].shape
        self.chunks.append((past.shape[2], new))
        self.lengths += [int(inputs["rope_length"][0])] if "rope_length" in inputs else []
        assert inputs["attention_mask"].shape[1] == past.shape[2] + new
        grown = np.concatenate([past, np.ones((rows, 1, new, 2), np.float32)], axis=2)
        return {"logits": np.ones((1, 4)), "present.0.key": grown}

    def close(self) -> None:
        pass


def with_graph(bundle: Bundle, graph: str, takes: Mapping[str, tuple[str, tuple[int | str, ...]]]) -> Bundle:
    inputs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in takes.items())
    info = GraphInfo(file="x.onnx", inputs=inputs, outputs=(), use=USES.get(graph, GraphUse()))
    return replace(bundle, manifest=replace(bundle.manifest, graphs={graph: info}))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_toy_bundle(tmp_path / "bundle")


def test_texts_end_in_padding(bundle: Bundle) -> None:
    takes: dict[str, tuple[str, tuple[int | str, ...]]] = {"input_ids": ("int64", ("texts", "length"))}
    sample = sample_inputs(with_graph(bundle, "text", takes), "text", FakeSession(takes))
    ids = sample["input_ids"][0]
    assert len(ids) == 38  # 40 positions, 2 are the queries'
    assert ids[0] == MODEL.require_text().bos_token_id
    assert ids[:19].all()
    assert not ids[19:].any()


def test_a_fixed_batch_is_kept(bundle: Bundle) -> None:
    takes: dict[str, tuple[str, tuple[int | str, ...]]] = {"pixel_values": ("float32", (4, 3, 4, 4))}
    sample = sample_inputs(with_graph(bundle, "vision", takes), "vision", FakeSession(takes))
    assert sample["pixel_values"].shape == (4, 3, 4, 4)


def test_a_decoder_is_measured_on_a_cache_that_grows_within_its_positions(bundle: Bundle) -> None:
    session = FakeSession(DECODER)
    sample = sample_inputs(with_graph(bundle, "decoder", DECODER), "decoder", session)
    assert quickest_ms(session, sample, MODEL) > 0
    held = sample["attention_mask"].shape[1] - 1
    assert session.past == list(range(held, held + len(session.past)))
    assert session.positions == session.past
    assert session.positions[-1] < 40  # MODEL's places


def test_a_language_model_is_measured_on_a_prompt_and_on_the_steps_behind_one(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeSession(LANGUAGE_MODEL)
    chat = replace(bundle, manifest=replace(bundle.manifest, model=CHAT_MODEL))
    sample = sample_inputs(with_graph(chat, "llm", LANGUAGE_MODEL), "llm", session)
    now = iter(range(1000))
    monkeypatch.setattr(trials.time, "perf_counter", lambda: float(next(now)) / 10)  # every call takes 100 ms
    held = sample["attention_mask"].shape[1] - 1
    assert quickest_ms(session, sample, CHAT_MODEL) == pytest.approx(100 * held / 64 + 64 * 100)
    prompts, steps = session.chunks[:2], session.chunks[2:]
    assert prompts == [(0, 64), (0, 64)]
    assert steps == [(held + index, 1) for index in range(len(steps))]
    assert session.lengths[0] == 64
    assert session.lengths[2] == held + 1


def test_a_language_model_is_measured_on_one_row_however_many_pictures_there_are(bundle: Bundle) -> None:
    chat = with_graph(replace(bundle, manifest=replace(bundle.manifest, model=CHAT_MODEL)), "llm", LANGUAGE_MODEL)
    assert row_count(affordable_inputs(chat, "llm", FakeSession(LANGUAGE_MODEL), rows=8)) == 1


def test_other_graphs_are_measured_on_the_sample() -> None:
    assert quickest_ms(FakeSession({}), {}, MODEL) > 0


def test_the_worst_output_counts() -> None:
    expected = {"a": np.ones((2, 50)), "b": np.full(4, 10.0)}
    found = {"a": np.ones((2, 50)), "b": np.array([10.0, 10, 10, 12])}
    assert difference(found, expected) == pytest.approx(2 / 20)
    assert difference(expected, expected) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_infinitely_far(value: float) -> None:
    assert difference({"a": np.array([1, value])}, {"a": np.ones(2)}) == np.inf
    assert difference({"a": np.ones(2)}, {"a": np.array([1, value])}) == np.inf


def test_another_shape_is_infinitely_far_and_silence_equals_silence() -> None:
    assert difference({"a": np.ones((1, 2))}, {"a": np.ones(2)}) == np.inf
    assert difference({"a": np.zeros(2)}, {"a": np.zeros(2)}) == 0
    assert difference({"a": np.full(2, 1e-9)}, {"a": np.zeros(2)}) == np.inf
