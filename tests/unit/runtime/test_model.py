"""The public API over graphs that are NumPy functions: what runs how often, in which batches, and what is refused."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL, preprocess
from internvl_edge.runtime import model as model_module
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.bundle import Bundle
from internvl_edge.runtime.errors import BackendError, BundleError, InputError
from internvl_edge.runtime.stages import POSTPROCESS, TOKENIZE, UNMEASURED, Stages
from internvl_edge.runtime.tables import lines_text, streamed_lines
from internvl_edge.runtime.tokenizer import Tokenizer
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle

Arrays = Mapping[str, np.ndarray]


def vision(inputs: Arrays) -> dict[str, np.ndarray]:
    means = inputs["pixel_values"].mean(axis=(2, 3))
    return {"vision_states": means[:, None], "image_embeds": means + 2}


def query(inputs: Arrays) -> dict[str, np.ndarray]:
    states = inputs["vision_states"]
    key = np.repeat(states[:, None, :, :2], 2, axis=2)  # [B, 1 head, 2 queries, 2]
    return {
        "query_embeds": states[:, 0] * [1, 2, 3],
        "query_states": states,
        "present.0.key": key,
        "present.0.value": key,
    }


def text(inputs: Arrays) -> dict[str, np.ndarray]:
    ids = inputs["input_ids"]
    return {
        "text_embeds": np.stack([(ids > 0).sum(axis=1), ids.sum(axis=1), ids.max(axis=1)], axis=1).astype(np.float32)
    }


def decoder(inputs: Arrays) -> dict[str, np.ndarray]:
    """Count up from the last id; end behind token 263."""
    last, past = inputs["input_ids"][:, -1], inputs["past_key_values.0.key"]
    assert inputs["attention_mask"].shape[1] == past.shape[2] + inputs["input_ids"].shape[1]
    new = np.zeros((*past.shape[:2], inputs["input_ids"].shape[1], past.shape[3]))
    logits = np.eye(320)[np.where(last == 263, 2, last + 1)]
    grown = np.concatenate([past, new], axis=2)
    return {"logits": logits, "present.0.key": grown, "present.0.value": grown}


def itm(inputs: Arrays) -> dict[str, np.ndarray]:
    return {"itm_logits": np.stack([inputs["vision_states"].sum(axis=(1, 2)), inputs["input_ids"].sum(axis=1)], axis=1)}


GRAPHS: dict[str, Callable[[Arrays], dict[str, np.ndarray]]] = {
    "vision": vision,
    "query": query,
    "text": text,
    "decoder": decoder,
    "itm": itm,
}


class FakeSession:
    def __init__(self, graph: str, calls: list[tuple[str, int]]) -> None:
        self.graph, self.calls = graph, calls
        self.closed = 0

    def run(
        self, inputs: Arrays, outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        self.calls.append((self.graph, len(next(iter(inputs.values())))))
        return GRAPHS[self.graph](inputs)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Graph and rows of every call; opening a graph is a call of -1 rows."""
    recorded: list[tuple[str, int]] = []

    def open_session(backend: str, bundle: Bundle, graph: str, options: SessionOptions) -> FakeSession:
        bundle.require(graph)
        recorded.append((graph, -1))
        return FakeSession(graph, recorded)

    monkeypatch.setattr(model_module, "open_session", open_session)
    return recorded


@pytest.fixture
def model(bundle_folder: Path, calls: list[tuple[str, int]]) -> InternVL:
    return InternVL.open(bundle_folder, batch_size=2)


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(5, 3, 4, 4)).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = x / np.sqrt((x * x).sum(axis=-1, keepdims=True))
    return result


