"""The bundle of a chat checkpoint: two graphs, the table of tokens in the store, tokenizer and conversation."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.compile import export_bundle
from internvl_edge.export.export_report import report_text
from internvl_edge.export.models.families.language_model import EMBEDDING
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.embedding_table import EmbeddingTable
from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL, TILE_ENCODER
from tests.exports import Exports
from tests.golden_chat import golden_chat

CASES = ("c1", "c5")
"""A model with a head of its own, and one whose table is the head too."""


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def bundle(case: str, exports: Exports) -> Bundle:
    return Bundle.open(exports.bundle(golden_chat(case).checkpoint, dtype="fp32"))


def test_the_manifest_describes_the_chat(case: str, bundle: Bundle) -> None:
    model = bundle.manifest.model
    assert bundle.graphs_of(TILE_ENCODER, LANGUAGE_MODEL) == ("vision", "llm")
    assert model.chat is not None
    assert model.chat.context_token_id == golden_chat(case).about["img_context_token_id"]
    assert model.require_language().tokens_per_tile == golden_chat(case).about["num_image_token"]
    assert any(name.startswith("tokenizer/") for name in bundle.manifest.files)
    takes = [spec.name for spec in bundle.manifest.graphs["llm"].inputs]
    assert takes[:3] == ["inputs_embeds", "attention_mask", "position_ids"]
    assert len(takes) == 3 + 2 * model.require_language().layers


def test_the_bundle_writes_the_recorded_prompt(case: str, bundle: Bundle) -> None:
    vocabulary = {"vocab.json", "merges.txt"} if case == "c1" else {"tokenizer.json", "chat_template.jinja"}
    settings = {"tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"}
    assert {path.name for path in (bundle.path / "tokenizer").iterdir()} == vocabulary | settings
    assert not (bundle.path / "tokenizer.model").exists()
    row = golden_chat(case).prompts["prompts"][0]
    with InternVL.open(bundle.path) as model:
        prompt = model.chat_prompt("<image>\nDescribe the picture.", row["num_patches_list"])
    assert (prompt.text, prompt.input_ids) == (row["prompt"], row["input_ids"])


def test_the_table_of_tokens_is_in_the_store_once(case: str, bundle: Bundle) -> None:
    stored = load_file(bundle.path / "onnx" / "fp32" / "weights.safetensors")
    table = open_checkpoint(golden_chat(case).checkpoint).tensors[EMBEDDING].torch().float().numpy()
    ids = np.arange(len(table))[::7]
    np.testing.assert_array_equal(EmbeddingTable(bundle).rows(ids), table[ids])
    assert ("language_model.lm_head.weight" in stored) == (case == "c1")
    assert sum(value.shape == table.shape for value in stored.values()) == (2 if case == "c1" else 1)
    assert bundle.manifest.model.require_language().embedding.rows == len(table)


@pytest.mark.parametrize(("gain", "dtype"), [(1.0, "fp16"), (2.0**17, "bf16")])
def test_the_type_is_fp16_where_values_leave_room(tmp_path: Path, gain: float, dtype: str) -> None:
    """A gain in front of one linear, which the linear takes back, changes what is between and nothing else."""
    folder = shutil.copytree(golden_chat("c1").checkpoint, tmp_path / "checkpoint")
    weights = load_torch(folder / "model.safetensors")
    layer = "language_model.model.layers.1.mlp"
    weights[f"{layer}.up_proj.weight"] *= gain
    weights[f"{layer}.down_proj.weight"] /= gain
    save_file(weights, folder / "model.safetensors")
    options = ExportOptions(checkpoint=str(folder), output=tmp_path / "bundle", graphs=("llm",))
    report = export_bundle(options)
    assert report.precision == dtype
    assert (tmp_path / "bundle" / "onnx" / dtype / "llm.onnx").is_file()
    assert Bundle.open(tmp_path / "bundle").manifest.precision == dtype
    (line,) = [line for line in report_text(report).splitlines() if line.startswith(f"{dtype}: values of the language")]
    assert (f"before {layer}.down_proj" in line) == (dtype == "bf16")


def test_the_bundle_holds_what_opening_verifies(bundle: Bundle) -> None:
    files = {path.relative_to(bundle.path).as_posix() for path in Path(bundle.path).rglob("*") if path.is_file()}
    assert files == {*bundle.manifest.files, "manifest.json"}
