"""What the model looks like: all that shapes tensors and arithmetic."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from internvl_edge.runtime.errors import CheckpointError
from internvl_edge.runtime.preprocess import Preprocessing

Family = Literal["internvl", "internvit", "internvl_chat"]

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
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                yield f"{name} {getattr(self, name)} is outside the vocabulary of {self.vocab_size}"

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
    fewest_tiles: int = 1
    most_tiles: int = 1
    """Tiles that a picture is cut into, the thumbnail not counted."""
    thumbnail: bool = False
    """Add the whole picture as a last tile where it was cut."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built, with a CheckpointError."""
        sizes = ("downsample", "llm_hidden_size", "fewest_tiles", "most_tiles")
        _refuse("connector", [*_not_positive(self, *sizes)] or [*self._findings()])

    def _findings(self) -> Iterator[str]:
        if not math.isclose(self.factor * self.downsample, 1):
            yield f"downsample_ratio {self.downsample} is no 1/n"
        if self.ps_version not in ("v1", "v2"):
            yield f"ps_version {self.ps_version!r} is unknown"
        if self.fewest_tiles > self.most_tiles:
            yield f"min_dynamic_patch {self.fewest_tiles} is more than max_dynamic_patch {self.most_tiles}"

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
    preprocessing: Preprocessing | None = None
    """What the checkpoint's files say of pictures; None: as the reference."""

    @property
    def pictures(self) -> Preprocessing:
        """What becomes of pictures before the tower."""
        return self.preprocessing or Preprocessing(image_size=self.vision.image_size)

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


def _not_positive(config: object, *names: str) -> Iterator[str]:
    """Yield the fields that hold no positive int (or, for `_REAL` ones, no positive number)."""
    for name in names:
        value = getattr(config, name)
        number = positive_int(value) or (name in _REAL and isinstance(value, float) and 0 < value < math.inf)
        if not number:
            yield f"{name} is {value!r}"


def positive_int(value: object) -> bool:
    """Return whether `value` is a whole number above 0; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _refuse(part: str, findings: list[str]) -> None:
    if findings:
        raise CheckpointError("; ".join(f"{part} {finding}" for finding in findings))
