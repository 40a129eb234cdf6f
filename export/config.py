"""What the model looks like: the part of `config.json` that shapes tensors and arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from internvl_edge.runtime.errors import CheckpointError

Family = Literal["internvl", "internvit", "internvl_chat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """An InternViT tower; the defaults are those of the 6B config class (MODEL.md 1.1)."""

    hidden_size: int = 3200
    num_heads: int = 25
    num_layers: int = 48
    intermediate_size: int = 12800
    patch_size: int = 14
    image_size: int = 224
    norm_type: str = "rms_norm"
    eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = True

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid**2 + 1

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class QllamaConfig:
    """QLLaMA with its queries."""

    hidden_size: int
    num_heads: int
    num_layers: int
    intermediate_size: int
    vocab_size: int
    eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 2048
    num_queries: int = 96
    cross_attention_layers: tuple[int, ...] = ()
    vision_hidden_size: int = 3200
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorConfig:
    """Pixel shuffle and mlp1 of a chat checkpoint (MODEL.md 6)."""

    downsample: float = 0.5
    ps_version: str = "v1"
    select_layer: int = -1
    llm_hidden_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The whole model; parts that the checkpoint has no weights for are None."""

    family: Family
    vision: VisionConfig
    qllama: QllamaConfig | None = None
    embed_dim: int | None = None
    """Size of the shared embedding; None without the first attention pool."""
    pool_heads: int | None = None
    connector: ConnectorConfig | None = None
    qllama_graphs: tuple[str, ...] = ("query", "text", "decoder", "itm")
    """Uses of QLLaMA that the checkpoint has weights for: the plain-PyTorch InternVL-C file has `text` alone."""


@dataclass(slots=True)
class _Findings:
    """Collects what is wrong with a config, to say it all at once."""

    found: list[str] = field(default_factory=list)

    def require(self, good: bool, finding: str) -> None:
        if not good:
            self.found.append(finding)