def test_graphs_open_when_first_used_and_once(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    assert calls == []
    model.encode_image(pixels)
    assert calls == [("vision", -1), ("vision", 2), ("vision", 2), ("vision", 1)]


def test_features_of_mode_c_are_the_pooled_ones(model: InternVL, pixels: np.ndarray) -> None:
    np.testing.assert_allclose(model.encode_image(pixels, "c"), pixels.mean(axis=(2, 3)) + 2, rtol=1e-6)


def test_features_of_mode_g_are_a_sum_of_two_units(model: InternVL, pixels: np.ndarray) -> None:
    means = pixels.mean(axis=(2, 3))
    np.testing.assert_allclose(model.encode_image(pixels, "g"), unit(means + 2) + unit(means * [1, 2, 3]), rtol=1e-5)


@pytest.mark.parametrize("as_files", [False, True])
def test_pictures_are_told_of_when_they_are_done(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray, as_files: bool
) -> None:
    told: list[tuple[float, tuple[str, int]]] = []
    model.advance = lambda more: told.append((more, calls[-1]))
    model.encode_image([np.full((4, 4, 3), i, np.uint8) for i in range(5)] if as_files else pixels)
    assert told == [(2, ("vision", 2)), (2, ("vision", 2)), (1, ("vision", 1))]


def test_batches_do_not_change_results(bundle_folder: Path, calls: list[tuple[str, int]], pixels: np.ndarray) -> None:
    one, five = (InternVL.open(bundle_folder, batch_size=size) for size in (1, 5))
    np.testing.assert_array_equal(one.encode_image(pixels, "g"), five.encode_image(pixels, "g"))
    texts = ["cat", "a red kite", "two boats"]
    np.testing.assert_array_equal(one.encode_text(texts), five.encode_text(texts))


def test_no_batch_is_larger_than_a_graph_takes(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "max_rows", 4, raising=False)
    large = InternVL.open(model.bundle.path, batch_size=32)
    large.encode_image(pixels)
    large.generate(pixels, np.array([[1, 260]]), num_beams=2, max_new_tokens=2)
    rows = {graph: [count for name, count in calls if name == graph and count > 0] for graph in ("vision", "decoder")}
    assert rows == {"vision": [4, 1, 2, 2, 1], "decoder": [2, 4, 2, 4, 1, 2]}


def test_similarity_is_a_scaled_cosine(model: InternVL, pixels: np.ndarray) -> None:
    texts = ["cat", "red"]
    expected = np.exp(1.5) * unit(model.encode_image(pixels, "g")) @ unit(model.encode_text(texts)).T
    np.testing.assert_allclose(model.similarity(pixels, texts), expected, rtol=1e-5)


def test_classes_average_over_templates_and_crop_the_picture(model: InternVL, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (4, 9, 3), dtype=np.uint8)
    labels, templates = ["cat", "kite"], ["a {}", "the red {}"]
    probabilities = model.classify([picture], labels, templates)
    columns = [unit(unit(model.encode_text([t.format(label) for t in templates])).mean(axis=0)) for label in labels]
    features = model.encode_image(model.preprocess([picture], "crop"), "g")
    logits = 100 * unit(features) @ np.stack(columns, axis=1)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-3)
    assert probabilities.shape == (1, 2)


def test_texts_and_their_ids_give_the_same(model: InternVL) -> None:
    texts = ["cat", "a red kite"]
    np.testing.assert_array_equal(model.encode_text(texts), model.encode_text(model.tokenize(texts)))


def test_a_text_is_cut_at_the_models_own_length(bundle_folder: Path, tmp_path: Path, golden_a: Path) -> None:
    info = dataclasses.replace(MODEL, text=dataclasses.replace(MODEL.require_text(), max_text_length=6))
    tokenizer = golden_a / "checkpoint" / "tokenizer.model"
    model = InternVL.open(write_bundle(tmp_path / "short", ("text",), info, tokenizer))
    assert model.tokenize(["a red kite"]).shape == (1, 6)


