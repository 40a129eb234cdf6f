"""The demo's metrics through the exported graphs on ONNX Runtime, against those of the reference implementation."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from internvl_edge.calib.metrics import accuracy, exact_match, recall
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.tasks.features import unit
from tests.e2e.conftest import ONE_THREAD
from tests.tolerances import DEMO_POINTS, GOLDEN_FP32

LANGUAGES = ("en", "es", "fr", "zh", "ko", "ru", "ja", "it")


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> InternVL:
    return InternVL.open(demo_bundle, "onnxruntime", batch_size=128, options=ONE_THREAD)


@pytest.fixture(scope="module")
def expected(emoji: Path) -> dict[str, Any]:
    content = json.loads((emoji / "expected.json").read_text())
    return content["metrics"]["test"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def rows(emoji: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (emoji / "data" / "test.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def prompts(emoji: Path) -> dict[str, Any]:
    return json.loads((emoji / "data" / "prompts.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pixels(model: InternVL, emoji: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    with zipfile.ZipFile(emoji / "data" / "test.zip") as archive:
        return model.preprocess([Image.open(archive.open(row["file"])) for row in rows])


@pytest.fixture(scope="module")
def features(model: InternVL, pixels: np.ndarray) -> dict[str, np.ndarray]:
    return {f"InternVL-{mode.upper()}": unit(model.encode_image(pixels, mode=mode)) for mode in ("c", "g")}


def within(found: dict[str, float], wanted: dict[str, float]) -> list[str]:
    return [f"{k}: {v:.2f} instead of {wanted[k]}" for k, v in found.items() if abs(v - wanted[k]) > DEMO_POINTS]


@pytest.mark.parametrize("language", LANGUAGES)
def test_retrieval(
    model: InternVL,
    features: dict[str, np.ndarray],
    rows: list[dict[str, Any]],
    expected: dict[str, Any],
    language: str,
) -> None:
    texts = unit(model.encode_text([row["label"][language] for row in rows]))
    for mode, images in features.items():
        wanted = expected["retrieval"][mode][language]
        scores = images @ texts.T
        assert within(recall(scores), wanted["image_to_text"]) == []
        assert within(recall(scores.T), wanted["text_to_image"]) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_zero_shot(
    model: InternVL,
    features: dict[str, np.ndarray],
    rows: list[dict[str, Any]],
    prompts: dict[str, Any],
    expected: dict[str, Any],
    language: str,
) -> None:
    templates = [template.replace("{c}", "{}") for template in prompts["templates"][language]]
    classifier = model.classifier(prompts["class_names"][language], templates)
    right = np.array([prompts["classes"].index(row["group"]) for row in rows])
    found = {mode: accuracy(images @ classifier, right) for mode, images in features.items()}
    wanted = {mode: expected["zeroshot_accuracy"][mode][language] for mode in features}
    assert within(found, wanted) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_greedy_captions(
    model: InternVL,
    pixels: np.ndarray,
    rows: list[dict[str, Any]],
    prompts: dict[str, Any],
    expected: dict[str, Any],
    language: str,
) -> None:
    captions = model.caption(pixels, prompt=prompts["caption_prompts"][language], max_new_tokens=32)
    found = exact_match(captions, [row["label"][language] for row in rows])
    assert within({language: found}, {language: expected["caption_exact_match"]["greedy"][language]}) == []


def test_beam_captions(
    model: InternVL, pixels: np.ndarray, rows: list[dict[str, Any]], prompts: dict[str, Any], expected: dict[str, Any]
) -> None:
    captions = model.caption(pixels, prompt=prompts["caption_prompts"]["en"], num_beams=5, max_new_tokens=32)
    found = exact_match(captions, [row["label"]["en"] for row in rows])
    assert within({"en": found}, {"en": expected["caption_exact_match"]["beam5"]["en"]}) == []


def test_recorded_outputs_of_the_first_pictures(model: InternVL, emoji: Path, pixels: np.ndarray) -> None:
    recorded = load_file(emoji / "reference_outputs.safetensors")
    np.testing.assert_array_equal(pixels[:8], recorded["pixel_values"])
    for mode in ("c", "g"):
        found = model.encode_image(pixels[:8], mode=mode)
        np.testing.assert_allclose(found, recorded[f"image_embeds.internvl_{mode}"], atol=GOLDEN_FP32)
        logits = model.similarity(pixels[:8], recorded["input_ids.en"], mode=mode)
        np.testing.assert_allclose(logits, recorded[f"logits_per_image.internvl_{mode}.en"], atol=1e-3)
    for language in LANGUAGES:
        found = model.encode_text(recorded[f"input_ids.{language}"])
        np.testing.assert_allclose(found, recorded[f"text_embeds.{language}"], atol=GOLDEN_FP32)
        ids = model.generate(pixels[:8], recorded[f"caption_prompt_ids.{language}"], max_new_tokens=32)
        wanted = recorded[f"caption_ids.{language}"][:, 1:]  # recorded as generate() of its time gave them: bos first
        width = min(ids.shape[1], wanted.shape[1])
        np.testing.assert_array_equal(ids[:, :width], wanted[:, :width])
        assert not ids[:, width:].any()
        assert not wanted[:, width:].any()