def config_from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Return the model that a Hugging Face `config.json` describes.

    Raises:
        CheckpointError: what this compiler does not know how to build, all of it in one line.
    """
    findings = _Findings()
    family = _family(content)
    vision = _vision(content.get("vision_config", {}) if family != "internvit" else content, content, findings)
    qllama = _qllama(content, vision, findings) if family == "internvl" else None
    connector = _connector(content, vision, findings) if family == "internvl_chat" else None
    pool_heads = content.get("attn_pool_num_heads", 16) if family == "internvl" else None
    if pool_heads is not None:
        widths = [vision.hidden_size, *([qllama.hidden_size] if qllama else [])]
        findings.require(all(w % pool_heads == 0 for w in widths), f"attn_pool_num_heads {pool_heads} does not divide {widths}")
    if findings.found:
        raise CheckpointError(f"config.json: {'; '.join(findings.found)}; correct the file or choose another checkpoint")
    return ModelConfig(
        family=family,
        vision=vision,
        qllama=qllama,
        embed_dim=content.get("clip_embed_dim", 768) if family == "internvl" else None,
        pool_heads=pool_heads,
        connector=connector,
    )


def _family(content: Mapping[str, Any]) -> Family:
    kind = content.get("model_type")
    if kind == "intern_vit_6b":
        return "internvit"
    if kind == "internvl_chat" or "llm_config" in content:
        return "internvl_chat"
    if kind == "internvl" or "qllama_config" in content:
        return "internvl"
    raise CheckpointError(
        f"config.json: model_type {kind!r} is not supported; give an InternVL-14B, InternViT or InternVL-Chat checkpoint"
    )


def _vision(content: Mapping[str, Any], top: Mapping[str, Any], findings: _Findings) -> VisionConfig:
    config = VisionConfig(
        hidden_size=content.get("hidden_size", 3200),
        num_heads=content.get("num_attention_heads", 25),
        num_layers=content.get("num_hidden_layers", 48),
        intermediate_size=content.get("intermediate_size", 12800),
        patch_size=content.get("patch_size", 14),
        image_size=top.get("force_image_size") or content.get("image_size", 224),
        norm_type=content.get("norm_type", "rms_norm"),
        eps=content.get("layer_norm_eps", 1e-6),
        qkv_bias=content.get("qkv_bias", False),
        qk_norm=content.get("qk_normalization", True),
    )
    patch, size, act = config.patch_size, config.image_size, content.get("hidden_act", "gelu")
    findings.require(size > 0 and size % patch == 0, f"image_size {size} is no multiple of the patch size {patch}")
    findings.require(config.hidden_size % config.num_heads == 0, f"{config.num_heads} vision heads do not divide {config.hidden_size}")
    findings.require(config.norm_type in ("rms_norm", "layer_norm"), f"vision norm_type {config.norm_type!r} is unknown")
    findings.require(act == "gelu", f"vision hidden_act {act!r} is not gelu")
    findings.require(content.get("num_channels", 3) == 3, f"{content.get('num_channels')} colour channels instead of 3")
    return config


def _qllama(top: Mapping[str, Any], vision: VisionConfig, findings: _Findings) -> QllamaConfig | None:
    content = top.get("qllama_config")
    if not content:
        findings.require(False, "qllama_config is missing")
        return None
    heads = content.get("num_attention_heads", 32)
    layers = content.get("num_hidden_layers", 32)
    frequency = top.get("cross_attention_frequency", content.get("cross_attention_frequency", 2))
    config = QllamaConfig(
        hidden_size=content.get("hidden_size", 4096),
        num_heads=heads,
        num_layers=layers,
        intermediate_size=content.get("intermediate_size", 11008),
        vocab_size=content.get("vocab_size", 32000),
        eps=content.get("rms_norm_eps", 1e-6),
        rope_theta=content.get("rope_theta", 10000.0),
        max_positions=content.get("max_position_embeddings", 2048),
        num_queries=top.get("num_query_token", content.get("num_query_token", 96)),
        cross_attention_layers=tuple(range(0, layers, frequency)),
        vision_hidden_size=vision.hidden_size,
        bos_token_id=content.get("bos_token_id", 1),
        eos_token_id=content.get("eos_token_id", 2),
        pad_token_id=content.get("pad_token_id", 0),
    )
    act = content.get("hidden_act", "silu")
    findings.require(config.hidden_size % heads == 0, f"{heads} QLLaMA heads do not divide {config.hidden_size}")
    findings.require(act == "silu", f"QLLaMA hidden_act {act!r} is not silu")
    findings.require(content.get("rope_scaling") is None, "QLLaMA rope_scaling is set")
    findings.require(content.get("num_key_value_heads", heads) == heads, "QLLaMA has grouped key/value heads")
    return config


def _connector(top: Mapping[str, Any], vision: VisionConfig, findings: _Findings) -> ConnectorConfig:
    llm = top.get("llm_config", {})
    config = ConnectorConfig(
        downsample=top.get("downsample_ratio", 0.5),
        ps_version=top.get("ps_version", "v1"),
        select_layer=top.get("select_layer", -1),
        llm_hidden_size=llm.get("hidden_size", top.get("hidden_size", 0)),
    )
    factor = round(1 / config.downsample) if config.downsample else 0
    findings.require(config.ps_version in ("v1", "v2"), f"ps_version {config.ps_version!r} is unknown")
    findings.require(factor > 0 and math.isclose(factor * config.downsample, 1), f"downsample_ratio {config.downsample} is no 1/n")
    findings.require(factor > 0 and vision.grid % factor == 0, f"the patch grid {vision.grid} is no multiple of {factor}")
    findings.require(config.llm_hidden_size > 0, "the language model's hidden_size is missing")
    findings.require(-vision.num_layers <= config.select_layer <= -1, f"select_layer {config.select_layer} is outside the tower")
    return config
