"""LoRA adapters act as strongly as their files say, wherever they lie; what no merged weight does is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.config.adapter_config import AdapterConfig, read_adapter_config
from internvl_edge.export.checkpoint.files.tensors import MergedTensor
from internvl_edge.export.checkpoint.required_tensors import require_tensors
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.runtime.errors import CheckpointError
from tests.unit.export.checkpoint.checkpoint_folders import (
    CHAT_CONFIG,
    FC1,
    QKV,
    Tensors,
    chat_weights,
    language_model,
    tower,
    write_config,
    write_safetensors,
)

RANK = 4
LORA = {"peft_type": "LORA", "target_modules": ["qkv", "fc1"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the config of a tower and no weights."""
    return write_config(tmp_path / "c")


def _halves(weights: Tensors, *modules: str, rank: int = RANK) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return down and up of an adapter for each module."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for module in modules:
        out, into = weights[f"{module}.weight"].shape
        found[module] = torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator)
    return found


def _peft(halves: dict[str, tuple[torch.Tensor, torch.Tensor]], prefix: str = "base_model.model.") -> Tensors:
    """Return the halves under the names of PEFT's own file."""
    return {
        f"{prefix}{module}.lora_{side}.weight": value
        for module, pair in halves.items()
        for side, value in zip("AB", pair, strict=True)
    }


def _write_adapter(folder: Path, tensors: Tensors, *, torch_file: bool = False, **config: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, **config}))
    if torch_file:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        write_safetensors(folder, tensors, "adapter_model.safetensors")
    return folder


def _refused(folder: Path, finding: str, **options: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, **options)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)


def _assert_merged(
    folder: Path, weights: Tensors, halves: dict[str, tuple[torch.Tensor, torch.Tensor]], scales: dict[str, float]
) -> None:
    """Check every weight of the opened tower against the dense sum."""
    checkpoint = open_checkpoint(folder)
    require_tensors(checkpoint.tensors, stored_shapes(checkpoint.config))
    for name, value in weights.items():
        module = name.removesuffix(".weight")
        if module in halves and name.endswith(".weight"):
            down, up = halves[module]
            value = value + scales[module] * (up @ down)
        official = name if name.startswith(("vision_model.", "mlp1.")) else f"vision_model.{name}"
        torch.testing.assert_close(checkpoint.tensors[official].torch(), value, rtol=1e-5, atol=1e-5)
    merged = [name for name, tensor in checkpoint.tensors.items() if isinstance(tensor, MergedTensor)]
    assert len(merged) == len(halves)


STRENGTHS: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({"r": 4, "lora_alpha": 4}, {QKV: 1.0, FC1: 1.0}),
    ({"r": 4, "lora_alpha": 10}, {QKV: 2.5, FC1: 2.5}),
    ({"r": 4, "lora_alpha": 8, "use_rslora": True}, {QKV: 4.0, FC1: 4.0}),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"qkv": 16}}, {QKV: 4.0, FC1: 2.0}),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"encoder\.layers\.\d+\.mlp\.fc1": 1}}, {QKV: 2.0, FC1: 0.25}),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {f"^{QKV}": 16}}, {QKV: 4.0, FC1: 2.0}),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {f"^vision_model.{QKV}": 16}}, {QKV: 4.0, FC1: 2.0}),
    ({"r": 9, "lora_alpha": 8, "rank_pattern": {r"^encoder\..*": 4}}, {QKV: 2.0, FC1: 2.0}),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^attn.qkv": 16}}, {QKV: 2.0, FC1: 2.0}),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"q": 16}}, {QKV: 2.0, FC1: 2.0}),
    ({"r": 9, "lora_alpha": 8, "rank_pattern": {"qkv": 4, "fc1": 4}}, {QKV: 2.0, FC1: 2.0}),
    (
        {"r": 9, "lora_alpha": 8, "rank_pattern": {"attn.qkv|fc1": 4}, "alpha_pattern": {"fc1": 6}, "use_rslora": True},
        {QKV: 4.0, FC1: 3.0},
    ),
]


