"""Unit norms, scaled cosines and zero-shot classes, by hand and against the reference."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from internvl_edge.runtime.tasks.features import similarity_logits, softmax, unit, zero_shot_classifier
from tests.tolerances import GOLDEN_FP32


def test_unit_norm_by_hand() -> None:
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, -2.0]])), [[0.6, 0.8], [0, -1]], rtol=1e-6)
    assert unit(np.ones((1, 4), np.float16)).dtype == np.float32


def test_similarity_by_hand() -> None:
    logits = similarity_logits(np.array([[2.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 9.0]]), float(np.log(10)))
    np.testing.assert_allclose(logits, [[6, 0]], rtol=1e-6)


def test_golden_logits_of_both_modes(golden_a: Path) -> None:
    golden = load_file(golden_a / "golden.safetensors")
    scale = load_file(golden_a / "checkpoint" / "model.safetensors")["logit_scale"]
    for mode in "cg":
        logits = similarity_logits(golden[f"image_features.{mode}"], golden["text.features"], float(scale))
        np.testing.assert_allclose(logits, golden[f"logits_per_image.{mode}"], atol=GOLDEN_FP32, rtol=0)


def test_each_template_counts_the_same_whatever_its_norm() -> None:
    classifier = zero_shot_classifier([np.array([[1.0, 0.0], [0.0, 100.0]]), np.array([[0.0, 5.0]])])
    np.testing.assert_allclose(classifier, [[0.5**0.5, 0], [0.5**0.5, 1]], rtol=1e-6)


def test_softmax_by_hand_and_without_overflow() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 3.0]])), [[0.25, 0.75]])
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4], [0, -1e4]])), [[0.5, 0.5], [1, 0]])
