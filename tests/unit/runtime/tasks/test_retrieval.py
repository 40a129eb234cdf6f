"""Features of pictures and texts, and their similarity."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.monitor import UNMONITORED
from internvl_edge.runtime.tasks.retrieval import encode_image, image_features, similarity, stacked
from tests.unit.runtime.fake_graphs import unit
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle


def test_features_of_mode_c_are_the_pooled_ones(model: InternVL, pixels: np.ndarray) -> None:
    np.testing.assert_allclose(model.encode_image(pixels, "c"), pixels.mean(axis=(2, 3)) + 2, rtol=1e-6)


def test_features_of_mode_g_are_a_sum_of_two_units(model: InternVL, pixels: np.ndarray) -> None:
    means = pixels.mean(axis=(2, 3))
    np.testing.assert_allclose(model.encode_image(pixels, "g"), unit(means + 2) + unit(means * [1, 2, 3]), rtol=1e-5)


def test_batches_do_not_change_results(bundle_folder: Path, calls: list[tuple[str, int]], pixels: np.ndarray) -> None:
    one, five = (InternVL.open(bundle_folder, batch_size=size) for size in (1, 5))
    np.testing.assert_array_equal(one.encode_image(pixels, "g"), five.encode_image(pixels, "g"))
    texts = ["cat", "a red kite", "two boats"]
    np.testing.assert_array_equal(one.encode_text(texts), five.encode_text(texts))


def test_similarity_is_a_scaled_cosine(model: InternVL, pixels: np.ndarray) -> None:
    texts = ["cat", "red"]
    expected = np.exp(1.5) * unit(model.encode_image(pixels, "g")) @ unit(model.encode_text(texts)).T
    np.testing.assert_allclose(model.similarity(pixels, texts), expected, rtol=1e-5)


def test_texts_and_their_ids_give_the_same(model: InternVL) -> None:
    texts = ["cat", "a red kite"]
    np.testing.assert_array_equal(model.encode_text(texts), model.encode_text(model.tokenize(texts)))


def test_a_text_is_cut_at_the_models_own_length(bundle_folder: Path, tmp_path: Path, golden_a: Path) -> None:
    info = dataclasses.replace(MODEL, text=dataclasses.replace(MODEL.require_text(), max_text_length=6))
    tokenizer = golden_a / "checkpoint" / "tokenizer.model"
    model = InternVL.open(write_bundle(tmp_path / "short", ("text",), info, tokenizer))
    assert model.tokenize(["a red kite"]).shape == (1, 6)


def test_a_video_is_the_mean_of_its_frames(model: InternVL, pixels: np.ndarray) -> None:
    np.testing.assert_allclose(model.encode_video(pixels, "g"), model.encode_image(pixels, "g").mean(axis=0), rtol=1e-6)


def test_rows_of_batches_are_joined_and_none_is_refused() -> None:
    np.testing.assert_array_equal(stacked([np.ones((2, 3)), np.zeros((1, 3))]), [[1] * 3, [1] * 3, [0] * 3])
    with pytest.raises(InputError, match="no input given; give at least one picture or text"):
        stacked([])


def test_no_picture_is_refused(model: InternVL) -> None:
    with pytest.raises(InputError, match="no input given"):
        encode_image(model, [])


def test_features_follow_the_geometry_of_their_task(model: InternVL, rng: np.random.Generator) -> None:
    wide = rng.integers(0, 256, (4, 9, 3), dtype=np.uint8)
    for geometry in ("squash", "crop"):
        expected = model.encode_image(model.preprocess([wide], geometry), "c")
        np.testing.assert_array_equal(image_features(model, [wide], "c", geometry, UNMONITORED), expected)


def test_a_model_without_a_scale_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    info = dataclasses.replace(MODEL, logit_scale=None)
    model = InternVL.open(write_bundle(tmp_path / "part", ("vision", "text"), info, None))
    with pytest.raises(BundleError, match="internvl has no logit scale; use a bundle of InternVL-14B"):
        similarity(model, pixels, ["cat"])


def test_mode_g_without_its_graph_says_how_to_get_it(tmp_path: Path, pixels: np.ndarray) -> None:
    model = InternVL.open(write_bundle(tmp_path / "c", ("vision", "text"), MODEL, None))
    with pytest.raises(BundleError, match="which mode g"):
        encode_image(model, pixels, "g")
