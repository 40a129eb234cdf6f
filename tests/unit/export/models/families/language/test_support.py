"""A language model without a graph is no fault of the tower: it is named with its reason, and the rest exports."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig
from internvl_edge.export.models.families.language import LANGUAGE_FAMILIES
from internvl_edge.export.models.families.language.support import (
    architecture_of,
    family_of,
    reason_in_weights,
    reason_without,
)
from internvl_edge.runtime.errors import CheckpointError
from tests.golden_chat import golden_chat
from tests.unit.export.checkpoint.checkpoint_folders import Tensors, opened, write_safetensors

FLOATS = ("bfloat16", "float16")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "llm_config names no architecture, so that the family of the language model is not known"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM is a mixture of experts, which the graphs"),
        ({"model_type": "gpt_oss"}, "GptOssForCausalLM is a mixture of experts with attention sinks"),
        ({"architectures": ["MptForCausalLM"]}, "MptForCausalLM is none of the language models with a graph"),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "gpt_oss"}, None),
        ({"model_type": "qwen2"}, None),
    ],
)
def test_the_architecture_decides(content: dict[str, Any], reason: str | None) -> None:
    found = reason_without(content, "llm_config")
    assert (found is None) == (reason is None)
    assert (found or "").startswith(reason or "")
    assert "\n" not in (found or "")


def test_the_port_goes_by_the_type_of_the_model() -> None:
    """It builds the class that belongs to `model_type`; whatever stands in `architectures` saved the file."""
    for kind, base in (("qwen3", "Qwen3Model"), ("llama", "InternLM2ForCausalLM")):
        content = {"model_type": kind, "architectures": [base]}
        family = family_of(content, "text_config")
        assert family is not None
        assert family.name == kind
    assert family_of({}, "text_config") == family_of({"model_type": "qwen2"}, "text_config")
    assert architecture_of({"model_type": "qwen3_moe"}, "text_config") == "Qwen3MoeForCausalLM"
    assert family_of({"architectures": ["Qwen3Model"], "model_type": "qwen3"}, "llm_config") is None


def test_each_family_is_found_by_its_class_and_by_its_type() -> None:
    for family in LANGUAGE_FAMILIES:
        assert reason_without({"architectures": [family.architecture]}, "llm_config") is None
        assert reason_without({"model_type": family.name}, "text_config") is None


@pytest.mark.parametrize(
    ("name", "dtype", "reason"),
    [
        ("q_proj.qweight", "int32", "few bits (q_proj.qweight int32); give the checkpoint before quantization"),
        ("q_proj.scales", "float16", "few bits"),
        ("q_proj.weight_scale_inv", "bfloat16", "few bits"),
        ("q_proj.weight", "float8_e4m3fn", "few bits"),
        ("q_proj.lora_A.weight", "bfloat16", "LoRA adapters that are not merged; merge them with PEFT"),
        ("q_proj.weight", "bfloat16", None),
    ],
)
def test_the_weights_may_show_another_reason(name: str, dtype: str, reason: str | None) -> None:
    found = reason_in_weights([(name, dtype), ("norm.weight", "bfloat16")], FLOATS)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


class TestCheckpoints:
    """Where the language model has no graph, tower and connector have theirs."""

    @pytest.fixture
    def folder(self) -> Path:
        return golden_chat("c1").checkpoint

    def test_few_bits(self, folder: Path, tmp_path: Path) -> None:
        name = "language_model.model.layers.0.self_attn.q_proj.qweight"
        copy = changed(folder, tmp_path / "c", {name: torch.zeros(9, 72, dtype=torch.int32)})
        assert_left_alone(copy, "its weights are stored in few bits (language_model.model.layers.0.self_attn.q_proj.q")

    def test_adapters_among_the_weights(self, folder: Path, tmp_path: Path) -> None:
        module = "language_model.model.layers.0.self_attn.q_proj"
        halves = {f"{module}.lora_A.weight": torch.ones(4, 72), f"{module}.lora_B.weight": torch.ones(72, 4)}
        assert_left_alone(changed(folder, tmp_path / "c", halves), "LoRA adapters that are not merged")

    def test_adapters_beside_the_weights(self, folder: Path, tmp_path: Path) -> None:
        copy, module = changed(folder, tmp_path / "c"), "base_model.model.model.layers.0.self_attn.q_proj"
        halves = {f"{module}.lora_A.weight": torch.ones(4, 72), f"{module}.lora_B.weight": torch.ones(72, 4)}
        write_safetensors(copy, halves, "adapter_model.safetensors")
        (copy / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
        assert_left_alone(copy, "LoRA adapters that are not merged")

    def test_adapters_that_the_config_speaks_of(self, folder: Path, tmp_path: Path) -> None:
        assert_left_alone(changed(folder, tmp_path / "c", use_llm_lora=16), "use_llm_lora is 16, so that its adapters")

    def test_a_router_in_the_config_or_among_the_weights(self, folder: Path, tmp_path: Path) -> None:
        assert_left_alone(changed(folder, tmp_path / "c", flash_mode=True), "a router gives each tile 64 or 256 tokens")
        gate = {"gating.mlp1.0.weight": torch.ones(4, 4), "mlp2.0.weight": torch.ones(4)}
        assert_left_alone(changed(folder, tmp_path / "d", gate), "give the checkpoint without Flash")

    def test_another_family(self, folder: Path, tmp_path: Path) -> None:
        llm = {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 72, "num_experts": 8}
        assert_left_alone(
            changed(folder, tmp_path / "c", llm_config=llm), "Qwen3MoeForCausalLM is a mixture of experts"
        )

    def test_a_tower_without_the_tensors_of_its_language_model_is_incomplete(
        self, folder: Path, tmp_path: Path
    ) -> None:
        copy = changed(folder, tmp_path / "c", without="language_model.model.layers.1.input_layernorm.weight")
        with pytest.raises(
            CheckpointError, match=r"1 missing: language_model\.model\.layers\.1\.input_layernorm\.weight;"
        ):
            opened(copy)


def assert_left_alone(folder: Path, reason: str) -> None:
    """Check that tower and connector open without the language model, which has no graph for `reason`."""
    checkpoint = opened(folder)
    assert reason in (checkpoint.config.without_llm or "")
    assert checkpoint.config.find(LanguageConfig) is None
    assert checkpoint.config.find(ConnectorConfig) is not None
    assert {name.split(".")[0] for name in checkpoint.tensors} == {"vision_model", "mlp1"}
    assert any(name.startswith("language_model.") for name in checkpoint.ignored)


def changed(
    folder: Path, target: Path, tensors: Tensors | None = None, without: str | None = None, **config: Any
) -> Path:
    """Return a copy of a checkpoint with other fields, with further `tensors` and without one."""
    target.mkdir()
    content = json.loads((folder / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(content))
    weights = load_file(folder / "model.safetensors") | (tensors or {})
    return write_safetensors(target, {name: value for name, value in weights.items() if name != without})


class TestTowerAlone:
    """Whoever asks for graphs of the tower alone is not stopped by the language model's fields."""

    def test_findings_become_the_reason(self, tmp_path: Path) -> None:
        folder = golden_chat("c1").checkpoint
        llm = json.loads((folder / "config.json").read_text())["llm_config"]
        llm |= {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "mystery": 3}
        copy = changed(folder, tmp_path / "c", llm_config=llm)
        for finding in ("llm_config.rope_scaling is of type 'llama3'", "llm_config.mystery = 3"):
            with pytest.raises(CheckpointError, match=re.escape(finding)):
                open_checkpoint(copy)
            assert finding in (opened(copy, language=False).config.without_llm or "")
        assert opened(copy, language=False).config.find(ConnectorConfig) is not None

    def test_without_findings_nothing_changes(self) -> None:
        folder = golden_chat("c1").checkpoint
        assert open_checkpoint(folder, language=False).config == open_checkpoint(folder).config

    def test_an_accepted_field_is_recorded(self, tmp_path: Path) -> None:
        folder = golden_chat("c1").checkpoint
        llm = json.loads((folder / "config.json").read_text())["llm_config"] | {"mystery": 3}
        copy = changed(folder, tmp_path / "c", llm_config=llm)
        checkpoint = opened(copy, accept=["llm_config.mystery"], language=False)
        assert checkpoint.accepted_fields == ("llm_config.mystery",)
        assert checkpoint.config.find(LanguageConfig) is not None
