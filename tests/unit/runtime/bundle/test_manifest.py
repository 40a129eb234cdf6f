"""The manifest survives a round trip, and a broken one is reported in one line."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.graph_roles import (
    CAPTION_DECODER,
    IMAGE_ENCODER,
    QUERY_ENCODER,
    TEXT_ENCODER,
    GraphUse,
)
from internvl_edge.runtime.bundle.manifest import (
    SCHEMA,
    FileInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    TensorSpec,
    TextInfo,
    TilingInfo,
    VisionInfo,
)
from internvl_edge.runtime.errors import BundleError

MANIFEST = Manifest(
    schema=SCHEMA,
    producer={"internvl-edge": "0.1.0"},
    model=ModelInfo(
        layout="internvl",
        vision=VisionInfo(image_size=56, patch_size=14, hidden_size=64, tokens=17),
        text=TextInfo(layers=2, heads=2, head_dim=8, vocab_size=96, max_positions=64, num_query_tokens=4),
        embed_dim=32,
        logit_scale=2.5,
    ),
    precision="fp16",
    graphs={
        "vision": GraphInfo(
            file="onnx/fp16/vision.onnx",
            inputs=(TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 56, 56)),),
            outputs=(TensorSpec(name="vision_states", dtype="float16", shape=("batch", 17, 64)),),
            use=GraphUse(role="image encoder", rows="pictures"),
        ),
        "decoder": GraphInfo(
            file="onnx/fp16/decoder.onnx",
            inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", "length")),),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 320)),),
            use=GraphUse(
                role="caption decoder", rows="sequences", ids="prompts", prompt_tokens=(1, 5, 16), new_tokens=(16, 64)
            ),
        ),
    },
    files={f"onnx/fp16/{name}.onnx": FileInfo(bytes=3, sha256="ab" * 32) for name in ("vision", "decoder")},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    MANIFEST.save(tmp_path / "manifest.json")
    return tmp_path / "manifest.json"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Manifest.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip(path: Path) -> None:
    assert Manifest.load(path) == MANIFEST


def test_round_trip_of_a_chat_model(tmp_path: Path) -> None:
    chat = replace(
        MANIFEST.model, layout="internvl_chat", text=None, tiling=TilingInfo(fewest=1, most=12, thumbnail=True)
    )
    manifest = replace(MANIFEST, model=chat)
    manifest.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == manifest


def test_a_model_without_a_text_part_says_so() -> None:
    assert MANIFEST.model.require_text().vocab_size == 96
    assert MANIFEST.model.num_query_tokens == 4
    tower = replace(MANIFEST.model, layout="internvit", text=None)
    assert tower.num_query_tokens == 0
    with pytest.raises(BundleError, match="internvit has no text part; use a bundle of InternVL-14B for this"):
        tower.require_text()


def test_graphs_are_found_by_their_role_whatever_they_are_called(path: Path) -> None:
    edit(path, lambda content: content["graphs"].update(writer=content["graphs"].pop("decoder")))
    manifest = Manifest.load(path)
    assert manifest.graph_of(CAPTION_DECODER) == "writer"
    assert manifest.graph_of(TEXT_ENCODER) is None
    assert manifest.roles == {IMAGE_ENCODER, CAPTION_DECODER}


def test_lacking_roles_are_called_by_the_names_that_export_gives(path: Path) -> None:
    bundle = Bundle(path.parent, Manifest.load(path))
    assert bundle.graphs_of(CAPTION_DECODER, IMAGE_ENCODER) == ("decoder", "vision")
    with pytest.raises(BundleError, match=r"has no graph query, text \(it has vision, decoder\)") as caught:
        bundle.graphs_of(IMAGE_ENCODER, QUERY_ENCODER, TEXT_ENCODER)
    assert str(caught.value).endswith("export it with --graphs vision,decoder,query,text")


def test_a_whole_logit_scale_is_read(path: Path) -> None:
    edit(path, lambda content: content["model"].update(logit_scale=3))
    assert Manifest.load(path).model.logit_scale == 3.0


def test_a_newer_schema_names_both_sides_and_the_remedy(path: Path) -> None:
    edit(path, lambda content: content.update(schema=SCHEMA + 1))
    message = refusal(path)
    assert f"schema {SCHEMA + 1}" in message
    assert f"reads {SCHEMA};" in message
    assert "upgrade internvl-edge or export again" in message


def test_a_newer_schema_wins_over_what_it_changed(path: Path) -> None:
    edit(path, lambda content: (content.clear(), content.update(schema=SCHEMA + 1)))
    assert "upgrade" in refusal(path)


@pytest.mark.parametrize("key", ["producer", "model", "precision", "graphs", "files"])
def test_a_missing_key_is_named(path: Path, key: str) -> None:
    edit(path, lambda content: content.pop(key))
    assert f"has no '{key}'" in refusal(path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda c: c.pop("schema"), "schema None"),
        (lambda c: c.update(schema="1"), "schema 1,"),
        (lambda c: c.update(schema=0), "schema 0"),
        (lambda c: c.update(schema=1), "schema 1, this runtime reads 2; upgrade internvl-edge or export again"),
        (lambda c: c.update(schema=True), "schema True"),
        (lambda c: c.update(files=[]), "'list'"),
        (lambda c: c.update(producer="me"), "not a manifest"),
        (lambda c: c["model"].pop("vision"), "vision"),
        (lambda c: c["model"].update(vision="x"), "not a manifest"),
        (lambda c: c["model"]["vision"].pop("image_size"), "image_size"),
        (lambda c: c["model"].update(depth=3), "depth"),
        (lambda c: c["model"]["text"].update(depth=3), "depth"),
        (
            lambda c: c["model"]["vision"].update(image_size="56", patch_size=None),
            "image_size is '56', patch_size is None",
        ),
        (lambda c: c["files"]["onnx/fp16/vision.onnx"].update(bytes="3"), "bytes is '3'"),
        (lambda c: c["graphs"]["vision"].pop("outputs"), "outputs"),
        (lambda c: c["graphs"]["vision"].pop("use"), "has no 'use'; export the bundle again"),
        (lambda c: c["graphs"]["vision"]["use"].pop("prompt_tokens"), "has no 'prompt_tokens'"),
        (lambda c: c["graphs"]["vision"]["use"].update(new_tokens=2), "'int' object is not iterable"),
        (lambda c: c["graphs"]["decoder"]["use"].update(prompt_tokens=[1, 5]), "a graph's use holds"),
        (lambda c: c["graphs"]["decoder"]["use"].update(prompt_tokens=[1, 5, "9"]), "1, 5, '9', 16, 64"),
        (lambda c: c["graphs"]["vision"]["use"].update(role=None, rows=3), "a graph's use holds None, 3, 0"),
        (lambda c: c["graphs"]["vision"]["use"].update(shape="round"), "shape"),
        (lambda c: c["graphs"]["vision"]["inputs"][0].pop("dtype"), "dtype"),
    ],
)
def test_a_malformed_manifest_is_refused(path: Path, change: Callable[[Any], object], found: str) -> None:
    edit(path, change)
    assert found in refusal(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"schema": 1'])
def test_what_is_no_json_object_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    assert str(path) in refusal(path)


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\xfd")
    assert "not readable" in refusal(path)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert f"{tmp_path}: no bundle" in refusal(tmp_path / "manifest.json")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "onnx/../../secret"])
def test_a_listed_file_outside_the_bundle_is_refused(path: Path, name: str) -> None:
    edit(path, lambda content: content["files"].update({name: {"bytes": 1, "sha256": "00"}}))
    assert f"outside the bundle ({name})" in refusal(path)


def test_a_graph_outside_the_bundle_is_refused(path: Path) -> None:
    edit(path, lambda content: content["graphs"]["vision"].update(file="../vision.onnx"))
    assert "outside the bundle (../vision.onnx)" in refusal(path)


def test_a_graph_without_digest_is_refused(path: Path) -> None:
    edit(path, lambda content: content["graphs"]["vision"].update(file="onnx/fp16/other.onnx"))
    assert "no digest of onnx/fp16/other.onnx" in refusal(path)


def test_names_that_are_no_utf8_come_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    replace(MANIFEST, producer={name: "1"}).save(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert Manifest.load(tmp_path / "manifest.json").producer == {name: "1"}
