"""The files of a language model: whole, in shards, in torch's format, incomplete or damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig
from internvl_edge.runtime.errors import CheckpointError
from tests.golden_chat import golden_chat
from tests.unit.export.checkpoint.checkpoint_folders import (
    Tensors,
    assert_refused,
    opened,
    write_safetensors,
    write_shards,
)

TABLE, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def weights() -> Tensors:
    return load_file(golden_chat("c1").checkpoint / "model.safetensors")


def beside_config(folder: Path) -> Path:
    """Return a folder with the config of c1 and without weights."""
    return shutil.copytree(golden_chat("c1").checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))


def is_spoken(name: str) -> bool:
    return name.startswith("language_model.")


def halves(weights: Tensors) -> dict[str, Tensors]:
    """Return the tower in one shard, the language model in another."""
    return {
        FIRST: {name: value for name, value in weights.items() if not is_spoken(name)},
        SECOND: {name: value for name, value in weights.items() if is_spoken(name)},
    }


def test_shards_torch_files_and_types_give_the_same_model(tmp_path: Path, weights: Tensors) -> None:
    sharded = write_shards(beside_config(tmp_path / "a"), halves(weights))
    torch_file = beside_config(tmp_path / "b")
    torch.save(weights, torch_file / "pytorch_model.bin")
    wide = write_safetensors(beside_config(tmp_path / "c"), {name: value.float() for name, value in weights.items()})
    half = write_safetensors(beside_config(tmp_path / "d"), {name: value.half() for name, value in weights.items()})
    for folder, kind in ((sharded, "bfloat16"), (torch_file, "bfloat16"), (wide, "float32"), (half, "float16")):
        checkpoint = opened(folder)
        assert checkpoint.tensors.keys() == weights.keys()
        assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {kind}
        table = checkpoint.tensors[TABLE].torch()
        assert torch.equal(table, weights[TABLE].to(table.dtype))


def test_the_recorded_shards_are_read() -> None:
    folder = golden_chat("c3").checkpoint
    assert len({file for tensor in opened(folder).tensors.values() for file in tensor.files}) == 3


class TestAbsentShards:
    @pytest.fixture
    def folder(self, tmp_path: Path, weights: Tensors) -> Path:
        return write_shards(beside_config(tmp_path / "c"), halves(weights))

    def test_one_of_the_language_model_is_named_with_both_remedies(self, folder: Path) -> None:
        (folder / SECOND).unlink()
        message = assert_refused(folder, f"names 1 absent shards: {SECOND}; download them, or export the tower without")
        assert message.endswith("with --graphs vision")

    def test_one_of_the_tower_is_named_with_the_one_remedy(self, folder: Path) -> None:
        (folder / FIRST).unlink()
        assert assert_refused(folder, f"absent shards: {FIRST}; download them").endswith("download them")
        assert assert_refused(folder, f"absent shards: {FIRST}; download them", language=False)

    def test_the_tower_alone_needs_none_of_them(self, folder: Path) -> None:
        (folder / SECOND).unlink()
        checkpoint = opened(folder, language=False)
        assert checkpoint.config.find(LanguageConfig) is None
        assert checkpoint.config.find(ConnectorConfig) is not None
        assert checkpoint.config.without_llm == f"no file holds its weights; {SECOND} are absent"
        assert checkpoint.absent_files == (SECOND,)

    def test_whoever_asks_for_the_tower_gets_all_that_is_there(self, folder: Path) -> None:
        assert opened(folder, language=False).tensors.keys() == opened(folder).tensors.keys()


def test_a_folder_without_any_of_its_tensors_is_a_tower(tmp_path: Path, weights: Tensors) -> None:
    tower = {name: value for name, value in weights.items() if not is_spoken(name)}
    checkpoint = opened(write_safetensors(beside_config(tmp_path / "c"), tower))
    assert checkpoint.config.without_llm == "no file holds its weights; give the whole checkpoint"


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path, weights: Tensors) -> None:
    """Trap 17: a norm is never optional, nor a bias of queries, keys and values."""
    layer = "language_model.model.layers.1."
    for name in ("input_layernorm.weight", "self_attn.k_proj.bias"):
        del weights[layer + name]
    weights |= {f"{layer}self_attn.o_proj.bias": torch.ones(72), f"{layer}mlp.up_proj.weight": torch.ones(72, 104)}
    with pytest.raises(CheckpointError) as caught:
        opened(write_safetensors(beside_config(tmp_path / "c"), weights))
    for finding in (
        f"2 missing: {layer}input_layernorm.weight, {layer}self_attn.k_proj.bias",
        f"1 unexpected: {layer}self_attn.o_proj.bias",
        f"1 misshapen: {layer}mlp.up_proj.weight [72, 104] instead of [104, 72]",
    ):
        assert finding in str(caught.value)


def test_rotary_buffers_of_older_code_are_left(tmp_path: Path, weights: Tensors) -> None:
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    assert opened(write_safetensors(beside_config(tmp_path / "c"), {**weights, name: torch.ones(6)})).ignored == (name,)


class TestHead:
    """Trap 3: a stored head is the head, whatever the flags say; without one it is the table."""

    @pytest.mark.parametrize("tied", [True, False, None])
    def test_the_stored_tensors_decide(self, tmp_path: Path, weights: Tensors, tied: bool | None) -> None:
        for kept in (True, False):
            folder = beside_config(tmp_path / str(kept))
            content = json.loads((folder / "config.json").read_text())
            for part in (content, content["llm_config"]):
                part["tie_word_embeddings"] = tied
            (folder / "config.json").write_text(json.dumps(content))
            write_safetensors(folder, {name: value for name, value in weights.items() if kept or name != HEAD})
            checkpoint = opened(folder)
            assert checkpoint.config.need(LanguageConfig).tied_head == (not kept)
            assert (HEAD in checkpoint.tensors) == kept

    def test_the_recorded_ones(self) -> None:
        stored = {case: open_checkpoint(golden_chat(case).checkpoint) for case in ("c1", "c4", "c5")}
        tied = {case: checkpoint.config.need(LanguageConfig).tied_head for case, checkpoint in stored.items()}
        assert tied == {"c1": False, "c4": False, "c5": True}


def test_the_vocabulary_is_that_of_the_stored_table(tmp_path: Path, weights: Tensors) -> None:
    """Trap 18: the config's number may be larger or smaller."""
    longer = {name: torch.cat([weights[name], weights[name][:5]]) for name in (TABLE, HEAD)}
    checkpoint = opened(write_safetensors(beside_config(tmp_path / "a"), weights | longer))
    assert checkpoint.config.need(LanguageConfig).vocab_size == 536
    with pytest.raises(CheckpointError, match=rf"1 misshapen: {HEAD} \[531, 72\] instead of \[536, 72\]"):
        opened(write_safetensors(beside_config(tmp_path / "b"), weights | {TABLE: longer[TABLE]}))


def test_the_widths_of_connector_and_language_model_are_one(tmp_path: Path, weights: Tensors) -> None:
    changed = {"mlp1.3.weight": torch.ones(60, 72), "mlp1.3.bias": torch.ones(60)}
    with pytest.raises(CheckpointError, match=r"2 misshapen: mlp1\.3\.weight"):
        opened(write_safetensors(beside_config(tmp_path / "c"), weights | changed))


def test_epsilons_are_each_parts_own() -> None:
    """Trap 11: 1e-6 or 1e-5 in the language model, by its file; 1e-6 in the tower."""
    found = {case: open_checkpoint(golden_chat(case).checkpoint).config for case in ("c1", "c2", "c6")}
    assert {case: config.need(LanguageConfig).eps for case, config in found.items()} == {
        "c1": 1e-6,
        "c2": 1e-5,
        "c6": 1e-5,
    }
    assert {config.vision.eps for config in found.values()} == {1e-6}
