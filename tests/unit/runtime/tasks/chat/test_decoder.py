"""The decoder of answers against a model that computes every prompt anew, in one pass and without padding."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.backends.array_cache import ArrayCache
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL, GraphUse
from internvl_edge.runtime.bundle.manifest import (
    SCHEMA,
    FileInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    TensorSpec,
    VisionInfo,
)
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.tasks.chat.batch import PromptBatch
from internvl_edge.runtime.tasks.chat.decoder import ChatDecoder, LanguageModel
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.search import generate, log_softmax
from internvl_edge.runtime.tasks.opened import OpenedGraphs
from tests.unit.runtime.toy_llm import CONTEXT_ID, HIDDEN, TILE_TOKENS, ToyLlm, language_info

PICTURE = [CONTEXT_ID] * TILE_TOKENS
EOS = 3


def tiles_for(prompts: Sequence[Sequence[int]], seed: int = 0) -> np.ndarray | None:
    """Return the embeddings of all tiles of the prompts."""
    count = sum(list(prompt).count(CONTEXT_ID) for prompt in prompts) // TILE_TOKENS
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, TILE_TOKENS, HIDDEN)).astype(np.float32) if count else None


def batch_of(prompts: Sequence[Sequence[int]], tiles: np.ndarray | None, pad: int = 7) -> PromptBatch:
    width = max(map(len, prompts))
    ids = np.array([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = np.array([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return PromptBatch(input_ids=ids, attention_mask=mask, vit_embeds=tiles, context_token_id=CONTEXT_ID)


def tiles_of_rows(prompts: Sequence[Sequence[int]], tiles: np.ndarray | None) -> list[np.ndarray | None]:
    """Return the tiles of each prompt, which come in the order of the prompts."""
    counts = [list(prompt).count(CONTEXT_ID) // TILE_TOKENS for prompt in prompts]
    ends = np.cumsum(counts)
    return [None if tiles is None else tiles[end - count : end] for count, end in zip(counts, ends, strict=True)]


def naive_greedy(llm: ToyLlm, prompt: Sequence[int], tiles: np.ndarray | None, config: GenerationConfig) -> list[int]:
    new: list[int] = []
    while len(new) < config.max_new_tokens and not set(new) & set(config.eos_token_ids):
        new.append(int(llm.one_pass([*prompt, *new], tiles).argmax()))
    return new


def answered(language: LanguageModel, batch: PromptBatch, config: GenerationConfig) -> list[list[int]]:
    with language.decoder(batch, config.max_new_tokens, beams=config.num_beams) as decoder:
        result = generate(decoder, config)
    return [row[:length].tolist() for row, length in zip(result.ids, result.lengths, strict=True)]


words = st.lists(st.integers(0, 19), min_size=1, max_size=6)
prompts_strategy = st.lists(st.one_of(words, st.just(PICTURE)), min_size=1, max_size=5).map(
    lambda parts: [token for part in parts for token in part] + [1]
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 50),
    st.lists(prompts_strategy, min_size=1, max_size=3),
    st.integers(1, 40),
    st.sets(st.integers(0, 19), max_size=3),
    st.sampled_from([7, 400]),
)
def test_greedy_answers_equal_those_of_single_passes(
    seed: int, prompts: list[list[int]], chunk: int, eos: set[int], pad: int
) -> None:
    llm, tiles = ToyLlm(seed), tiles_for(prompts, seed)
    config = GenerationConfig(max_new_tokens=5, eos_token_ids=tuple(eos), pad_token_id=pad)
    language = LanguageModel(llm, language_info(), llm, chunk)
    found = answered(language, batch_of(prompts, tiles, pad), config)
    longest = max(map(len, prompts))
    assert max(llm.columns[: -(-longest // max(chunk // len(prompts), 1))]) <= max(chunk // len(prompts), 1)
    rows = zip(prompts, tiles_of_rows(prompts, tiles), strict=True)
    assert found == [naive_greedy(llm, prompt, own, config) for prompt, own in rows]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.lists(prompts_strategy, min_size=1, max_size=2), st.integers(1, 40), st.integers(2, 3))
def test_beams_do_not_depend_on_chunks_and_padding(seed: int, prompts: list[list[int]], chunk: int, beams: int) -> None:
    llm, tiles = ToyLlm(seed), tiles_for(prompts, seed)
    config = GenerationConfig(num_beams=beams, max_new_tokens=4, eos_token_ids=(EOS,))
    language = LanguageModel(llm, language_info(), llm, chunk)
    together = answered(language, batch_of(prompts, tiles), config)
    alone = [
        answered(LanguageModel(llm, language_info(), llm), batch_of([prompt], own), config)[0]
        for prompt, own in zip(prompts, tiles_of_rows(prompts, tiles), strict=True)
    ]
    assert together == alone
    for prompt, own, ids in zip(prompts, tiles_of_rows(prompts, tiles), together, strict=True):
        greedy = naive_greedy(llm, prompt, own, config)
        assert mean_score(llm, prompt, own, ids) >= mean_score(llm, prompt, own, greedy) - 1e-5 or len(ids) < 4


def mean_score(llm: ToyLlm, prompt: list[int], tiles: np.ndarray | None, ids: list[int]) -> float:
    steps = [log_softmax(llm.one_pass([*prompt, *ids[:n]], tiles)[None])[0, ids[n]] for n in range(len(ids))]
    return float(np.mean(steps))


@pytest.mark.parametrize("chunk", [3, 512])
def test_the_length_of_the_request_decides_the_angles(chunk: int) -> None:
    """Every chunk has that of the whole prompt, a step the positions so far; keys keep the angles of their own step."""
    prompts = [[1, 2, 4, 5, 6], [1, 2, 4, 5, 6, 8, 9, 10]]
    llm = ToyLlm(1, rope_limit=9)
    config = GenerationConfig(max_new_tokens=4, eos_token_ids=())
    found = answered(LanguageModel(llm, language_info(rope_limit=9), llm, chunk), batch_of(prompts, None), config)
    steps = -(-8 // max(chunk // 2, 1))
    assert llm.lengths == [8] * steps + [9, 10, 11]
    whole = ToyLlm(1, rope_limit=9)
    assert found == answered(LanguageModel(whole, language_info(), whole), batch_of(prompts, None), config)
    assert llm.one_pass(prompts[1], length=8).argmax() == found[1][0]


def test_the_embeddings_of_a_half_precision_model_stay_half() -> None:
    llm = ToyLlm(2, dtype=np.float16)
    tiles = tiles_for([PICTURE])
    assert tiles is not None
    config = GenerationConfig(max_new_tokens=3, eos_token_ids=())
    half, single = (
        answered(LanguageModel(llm, language_info(), llm), batch_of([[1, *PICTURE]], own), config)
        for own in (tiles.astype(np.float16), tiles.astype(np.float16).astype(np.float32))
    )
    assert half == single


class TestKeptPrompt:
    """The cache of the last prompt serves the next one as far as both are the same."""

    first: ClassVar = [1, 2, *PICTURE, 4, *PICTURE, 5, 6]
    config = GenerationConfig(max_new_tokens=3, eos_token_ids=())

    @pytest.fixture
    def llm(self) -> ToyLlm:
        return ToyLlm(4)

    @pytest.fixture
    def language(self, llm: ToyLlm) -> LanguageModel:
        return LanguageModel(llm, language_info(), llm)

    def fresh(self, prompt: list[int], tiles: np.ndarray | None, config: GenerationConfig) -> list[list[int]]:
        llm = ToyLlm(4)
        return answered(LanguageModel(llm, language_info(), llm), batch_of([prompt], tiles), config)

    @pytest.mark.parametrize("beams", [1, 3])
    def test_a_conversation_computes_what_is_new(self, llm: ToyLlm, language: LanguageModel, beams: int) -> None:
        tiles = tiles_for([self.first])
        (answer,) = answered(language, batch_of([self.first], tiles), self.config)
        llm.columns.clear()
        second = [*self.first, *answer, 8, 9]
        config = GenerationConfig(max_new_tokens=3, eos_token_ids=(), num_beams=beams)
        found = answered(language, batch_of([second], tiles), config)
        assert llm.columns == [3, 1, 1]  # the last token of the answer had not been fed, and two are new
        assert found == self.fresh(second, tiles, config)
        llm.columns.clear()
        assert answered(language, batch_of([second], tiles), config) == found
        assert llm.columns == [1, 1, 1]  # the last position of a prompt is computed for its logits

    def test_another_picture_is_another_prompt(self, llm: ToyLlm, language: LanguageModel) -> None:
        tiles = tiles_for([self.first])
        assert tiles is not None
        answered(language, batch_of([self.first], tiles), self.config)
        other = np.stack([tiles[0], tiles[0]])
        llm.columns.clear()
        assert answered(language, batch_of([self.first], other), self.config) == self.fresh(
            self.first, other, self.config
        )
        assert llm.columns[0] == len(self.first) - 6  # up to the second picture
        llm.columns.clear()
        answered(language, batch_of([self.first], tiles[::-1]), self.config)
        assert llm.columns[0] == len(self.first) - 2  # up to the first one

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(prompts_strategy, st.integers(0, 1), st.integers(1, 3)), min_size=2, max_size=4))
    def test_any_sequence_of_requests_equals_fresh_ones(self, requests: list[tuple[list[int], int, int]]) -> None:
        llm = ToyLlm(4)
        language = LanguageModel(llm, language_info(), llm, chunk=4)
        for prompt, seed, beams in requests:
            tiles = tiles_for([prompt], seed)
            config = GenerationConfig(max_new_tokens=3, eos_token_ids=(EOS,), num_beams=beams)
            assert answered(language, batch_of([prompt], tiles), config) == self.fresh(prompt, tiles, config)

    def test_a_batch_and_a_failed_request_leave_nothing(self, llm: ToyLlm, language: LanguageModel) -> None:
        prompt = [1, 2, 4, 5]
        answered(language, batch_of([prompt, prompt[:2]], None), self.config)
        llm.columns.clear()
        answered(language, batch_of([prompt], None), self.config)
        assert llm.columns[0] == 4
        llm.failing = True
        with pytest.raises(ValueError, match="fails"):
            answered(language, batch_of([prompt], None), self.config)
        llm.failing = False
        llm.columns.clear()
        answered(language, batch_of([prompt], None), self.config)
        assert llm.columns[0] == 4

    def test_a_stream_that_is_left_and_a_cancelled_prefill_are_kept(self, llm: ToyLlm) -> None:
        language = LanguageModel(llm, language_info(), llm, chunk=2)
        prompt = [1, 2, 4, 5, 6, 8]

        def stream() -> Iterator[np.ndarray]:
            with language.decoder(batch_of([prompt], None), 5) as decoder:
                yield from decoder.prefill()

        reading = stream()
        next(reading)
        next(reading)
        reading.close()
        llm.columns.clear()
        answered(language, batch_of([prompt], None), self.config)
        assert llm.columns[0] == 2
        with language.decoder(batch_of([[9, *prompt]], None), 5) as decoder:
            generate(decoder, self.config, cancelled=lambda: True)
        llm.columns.clear()
        answered(language, batch_of([[9, *prompt]], None), self.config)
        assert llm.columns[:3] == [2, 2, 1]

    def test_leading_padding_of_one_prompt_is_left_out(self, llm: ToyLlm, language: LanguageModel) -> None:
        prompt = [1, 2, 4, 5]
        batch = PromptBatch(
            input_ids=np.array([[7, 7, *prompt]]),
            attention_mask=np.array([[0, 0, 1, 1, 1, 1]]),
            context_token_id=CONTEXT_ID,
        )
        found = answered(language, batch, self.config)
        assert llm.columns[0] == 4
        assert found == self.fresh(prompt, None, self.config)

    @pytest.mark.parametrize("fails", ["reserve", "select"])
    def test_without_memory_a_prompt_is_computed_anew(
        self, llm: ToyLlm, language: LanguageModel, monkeypatch: pytest.MonkeyPatch, fails: str
    ) -> None:
        """The answer does not depend on what is kept, and what cannot be kept is freed."""
        closed: list[ArrayCache] = []
        monkeypatch.setattr(ArrayCache, "close", lambda cache: closed.append(cache))

        def fail(cache: ArrayCache, *arguments: object) -> None:
            if fails == "reserve" or len(np.atleast_1d(arguments[0])) == 1:
                raise BackendError("no memory")
            select(cache, *arguments)  # type: ignore[arg-type]

        select = ArrayCache.select
        monkeypatch.setattr(ArrayCache, fails, fail)
        tiles = tiles_for([self.first])
        config = GenerationConfig(num_beams=2, max_new_tokens=3, eos_token_ids=())
        found = answered(language, batch_of([self.first], tiles), config)
        llm.columns.clear()
        assert answered(language, batch_of([self.first], tiles), config) == found
        assert llm.columns[0] == len(self.first)
        assert len(closed) == 1 + (fails == "select")

    def test_close_forgets(self, llm: ToyLlm, language: LanguageModel) -> None:
        answered(language, batch_of([self.first], tiles_for([self.first])), self.config)
        language.close()
        llm.columns.clear()
        answered(language, batch_of([self.first], tiles_for([self.first])), self.config)
        assert llm.columns[0] == len(self.first)

    @pytest.mark.parametrize(
        ("limit", "first", "new_tokens", "second", "computed"),
        [
            (20, 8, 4, 12, 4),  # all within the limit: what follows the first 8
            (8, 8, 4, 8, 1),  # the answer crossed the limit, its prompt did not
            (8, 8, 4, 9, 9),  # the next prompt is beyond the limit: its first positions have other angles
            (7, 8, 4, 8, 8),  # the prompt itself was beyond it
            (None, 8, 4, 8, 8),  # not known
        ],
    )
    def test_lengths_that_change_the_angles_share_nothing(
        self, limit: int | None, first: int, new_tokens: int, second: int, computed: int
    ) -> None:
        prompt = [1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]
        config = GenerationConfig(max_new_tokens=new_tokens, eos_token_ids=())
        llm, alone = ToyLlm(4, rope_limit=limit or 20), ToyLlm(4, rope_limit=limit or 20)
        language = LanguageModel(llm, language_info(rope_limit=limit), llm)
        answered(language, batch_of([prompt[:first]], None), config)
        llm.columns.clear()
        found = answered(language, batch_of([prompt[:second]], None), config)
        assert llm.columns[0] == computed
        other = LanguageModel(alone, language_info(rope_limit=limit), alone)
        assert found == answered(other, batch_of([prompt[:second]], None), config)


@contextmanager
def decoder_of(prompt: list[int], new_tokens: int, **changes: object) -> Iterator[ChatDecoder]:
    llm = ToyLlm()
    with LanguageModel(llm, language_info(**changes), llm).decoder(
        batch_of([prompt], tiles_for([prompt])), new_tokens
    ) as decoder:
        yield decoder


def test_a_context_that_is_too_short_names_all_numbers() -> None:
    prompt = [1, *PICTURE, *PICTURE, 2]
    with decoder_of(prompt, 12, max_context=20):
        pass
    expected = (
        r"^prompt: 8 tokens with 2 tiles of 3 and 13 new ones are 21, the bundle's context is 20; give fewer tiles,"
    )
    with pytest.raises(InputError, match=expected), decoder_of(prompt, 13, max_context=20):
        pass


def test_ids_outside_of_the_table_are_named() -> None:
    with pytest.raises(InputError, match=r"ids \[-1, 30\] are not in the table of 24 tokens"), decoder_of([30, -1], 1):
        pass


def test_positions_beyond_the_training_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    llm = ToyLlm()
    language = LanguageModel(llm, language_info(max_positions=5), llm)
    config = GenerationConfig(max_new_tokens=3, eos_token_ids=())
    with caplog.at_level(logging.WARNING):
        answered(language, batch_of([[1, 2, 4]], None), config)
        assert not caplog.messages
        for _ in range(2):
            answered(language, batch_of([[1, 2, 4, 5]], None), config)
    assert caplog.messages == [
        "a request of 6 positions is longer than the 5 of the model's training; answers may get worse"
    ]


def test_logits_that_are_no_numbers_are_an_error() -> None:
    llm = ToyLlm()
    llm.table[2] = np.nan
    with pytest.raises(BackendError, match="1 of 1 have NaN"):
        answered(LanguageModel(llm, language_info(), llm), batch_of([[1, 2]], None), GenerationConfig())


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"input_ids": np.zeros((1, 0), np.int64)}, r"input_ids are int64 \[1, 0\]"),
        ({"input_ids": np.ones((1, 2))}, r"input_ids are float64 \[1, 2\]"),
        ({"attention_mask": np.ones((1, 3))}, r"attention_mask is \[1, 3\] but input_ids \[1, 5\]"),
        ({"attention_mask": np.array([[0, 0, 2, 1, 1]])}, "values beside 0 and 1"),
        ({"attention_mask": np.array([[1, 1, 1, 1, 0]])}, r"prompts \[0\] end in padding"),
        ({"vit_embeds": None}, "3 context tokens stand for pictures, but there is no tile"),
        (
            {"vit_embeds": np.zeros((2, 3, 8), np.float32)},
            "3 context tokens stand for pictures, but there is 2 tiles of 3 tokens, 6 in all",
        ),
        ({"vit_embeds": np.zeros((3, 8), np.float32)}, r"vit_embeds are float32 \[3, 8\]"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(values: dict[str, Any], found: str) -> None:
    fitting = {
        "input_ids": np.array([[1, *PICTURE, 2]]),
        "vit_embeds": np.zeros((1, TILE_TOKENS, HIDDEN), np.float32),
        "context_token_id": CONTEXT_ID,
    }
    assert PromptBatch(**fitting).tiles == 1
    with pytest.raises(InputError, match=found):
        PromptBatch(**{**fitting, **values})


def test_the_bundle_says_how_long_a_chunk_may_be(tmp_path: Path) -> None:
    """A plan takes prompts up to a length; longer ones come in more chunks."""
    llm = ToyLlm(3)
    (tmp_path / "weights").write_bytes(llm.table.tobytes())
    (tmp_path / "llm.onnx").write_bytes(b"0")
    tensor = TensorSpec(name="inputs_embeds", dtype="float32", shape=("batch", "length", HIDDEN))
    use = GraphUse(role=LANGUAGE_MODEL, prompt_tokens=(1, 4, 4))
    manifest = Manifest(
        schema=SCHEMA,
        producer={},
        model=ModelInfo(
            layout="internvl_chat",
            vision=VisionInfo(image_size=28, patch_size=14, hidden_size=2, tokens=5),
            language=language_info(),
        ),
        precision="fp32",
        graphs={"llm": GraphInfo(file="llm.onnx", inputs=(tensor,), outputs=(), use=use)},
        files={"llm.onnx": FileInfo(bytes=1, sha256="0" * 64)},
    )
    manifest.save(tmp_path / "manifest.json")
    opened = OpenedGraphs(Bundle.open(tmp_path, verify=False), lambda bundle, graph, options: llm, batch_size=4)
    config = GenerationConfig(max_new_tokens=2, eos_token_ids=())
    found = answered(LanguageModel.of(opened), batch_of([[1, 2, 4, 5, 6]], None), config)
    assert llm.columns == [4, 1, 1]
    assert found == [naive_greedy(llm, [1, 2, 4, 5, 6], None, config)]
