"""Every layout of a checkpoint opens to the same tensors under official names, or fails in one line."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor
from internvl_edge.export.checkpoint.required_tensors import require_tensors
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_store import plan_weights, shared_files, write_store
from internvl_edge.export.models.config import ModelConfig, PoolConfig, QllamaConfig
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.resolution import at_image_size
from internvl_edge.runtime.errors import CheckpointError, ExportError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing
from tests.unit.export.checkpoint.checkpoint_folders import (
    CHAT_CONFIG,
    chat_weights,
    write_config,
    write_safetensors,
)

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Any]

QKV = "vision_model.encoder.layers.1.attn.qkv.weight"
TEXT_Q = "qllama.model.layers.2.self_attn.q_proj.weight"


@pytest.fixture
def weights(golden_a: Path) -> Tensors:
    """The weights of the InternVL-14B style case under official names."""
    return load_file(golden_a / "checkpoint" / "model.safetensors")


@pytest.fixture
def changed(golden_a: Path, tmp_path: Path, weights: Tensors) -> Callable[..., Path]:
    """Return a maker of copies of that checkpoint with changed tensors and config keys."""

    def make(change: Change | None = None, **config: Any) -> Path:
        if change:
            change(weights)
        save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors")
        content = json.loads((golden_a / "checkpoint" / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**content, **config}))
        return tmp_path

    return make


class TestLayouts:
    @pytest.mark.parametrize("layout", ["checkpoint", "checkpoint_sharded", "checkpoint_bin"])
    def test_single_sharded_and_bin_are_equal(self, golden_a: Path, weights: Tensors, layout: str) -> None:
        checkpoint = _accounted(golden_a / layout)
        _assert_equal(checkpoint.tensors, weights)
        assert checkpoint.config == open_checkpoint(golden_a / "checkpoint").config
        assert checkpoint.ignored == ()

    def test_companions_are_found(self, golden_a: Path) -> None:
        checkpoint = open_checkpoint(golden_a / "checkpoint")
        assert checkpoint.tokenizer_file == golden_a / "checkpoint" / "tokenizer.model"
        assert checkpoint.config.pictures == Preprocessing(image_size=56)

    def test_companions_may_be_absent(self, golden_a: Path) -> None:
        checkpoint = open_checkpoint(golden_a / "checkpoint_sharded")
        assert checkpoint.tokenizer_file is None
        assert checkpoint.config.pictures == Preprocessing(image_size=checkpoint.config.vision.image_size)

    def test_safetensors_stand_before_torch_files(self, golden_a: Path, changed: Callable[..., Path]) -> None:
        folder = changed()
        for path in (golden_a / "checkpoint_bin").glob("pytorch_model*"):
            shutil.copy(path, folder)
        assert {tensor.file.suffix for tensor in open_checkpoint(folder).tensors.values()} == {".safetensors"}

    def test_a_vision_only_folder_gets_the_prefix(self, golden_b: Path) -> None:
        stored = load_file(golden_b / "checkpoint_vit" / "model.safetensors")
        checkpoint = _accounted(golden_b / "checkpoint_vit")
        assert checkpoint.config.layout == "internvit"
        _assert_equal(checkpoint.tensors, {f"vision_model.{name}": value for name, value in stored.items()})

    def test_a_chat_folder_gives_tower_connector_and_language_model(self, golden_b: Path) -> None:
        stored = load_file(golden_b / "checkpoint_chat" / "model.safetensors")
        checkpoint = _accounted(golden_b / "checkpoint_chat")
        assert checkpoint.ignored == ()
        assert {name.split(".")[0] for name in checkpoint.tensors} == {"vision_model", "mlp1", "language_model"}
        _assert_equal(checkpoint.tensors, stored)

    def test_a_single_file_takes_the_config_beside_it(self, golden_a: Path, weights: Tensors) -> None:
        checkpoint = _accounted(golden_a / "checkpoint" / "model.safetensors")
        _assert_equal(checkpoint.tensors, weights)


class TestPlainPyTorch:
    """The layouts of MODEL.md 2.2."""

    @pytest.mark.parametrize("nest", [None, "module"])
    def test_internvl_c_is_renamed_and_has_text_alone(
        self, golden_a: Path, tmp_path: Path, weights: Tensors, nest: str | None
    ) -> None:
        plain = _plain(weights)
        torch.save({nest: plain} if nest else plain, tmp_path / "internvl_c.pth")
        shutil.copy(golden_a / "checkpoint" / "config.json", tmp_path)
        checkpoint = _accounted(tmp_path / "internvl_c.pth")
        assert checkpoint.config.need(QllamaConfig).text_alone
        assert checkpoint.config.need(QllamaConfig).cross_attention_layers == ()
        assert len(checkpoint.tensors) == len(plain)
        _assert_equal(checkpoint.tensors, {name: weights[name] for name in checkpoint.tensors})

    def test_the_tower_alone_keeps_its_pool(self, golden_a: Path, tmp_path: Path, weights: Tensors) -> None:
        plain = {
            name: value for name, value in _plain(weights).items() if not name.startswith(("transformer", "text_"))
        }
        del plain["logit_scale"]
        torch.save({**plain, "head.weight": torch.ones(2, 2)}, tmp_path / "intern_vit.pth")
        content = json.loads((golden_a / "checkpoint" / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(content))
        checkpoint = _accounted(tmp_path / "intern_vit.pth")
        assert checkpoint.config.layout == "internvit"
        assert checkpoint.config.find(PoolConfig) == PoolConfig(embed_dim=32, pool_heads=8)
        assert checkpoint.ignored == ("head.weight",)

    def test_without_a_config_the_released_shapes_tell(self, tmp_path: Path) -> None:
        torch.save(_tower(width=3200, hidden=12800, blocks=2, grid=3), tmp_path / "vit.pth")
        checkpoint = _accounted(tmp_path / "vit.pth")
        vision = checkpoint.config.vision
        sizes = vision.hidden_size, vision.num_heads, vision.num_layers, vision.intermediate_size
        assert sizes == (3200, 25, 2, 12800)
        assert (vision.image_size, vision.norm_type, vision.qkv_bias, vision.qk_norm) == (42, "rms_norm", False, True)
        assert checkpoint.config.find(PoolConfig) is None

    @pytest.mark.parametrize(("width", "hidden"), [(256, 512), (3200, 6400), (1024, 4096)])
    def test_heads_are_not_guessed_from_a_width(self, tmp_path: Path, width: int, hidden: int) -> None:
        torch.save(_tower(width=width, hidden=hidden, blocks=1, grid=3), tmp_path / "vit.pth")
        _refused(
            tmp_path / "vit.pth", f"do not determine the number of heads of a tower of width {width}; put the config"
        )

    def test_every_part_whose_heads_are_open_is_named(self, tmp_path: Path, weights: Tensors) -> None:
        torch.save(_plain(weights), tmp_path / "w.pth")
        _refused(tmp_path / "w.pth", "a tower of width 64, a QLLaMA of width 80, an attention pool from 64 to 32")

    def test_rotary_frequencies_tell_the_heads(self, tmp_path: Path, weights: Tensors) -> None:
        torch.save(
            {**_plain(weights), "transformer.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}, tmp_path / "w.pth"
        )
        _refused(tmp_path / "w.pth", "heads of a tower of width 64, an attention pool from 64 to 32; put")

    def test_shapes_of_no_known_family_ask_for_the_config(self, tmp_path: Path, weights: Tensors) -> None:
        torch.save(_plain(weights), tmp_path / "w.pth")  # width 64: no multiple of a head of 128
        _refused(tmp_path / "w.pth", "put the config.json beside it")

    def test_names_of_another_model_ask_for_the_folder(self, tmp_path: Path) -> None:
        torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "w.pth")
        _refused(tmp_path / "w.pth", "no config.json beside it and no tensor")


class TestTraps:
    def test_an_absent_head_is_the_embedding_table(self, changed: Callable[..., Path], weights: Tensors) -> None:
        checkpoint = _accounted(changed(lambda t: t.pop("qllama.lm_head.weight")))
        table = weights["qllama.model.embed_tokens.weight"]
        assert torch.equal(checkpoint.tensors["qllama.lm_head.weight"].torch(), table)
        assert checkpoint.tensors["qllama.lm_head.weight"].name == "qllama.lm_head.weight"

    def test_a_stored_head_stands_though_the_config_ties_it(self, changed: Callable[..., Path]) -> None:
        checkpoint = open_checkpoint(changed(tie_word_embeddings=True))
        head, table = (checkpoint.tensors[f"qllama.{n}.weight"].torch() for n in ("lm_head", "model.embed_tokens"))
        assert not torch.equal(head, table)

    def test_cross_attention_follows_the_keys_not_the_config(self, changed: Callable[..., Path]) -> None:
        def move_to_layer_3(tensors: Tensors) -> None:
            for name in [n for n in tensors if "layers.2.cross_attn" in n]:
                tensors[name.replace("layers.2", "layers.3")] = tensors.pop(name)

        checkpoint = _accounted(changed(move_to_layer_3, cross_attention_frequency=2))
        assert checkpoint.config.need(QllamaConfig).cross_attention_layers == (0, 3)

    @pytest.mark.parametrize("lost", ["0", "1"])
    def test_a_lost_layer_of_cross_attention_is_missing(self, changed: Callable[..., Path], lost: str) -> None:
        def lose(tensors: Tensors) -> None:
            for name in [n for n in tensors if "layers.0.cross_attn" in n]:
                for layer in (1, 2, 3):
                    tensors[name.replace("layers.0", f"layers.{layer}")] = tensors[name].clone()
            for name in [n for n in tensors if f"layers.{lost}.cross_attn" in n]:
                del tensors[name]

        with pytest.raises(CheckpointError, match=rf"6 missing: qllama.model.layers.{lost}.cross_attn"):
            _accounted(changed(lose))

    def test_cross_attention_lost_in_all_layers_is_missing(self, changed: Callable[..., Path]) -> None:
        def lose(tensors: Tensors) -> None:
            for name in [n for n in tensors if "layers" in n and ".cross_attn." in n]:
                del tensors[name]

        with pytest.raises(CheckpointError, match="12 missing"):
            _accounted(changed(lose))

    def test_the_stored_position_table_tells_the_image_size(self, changed: Callable[..., Path]) -> None:
        def grow(tensors: Tensors) -> None:
            tensors["vision_model.embeddings.position_embedding"] = torch.randn(1, 37, 64)

        checkpoint = _accounted(changed(grow))  # config.json still says 56 px
        assert checkpoint.config.vision.image_size == 84

    def test_force_image_size_without_a_table_of_that_size_does_not_stand(self, changed: Callable[..., Path]) -> None:
        assert _accounted(changed(force_image_size=84)).config.vision.image_size == 56

    def test_a_chat_models_size_without_a_table_of_that_size_needs_a_choice(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "chat", {**CHAT_CONFIG, "force_image_size": 56})
        config = _accounted(write_safetensors(folder, chat_weights())).config
        with pytest.raises(ExportError, match="position table has 28 px, the checkpoint's files name 56 px; choose"):
            at_image_size(config, None)
        assert at_image_size(config, 56).vision.tokens == 17
        write_config(folder, {**CHAT_CONFIG, "force_image_size": 28})
        assert at_image_size(_accounted(folder).config, None).vision.tokens == 5

    def test_a_position_table_of_no_square_is_misshapen(self, changed: Callable[..., Path]) -> None:
        def spoil(tensors: Tensors) -> None:
            tensors["vision_model.embeddings.position_embedding"] = torch.randn(1, 20, 64)

        with pytest.raises(CheckpointError, match=r"1 misshapen: .*position_embedding \[1, 20, 64\]"):
            _accounted(changed(spoil))

    def test_keys_of_older_code_are_left_alone(self, changed: Callable[..., Path]) -> None:
        older = {
            "qllama.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
            "vision_model.embeddings.position_ids": torch.arange(17),
        }
        assert set(_accounted(changed(lambda t: t.update(older))).ignored) == set(older)


class TestLora:
    @pytest.mark.parametrize("base", ["{}.weight", "{}.base_layer.weight"])
    @pytest.mark.parametrize("adapter", ["{}.lora_{}.default.weight", "{}.lora_{}.weight"])
    def test_adapters_are_merged_as_the_dense_computation(
        self, changed: Callable[..., Path], weights: Tensors, base: str, adapter: str
    ) -> None:
        dense = {}
        generator = torch.Generator().manual_seed(1)

        def wrap(tensors: Tensors) -> None:
            for name in (QKV, TEXT_Q):
                path, value = name.removesuffix(".weight"), tensors[name]
                down = torch.randn(4, value.shape[1], generator=generator)
                up = torch.randn(value.shape[0], 4, generator=generator)
                dense[name] = value + 2.0 * (up @ down)  # alpha / r with alpha = 2 r
                del tensors[name]
                tensors |= {base.format(path): value, adapter.format(path, "A"): down, adapter.format(path, "B"): up}
            _wrap(tensors, "vision_model.")
            _wrap(tensors, "qllama.")

        plain = dict(weights)
        checkpoint = _accounted(changed(wrap, use_backbone_lora=4, use_qllama_lora=4))
        _assert_equal(checkpoint.tensors, plain | dense)
        merged = {name for name, tensor in checkpoint.tensors.items() if isinstance(tensor, MergedTensor)}
        assert merged == {QKV, TEXT_Q}

    def test_an_adapter_beside_the_weights_needs_its_config(self, changed: Callable[..., Path]) -> None:
        folder = changed()
        save_file({"a.lora_A.weight": torch.ones(1, 1)}, folder / "adapter_model.safetensors")
        _refused(folder, "holds adapter_model.safetensors without adapter_config.json; put that file beside it")
        _refused(folder / "model.safetensors", "adapter_model.safetensors lies beside it; give the folder")

    def test_halves_of_adapters_are_all_named(self, changed: Callable[..., Path]) -> None:
        def halve(tensors: Tensors) -> None:
            tensors["vision_model.encoder.layers.0.attn.qkv.lora_A.default.weight"] = torch.ones(4, 64)
            tensors["vision_model.encoder.layers.1.attn.proj.lora_B.default.weight"] = torch.ones(64, 4)

        _refused(changed(halve), "layers.0.attn.qkv, vision_model.encoder.layers.1.attn.proj")


class TestBadInput:
    def test_missing_extra_and_misshapen_keys_come_together(self, changed: Callable[..., Path]) -> None:
        def spoil(tensors: Tensors) -> None:
            del tensors["itm_head.bias"]
            tensors["vision_model.extra"] = torch.ones(1)
            tensors[QKV] = torch.ones(3, 3)

        with pytest.raises(CheckpointError) as caught:
            _accounted(changed(spoil))
        for finding in ("1 missing: itm_head.bias", "1 unexpected: vision_model.extra", f"1 misshapen: {QKV} [3, 3]"):
            assert finding in str(caught.value)

    def test_all_absent_shards_are_named(self, golden_a: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(golden_a / "checkpoint_sharded", tmp_path / "c")
        for number in (2, 5):
            (folder / f"model-0000{number}-of-00007.safetensors").unlink()
        _refused(folder, "names 2 absent shards: model-00002-of-00007.safetensors, model-00005-of-00007.safetensors")

    def test_a_key_of_the_index_that_no_shard_holds_is_named(self, golden_a: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(golden_a / "checkpoint_sharded", tmp_path / "c")
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"]["vision_model.lost"] = "model-00001-of-00007.safetensors"
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        _refused(folder, "1 tensors are in no shard, as vision_model.lost")

    @pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "{"])
    def test_an_index_that_is_none_is_refused(self, changed: Callable[..., Path], index: str) -> None:
        folder = changed()
        (folder / "model.safetensors.index.json").write_text(index)
        _refused(folder, "model.safetensors.index.json: ")

    def test_a_truncated_shard_is_named(self, golden_a: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(golden_a / "checkpoint_sharded", tmp_path / "c")
        shard = folder / "model-00003-of-00007.safetensors"
        shard.write_bytes(shard.read_bytes()[:-100])
        _refused(folder, f"{shard}: not a whole safetensors file")

    @pytest.mark.parametrize("way", ["link", "copy"])
    def test_nan_and_infinity_are_counted_by_name(self, changed: Callable[..., Path], way: str) -> None:
        def spoil(tensors: Tensors) -> None:
            tensors[QKV].view(-1)[[0, 7]] = torch.nan
            tensors[TEXT_Q][-1, -1] = -torch.inf

        folder = changed(spoil)
        tensors = [*open_checkpoint(folder).tensors.values()]
        (store := folder / "store").mkdir()
        plan = plan_weights(tensors, "float32", shared_files(tensors, "float32", way, store))
        with pytest.raises(CheckpointError) as caught, SourceScan(plan.shared) as scan:
            write_store(plan, store, scan, lambda done: None)
        assert f"{QKV} (2)" in str(caught.value)
        assert f"{TEXT_Q} (1)" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_config_without_qllama_is_refused(self, changed: Callable[..., Path]) -> None:
        _refused(changed(qllama_config=None), "qllama_config is missing")

    def test_an_image_size_off_the_patch_grid_is_refused(self, changed: Callable[..., Path]) -> None:
        _refused(changed(force_image_size=60), "image_size 60 is no multiple of the patch size 14")

    @pytest.mark.parametrize("text", ["{", "[1]", '"x"', "\xff"])
    def test_a_config_that_is_no_json_object_is_refused(self, changed: Callable[..., Path], text: str) -> None:
        folder = changed()
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        _refused(folder, "config.json: ")

    def test_a_folder_without_weights_is_refused(self, tmp_path: Path) -> None:
        _refused(tmp_path, "no weights")

    @pytest.mark.parametrize("source", ["no-such-folder", "./org/name", "/abs/none", "a/b/c"])
    def test_a_path_that_is_none_is_no_hub_id(self, source: str) -> None:
        _refused(source, "no such folder or file")


class TestHub:
    def test_a_hub_id_is_downloaded(self, golden_a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        asked: dict[str, Any] = {}

        def download(name: str, **options: Any) -> str:
            asked.update(options, name=name)
            return str(golden_a / "checkpoint")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        checkpoint = open_checkpoint("OpenGVLab/InternVL-14B-224px", revision="v1")
        assert checkpoint.folder == golden_a / "checkpoint"
        assert (asked["name"], asked["revision"]) == ("OpenGVLab/InternVL-14B-224px", "v1")
        assert not any(
            re.match(pattern.replace("*", ".*"), "modeling_internvl.py") for pattern in asked["allow_patterns"]
        )

    def test_without_the_library_the_remedy_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        _refused("org/name", "pip install huggingface_hub")

    def test_a_hub_that_does_not_answer_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        def fail(name: str, **_: Any) -> str:
            raise OSError("no route to host\nmore detail")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        _refused("org/name", "the Hub does not give it (no route to host)")

    def test_a_name_that_the_hub_cannot_have_is_one_line(self) -> None:
        _refused("or g/na me", "the Hub does not give it")


def _expected(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in InternVLModel(config).state_dict().items()}


def _accounted(source: Path) -> Checkpoint:
    """Open a checkpoint and hold it against the model that its config describes."""
    checkpoint = open_checkpoint(source)
    require_tensors(checkpoint.tensors, _expected(checkpoint.config))
    return checkpoint


def _assert_equal(tensors: Mapping[str, LazyTensor | MergedTensor], values: Tensors) -> None:
    assert set(tensors) == set(values)
    assert [name for name, value in values.items() if not torch.equal(tensors[name].torch(), value)] == []
    assert [name for name in values if tensors[name].name != name] == []


def _plain(weights: Tensors) -> Tensors:
    """Return the InternVL-C part under plain-PyTorch names, written down independently of the reader's table."""
    plain = {}
    for name, value in weights.items():
        if name.startswith("vision_model.encoder.layers."):
            renamed = "blocks." + name.removeprefix("vision_model.encoder.layers.")
            plain[renamed + ".gamma" if renamed.endswith((".ls1", ".ls2")) else renamed] = value
        elif name.startswith("qllama.model.") and "cross_attn" not in name:
            plain["transformer." + name.removeprefix("qllama.model.")] = value
        elif name.startswith("clip_projector.") or name in ("text_projection", "logit_scale"):
            plain[name] = value
    for official, short in (("class_embedding", "cls_token"), ("position_embedding", "pos_embed")):
        plain[short] = weights[f"vision_model.embeddings.{official}"]
    for leaf in ("weight", "bias"):
        plain[f"patch_embed.proj.{leaf}"] = weights[f"vision_model.embeddings.patch_embedding.{leaf}"]
    return plain


def _tower(width: int, hidden: int, blocks: int, grid: int) -> Tensors:
    """Return a plain-PyTorch 6B-style tower of ones."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, grid * grid + 1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
    }
    for block in (f"blocks.{i}" for i in range(blocks)):
        for name in (
            "norm1.weight",
            "norm2.weight",
            "attn.q_norm.weight",
            "attn.k_norm.weight",
            "ls1.gamma",
            "ls2.gamma",
        ):
            shapes[f"{block}.{name}"] = (width,)
        for name, out, into in (("attn.proj", width, width), ("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden)):
            shapes |= {f"{block}.{name}.weight": (out, into), f"{block}.{name}.bias": (out,)}
        shapes[f"{block}.attn.qkv.weight"] = (3 * width, width)
    return {name: torch.ones(1).expand(shape) for name, shape in shapes.items()}  # of one stored value each


def _wrap(tensors: Tensors, part: str) -> None:
    """Rename the tensors of `part` as PEFT's wrapper does."""
    for name in [n for n in tensors if n.startswith(part)]:
        tensors[f"{part}base_model.model.{name.removeprefix(part)}"] = tensors.pop(name)


def _refused(source: Path | str, finding: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)
