"""What the model looks like: the part of `config.json` that shapes tensors and arithmetic."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from internvl_edge.runtime.errors import CheckpointError

Family = Literal["internvl", "internvit", "internvl_chat"]
T = TypeVar("T")

_REAL = ("eps", "rope_theta", "downsample")
"""Fields that may have a fraction."""

ALL_QLLAMA_GRAPHS = ("query", "text", "decoder", "itm")


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
    hidden_act: str = "gelu"

    def __post_init__(self) -> None:
        """Refuse what cannot be built, with a CheckpointError."""
        sizes = ("hidden_size", "num_heads", "num_layers", "intermediate_size", "patch_size", "image_size", "eps")
        _refuse("vision", [*_not_positive(self, *sizes)] or [*self._findings()])

    def _findings(self) -> Iterator[str]:
        if self.image_size % self.patch_size:
            yield f"image_size {self.image_size} is no multiple of the patch size {self.patch_size}"
        if self.hidden_size % self.num_heads:
            yield f"{self.num_heads} heads do not divide hidden_size {self.hidden_size}"
        if self.norm_type not in ("rms_norm", "layer_norm"):
            yield f"norm_type {self.norm_type!r} is unknown"
        if self.hidden_act != "gelu":
            yield f"hidden_act {self.hidden_act!r} is not gelu"

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
    """QLLaMA with its queries; the defaults are those of transformers' LLaMA, which a file may leave out."""

    hidden_size: int = 4096
    num_heads: int = 32
    num_layers: int = 32
    intermediate_size: int = 11008
    vocab_size: int = 32000
    eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 2048
    num_queries: int = 96
    cross_attention_layers: tuple[int, ...] = ()
    vision_hidden_size: int = 3200
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built, with a CheckpointError."""
        sizes = ("hidden_size", "num_heads", "num_layers", "intermediate_size", "vocab_size")
        more = ("eps", "rope_theta", "max_positions", "num_queries", "vision_hidden_size")
        _refuse("qllama", [*_not_positive(self, *sizes, *more)] or [*self._findings()])

    def _findings(self) -> Iterator[str]:
        if self.hidden_size % self.num_heads:
            yield f"{self.num_heads} heads do not divide hidden_size {self.hidden_size}"
        if outside := [layer for layer in self.cross_attention_layers if not 0 <= layer < self.num_layers]:
            yield f"cross-attention in layers {outside} of {self.num_layers}"

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

    def __post_init__(self) -> None:
        """Refuse what cannot be built, with a CheckpointError."""
        _refuse("connector", [*_not_positive(self, "downsample", "llm_hidden_size")] or [*self._findings()])

    def _findings(self) -> Iterator[str]:
        if not math.isclose(self.factor * self.downsample, 1):
            yield f"downsample_ratio {self.downsample} is no 1/n"
        if self.ps_version not in ("v1", "v2"):
            yield f"ps_version {self.ps_version!r} is unknown"

    @property
    def factor(self) -> int:
        """Patches along one side of a cell of the shuffle."""
        return round(1 / self.downsample)


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
    qllama_graphs: tuple[str, ...] = ALL_QLLAMA_GRAPHS
    """Uses of QLLaMA that the checkpoint has weights for: the plain-PyTorch InternVL-C file has `text` alone."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built, with a CheckpointError."""
        pool = ("embed_dim", "pool_heads") if self.embed_dim is not None or self.qllama is not None else ()
        _refuse("model", [*_not_positive(self, *pool)] or [*self._findings()])

    def _findings(self) -> Iterator[str]:
        pooled = [self.vision.hidden_size, *([self.qllama.hidden_size] if self.qllama else [])]
        if self.pool_heads is not None and any(width % self.pool_heads for width in pooled):
            yield f"attn_pool_num_heads {self.pool_heads} does not divide {pooled}"
        if self.connector is None:
            return
        if self.vision.grid % self.connector.factor:
            yield f"the patch grid {self.vision.grid} is no multiple of the connector's {self.connector.factor}"
        layer = self.connector.select_layer
        if not isinstance(layer, int) or not -self.vision.num_layers <= layer <= -1:
            yield f"select_layer {layer!r} is outside the tower's {self.vision.num_layers} layers"


_VISION_KEYS = {
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "intermediate_size",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "norm_type": "norm_type",
    "layer_norm_eps": "eps",
    "qkv_bias": "qkv_bias",
    "qk_normalization": "qk_norm",
    "hidden_act": "hidden_act",
}
_QLLAMA_KEYS = {
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "eps",
    "rope_theta": "rope_theta",
    "max_position_embeddings": "max_positions",
    "num_query_token": "num_queries",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}
_CONNECTOR_KEYS = {"downsample_ratio": "downsample", "ps_version": "ps_version", "select_layer": "select_layer"}
"""Keys of `config.json` -> fields; a key that is absent or null leaves the field's default."""