def test_vision_and_query_run_once_a_picture_whatever_the_beams(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    model.generate(pixels[:2], np.array([[1, 259]]), num_beams=3, max_new_tokens=3)
    rows = [call for call in calls if call[1] > 0]
    assert rows == [("vision", 2), ("query", 2), ("decoder", 2), ("decoder", 6), ("decoder", 6)]


def test_rows_of_different_batches_are_filled_to_one_width(model: InternVL, pixels: np.ndarray) -> None:
    ids = model.generate(pixels[:3], np.array([[1, 261], [1, 262], [1, 259]]), max_new_tokens=6)
    np.testing.assert_array_equal(ids, [[262, 263, 2, 0, 0], [263, 2, 0, 0, 0], [260, 261, 262, 263, 2]])


def test_a_stop_id_of_the_caller_replaces_the_models(model: InternVL, pixels: np.ndarray) -> None:
    assert model.generate(pixels[:1], np.array([1, 259]), eos_token_id=261).tolist() == [[260, 261]]


def test_captions_are_the_decoded_ids(model: InternVL, pixels: np.ndarray, golden_a: Path) -> None:
    tokenizer = Tokenizer(golden_a / "checkpoint" / "tokenizer.model")
    prompt = tokenizer.encode_prompt("cat")
    ids = model.generate(pixels[:1], prompt, max_new_tokens=3)
    assert model.caption(pixels[:1], "cat", max_new_tokens=3) == [tokenizer.decode(ids[0])]


def test_streamed_pieces_are_the_captions(model: InternVL, pixels: np.ndarray) -> None:
    captions = model.caption(pixels, "cat", max_new_tokens=7)
    pieces = list(model.stream(pixels, "cat", max_new_tokens=7))
    batches = [piece.picture // 2 for piece in pieces]
    assert batches == sorted(batches)
    assert ["".join(piece.text for piece in pieces if piece.picture == index) for index in range(5)] == captions


def test_who_stops_asking_for_pieces_stops_the_work(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    pieces = model.stream(pixels, "cat", max_new_tokens=9, min_new_tokens=9)
    assert calls == []
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    rows = [call for call in calls if call[1] > 0]
    assert [graph for graph, _ in rows[:3]] == ["vision", "query", "decoder"]
    assert len(rows) < 9  # of one batch of three, and not all of its steps
    assert list(pieces) == []


def test_streaming_checks_before_it_runs(model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        model.stream(pixels, max_new_tokens=0)
    with pytest.raises(InputError, match="positions, the model has 40"):
        model.stream(pixels, "a" * 1_000_000)
    assert calls == []


def test_lines_are_printed_piece_by_piece_as_they_would_be_at_once(model: InternVL, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.new("RGB", (5, 5), (index * 90, 0, 0)).save(path)
    captions = model.caption(paths, "cat", max_new_tokens=7)
    streamed = "".join(streamed_lines(model, paths, "cat", max_new_tokens=7))
    assert streamed == lines_text(paths, captions) + "\n"
    with pytest.raises(InputError, match=r"absent\.png"):
        next(streamed_lines(model, [*paths, tmp_path / "absent.png"], "cat"))


def test_leaving_the_block_closes_every_graph(
    bundle_folder: Path, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    with InternVL.open(bundle_folder) as model:
        model.encode_image(pixels, "g")
        opened = [model.session("vision"), model.session("query")]
    assert [session.closed for session in opened] == [1, 1]  # type: ignore[attr-defined]
    assert model.session("vision") is not opened[0]


def test_threads_that_ask_at_once_open_a_graph_once(
    model: InternVL, calls: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = model_module.open_session

    def slow(*args: object) -> object:
        time.sleep(0.05)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(model_module, "open_session", slow)
    with ThreadPoolExecutor(8) as pool:
        opened = set(pool.map(lambda _: id(model.session("vision")), range(16)))
    assert len(opened) == 1
    assert calls == [("vision", -1)]


def test_nan_is_told_once_and_never_ranked(
    model: InternVL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pixels: np.ndarray
) -> None:
    broken = {"text_embeds": np.array([[1, np.nan, 2]]), "logits": np.full((1, 320), np.nan)}
    monkeypatch.setitem(GRAPHS, "text", lambda inputs: {"text_embeds": broken["text_embeds"]})
    monkeypatch.setitem(GRAPHS, "decoder", lambda inputs: {**decoder(inputs), "logits": broken["logits"]})
    monkeypatch.setitem(GRAPHS, "itm", lambda inputs: {"itm_logits": np.array([[np.inf, 0]])})
    for _ in range(2):
        with pytest.raises(BackendError, match="texts: 1 of 1 have NaN or inf; export with"):
            model.encode_text(["cat"])
    assert len(caplog.records) == 1
    assert "graph text: 1 of 3 values of text_embeds are NaN or inf" in caplog.text
    uses: list[Callable[[], object]] = [
        lambda: model.similarity(pixels[:1], ["cat"]),
        lambda: model.classify(pixels[:1], ["cat"]),
        lambda: model.match(pixels[:1], ["cat"]),
        lambda: model.generate(pixels[:1], np.array([[1, 261]])),
        lambda: model.generate(pixels[:1], np.array([[1, 261]]), num_beams=2),
    ]
    for use in uses:
        with pytest.raises(BackendError, match="1 of 1 have NaN or inf; export with"):
            use()


def test_a_video_is_the_mean_of_its_frames(model: InternVL, pixels: np.ndarray) -> None:
    np.testing.assert_allclose(model.encode_video(pixels, "g"), model.encode_image(pixels, "g").mean(axis=0), rtol=1e-6)


def test_a_requests_stages_go_to_its_end(model: InternVL, pixels: np.ndarray) -> None:
    model.stages = Stages()
    model.caption(pixels[:1], "cat", max_new_tokens=2)
    assert {span.stage for span in model.stages.spans} == {TOKENIZE, POSTPROCESS}  # graphs here keep no time


def test_matching_pairs_pictures_with_texts_without_prefix(model: InternVL, pixels: np.ndarray, golden_a: Path) -> None:
    texts = ["cat", "red", "a kite"]
    ids = Tokenizer(golden_a / "checkpoint" / "tokenizer.model").encode_texts(texts, prefix="")
    logits = model.match(pixels[:3], texts)
    np.testing.assert_allclose(logits[:, 0], pixels[:3].mean(axis=(2, 3)).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(logits[:, 1], ids.sum(axis=1))


def test_files_are_read_batch_by_batch(
    model: InternVL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    read: list[int] = []
    original = preprocess.preprocess

    def counted(images: Sequence[object], *rest: object) -> np.ndarray:
        read.append(len(images))
        return original(images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(model_module, "preprocess", counted)
    for use in (
        lambda: model.encode_image(paths),
        lambda: model.classify(paths, ["cat"]),
        lambda: model.generate(paths, np.array([[1, 262]])),
        lambda: model.match(paths, ["cat"] * 5),
    ):
        read.clear()
        use()
        assert read == [2, 2, 1]


def test_a_broken_file_late_in_a_list_is_told_before_anything_runs(
    model: InternVL, calls: list[tuple[str, int]], tmp_path: Path
) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no")
    with pytest.raises(InputError, match=r"bad\.png .*absent\.png"):
        model.encode_image([tmp_path / "good.png"] * 4 + [tmp_path / "bad.png", tmp_path / "absent.png"])
    assert calls == []


def test_positions_are_used_up_to_the_last(model: InternVL, pixels: np.ndarray) -> None:
    prompt = np.full((1, 30), 100)  # 2 queries + 30 + 9 - 1 = 40 positions
    assert model.generate(pixels[:1], prompt, max_new_tokens=9).shape == (1, 9)
    with pytest.raises(InputError, match="41 positions, the model has 40"):
        model.generate(pixels[:1], prompt, max_new_tokens=10)
    with pytest.raises(InputError, match="41 positions"):
        model.encode_text(np.ones((1, 41), np.int64))
    with pytest.raises(InputError, match="41 positions"):
        model.match(pixels[:1], np.ones((1, 39), np.int64))


REFUSED: list[tuple[Callable[[InternVL, np.ndarray], object], str]] = [
    (lambda m, x: m.encode_image(x, "d"), "mode 'd': unknown"),  # type: ignore[arg-type]
    (lambda m, x: m.encode_image([]), "no input given"),
    (lambda m, x: m.encode_image("a.png"), "give a list"),
    (lambda m, x: m.encode_image(Path("a.png")), "give a list"),  # type: ignore[arg-type]
    (lambda m, x: m.generate(Path("a.png"), np.array([[1]])), "give a list"),  # type: ignore[arg-type]
    (lambda m, x: m.encode_text("cat"), "one text, not several"),
    (lambda m, x: m.encode_text([]), "no input given"),
    (lambda m, x: m.encode_text(["cat", " "]), "empty at position 1"),
    (lambda m, x: m.encode_text(np.array([[1, 320]])), "found 1 to 320; the model knows 0 to 319"),
    (lambda m, x: m.encode_text(np.array([[-1, 3]])), "found -1 to 3"),
    (lambda m, x: m.encode_text(np.array([1, 3])), r"found int64 \[2\]"),
    (lambda m, x: m.encode_text(np.array([["cat"]])), "found <U3"),
    (lambda m, x: m.classify(x, []), "no label"),
    (lambda m, x: m.classify(x, "cat"), "one label"),
    (lambda m, x: m.classify(x, ["cat"], ["a photo", "a {}", "b"]), "templates without {}: a photo, b;"),
    (lambda m, x: m.classify(x, ["cat"], []), "no template"),
    (lambda m, x: m.match(x, ["cat"]), "5 pictures but 1 texts"),
    (lambda m, x: m.generate(x, np.array([[1], [2]])), r"5 pictures but prompts \[2, 1\]"),
    (lambda m, x: m.generate(x, np.zeros((1, 0), np.int64)), r"prompts \[1, 0\]"),
    (lambda m, x: m.generate(x[:0], np.array([[1]])), "no picture given"),
    (lambda m, x: m.generate(x, np.array([[1]]), eos_token_id=320), "320; the model knows 0 to 319"),
    (lambda m, x: m.generate(x, np.array([[1]]), num_beams=0), "num_beams is 0"),
]


@pytest.mark.parametrize(("use", "found"), REFUSED, ids=[found for _, found in REFUSED])
def test_bad_input_is_one_line(
    model: InternVL, pixels: np.ndarray, use: Callable[[InternVL, np.ndarray], object], found: str
) -> None:
    with pytest.raises(InputError, match=found) as caught:
        use(model, pixels)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


@pytest.mark.parametrize(
    ("use", "graphs"),
    [
        (lambda m, x: m.encode_image(x, "g"), "query"),
        (lambda m, x: m.similarity(x, ["cat"], "c"), "text"),
        (lambda m, x: m.caption(x), "query, decoder"),
        (lambda m, x: m.generate(x, np.array([[1]])), "query, decoder"),
        (lambda m, x: m.match(x, ["cat"]), "itm"),
        (lambda m, x: m.run_graph("connector", {}), "connector"),
    ],
)
def test_a_missing_graph_names_itself_and_the_flag(
    tmp_path: Path,
    calls: list[tuple[str, int]],
    pixels: np.ndarray,
    use: Callable[[InternVL, np.ndarray], object],
    graphs: str,
) -> None:
    model = InternVL.open(write_bundle(tmp_path / "small", ("vision",), MODEL, None))
    with pytest.raises(BundleError, match=f"no graph {graphs} .*--graphs vision,{graphs.replace(', ', ',')}$"):
        use(model, pixels)


def test_a_tower_alone_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    info = dataclasses.replace(MODEL, layout="internvit", embed_dim=None, logit_scale=None)
    model = InternVL.open(write_bundle(tmp_path / "tower", ("vision", "text"), info, None))
    monkeypatch.setitem(GRAPHS, "vision", lambda inputs: {"vision_states": vision(inputs)["vision_states"]})
    with pytest.raises(BundleError, match="internvit has no image embedding"):
        model.encode_image(pixels)
    with pytest.raises(BundleError, match="internvit has no logit scale"):
        model.similarity(pixels, np.array([[1, 2]]))
    with pytest.raises(BundleError, match=r"has no tokenizer\.model; export from a folder that has one"):
        model.tokenize(["cat"])


def test_a_tokenizer_without_digest_is_not_used(tmp_path: Path, golden_a: Path) -> None:
    folder = write_bundle(tmp_path / "tower", ("text",), MODEL, None)
    (folder / "tokenizer.model").write_bytes((golden_a / "checkpoint" / "tokenizer.model").read_bytes())
    with pytest.raises(BundleError, match=r"has no tokenizer\.model"):
        InternVL.open(folder).tokenize(["cat"])


def test_opening_checks_backend_batch_and_bundle(bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="'cuda': unknown"):
        InternVL.open(bundle_folder, backend="cuda")
    with pytest.raises(InputError, match="batch_size: 0"):
        InternVL.open(bundle_folder, batch_size=0)
    with pytest.raises(BundleError, match="no bundle"):
        InternVL.open(tmp_path / "nowhere")
    (bundle_folder / "tokenizer.model").write_text("changed")
    with pytest.raises(BundleError, match=r"tokenizer\.model has 7 bytes"):
        InternVL.open(str(bundle_folder))
