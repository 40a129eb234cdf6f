"""The demo's metrics through the exported graphs on ONNX Runtime, against those of the reference implementation."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from internvl_edge.calib.data.dataset import open_data
from internvl_edge.calib.evaluation import EvalOptions, evaluate
from internvl_edge.calib.metrics import exact_match
from internvl_edge.runtime import InternVL
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
def report(model: InternVL, emoji: Path) -> dict[str, Any]:
    """The figures of `eval` on the whole test set, for all tasks and languages."""
    found = evaluate(model, open_data(emoji / "data" / "test.jsonl"), EvalOptions(batch_size=128))
    assert found.skipped == ()
    return found.to_json()


def far(found: dict[str, Any], wanted: dict[str, Any], path: str = "") -> list[str]:
    """Return the figures that lie beyond the bound, or are on one side alone."""
    if found.keys() != wanted.keys():
        return [f"{path}: {sorted(found)} instead of {sorted(wanted)}"]
    beyond = []
    for key, value in found.items():
        if isinstance(value, dict):
            beyond += far(value, wanted[key], f"{path}{key} ")
        elif abs(value - wanted[key]) > DEMO_POINTS:
            beyond.append(f"{path}{key}: {value:.2f} instead of {wanted[key]}")
    return beyond


def recorded(figures: dict[str, Any]) -> dict[str, Any]:
    return {"c": figures["InternVL-C"], "g": figures["InternVL-G"]}


def test_retrieval(report: dict[str, Any], expected: dict[str, Any]) -> None:
    assert report["pictures"] == expected["images"]
    assert sorted(report["retrieval"]["c"]) == sorted(LANGUAGES)
    assert far(report["retrieval"], recorded(expected["retrieval"])) == []


def test_zero_shot(report: dict[str, Any], expected: dict[str, Any]) -> None:
    assert far(report["zero_shot"], recorded(expected["zeroshot_accuracy"])) == []


def test_greedy_captions(report: dict[str, Any], expected: dict[str, Any]) -> None:
    assert far(report["captions"], expected["caption_exact_match"]["greedy"]) == []


def test_beam_captions(
    model: InternVL, pixels: np.ndarray, rows: list[dict[str, Any]], prompts: dict[str, Any], expected: dict[str, Any]
) -> None:
    captions = model.caption(pixels, prompt=prompts["caption_prompts"]["en"], num_beams=5, max_new_tokens=32)
    found = exact_match(captions, [row["label"]["en"] for row in rows])
    assert far({"en": found}, {"en": expected["caption_exact_match"]["beam5"]["en"]}) == []


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
