"""The exported graphs, through the public API on ONNX Runtime, against the recorded reference."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.tasks.features import CLASSIFICATION_SCALE, unit
from tests.tolerances import CHAT_STATES, CHAT_VIT_EMBEDS, FP16_RELATIVE, GOLDEN_FP32

Recorded = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model(exported: Callable[..., InternVL], golden_a: Path) -> InternVL:
    return exported(golden_a / "checkpoint", dtype="fp32")


@pytest.fixture(scope="module")
def meta(golden_a: Path) -> dict[str, object]:
    return json.loads((golden_a / "meta.json").read_text())  # type: ignore[no-any-return]


def close(found: np.ndarray, expected: torch.Tensor, atol: float = GOLDEN_FP32) -> None:
    np.testing.assert_allclose(found, expected.numpy(), atol=atol, rtol=0)


@pytest.mark.parametrize("mode", ["c", "g"])
def test_image_features(model: InternVL, recorded_a: Recorded, mode: str) -> None:
    close(model.encode_image(recorded_a["pixel_values"].numpy(), mode=mode), recorded_a[f"image_features.{mode}"])


def test_text_features(model: InternVL, recorded_a: Recorded, meta: dict[str, list[str]]) -> None:
    close(model.encode_text(recorded_a["text.input_ids"].numpy()), recorded_a["text.features"])
    close(model.encode_text(recorded_a["quirk.hole_input_ids"].numpy()), recorded_a["quirk.hole_features"])
    close(model.encode_text(meta["texts80"]), recorded_a["text80.features"])


@pytest.mark.parametrize("mode", ["c", "g"])
def test_similarity(model: InternVL, recorded_a: Recorded, mode: str) -> None:
    pixels, ids = recorded_a["pixel_values"].numpy(), recorded_a["text.input_ids"].numpy()
    close(model.similarity(pixels, ids, mode=mode), recorded_a[f"logits_per_image.{mode}"], 1e-3)  # logits go to 14


def test_zero_shot_classifier(model: InternVL, recorded_a: Recorded, meta: dict[str, list[str]]) -> None:
    templates = [template.replace("{c}", "{}") for template in meta["templates"]]
    classifier = model.classifier(meta["classes"], templates)
    close(classifier, recorded_a["zeroshot.classifier"])
    features = unit(model.encode_image(recorded_a["pixel_values"].numpy(), mode="c"))
    close(CLASSIFICATION_SCALE * features @ classifier, recorded_a["zeroshot.logits.c"], 1e-2)  # logits go to 100


def test_matching(model: InternVL, recorded_a: Recorded) -> None:
    logits = model.match(recorded_a["pixel_values"].numpy(), recorded_a["text.input_ids"].numpy())
    close(logits, recorded_a["itm.logits"])


@pytest.mark.parametrize("case", ["gen", "gen_left"])
def test_greedy_ids(model: InternVL, recorded_a: Recorded, case: str) -> None:
    prompt = recorded_a[f"{case}.prompt_ids"].numpy()
    ids = model.generate(recorded_a["pixel_values"].numpy(), prompt, max_new_tokens=12)
    np.testing.assert_array_equal(ids, recorded_a[f"{case}.sequences"].numpy())


def test_greedy_ids_with_an_end(model: InternVL, recorded_a: Recorded) -> None:
    eos = int(recorded_a["gen_eos.eos_token_id"][0])
    prompt = recorded_a["gen.prompt_ids"].numpy()
    ids = model.generate(recorded_a["pixel_values"].numpy(), prompt, max_new_tokens=12, eos_token_id=eos)
    expected = recorded_a["gen_eos.sequences"].numpy()
    np.testing.assert_array_equal(ids, expected[:, : ids.shape[1]])
    assert not expected[:, ids.shape[1] :].any()


def test_beam_ids(model: InternVL, recorded_a: Recorded) -> None:
    prompt = recorded_a["gen.prompt_ids"].numpy()
    pixels = recorded_a["pixel_values"].numpy()
    ids = model.generate(pixels, prompt, num_beams=5, min_new_tokens=8, max_new_tokens=12)
    np.testing.assert_array_equal(ids, recorded_a["gen_beam.sequences"].numpy())


def test_the_prompt_is_tokenized_as_recorded(model: InternVL, recorded_a: Recorded, meta: dict[str, str]) -> None:
    captions = model.caption(recorded_a["pixel_values"].numpy(), prompt=meta["prompt"], max_new_tokens=12)
    ids = model.generate(recorded_a["pixel_values"].numpy(), recorded_a["gen.prompt_ids"].numpy(), max_new_tokens=12)
    assert captions == [model.tokenizer.decode(row) for row in ids]


@pytest.mark.parametrize("kind", ["checkpoint_sharded", "checkpoint_bin"])
def test_other_files_of_the_same_weights(
    exported: Callable[..., InternVL], golden_a: Path, recorded_a: Recorded, kind: str
) -> None:
    model = exported(golden_a / kind, dtype="fp32", graphs=("vision",))
    close(model.encode_image(recorded_a["pixel_values"].numpy()), recorded_a["image_features.c"])


def test_copied_weights(exported: Callable[..., InternVL], golden_a: Path, recorded_a: Recorded) -> None:
    model = exported(golden_a / "checkpoint", dtype="fp32", graphs=("text",), weights="copy")
    close(model.encode_text(recorded_a["text.input_ids"].numpy()), recorded_a["text.features"])


def test_fp16_stays_near(exported: Callable[..., InternVL], golden_a: Path, recorded_a: Recorded) -> None:
    model = exported(golden_a / "checkpoint", dtype="fp16", graphs=("vision", "text"))
    for found, name in (
        (model.encode_image(recorded_a["pixel_values"].numpy()), "image_features.c"),
        (model.encode_text(recorded_a["text.input_ids"].numpy()), "text.features"),
    ):
        close(found, recorded_a[name], FP16_RELATIVE * float(recorded_a[name].abs().max()))


def test_another_picture_size(exported: Callable[..., InternVL], golden_a: Path, recorded_a: Recorded) -> None:
    model = exported(golden_a / "checkpoint", dtype="fp32", graphs=("vision",), image_size=84)
    close(model.encode_image(recorded_a["resized.pixel_values"].numpy()), recorded_a["resized.image_features.c"])


def test_chat_connector_and_feature_maps(
    exported: Callable[..., InternVL], golden_b: Path, recorded_b: Recorded
) -> None:
    apart = ("vision", "connector")
    model = exported(golden_b / "checkpoint_chat", dtype="fp32", feature_layers=(0, -1), graphs=apart)
    outputs = model.run_graph("vision", {"pixel_values": recorded_b["pixel_values"].numpy()})
    close(outputs["vision_states"], recorded_b["vit.last_hidden_state"])
    for layer in (0, 2):
        patches = recorded_b[f"vit.hidden_states.{layer + 1}"][:, 1:].transpose(1, 2).reshape(3, 64, 4, 4)
        close(outputs[f"feature_{layer}"], patches)
    embeds = model.run_graph("connector", {"vision_states": outputs["vision_states"]})["vit_embeds"]
    joined = exported(golden_b / "checkpoint_chat", dtype="fp32", feature_layers=(0,), graphs=("vision",))
    assert list(joined.bundle.manifest.graphs) == ["vision"]
    found = joined.run_graph("vision", {"pixel_values": recorded_b["pixel_values"].numpy()})
    np.testing.assert_allclose(found["feature_0"], outputs["feature_0"], rtol=0, atol=CHAT_STATES)
    np.testing.assert_allclose(found["vit_embeds"], embeds, rtol=0, atol=CHAT_VIT_EMBEDS)
    close(embeds, recorded_b["connector.v2"] if _version(golden_b) == "v2" else recorded_b["connector.v1"])


def _version(golden_b: Path) -> str:
    config = json.loads((golden_b / "checkpoint_chat" / "config.json").read_text())
    return str(config.get("ps_version", "v1"))