class TestStrength:
    @pytest.mark.parametrize(("config", "scales"), STRENGTHS)
    @pytest.mark.parametrize("torch_file", [False, True])
    def test_an_adapter_beside_the_weights_acts_as_its_config_says(
        self, folder: Path, config: dict[str, Any], scales: dict[str, float], torch_file: bool
    ) -> None:
        weights = tower()
        halves = _halves(weights, QKV, FC1)
        _write_adapter(write_safetensors(folder, weights), _peft(halves), torch_file=torch_file, **config)
        _assert_merged(folder, weights, halves, scales)

    @pytest.mark.parametrize(("config", "scales"), STRENGTHS)
    def test_an_adapter_among_the_weights_does_too(
        self, folder: Path, config: dict[str, Any], scales: dict[str, float]
    ) -> None:
        weights = tower()
        halves = _halves(weights, QKV, FC1)
        stored = {n.replace("attn.qkv.", "attn.qkv.base_layer."): v for n, v in weights.items()}
        stored |= {n.replace(".weight", ".default.weight"): v for n, v in _peft(halves, prefix="").items()}
        write_safetensors(folder, stored)
        (folder / "adapter_config.json").write_text(json.dumps({**LORA, **config}))
        _assert_merged(folder, weights, halves, scales)

    def test_the_references_own_field_means_alpha_of_two_ranks(self, tmp_path: Path) -> None:
        weights = chat_weights()
        halves = _halves(weights, f"vision_model.{QKV}")
        folder = write_config(tmp_path / "chat", {**CHAT_CONFIG, "use_backbone_lora": RANK, "use_llm_lora": 16})
        write_safetensors(folder, weights | language_model() | _peft(halves, prefix=""))
        _assert_merged(folder, weights, halves, {f"vision_model.{QKV}": 2.0})

    def test_a_rank_of_another_size_than_the_config_says_is_refused(self, tmp_path: Path) -> None:
        weights = chat_weights()
        folder = write_config(tmp_path / "chat", {**CHAT_CONFIG, "use_backbone_lora": 8})
        write_safetensors(folder, weights | _peft(_halves(weights, f"vision_model.{QKV}"), prefix=""))
        _refused(folder, f"vision_model.{QKV} has rank 4, config.json says 8")
        _write_adapter(folder, {}, r=16, lora_alpha=4)
        (folder / "adapter_model.safetensors").unlink()
        _refused(folder, f"vision_model.{QKV} has rank 4, adapter_config.json gives it rank 16")

    def test_adapters_of_unknown_strength_are_refused(self, folder: Path) -> None:
        weights = tower()
        write_safetensors(folder, weights | _peft(_halves(weights, QKV, FC1), prefix=""))
        _refused(
            folder, f"vision_model.{QKV} is of unknown strength; vision_model.{FC1} is of unknown strength; put the"
        )

    def test_a_config_that_speaks_of_adapters_without_any_names_both_readings(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "chat", {**CHAT_CONFIG, "use_backbone_lora": 16})
        write_safetensors(folder, chat_weights())
        _refused(folder, "if they are merged, set both fields to 0, if they are lost, give all of the weights")


