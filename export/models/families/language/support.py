"""Which language models have a graph, and the reason in one line where one has none."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from internvl_edge.export.models.families.fields import listed
from internvl_edge.export.models.families.language import LANGUAGE_FAMILIES
from internvl_edge.export.models.families.language.family import LanguageFamily

NATIVE_PART = "text_config"
"""Name of the object that describes the language model in transformers' own port."""
_DENSE = "give a dense one, as InternVL3_5-8B"
_MIXTURE = f"is a mixture of experts, which the graphs have not; {_DENSE}"
_OTHERS: Mapping[str, str] = {
    "Qwen3MoeForCausalLM": _MIXTURE,
    "Qwen2MoeForCausalLM": _MIXTURE,
    "GptOssForCausalLM": f"is a mixture of experts with attention sinks, which the graphs have not; {_DENSE}",
}
"""Class of a released language model without a graph -> why it has none."""
_BY_MODEL_TYPE = {
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
} | {family.name: family.architecture for family in LANGUAGE_FAMILIES}
ROUTED = "a router gives each tile 64 or 256 tokens, which the graphs have not; give the checkpoint without Flash"
"""Reason for a checkpoint with a router behind its tower."""
_PACKED = re.compile(r"\.(qweight|qzeros|scales|g_idx|weight_scale(_inv)?|weight_packed|weight_shape|absmax|SCB)$")
"""Tensors that stand beside or instead of weights in few bits (AWQ, GPTQ, FP8, bitsandbytes)."""
_ADAPTER = re.compile(r"\.lora_")


def architecture_of(content: Mapping[str, Any], part: str) -> str | None:
    """Return the class of the language model that the object `part` describes, or None if it names none.

    The official layout goes by ``architectures``, transformers' own port by ``model_type``, by default Qwen2's.
    """
    classes, kind = content.get("architectures"), content.get("model_type")
    if part == NATIVE_PART:
        kind = kind or "qwen2"
    elif isinstance(classes, list) and classes:
        return str(classes[0])
    return _BY_MODEL_TYPE.get(str(kind), str(kind)) if kind else None


def family_of(content: Mapping[str, Any], part: str) -> LanguageFamily | None:
    """Return the family of the language model that the object `part` describes, or None if it has no graph."""
    name = architecture_of(content, part)
    return next((family for family in LANGUAGE_FAMILIES if family.architecture == name), None)


def reason_without(content: Mapping[str, Any], part: str) -> str | None:
    """Return why the language model that the object `part` describes has no graph; None if it has one."""
    name = architecture_of(content, part)
    if name is None:
        return f"{part} names no architecture, so that the family of the language model is not known"
    if name in _OTHERS:
        return f"{name} {_OTHERS[name]}"
    if family_of(content, part) is None:
        known = ", ".join(family.architecture for family in LANGUAGE_FAMILIES)
        return f"{name} is none of the language models with a graph, which are {known}"
    return None


def reason_in_weights(tensors: Iterable[tuple[str, str]], floats: Iterable[str]) -> str | None:
    """Return why a language model with these `tensors`, names with types, has no graph; None if it has one."""
    stored = list(tensors)
    known = set(floats)
    if few := [f"{name} {dtype}" for name, dtype in stored if dtype not in known or _PACKED.search(name)]:
        return f"its weights are stored in few bits ({listed(few, 1)}); give the checkpoint before quantization"
    if any(_ADAPTER.search(name) for name, _ in stored):
        return "it has LoRA adapters that are not merged; merge them with PEFT"
    return None