def config_from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Return the model that a Hugging Face `config.json` describes.

    Raises:
        CheckpointError: what this compiler does not know how to build, all of it in one line.
    """
    findings: list[str] = []
    family = _family(content)
    vision = _collect(findings, lambda: _vision(content, family))
    qllama = _collect(findings, lambda: _qllama(content)) if family == "internvl" else None
    connector = _collect(findings, lambda: _connector(content)) if family == "internvl_chat" else None
    if vision is not None and not findings:
        model = _collect(findings, lambda: _model(content, family, vision, qllama, connector))
        if model is not None:
            return model
    raise CheckpointError(f"config.json: {'; '.join(findings)}; correct the file or choose another checkpoint")


def _family(content: Mapping[str, Any]) -> Family:
    kind = content.get("model_type")
    if kind == "internvl" and "text_config" in content:
        raise CheckpointError("config.json: is transformers' own port of InternVL; give the original checkpoint")
    if kind == "intern_vit_6b":
        return "internvit"
    if kind == "internvl_chat" or "llm_config" in content:
        return "internvl_chat"
    if kind == "internvl" or "qllama_config" in content:
        return "internvl"
    raise CheckpointError(
        f"config.json: model_type {kind!r} is unknown; give an InternVL-14B, InternViT or InternVL-Chat checkpoint"
    )


def _model(
    top: Mapping[str, Any],
    family: Family,
    vision: VisionConfig,
    qllama: QllamaConfig | None,
    connector: ConnectorConfig | None,
) -> ModelConfig:
    return ModelConfig(
        family=family,
        vision=vision,
        qllama=qllama and replace(qllama, vision_hidden_size=vision.hidden_size),
        embed_dim=top.get("clip_embed_dim", 768) if family == "internvl" else None,
        pool_heads=top.get("attn_pool_num_heads", 16) if family == "internvl" else None,
        connector=connector,
    )


def _vision(top: Mapping[str, Any], family: Family) -> VisionConfig:
    content = top if family == "internvit" else _part(top, "vision_config")
    channels = content.get("num_channels", 3)
    _refuse("vision", [f"{channels} colour channels instead of 3"] if channels != 3 else [])
    return VisionConfig(**_fields(content, _VISION_KEYS) | _fields(top, {"force_image_size": "image_size"}))


def _qllama(top: Mapping[str, Any]) -> QllamaConfig:
    content = _part(top, "qllama_config")
    if not content:
        raise CheckpointError("qllama_config is missing")
    _refuse("qllama", [*_unsupported_llama(content)])
    fields = _fields(content, _QLLAMA_KEYS) | _fields(top, {"num_query_token": "num_queries"})
    frequency = top.get("cross_attention_frequency", content.get("cross_attention_frequency", 2))
    _refuse("qllama", [] if _positive_int(frequency) else [f"cross_attention_frequency is {frequency!r}"])
    config = QllamaConfig(**fields)
    return replace(config, cross_attention_layers=tuple(range(0, config.num_layers, frequency)))


def _unsupported_llama(content: Mapping[str, Any]) -> Iterator[str]:
    heads = content.get("num_attention_heads", 32)
    if content.get("hidden_act", "silu") != "silu":
        yield f"hidden_act {content['hidden_act']!r} is not silu"
    if content.get("rope_scaling") is not None:
        yield "rope_scaling is set"
    if content.get("num_key_value_heads") not in (None, heads):
        yield f"{heads} heads share {content['num_key_value_heads']} grouped key/value heads"
    if content.get("attention_bias"):
        yield "attention_bias is set"


def _connector(top: Mapping[str, Any]) -> ConnectorConfig:
    width = _part(top, "llm_config").get("hidden_size", top.get("hidden_size"))
    if width is None:
        raise CheckpointError("the language model's hidden_size is missing")
    return ConnectorConfig(**_fields(top, _CONNECTOR_KEYS), llm_hidden_size=width)


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name) or {}
    if not isinstance(part, Mapping):
        raise CheckpointError(f"{name} is no object")
    return part


def _fields(content: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {field: content[key] for key, field in keys.items() if content.get(key) is not None}


def _not_positive(config: object, *names: str) -> Iterator[str]:
    """Yield the fields that hold no positive int (or, for `_REAL` ones, no positive number)."""
    for name in names:
        value = getattr(config, name)
        number = _positive_int(value) or (name in _REAL and isinstance(value, float) and 0 < value < math.inf)
        if not number:
            yield f"{name} is {value!r}"


def _positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _refuse(part: str, findings: list[str]) -> None:
    if findings:
        raise CheckpointError("; ".join(f"{part} {finding}" for finding in findings))


def _collect(findings: list[str], build: Callable[[], T]) -> T | None:
    """Return what `build` builds, or add what is wrong with it to `findings`."""
    try:
        return build()
    except CheckpointError as error:
        findings.append(str(error))
        return None
