"""Chat checkpoints of transformers' own port: the same model as in the official layout (CHAT.md 2, 3, 8)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.checkpoint.files.tensors import JoinedTensor
from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig, VisionConfig
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.runtime.errors import CheckpointError
from tests.golden_chat import GOLDEN_CHAT, golden_chat
from tests.unit.export.checkpoint.checkpoint_folders import Tensors, assert_refused, opened, write_safetensors

QKV = "vision_model.encoder.layers.0.attn.qkv.weight"


def changed(target: Path, tensors: Tensors | None = None, vision: Any = None, case: str = "c5", **config: Any) -> Path:
    """Return a copy of a recorded checkpoint with other fields and other tensors."""
    folder = shutil.copytree(GOLDEN_CHAT / case / "checkpoint", target)
    content = json.loads((folder / "config.json").read_text()) | config
    content["vision_config"] |= vision or {}
    (folder / "config.json").write_text(json.dumps(content))
    return write_safetensors(folder, tensors) if tensors is not None else folder


def preprocessed(folder: Path, **fields: Any) -> Path:
    """Change fields of a checkpoint's preprocessor_config.json."""
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def equal(one: Checkpoint, other: Checkpoint, *names: str) -> bool:
    return all(torch.equal(one.tensors[name].torch(), other.tensors[name].torch()) for name in names)


def test_both_layouts_of_qwen3_are_one_model() -> None:
    """The official names are written from those of spelling (b)."""
    native, official = opened(GOLDEN_CHAT / "c5/checkpoint"), opened(GOLDEN_CHAT / "c5/checkpoint_official")
    assert native.config.parts == official.config.parts
    assert native.tensors.keys() == official.tensors.keys()
    assert equal(native, official, *native.tensors)


def test_the_groups_of_internlm2_are_the_heads_of_its_port() -> None:
    """Trap 1: the rows of a group are its query heads, its key and its value; three blocks are other heads."""
    official, native = opened(GOLDEN_CHAT / "c2/checkpoint"), opened(GOLDEN_CHAT / "c2/checkpoint_hf")
    config = official.config.need(LanguageConfig)
    group, size = config.num_heads // config.num_kv_heads, config.head_dim
    for layer in range(config.num_layers):
        attention = f"language_model.model.layers.{layer}.self_attn"
        packed = official.tensors[f"{attention}.qkv_proj.weight"].torch()
        rows = packed.view(config.num_kv_heads, group + 2, size, config.hidden_size)
        parts = {"q": rows[:, :group], "k": rows[:, group], "v": rows[:, group + 1]}
        for part, value in parts.items():
            stored = native.tensors[f"{attention}.{part}_proj.weight"].torch()
            assert torch.equal(value.reshape(-1, config.hidden_size), stored)
    rest = [name for name in official.tensors if "qkv_proj" not in name]
    assert equal(official, native, *rest)
    assert official.config.vision == native.config.vision


def test_the_towers_queries_keys_and_values_become_one_tensor_unread() -> None:
    checkpoint = opened(golden_chat("c4").checkpoint)
    stored = load_file(golden_chat("c4").checkpoint / "model.safetensors")
    joined = checkpoint.tensors[QKV]
    assert isinstance(joined, JoinedTensor)
    names = [f"vision_tower.encoder.layer.0.attention.{part}_proj.weight" for part in "qkv"]
    assert torch.equal(joined.torch(), torch.cat([stored[name] for name in names]))
    bias = checkpoint.tensors[QKV.replace("weight", "bias")]
    assert torch.equal(bias.torch(), torch.cat([stored[name.replace("weight", "bias")] for name in names]))


@pytest.mark.parametrize("case", ["c4", "c5"])
def test_a_lost_part_of_them_is_named(tmp_path: Path, case: str) -> None:
    stored = load_file(golden_chat(case).checkpoint / "model.safetensors")
    first = "vision_tower.encoder.layer.0.attention.v_proj.weight"
    lost = first if first in stored else f"model.{first}"
    folder = changed(tmp_path / "c", {name: value for name, value in stored.items() if name != lost}, case=case)
    name = "vision_model.encoder.layers.0.attn.q_proj.weight"
    assert_refused(folder, f"checkpoint: {name} and the tensors beside it are not of one type and shape, or one is")
    other = {**stored, lost: stored[lost].half()}
    assert_refused(changed(tmp_path / "d", other, case=case), f"{name} and the tensors beside it")


def test_the_whole_set_may_lie_behind_a_prefix(tmp_path: Path) -> None:
    """A wrapper's prefix comes before either spelling."""
    for case in ("c4", "c5"):
        stored = load_file(golden_chat(case).checkpoint / "model.safetensors")
        folder = changed(tmp_path / case, {f"module.{name}": value for name, value in stored.items()}, case=case)
        assert equal(opened(folder), opened(golden_chat(case).checkpoint), QKV, "mlp1.3.bias")


def test_a_mask_token_is_of_training_alone(tmp_path: Path) -> None:
    stored = load_file(golden_chat("c5").checkpoint / "model.safetensors")
    stored["model.vision_tower.embeddings.mask_token"] = torch.ones(1, 1, 40)
    checkpoint = opened(changed(tmp_path / "c", stored, vision={"use_mask_token": True}))
    assert checkpoint.ignored == ("model.vision_tower.embeddings.mask_token",)


def test_its_pixel_shuffle_is_always_the_second_version() -> None:
    """Trap 4: the official layout's default is the first one."""
    for case in ("c4", "c5"):
        assert open_checkpoint(golden_chat(case).checkpoint).config.need(ConnectorConfig).ps_version == "v2"
    assert open_checkpoint(golden_chat("c3").checkpoint).config.need(ConnectorConfig).ps_version == "v1"


