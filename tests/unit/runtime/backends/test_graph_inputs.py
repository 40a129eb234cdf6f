"""Arrays that a graph takes: valid ids, masks, positions and caches, and one error for what does not fit."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.graph_inputs import PROMPT_IDS, QUESTION_ROWS, WRITTEN_IDS, graph_inputs, sizes_of
from internvl_edge.runtime.backends.session import TensorInfo, require_arrays
from internvl_edge.runtime.bundle.manifest import EmbeddingInfo, LanguageInfo, TensorSpec
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.latency.samples import HEIGHT, WIDTH, texts, write_pictures
from tests.unit.runtime.tiny_bundle import MODEL

DECODER = {
    "input_ids": ("int64", ("batch", "length")),
    "attention_mask": ("int64", ("batch", "total")),
    "position_ids": ("int64", ("batch", "length")),
    "past_key_values.0.key": ("float16", ("batch", 1, "past", 2)),
}


def signature(tensors: dict[str, tuple[str, Sequence[int | str | None]]]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in tensors.items()}


def specs(tensors: dict[str, tuple[str, Sequence[int | str]]]) -> list[TensorSpec]:
    return [TensorSpec(name=name, dtype=dtype, shape=tuple(shape)) for name, (dtype, shape) in tensors.items()]


LANGUAGE = LanguageInfo(
    layers=1,
    kv_heads=2,
    head_dim=4,
    hidden_size=8,
    vocab_size=50,
    max_context=200,
    max_positions=200,
    tokens_per_tile=9,
    embedding=EmbeddingInfo(file="w", offset=0, dtype="float16", rows=50),
)


@pytest.mark.parametrize(
    ("phase", "length", "past"), [("prompt", 9 + QUESTION_ROWS, 0), ("step", 1, 9 + QUESTION_ROWS)]
)
def test_a_language_model_reads_a_question_and_then_steps_behind_it(
    phase: str, length: int, past: int, rng: np.random.Generator
) -> None:
    takes = {
        "inputs_embeds": ("float16", ("batch", "length", 8)),
        "attention_mask": ("int64", ("batch", "total")),
        "position_ids": ("int64", ("batch", "length")),
        "rope_length": ("int64", (1,)),
        "past_key_values.0.key": ("float16", ("batch", 2, "past", 4)),
    }
    model = replace(MODEL, text=None, language=LANGUAGE)
    found = graph_inputs("llm", signature(takes), specs(takes), model, sizes_of("llm", phase, model, 3), rng)
    assert found["inputs_embeds"].shape == (3, length, 8)
    assert found["past_key_values.0.key"].shape == (3, 2, past, 4)
    assert found["attention_mask"].tolist() == [[1] * (past + length)] * 3
    assert found["position_ids"][0].tolist() == list(range(past, past + length))
    assert found["rope_length"].tolist() == [past + length]
    short = replace(model, language=replace(LANGUAGE, max_context=20))
    assert sizes_of("llm", "prompt", short, 1).length == 19


def test_ids_for_the_table_of_tokens_are_of_the_language_model(rng: np.random.Generator) -> None:
    takes = {"input_ids": ("int64", ("batch", "length"))}
    model = replace(MODEL, text=None, language=LANGUAGE)
    ids = graph_inputs(
        "embed_tokens", signature(takes), specs(takes), model, sizes_of("embed_tokens", "", model, 4), rng
    )
    assert ids["input_ids"].shape == (4, QUESTION_ROWS)
    assert 40 < ids["input_ids"].max() < 50


@pytest.mark.parametrize(
    ("phase", "length", "past"), [("prompt", PROMPT_IDS, 2), ("step", 1, 2 + PROMPT_IDS + WRITTEN_IDS)]
)
def test_the_decoder_continues_its_cache(phase: str, length: int, past: int, rng: np.random.Generator) -> None:
    takes = signature(DECODER)
    found = graph_inputs("decoder", takes, specs(DECODER), MODEL, sizes_of("decoder", phase, MODEL, 3), rng)
    require_arrays("decoder", found, [], takes, {})
    assert found["input_ids"].shape == (3, length)
    assert found["past_key_values.0.key"].shape == (3, 1, past, 2)
    assert found["past_key_values.0.key"].dtype == np.float16
    assert found["attention_mask"].shape == (3, past + length)
    assert found["attention_mask"].min() == 1
    np.testing.assert_array_equal(found["position_ids"], [list(range(past, past + length))] * 3)


def test_ids_are_words_of_the_vocabulary_behind_bos(rng: np.random.Generator) -> None:
    text = {"input_ids": ("int64", ("texts", "length"))}
    found = graph_inputs("text", signature(text), specs(text), MODEL, sizes_of("text", "", MODEL, 50), rng)["input_ids"]
    assert found.shape == (50, 38)  # 40 places less 2 queries; a text may have 80 ids
    assert set(found[:, 0]) == {MODEL.require_text().bos_token_id}
    assert 3 <= found[:, 1:].min() < found.max() < 320


def test_axes_without_a_name_take_the_manifests(rng: np.random.Generator) -> None:
    """As of a plan, whose dynamic axes have no names."""
    pixels = {"pixel_values": ("float32", ("batch", 3, 4, 4))}
    takes = signature({"pixel_values": ("float32", (None, 3, 4, 4))})
    found = graph_inputs("vision", takes, specs(pixels), MODEL, sizes_of("vision", "", MODEL, 2), rng)
    assert found["pixel_values"].shape == (2, 3, 4, 4)
    assert found["pixel_values"].dtype == np.float32


def test_what_does_not_fit_is_one_line(rng: np.random.Generator) -> None:
    declared = {"x": ("float32", ("batch", 3)), "y": ("float32", ("tiles", 3))}
    takes = signature({"x": ("float32", (1, 3)), "y": ("float32", (None, 3))})
    with pytest.raises(InputError) as error:
        graph_inputs("toy", takes, specs(declared), MODEL, sizes_of("toy", "", MODEL, 8), rng)
    text = str(error.value)
    assert "x has a fixed axis of 1 instead of 8" in text
    assert "y has an axis 'tiles'" in text
    assert "\n" not in text


def test_equal_seeds_give_equal_arrays() -> None:
    def drawn() -> dict[str, np.ndarray]:
        sizes = sizes_of("decoder", "step", MODEL, 2)
        return graph_inputs("decoder", signature(DECODER), specs(DECODER), MODEL, sizes, np.random.default_rng(7))

    first, second = drawn(), drawn()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_pictures_are_files_of_a_photos_size(tmp_path: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    paths = write_pictures(tmp_path, 2, rng)
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (WIDTH, HEIGHT)
        assert 20_000 < path.stat().st_size < 400_000
    assert paths[0].read_bytes() != paths[1].read_bytes()
    assert [len(text.split()) for text in texts(3, rng)] == [10, 10, 10]
