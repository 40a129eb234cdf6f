"""Evaluation of a model whose graphs are a few lines of NumPy: every figure is checked by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.calib.data.dataset import DataSet, open_data
from internvl_edge.calib.evaluation import EvalReport, cosines, evaluation_text, score
from internvl_edge.calib.evaluation import run as run_module
from internvl_edge.calib.evaluation.features import Features, measure
from internvl_edge.calib.evaluation.options import EvalOptions
from internvl_edge.calib.evaluation.run import evaluate, evaluate_bundle
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import SCHEMA, FileInfo, GraphInfo, Manifest, ModelInfo, TextInfo, VisionInfo
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.model import InternVL
from tests.unit.runtime.graph_uses import USES

ALL = ("vision", "query", "text", "decoder")
WORDS = ("red", "green", "blue", "rot", "bunt", "blau", "pure", "mixed", "English:")
EOS = 2
FIRST = 3
"""Id of the first word."""


class Words:
    """A tokenizer with a token a word."""

    def encode_texts(self, texts: Sequence[str], *, prefix: str = "", max_length: int = 80) -> np.ndarray:
        return np.array([[FIRST + WORDS.index(text)] for text in texts])

    def encode_prompt(self, prompt: str) -> np.ndarray:
        return np.array([[1, FIRST + WORDS.index(prompt)]])

    def decode(self, ids: np.ndarray) -> str:
        return " ".join(WORDS[token - FIRST] for token in ids if token >= FIRST)


class Fake(InternVL):
    """Pictures are their mean colour; a text is the colour that `meaning` says; a caption names the strongest."""

    meaning: Mapping[str, tuple[float, float, float]] = {
        "red": (1, 0, 0),
        "green": (0, 1, 0),
        "blue": (0, 0, 1),
        "rot": (1, 0, 0),
        "bunt": (1, 1, 1),
        "blau": (0, 0, 1),
        "pure": (0, 0, 1),
        "mixed": (1, 1, 0),
    }

    def __init__(self, graphs: tuple[str, ...] = ALL, embed_dim: int | None = 3, tokenizer: bool = True) -> None:
        model = ModelInfo(
            layout="fake",
            vision=VisionInfo(image_size=2, patch_size=1, hidden_size=3, tokens=1),
            text=TextInfo(layers=1, heads=1, head_dim=1, vocab_size=96, max_positions=96, num_query_tokens=1),
            embed_dim=embed_dim,
        )
        manifest = Manifest(
            schema=SCHEMA,
            producer={},
            model=model,
            precision="fp32",
            graphs={name: GraphInfo(file=name, inputs=(), outputs=(), use=USES[name]) for name in graphs},
            files={"tokenizer.model": FileInfo(bytes=0, sha256="")} if tokenizer else {},
        )
        super().__init__(
            Bundle(Path("fake"), manifest), lambda _, graph, options: FakeSession(self, graph), batch_size=64
        )  # type: ignore[return-value]
        self._tokenizer = Words()  # type: ignore[assignment]
        self.runs: list[tuple[str, int]] = []
        self.gain = np.ones(3, np.float32)

    def run_graph(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert graph in self.bundle.manifest.graphs
        self.runs.append((graph, len(next(iter(inputs.values())))))
        if graph == "vision":
            colours = inputs["pixel_values"].mean(axis=(2, 3))
            lowest = np.array([[-2.1179, -2.0357, -1.8044]])  # of black: pixel values are normalised
            colours = (colours - lowest).astype(np.float32) * self.gain
            return {"vision_states": colours, "image_embeds": colours}
        if graph == "query":
            states = inputs["vision_states"]
            return {"query_embeds": states[:, [0, 2, 1]], "present.0.key": states}
        if graph == "text":
            return {"text_embeds": np.array([self.meaning[WORDS[i - FIRST]] for i in inputs["input_ids"][:, 0]])}
        first = inputs["past_key_values.0.key"]
        logits = np.zeros((len(first), FIRST + len(WORDS)))
        logits[:, FIRST : FIRST + 3] = first
        if inputs["position_ids"][0, -1] > 2:  # one held, two of the prompt: then a word is written
            logits[:, EOS] = 99
        return {"logits": logits, "present.0.key": first}


class FakeSession:
    """One graph of a `Fake`."""

    def __init__(self, model: Fake, graph: str) -> None:
        self._model, self._graph = model, graph

    def run(self, inputs: Mapping[str, np.ndarray], **_: object) -> dict[str, np.ndarray]:
        return self._model.run_graph(self._graph, inputs)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Four pictures; the yellow one is called green, and only three have a German name."""
    rows = [
        ((255, 0, 0), {"en": "red", "de": "rot"}, "pure"),
        ((255, 200, 0), {"en": "green", "de": "bunt"}, "mixed"),
        ((0, 0, 255), {"en": "blue", "de": "blau"}, "pure"),
        ((0, 255, 0), {"en": "green"}, None),
    ]
    lines = []
    for index, (colour, label, group) in enumerate(rows):
        Image.new("RGB", (2, 2), colour).save(tmp_path / f"{index}.png")
        lines.append(json.dumps({"file": f"{index}.png", "label": label, "group": group}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    prompts = {
        "caption_prompts": {"en": "English:"},
        "classes": ["pure", "mixed"],
        "class_names": {"en": ["pure", "mixed"], "de": ["rot", "bunt"]},
        "templates": {"en": ["{c}", "{c}"]},
    }
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    return open_data(tmp_path / "rows.jsonl")


@pytest.fixture
def unlabelled(data: DataSet) -> DataSet:
    """The pictures alone, as a folder."""
    return open_data(data.source.parent)


class TestFigures:
    def test_retrieval_over_the_rows_that_have_a_caption(self, data: DataSet) -> None:
        report = evaluate(Fake(), data, EvalOptions(tasks=("retrieval",)))
        english, german = report.retrieval["c"]["en"], report.retrieval["c"]["de"]
        # red, yellow, blue, green against red, green, blue, green: yellow is nearer to red, all others are right
        assert english["image_to_text"] == {"R@1": 75.0, "R@5": 100.0, "R@10": 100.0}
        # the word green is nearer to the green picture than to the yellow one
        assert english["text_to_image"]["R@1"] == 75.0
        assert german["image_to_text"]["R@1"] == 100.0
        assert german["text_to_image"]["R@1"] == 100.0
        # g adds the picture with green and blue exchanged: yellow stays nearest to red, blue is nearest to bunt
        g = report.retrieval["g"]
        assert [g["en"][name]["R@1"] for name in ("image_to_text", "text_to_image")] == [75.0, 75.0]
        assert [g["de"][name]["R@1"] for name in ("image_to_text", "text_to_image")] == [pytest.approx(200 / 3), 100.0]
        assert report.mean_recall_at_1 == pytest.approx((75 + 75 + 100 + 100 + 75 + 75 + 200 / 3 + 100) / 8)
        assert report.pictures == 4

    def test_zero_shot_over_the_rows_that_have_a_class(self, data: DataSet) -> None:
        report = evaluate(Fake(), data, EvalOptions(tasks=("zero_shot",)))
        # pure means blue, mixed means yellow: red is taken for mixed, yellow and blue are right, green has no class
        assert report.zero_shot["c"] == {"en": pytest.approx(200 / 3)}
        assert ("zero_shot", "no template in de") in report.skipped
        assert ("zero_shot", "1 of 4 pictures have no group that prompts.json knows") in report.skipped

    def test_captions_that_match_exactly(self, data: DataSet) -> None:
        report = evaluate(Fake(), data, EvalOptions(tasks=("captions",)))
        assert report.captions == {"en": 75.0}  # yellow's strongest colour is red
        assert report.mean_exact_match == 75.0
        assert report.mean_recall_at_1 is None
        assert report.skipped == (("captions", "no caption prompt in de; prompts.json has none"),)

    def test_every_caption_of_a_picture_counts(self, tmp_path: Path) -> None:
        rows = [((255, 0, 0), ["green", "red"]), ((0, 255, 0), ["blue", "green"])]
        lines = []
        for index, (colour, captions) in enumerate(rows):
            Image.new("RGB", (2, 2), colour).save(tmp_path / f"{index}.png")
            lines.append(json.dumps({"file": f"{index}.png", "caption": {"en": captions}}))
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
        (tmp_path / "prompts.json").write_text('{"caption_prompts": {"en": "English:"}}')
        report = evaluate(Fake(), open_data(tmp_path / "rows.jsonl"), EvalOptions(tasks=("retrieval", "captions")))
        # each picture's best own caption is its colour, which nothing beats; the red picture's "green" finds the other
        assert report.retrieval["c"]["en"]["image_to_text"]["R@1"] == 100.0
        assert report.retrieval["c"]["en"]["text_to_image"]["R@1"] == 75.0
        assert report.captions == {"en": 100.0}, "one of its captions is what is written"

    def test_a_limit_and_languages(self, data: DataSet) -> None:
        report = evaluate(Fake(), data, EvalOptions(sample_count=2, languages=("en",), tasks=("retrieval", "captions")))
        assert report.pictures == 2  # red and blue
        assert list(report.retrieval["c"]) == ["en"]
        assert report.captions == {"en": 100.0}
        assert report.skipped == ()

    def test_json_is_plain(self, data: DataSet) -> None:
        report = evaluate(Fake(("vision", "text")), data, EvalOptions())
        content = json.loads(json.dumps(report.to_json()))
        assert content["retrieval"]["c"]["en"]["image_to_text"]["R@1"] == 75.0
        assert content["mean_exact_match"] is None
        assert {"what": "captions", "reason": "the bundle has no query graph, no decoder graph"} in content["skipped"]


class TestCost:
    def test_a_picture_passes_vision_and_query_once(self, data: DataSet) -> None:
        model = Fake()
        measure(model, data, EvalOptions(batch_size=3))
        assert [run for run in model.runs if run[0] in ("vision", "query")] == [
            ("vision", 3),
            ("query", 3),
            ("vision", 1),
            ("query", 1),
        ]

    def test_captions_are_those_of_the_model(self, data: DataSet) -> None:
        model = Fake()
        found = measure(model, data, EvalOptions(tasks=("captions",))).captions["en"]
        assert found == model.caption([data.picture(row) for row in data.rows], "English:", max_new_tokens=32)

    def test_features_are_those_of_the_model(self, data: DataSet) -> None:
        model = Fake()
        found = measure(model, data, EvalOptions(batch_size=3))
        pictures = [data.picture(row) for row in data.rows]
        np.testing.assert_array_equal(found.images["c"], model.encode_image(pictures, mode="c"))
        np.testing.assert_array_equal(found.images["g"], model.encode_image(pictures, mode="g"))


class TestMissing:
    def test_graphs(self, data: DataSet) -> None:
        report = evaluate(Fake(("vision", "text")), data, EvalOptions(tasks=("retrieval",)))
        assert list(report.retrieval) == ["c"]
        assert report.skipped == (("InternVL-G", "the bundle has no query graph"),)

    def test_everything_but_vision(self, data: DataSet) -> None:
        report = evaluate(Fake(("vision",)), data, EvalOptions())
        assert not report.retrieval
        assert not report.zero_shot
        assert not report.captions
        assert dict(report.skipped)["retrieval"] == "the bundle has no text graph"

    def test_an_image_embedding_or_a_tokenizer(self, data: DataSet) -> None:
        model = Fake(("vision", "connector"), embed_dim=None)
        found = measure(model, data, EvalOptions())
        assert found.images == {}
        assert model.runs == []  # nothing wants the pictures
        assert "no image embedding" in dict(found.skipped)["retrieval"]
        lacking = measure(Fake(tokenizer=False), data, EvalOptions())
        assert dict(lacking.skipped)["retrieval"] == "the bundle has no tokenizer.model"
        assert sorted(lacking.images) == ["c", "g"]

    def test_labels(self, unlabelled: DataSet) -> None:
        with pytest.raises(InputError, match="has no captions or classes for retrieval, zero_shot, captions; give"):
            evaluate(Fake(), unlabelled, EvalOptions())
        found = measure(Fake(), unlabelled, EvalOptions())
        assert dict(found.skipped)["retrieval"] == "no picture has a caption"
        assert cosines(found, found) == {
            "images.c": {"mean": pytest.approx(1), "min": pytest.approx(1)},
            "images.g": {"mean": pytest.approx(1), "min": pytest.approx(1)},
        }

    def test_languages(self, data: DataSet) -> None:
        with pytest.raises(InputError, match="has nothing in it; choose from en, de"):
            measure(Fake(), data, EvalOptions(languages=("en", "it")))


class TestWrong:
    @pytest.mark.parametrize("value", [np.nan, np.inf, 0])
    def test_features_without_a_direction_do_not_rank_first(self, data: DataSet, value: float) -> None:
        model = Fake()
        model.gain = np.full(3, value, np.float32)
        with pytest.raises(BundleError, match="image_embeds: 4 of 4 rows are NaN, inf or all 0; export"):
            evaluate(model, data, EvalOptions())

    def test_prompts_that_do_not_fit_the_classes(self, data: DataSet) -> None:
        path = data.source.parent / "prompts.json"
        content = json.loads(path.read_text())
        content["class_names"]["en"] = ["pure"]
        content["templates"]["de"] = ["ein Bild"]
        path.write_text(json.dumps(content))
        with pytest.raises(InputError) as caught:
            evaluate(Fake(), open_data(data.source), EvalOptions())
        assert "en has 1 class names for 2 classes" in str(caught.value)
        assert "de has the template 'ein Bild' without {}" in str(caught.value)

    def test_features_of_other_rows(self, data: DataSet) -> None:
        features = measure(Fake(), data, EvalOptions(sample_count=2))
        with pytest.raises(InputError, match="features of 2 pictures but 4 rows"):
            score(features, data, EvalOptions())
        mixed = Features(images={"c": np.ones((3, 3))}, texts={}, classifiers={}, captions={"en": ["red", "green"]})
        with pytest.raises(InputError, match="features of 2 pictures but 4 rows"):
            score(mixed, data, EvalOptions())

    def test_features_of_another_width(self) -> None:
        with pytest.raises(InputError, match=r"images.c \[1, 3\] and \[1, 2\]"):
            cosines(_features(np.ones((1, 3))), _features(np.ones((1, 2))))

    def test_options_all_at_once(self) -> None:
        with pytest.raises(InputError) as caught:
            EvalOptions(tasks=("retrieve",), sample_count=0, languages=(), batch_size=0)
        for word in ("retrieve;", "sample_count: 0", "languages: none", "batch_size: 0"):
            assert word in str(caught.value)


class TestText:
    def test_cosines_by_hand(self) -> None:
        a, b = _features(np.array([[1.0, 0], [0, 2]])), _features(np.array([[3.0, 0], [3, 4]]))
        assert cosines(a, b) == {"images.c": {"mean": pytest.approx(0.9), "min": pytest.approx(0.8)}}

    def test_figures_and_what_is_missing(self) -> None:
        text = evaluation_text(EvalReport(pictures=8, captions={"en": 50.0, "de": 25.0}, skipped=(("x", "no y"),)))
        assert text.splitlines() == [
            "8 pictures, percent",
            "                       en    de  mean",
            "caption exact match  50.0  25.0  37.5",
            "",
            "mean caption exact match 37.50",
            "",
            "skipped x: no y",
        ]

    def test_differences_to_a_baseline(self) -> None:
        report = EvalReport(pictures=8, captions={"en": 50.0, "de": 25.0})
        baseline = EvalReport(pictures=8, captions={"en": 62.5, "de": 25.0}, skipped=(("x", "no y"),))
        text = evaluation_text(report, baseline, {"images.c": {"mean": 0.99, "min": 0.9}})
        assert "caption exact match  -12.5  +0.0  -6.2" in text
        assert "mean caption exact match 37.50, baseline 43.75, difference -6.25" in text
        assert "images.c                 0.9900000   0.9000000" in text
        assert "skipped x of the baseline: no y" in text

    def test_means_over_other_figures_are_not_compared(self) -> None:
        report = EvalReport(pictures=8, captions={"en": 50.0, "de": 25.0})
        text = evaluation_text(report, EvalReport(pictures=8, captions={"en": 50.0}))
        assert "mean caption exact match 37.50\n" in f"{text}\n"
        assert "caption exact match  +0.0  +0.0" in text


def _features(images: np.ndarray) -> Features:
    return Features(images={"c": images}, texts={}, classifiers={}, captions={})


def test_a_baseline_is_opened_in_its_own_type_and_measured_on_the_same_rows(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Path, bool]] = []

    def open_model(bundle: Path, options: EvalOptions, bf16: bool) -> InternVL:
        opened.append((bundle, bf16))
        return Fake()

    monkeypatch.setattr(run_module, "_opened", open_model)
    options = EvalOptions(tasks=("retrieval",), bf16=True)
    found = evaluate_bundle(Path("own"), data.source, options, baseline=Path("other"))
    assert opened == [(Path("own"), True), (Path("other"), False)]
    assert found.baseline == found.report == evaluate(Fake(), data, options)
    assert found.cosines is not None
    assert min(values["min"] for values in found.cosines.values()) == pytest.approx(1)
    opened.clear()
    assert evaluate_bundle(Path("own"), data.source, options).baseline is None
    assert opened == [(Path("own"), True)]