def test_what_its_tower_leaves_out_has_the_ports_defaults(tmp_path: Path) -> None:
    """They are those of the 300M tower, the official class's those of the 6B one."""
    folder = changed(tmp_path / "c", image_seq_length=256)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"vision_config": {"model_type": "internvl_vision"}}))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="misshapen"):
        opened(folder)
    config = open_checkpoint(folder).config.need(VisionConfig)
    assert (config.hidden_size, config.num_heads, config.num_layers, config.intermediate_size) == (1024, 16, 24, 4096)
    assert (config.norm_type, config.qkv_bias, config.qk_norm, config.eps) == ("layer_norm", False, False, 1e-6)


@pytest.mark.parametrize(
    ("vision", "fields", "finding"),
    [
        ({"use_mean_pooling": False}, {}, "vision_config.use_mean_pooling False adds a norm behind the tower"),
        ({}, {"vision_feature_select_strategy": "full"}, "'full' keeps the class token, which the graphs drop"),
        ({}, {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not gelu"),
        ({}, {"vision_feature_layer": [-1, -4]}, "select_layer [-1, -4] is outside the tower's 3 layers"),
        ({}, {"vision_feature_layer": -4}, "select_layer -4 is outside the tower's 3 layers"),
        ({}, {"downsample_ratio": 0.3}, "downsample_ratio 0.3 is no 1/n"),
        ({}, {"flash_attention_factor": 2}, "flash_attention_factor = 2"),
    ],
)
def test_what_the_graphs_have_not_is_refused_by_name(
    tmp_path: Path, vision: dict[str, Any], fields: dict[str, Any], finding: str
) -> None:
    assert_refused(changed(tmp_path / "c", vision=vision, **fields), finding)


@pytest.mark.parametrize(("case", "own"), [("c4", None), ("c5", 1e-6)])
def test_norms_of_queries_and_keys_have_their_own_epsilon(tmp_path: Path, case: str, own: float | None) -> None:
    """The port gives them 1e-6 whatever the file says; the tower of c4 has none of them."""
    assert open_checkpoint(golden_chat(case).checkpoint).config.vision.qk_eps is None
    config = opened(changed(tmp_path / "c", vision={"layer_norm_eps": 1e-3}, case=case)).config
    assert (config.vision.eps, config.vision.qk_eps) == (1e-3, own)
    block = InternVLModel(config).vision_model.encoder.layers[0]
    assert block.norm1.eps == 1e-3
    assert getattr(block.attn.q_norm, "eps", None) == getattr(block.attn.k_norm, "eps", None) == own


def test_the_layer_that_is_taken_counts_from_the_end(tmp_path: Path) -> None:
    """Trap 10: -1 is the output of the last block, unnormalized."""
    folder = changed(tmp_path / "c", vision_feature_layer=-2)
    assert open_checkpoint(folder).config.need(ConnectorConfig).select_layer == -2


class TestTiles:
    """Trap 16: the limits stand in preprocessor_config.json, whose `crop_to_patches` says nothing."""

    def limits(self, folder: Path) -> tuple[int, int, bool]:
        connector = open_checkpoint(folder).config.need(ConnectorConfig)
        return connector.fewest_tiles, connector.most_tiles, connector.thumbnail

    def test_they_are_read_from_the_file(self, tmp_path: Path) -> None:
        assert self.limits(golden_chat("c4").checkpoint) == (1, 12, True)
        folder = preprocessed(changed(tmp_path / "c"), min_patches=2, max_patches=6, crop_to_patches=False)
        assert self.limits(folder) == (2, 6, True)

    def test_without_a_file_they_are_the_ports(self) -> None:
        assert self.limits(GOLDEN_CHAT / "c2/checkpoint_hf") == (1, 12, True)

    def test_the_processors_file_may_state_them_too(self, tmp_path: Path) -> None:
        folder = changed(tmp_path / "c")
        pictures = json.loads((folder / "preprocessor_config.json").read_text()) | {"max_patches": 4}
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": pictures}))
        assert_refused(folder, "image_processor cuts pictures into other numbers of tiles than preprocessor_config")
        (folder / "preprocessor_config.json").unlink()
        assert self.limits(folder) == (1, 4, True)

    @pytest.mark.parametrize("value", [0, -1, "12", 2.5, True])
    def test_what_is_no_number_is_refused(self, tmp_path: Path, value: Any) -> None:
        folder = preprocessed(changed(tmp_path / "c"), max_patches=value)
        assert_refused(folder, f"max_patches {value!r} is not a number of tiles")

    def test_contradicting_limits_are_refused(self, tmp_path: Path) -> None:
        assert_refused(
            preprocessed(changed(tmp_path / "c"), min_patches=9, max_patches=6),
            "min_dynamic_patch 9 is more than max_dynamic_patch 6",
        )

    def test_mean_and_deviation_are_the_files(self) -> None:
        pictures = open_checkpoint(golden_chat("c5").checkpoint).config.pictures
        assert pictures.mean == (0.485, 0.456, 0.406)
        assert (pictures.image_size, pictures.geometry) == (84, "squash")


def test_the_official_layout_takes_no_limits_from_that_file(tmp_path: Path) -> None:
    folder = preprocessed(shutil.copytree(golden_chat("c1").checkpoint, tmp_path / "c"), max_patches=3)
    assert open_checkpoint(folder).config.need(ConnectorConfig).most_tiles == 12
