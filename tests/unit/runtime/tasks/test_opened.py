"""The graphs of a bundle: when they are opened, how many rows they take, what a bundle has to hold."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import BackendError, BundleError, InputError
from internvl_edge.runtime.inputs.pictures import preprocess
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.tasks import opened as opened_module
from internvl_edge.runtime.tasks.opened import OpenedGraphs
from tests.unit.runtime.fake_graphs import GRAPHS, FakeSession, decoder, vision
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle


def test_graphs_open_when_first_used_and_once(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    assert calls == []
    model.encode_image(pixels)
    assert calls == [("vision", -1), ("vision", 2), ("vision", 2), ("vision", 1)]


@pytest.mark.parametrize("as_files", [False, True])
def test_pictures_are_reported_when_they_are_done(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray, as_files: bool
) -> None:
    reported: list[tuple[float, tuple[str, int]]] = []
    monitor = Monitor(advance=lambda more: reported.append((more, calls[-1])))
    model.encode_image([np.full((4, 4, 3), i, np.uint8) for i in range(5)] if as_files else pixels, monitor=monitor)
    assert reported == [(2, ("vision", 2)), (2, ("vision", 2)), (1, ("vision", 1))]


def test_no_batch_is_larger_than_a_graph_takes(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "max_rows", 4, raising=False)
    large = InternVL.open(model.bundle.path, batch_size=32)
    large.encode_image(pixels)
    large.generate(pixels, np.array([[1, 260]]), num_beams=2, max_new_tokens=2)
    rows = {graph: [count for name, count in calls if name == graph and count > 0] for graph in ("vision", "decoder")}
    assert rows == {"vision": [4, 1, 2, 2, 1], "decoder": [2, 4, 2, 4, 1, 2]}


def test_one_picture_goes_through_at_a_time_where_its_beams_fill_a_call(
    model: InternVL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "max_rows", 4, raising=False)
    large = InternVL.open(model.bundle.path, batch_size=3)
    assert [large.rows("decoder", each=beams) for beams in (1, 2, 3, 4, 5, 9)] == [3, 2, 1, 1, 1, 1]


def test_a_changed_file_is_found_unless_that_is_left_out(model: InternVL) -> None:
    folder = model.bundle.path
    name = next(name for name in model.bundle.manifest.files if name.endswith(".onnx"))
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        InternVL.open(folder)
    assert InternVL.open(folder, verify=False).batch_size > 0


def test_a_batch_has_one_row_or_more(bundle_folder: Path) -> None:
    assert InternVL.open(bundle_folder, batch_size=1).batch_size == 1
    with pytest.raises(InputError, match="batch_size: 0 rows; give 1 or more"):
        InternVL.open(bundle_folder, batch_size=0)


def test_leaving_the_block_closes_every_graph(
    bundle_folder: Path, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    with InternVL.open(bundle_folder) as model:
        model.encode_image(pixels, "g")
        opened = [model.session("vision"), model.session("query")]
    assert [session.closed for session in opened] == [1, 1]  # type: ignore[attr-defined]
    assert model.session("vision") is not opened[0]


def test_what_a_task_keeps_is_made_once_and_closed_with_the_model(model: InternVL) -> None:
    made: list[FakeSession] = []

    def make(opened: OpenedGraphs) -> FakeSession:
        assert opened is model
        assert opened.kept(len_of_name) == len("internvl")  # what is kept may be made of what is kept
        made.append(FakeSession("kept", []))
        return made[-1]

    def len_of_name(opened: OpenedGraphs) -> int:
        return len(opened.info.layout)

    assert model.kept(make) is model.kept(make)
    model.close()
    assert [each.closed for each in made] == [1]
    assert model.kept(make) is made[1]


def test_threads_that_ask_at_once_open_a_graph_once(
    model: InternVL, calls: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = opened_module.open_session

    def slow(*args: object) -> object:
        time.sleep(0.05)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(opened_module, "open_session", slow)
    with ThreadPoolExecutor(8) as pool:
        opened = set(pool.map(lambda _: id(model.session("vision")), range(16)))
    assert len(opened) == 1
    assert calls == [("vision", -1)]


def test_nan_is_reported_once_and_never_ranked(
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

    monkeypatch.setattr(preprocess, "preprocess", counted)
    for use in (
        lambda: model.encode_image(paths),
        lambda: model.classify(paths, ["cat"]),
        lambda: model.generate(paths, np.array([[1, 262]])),
        lambda: model.match(paths, ["cat"] * 5),
    ):
        read.clear()
        use()
        assert read == [2, 2, 1]


def test_a_broken_file_late_in_a_list_is_reported_before_anything_runs(
    model: InternVL, calls: list[tuple[str, int]], tmp_path: Path
) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no")
    with pytest.raises(InputError, match=r"bad\.png .*absent\.png"):
        model.encode_image([tmp_path / "good.png"] * 4 + [tmp_path / "bad.png", tmp_path / "absent.png"])
    assert calls == []


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
