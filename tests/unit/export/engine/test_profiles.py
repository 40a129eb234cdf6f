"""Profiles by axis name, and the ranges that a user writes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.export.engine.profiles import AxisRanges, parse_range, profiles_for
from internvl_edge.export.models.graphs import GRAPHS
from internvl_edge.runtime.bundle.manifest import (
    SCHEMA,
    EmbeddingInfo,
    GraphInfo,
    LanguageInfo,
    Manifest,
    ModelInfo,
    TensorSpec,
    TextInfo,
    VisionInfo,
)
from internvl_edge.runtime.errors import BundleError, EngineError

MODEL = ModelInfo(
    layout="internvl",
    vision=VisionInfo(image_size=70, patch_size=14, hidden_size=192, tokens=26),
    text=TextInfo(layers=6, heads=3, head_dim=64, vocab_size=6144, max_positions=2048, num_query_tokens=8),
)
MANIFEST = Manifest(
    schema=SCHEMA,
    producer={},
    model=MODEL,
    precision="fp16",
    graphs={row.name: GraphInfo(file="", inputs=(), outputs=(), use=row.use) for row in GRAPHS},
    files={},
)
IDS = TensorSpec(name="input_ids", dtype="int64", shape=("texts", "length"))
RANGES = AxisRanges(batch=(1, 4, 16), text_length=(2, 16, 32))


def test_a_fixed_axis_stays_and_a_named_one_gets_its_range() -> None:
    pixels = TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 70, 70))
    assert profiles_for("vision", [pixels], MANIFEST, RANGES) == [
        {"pixel_values": ((1, 3, 70, 70), (4, 3, 70, 70), (16, 3, 70, 70))}
    ]
    assert profiles_for("text", [IDS], MANIFEST, RANGES) == [{"input_ids": ((1, 2), (4, 16), (16, 32))}]


def test_an_input_without_dynamic_axes_has_no_shape_to_choose() -> None:
    table = TensorSpec(name="table", dtype="float16", shape=(4, 4))
    assert profiles_for("vision", [table], MANIFEST, RANGES) == [{}]


def test_the_decoder_has_a_prompt_and_a_step_whose_mask_covers_past_and_new_tokens() -> None:
    ids = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "length"))
    mask = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "total"))
    past = TensorSpec(name="past_key_values.0.key", dtype="float16", shape=("batch", 3, "past", 64))
    prompt, step = profiles_for("decoder", [ids, mask, past], MANIFEST, RANGES)
    assert prompt["past_key_values.0.key"] == ((1, 3, 8, 64), (4, 3, 8, 64), (16, 3, 8, 64))
    assert [shape[1] for shape in step["input_ids"]] == [1, 1, 1]
    for profile in (prompt, step):
        lengths, pasts = profile["input_ids"], profile["past_key_values.0.key"]
        assert [m[1] for m in profile["attention_mask"]] == [p[2] + n[1] for p, n in zip(pasts, lengths, strict=True)]


def test_chunks_of_a_prompt_stand_behind_caches_of_any_length_up_to_the_context() -> None:
    language = LanguageInfo(
        layers=1,
        kv_heads=2,
        head_dim=4,
        hidden_size=8,
        vocab_size=50,
        max_context=2048,
        max_positions=4096,
        tokens_per_tile=9,
        embedding=EmbeddingInfo(file="w", offset=0, dtype="float16", rows=50),
    )
    manifest = replace(MANIFEST, model=replace(MODEL, text=None, language=language))
    embeds = TensorSpec(name="inputs_embeds", dtype="float16", shape=("batch", "length", 8))
    mask = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "total"))
    length = TensorSpec(name="rope_length", dtype="int64", shape=(1,))
    past = TensorSpec(name="past_key_values.0.key", dtype="float16", shape=("batch", 2, "past", 4))
    prompt, step = profiles_for("llm", [embeds, mask, length, past], manifest, RANGES)
    assert "rope_length" not in prompt
    assert [shape[2] for shape in prompt["past_key_values.0.key"]] == [0, 0, 2048]
    assert [shape[2] for shape in step["past_key_values.0.key"]] == [1, 400, 2048]
    assert [shape[1] for shape in prompt["attention_mask"]] == [1, 512, 2560]
    with pytest.raises(BundleError, match="internvl: has no language model"):
        profiles_for("llm", [embeds], MANIFEST, RANGES)


def test_an_axis_inside_a_graph_may_be_a_sum() -> None:
    keys = TensorSpec(name="keys", dtype="float16", shape=("batch", 3, "past + length", 64))
    prompt, step = profiles_for("decoder", [keys], MANIFEST, RANGES)
    assert [shape[2] for shape in prompt["keys"]] == [9, 13, 24]
    assert [shape[2] for shape in step["keys"]] == [10, 25, 89]


def test_an_axis_inside_a_graph_may_be_a_sum_with_a_number() -> None:
    rows = TensorSpec(name="rows", dtype="float16", shape=("batch", "length + 8", 192))
    assert [shape[1] for shape in profiles_for("itm", [rows], MANIFEST, RANGES)[0]["rows"]] == [10, 24, 40]


def test_texts_longer_than_the_model_takes() -> None:
    with pytest.raises(EngineError, match="--text-length 2:16:96: text takes 80 tokens"):
        profiles_for("text", [IDS], MANIFEST, AxisRanges(text_length=(2, 16, 96)))


def test_an_axis_that_nobody_named() -> None:
    with pytest.raises(EngineError, match="no range is known for axes frames"):
        profiles_for("vision", [TensorSpec(name="x", dtype="float32", shape=("frames", 3))], MANIFEST, RANGES)


@pytest.mark.parametrize(("text", "found"), [("1:8:32", (1, 8, 32)), ("4", (4, 4, 4)), ("1:8", (1, 8, 8))])
def test_a_range_in_words(text: str, found: tuple[int, int, int]) -> None:
    assert parse_range("--batch", text) == found


@pytest.mark.parametrize("text", ["", "a", "1:", "1:2:3:4", "-1:2:3", "1.5"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(EngineError, match=r"^--batch .*: not a range; give min:opt:max"):
        parse_range("--batch", text)


@given(st.tuples(*[st.integers(-2, 9)] * 3), st.tuples(*[st.integers(-2, 9)] * 3))
def test_ranges_hold_in_order_from_one_or_all_that_do_not_are_named(
    batch: tuple[int, int, int], length: tuple[int, int, int]
) -> None:
    def right(r: tuple[int, int, int]) -> bool:
        return r[0] >= 1 and sorted(r) == list(r)

    wrong = [flag for flag, r in (("--batch", batch), ("--text-length", length)) if not right(r)]
    if not wrong:
        assert AxisRanges(batch=batch, text_length=length).batch == batch
        return
    with pytest.raises(EngineError) as caught:
        AxisRanges(batch=batch, text_length=length)
    assert [flag for flag in ("--batch", "--text-length") if flag in str(caught.value)] == wrong