class TestPlaces:
    def test_names_may_be_relative_to_the_whole_model_or_to_the_tower(self, tmp_path: Path) -> None:
        weights = chat_weights()
        halves = _halves(weights, f"vision_model.{QKV}")
        for place, part in (("whole", "vision_model."), ("tower", "")):
            folder = write_safetensors(write_config(tmp_path / place, CHAT_CONFIG), weights)
            tensors = {name.replace("vision_model.", part): value for name, value in _peft(halves).items()}
            _write_adapter(folder, tensors, r=4, lora_alpha=12, target_modules=["qkv"])
            _assert_merged(folder, weights, halves, {f"vision_model.{QKV}": 3.0})

    def test_an_adapter_of_the_language_model_alone_leaves_the_tower(self, tmp_path: Path) -> None:
        weights = chat_weights()
        folder = write_safetensors(write_config(tmp_path / "chat", CHAT_CONFIG), weights | language_model())
        module = "language_model.model.layers.0.self_attn.q_proj"
        pair = {module: (torch.ones(4, 12), torch.ones(12, 4))}
        _write_adapter(folder, _peft(pair), r=4, lora_alpha=8, target_modules=["q_proj"])
        _assert_merged(folder, weights, {}, {})

    def test_adapters_of_the_language_model_among_its_weights_are_left_alone(self, tmp_path: Path) -> None:
        weights = chat_weights()
        module = "language_model.model.layers.0.self_attn.q_proj"
        halves = _peft({module: (torch.ones(4, 12), torch.ones(12, 4))}, prefix="")
        folder = write_safetensors(write_config(tmp_path / "chat", CHAT_CONFIG), weights | language_model() | halves)
        (folder / "adapter_config.json").write_text(json.dumps({**LORA, "target_modules": ["q_proj"]}))
        _assert_merged(folder, weights, {}, {})

    def test_modules_saved_whole_and_trained_biases_replace_the_base(self, folder: Path) -> None:
        weights = tower()
        halves = _halves(weights, QKV)
        new = {f"{QKV}.bias": torch.full((48,), 0.5)}
        new |= {f"encoder.layers.0.norm1.{leaf}": torch.full((16,), 3.0) for leaf in ("weight", "bias")}
        tensors = _peft(halves) | {f"base_model.model.{name}": value for name, value in new.items()}
        saved = {"bias": "lora_only", "modules_to_save": ["norm1"], "target_modules": ["qkv"]}
        _write_adapter(write_safetensors(folder, weights), tensors, r=4, lora_alpha=4, **saved)
        _assert_merged(folder, weights | new, halves, {QKV: 1.0})

    def test_an_adapter_for_other_weights_is_refused(self, folder: Path) -> None:
        weights = tower()
        halves = {"encoder.layers.7.attn.qkv": _halves(weights, QKV)[QKV]}
        _write_adapter(write_safetensors(folder, weights), _peft(halves), r=4, lora_alpha=4)
        _refused(folder, "no weight for encoder.layers.7.attn.qkv")

    def test_an_adapter_that_lacks_a_target_is_refused(self, folder: Path) -> None:
        weights = tower()
        _write_adapter(write_safetensors(folder, weights), _peft(_halves(weights, QKV)), r=4, lora_alpha=4)
        _refused(folder, "adapts or replaces fc1, but there are no tensors of it")

    def test_an_adapter_that_lacks_what_it_replaces_is_refused(self, folder: Path) -> None:
        weights = tower()
        write_safetensors(folder, weights)
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 4, "modules_to_save": ["norm2", "no_such"]}
        halves = _halves(weights, QKV, FC1)
        _write_adapter(folder, _peft(halves), **settings)
        _refused(folder, "adapts or replaces norm2, but there are no tensors of it")
        part = "encoder.layers.1.norm2"
        new = {f"{part}.weight": torch.full((16,), 3.0)}
        _write_adapter(folder, _peft(halves) | {f"base_model.model.{n}": v for n, v in new.items()}, **settings)
        _refused(folder, f"adapts or replaces vision_model.{part}.bias, but there are no tensors of it")
        new[f"{part}.bias"] = torch.full((16,), 4.0)
        _write_adapter(folder, _peft(halves) | {f"base_model.model.{n}": v for n, v in new.items()}, **settings)
        _assert_merged(folder, weights | new, halves, {QKV: 1.0, FC1: 1.0})

    def test_an_adapter_without_its_config_or_without_weights_is_refused(self, folder: Path) -> None:
        weights = tower()
        write_safetensors(folder, _peft(_halves(weights, QKV)), "adapter_model.safetensors")
        _refused(folder, "holds an adapter without its base weights")
        write_safetensors(folder, weights)
        _refused(folder, "holds adapter_model.safetensors without adapter_config.json")

    def test_a_config_of_an_adapter_alone_names_both_readings(self, folder: Path) -> None:
        write_safetensors(folder, tower())
        (folder / "adapter_config.json").write_text(json.dumps({**LORA, "r": 4, "lora_alpha": 4}))
        _refused(folder, "holds adapter_config.json, but no adapter; if it is merged, remove that file")

    def test_one_file_of_a_folder_with_an_adapter_names_both_readings(self, folder: Path) -> None:
        weights = tower()
        _write_adapter(write_safetensors(folder, weights), _peft(_halves(weights, QKV, FC1)), r=4, lora_alpha=4)
        _refused(folder / "model.safetensors", "give the folder to merge it, or move it away to leave it out")

    def test_adapters_in_both_places_are_refused(self, folder: Path) -> None:
        weights = tower()
        halves = _halves(weights, QKV, FC1)
        _write_adapter(write_safetensors(folder, weights | _peft(halves, "")), _peft(halves), r=4, lora_alpha=4)
        _refused(folder, "holds adapters among its weights and in adapter_model.safetensors")

    def test_several_adapters_of_one_module_are_refused(self, folder: Path) -> None:
        weights = tower()
        halves = _peft(_halves(weights, QKV), "")
        stored = {n.replace(".weight", f".{name}.weight"): v for n, v in halves.items() for name in ("a", "b")}
        write_safetensors(folder, weights | stored)
        (folder / "adapter_config.json").write_text(json.dumps({**LORA, "r": 4, "lora_alpha": 4}))
        _refused(folder, "several (a, b)")


