"""Read `adapter_config.json`, and derive the factor of each LoRA adapter by PEFT's rules."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.families.fields import FieldReader, FieldTable, Honoured, Limited, flag, harmless, only
from internvl_edge.runtime.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"

ROOTS = ("", "vision_model.", "qllama.", "language_model.")
"""Prefixes that an adapter's names may be relative to: the whole model, or the part that was trained."""

_PLAIN = {family.plain_root[1]: family.plain_root[0] for family in FAMILIES if family.plain_root is not None}
"""Prefix of official names -> prefix of the same names in plain-PyTorch files."""

_CHANGED_BASE = "starts from changed base weights, which are not in this folder for certain"


TABLE = FieldTable(
    ADAPTER_CONFIG,
    {
        "peft_type": only("LORA", finding="is no LoRA; merge it with PEFT"),
        "r": Honoured("rank"),
        "lora_alpha": Honoured("alpha"),
        "use_rslora": Honoured("by_root", flag),
        "rank_pattern": Honoured("ranks"),
        "alpha_pattern": Honoured("alphas"),
        "target_modules": Honoured("targets"),
        "modules_to_save": Honoured("saved"),
        "base_model_name_or_path": Honoured("base"),
        "use_dora": only(False, finding="also scales the weights; merge it with PEFT"),
        "lora_bias": only(False, finding="adds biases; merge it with PEFT"),
        "use_qalora": only(False, finding="groups inputs; merge it with PEFT"),
        "bias": only("none", "all", "lora_only"),
        "init_lora_weights": Limited(
            lambda value: value in (True, False, "gaussian", "orthogonal", "eva"), _CHANGED_BASE, acceptable=True
        ),
        "loftq_config": only({}, finding=_CHANGED_BASE, acceptable=True),
        "layer_replication": only([], finding="repeats layers; merge it with PEFT"),
        "trainable_token_indices": only([], {}, finding="changes rows of the embedding; merge it with PEFT"),
        "target_parameters": only([], finding="changes parameters that are no layers; merge it with PEFT"),
        "alora_invocation_tokens": only([], finding="acts on a part of the tokens; no merged weight does that"),
        "arrow_config": only(finding="mixes adapters; merge it with PEFT"),
        **harmless("fan_in_fan_out", "layers_to_transform", "layers_pattern", "exclude_modules", "lora_dropout"),
        **harmless("task_type", "inference_mode", "auto_mapping", "revision", "peft_version", "megatron_config"),
        **harmless("megatron_core", "runtime_config", "eva_config", "corda_config", "qalora_group_size"),
        **harmless("ensure_weight_tying", "lora_ga_config"),
    },
)
"""PEFT itself ignores ``fan_in_fan_out`` on linear layers; the tensors' names show which layers are adapted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Settings that determine the factor of an adapter; the defaults are PEFT's."""

    rank: int = 8
    alpha: float = 8
    by_root: bool = False
    """Whether alpha is divided by the root of the rank instead of the rank."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Pattern of module names -> rank of these modules."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    """Last components of the names of adapted modules; empty if the file has a regular expression instead."""
    saved: tuple[str, ...] = ()
    """Names of modules that the adapter replaces as a whole."""
    base: str = ""

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of the product of the two matrices of the adapter of `module`.

        Raises:
            CheckpointError: the file states another rank than `rank` for this module.
        """
        expected = _matching(self.ranks, module, self.rank)
        if rank != expected:
            raise CheckpointError(f"{module} has rank {rank}, {ADAPTER_CONFIG} gives it rank {expected}")
        alpha: float = _matching(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.by_root else rank)


def read_adapter_config(content: Mapping[str, Any], reader: FieldReader) -> AdapterConfig:
    """Return the settings of an `adapter_config.json`; findings go to `reader`."""
    found = reader.read(TABLE, content)
    numbers: dict[str, Any] = {name: found[name] for name in ("rank", "alpha") if name in found}
    for name in ("ranks", "alphas"):
        patterns = found.setdefault(name, {})
        if isinstance(patterns, dict):
            numbers |= {f"{name.removesuffix('s')}_pattern of {module}": value for module, value in patterns.items()}
        else:
            reader.find(ADAPTER_CONFIG, f"{name.removesuffix('s')}_pattern is {patterns!r}, which is no object")
    wrong = [name for name, value in numbers.items() if not _is_positive(value, whole=name.startswith("rank"))]
    for name in wrong:
        reader.find(ADAPTER_CONFIG, f"{name} is {numbers[name]!r}, which is no positive number")
    if ADAPTER_CONFIG in reader.findings:
        return AdapterConfig()
    names = {name: _names(found.pop(name, None)) for name in ("targets", "saved")}
    return AdapterConfig(**{**found, **names})


def _is_positive(value: object, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf and (not whole or isinstance(value, int))


def _names(value: Any) -> tuple[str, ...]:
    """Return a list of names as a tuple; a regular expression, which PEFT also allows, gives none."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, as PEFT does.

    A pattern that begins with ``^`` matches the whole name, which may be relative to the part that was trained.
    """
    names = [module.removeprefix(root) for root in ROOTS if module.startswith(root)]
    names += [module.replace(part, plain) for part, plain in _PLAIN.items() if module.startswith(part)]
    for pattern, value in patterns.items():
        try:
            if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                return value
        except re.error as error:
            raise CheckpointError(f"{ADAPTER_CONFIG}: pattern {pattern!r} is none ({error}); correct it") from error
    return default