@pytest.mark.parametrize(
    ("config", "finding"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is no LoRA"),
        ({"use_dora": True}, "use_dora True also scales the weights"),
        ({"lora_bias": True}, "lora_bias True adds biases"),
        ({"layer_replication": [[0, 2]]}, "layer_replication [[0, 2]] repeats layers"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices [3] changes rows"),
        ({"init_lora_weights": "pissa"}, "--accept-config adapter_config.init_lora_weights"),
        ({"loftq_config": {"loftq_bits": 4}}, "--accept-config adapter_config.loftq_config"),
        ({"new_kind": 3}, "--accept-config adapter_config.new_kind"),
        ({"r": 0}, "rank is 0, which is no positive number"),
        ({"r": 2.5}, "rank is 2.5"),
        ({"lora_alpha": "8"}, "alpha is '8'"),
        ({"lora_alpha": math.inf}, "alpha is inf"),
        ({"rank_pattern": {"qkv": -1}}, "rank_pattern of qkv is -1"),
        ({"alpha_pattern": [1]}, "alpha_pattern is [1], which is no object"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"alpha_pattern": {"(": 2}}, "pattern '(' is none"),
    ],
)
def test_what_no_merged_weight_does_is_refused_by_name(folder: Path, config: dict[str, Any], finding: str) -> None:
    weights = tower()
    settings = {"r": 4, "lora_alpha": 4, **config}
    _write_adapter(write_safetensors(folder, weights), _peft(_halves(weights, QKV, FC1)), **settings)
    _refused(folder, finding)


def test_the_settings_of_training_have_no_bearing(folder: Path) -> None:
    weights = tower()
    halves = _halves(weights, QKV, FC1)
    training = {
        "lora_dropout": 0.1,
        "fan_in_fan_out": True,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_to_transform": [0, 1],
        "base_model_name_or_path": "org/name",
        "task_type": "FEATURE_EXTRACTION",
        "megatron_core": "megatron.core",
        "loftq_config": {},
        "exclude_modules": None,
    }
    _write_adapter(write_safetensors(folder, weights), _peft(halves), r=4, lora_alpha=4, **training)
    _assert_merged(folder, weights, halves, {QKV: 1.0, FC1: 1.0})


@pytest.mark.parametrize("part", ["lora_magnitude_vector.default.weight", "lora_B.default.bias"])
def test_parts_of_adapters_that_are_no_product_are_refused(folder: Path, part: str) -> None:
    weights = tower()
    write_safetensors(folder, weights | _peft(_halves(weights, QKV), "") | {f"{QKV}.{part}": torch.ones(48)})
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, "r": 4, "lora_alpha": 4}))
    _refused(folder, f"vision_model.{QKV}.{part} are no plain LoRA")


@given(
    rank=st.integers(1, 512),
    alpha=st.floats(1e-3, 1e4) | st.integers(1, 4096),
    by_root=st.booleans(),
    pattern=st.booleans(),
)
def test_the_scale_is_that_of_peft(rank: int, alpha: float, by_root: bool, pattern: bool) -> None:
    content: dict[str, Any] = {"peft_type": "LORA", "use_rslora": by_root}
    if pattern:
        content |= {"r": rank + 1, "lora_alpha": 1, "rank_pattern": {"x.y": rank}, "alpha_pattern": {"y": alpha}}
    else:
        content |= {"r": rank, "lora_alpha": alpha}
    reader = FieldReader()
    config = read_adapter_config(content, reader)
    reader.finish()
    assert config.scale("a.x.y", rank) == pytest.approx(alpha / (math.sqrt(rank) if by_root else rank))


def test_the_defaults_are_pefts() -> None:
    assert AdapterConfig().scale("any", 8) == 1.0


def test_an_adapter_of_an_embedding_is_brought_to_a_linears_form(golden_a: Path, tmp_path: Path) -> None:
    weights = load_file(golden_a / "checkpoint" / "model.safetensors")
    name = "qllama.model.embed_tokens"
    table = weights[f"{name}.weight"]
    down, up = torch.randn(RANK, table.shape[0]), torch.randn(table.shape[1], RANK)
    halves = {f"base_model.model.{name}.lora_embedding_A": down, f"base_model.model.{name}.lora_embedding_B": up}
    content = json.loads((golden_a / "checkpoint" / "config.json").read_text())
    folder = write_safetensors(write_config(tmp_path / "c", content), weights)
    _write_adapter(folder, halves, r=4, lora_alpha=8, target_modules=["embed_tokens"])
    expected = table.float() + 2.0 * (up @ down).T
    torch.testing.assert_close(
        open_checkpoint(folder).tensors[f"{name}.weight"].torch(), expected, rtol=1e-5, atol=1e-5
    )
    del weights["qllama.lm_head.weight"]
    write_safetensors(folder, weights)
    _refused(folder, f"{name}.weight has one and is the head too, as no qllama.lm_head.weight is stored")


@pytest.mark.parametrize("adapter", ["default", "my-adapter", "v2"])
def test_an_adapter_may_have_any_name(folder: Path, adapter: str) -> None:
    weights = tower()
    halves = _halves(weights, QKV, FC1)
    stored = {n.replace(".weight", f".{adapter}.weight"): v for n, v in _peft(halves, prefix="").items()}
    norm = "encoder.layers.0.norm1"
    trained = {f"{norm}.modules_to_save.{adapter}.{leaf}": torch.full((16,), 2.0) for leaf in ("weight", "bias")}
    replaced = {n.replace(norm, f"{norm}.original_module"): v for n, v in weights.items()}
    write_safetensors(folder, replaced | trained | stored)
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, "r": 4, "lora_alpha": 4}))
    new = {f"{norm}.{leaf}": torch.full((16,), 2.0) for leaf in ("weight", "bias")}
    _assert_merged(folder, weights | new, halves, {QKV: 1.0, FC1: 1.0})


@pytest.mark.parametrize(
    ("base_prefix", "adapter_prefix"),
    [("", ""), ("", "vision_model."), ("m.", ""), ("m.", "m."), ("m.", "vision_model.")],
)
def test_an_adapter_may_be_named_as_its_base_or_officially(folder: Path, base_prefix: str, adapter_prefix: str) -> None:
    weights = tower()
    halves = _halves(weights, QKV)
    write_safetensors(folder, {f"{base_prefix}{name}": value for name, value in weights.items()})
    tensors = _peft(halves, f"base_model.model.{adapter_prefix}")
    _write_adapter(folder, tensors, r=4, lora_alpha=4, target_modules=["qkv"])
    _assert_merged(folder, weights, halves, {QKV: 1.0})


@pytest.mark.parametrize("pattern", ["blocks.0.attn.qkv", "^blocks.0.attn.qkv", "attn.qkv"])
@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_of_a_plain_file_acts_by_its_own_names(folder: Path, pattern: str, beside: bool) -> None:
    weights = tower()
    halves = _halves(weights, QKV, FC1)

    def plain(name: str) -> str:
        name = name.replace("encoder.layers.", "blocks.").replace("embeddings.class_embedding", "cls_token")
        name = name.replace("embeddings.position_embedding", "pos_embed")
        name = name.replace("embeddings.patch_embedding", "patch_embed.proj")
        return f"{name}.gamma" if name.endswith((".ls1", ".ls2")) else name

    base = {plain(name): value for name, value in weights.items()}
    adapter = {plain(name): value for name, value in _peft(halves, "base_model.model." if beside else "").items()}
    write_safetensors(folder, base if beside else base | adapter)
    settings = {"r": 4, "lora_alpha": 4, "alpha_pattern": {pattern: 12}}
    if beside:
        _write_adapter(folder, adapter, **settings)
    else:
        (folder / "adapter_config.json").write_text(json.dumps({**LORA, **settings}))
    _assert_merged(folder, weights, halves, {QKV: 3.0, FC1: 1.0})
