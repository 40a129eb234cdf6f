"""Configuration of a model: the values that determine its tensors' shapes and its arithmetic."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeVar

from internvl_edge.runtime.errors import CheckpointError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing

Layout = Literal["internvl", "internvit", "internvl_chat", "internvl_hf"]
"""Layout of a checkpoint: which parts it has, and where `config.json` describes them."""

P = TypeVar("P", bound="PartConfig")

_REAL = ("eps", "rope_theta", "downsample", "theta", "factor", "magnitude")
"""Names of fields that may be fractions; the others are integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartConfig:
    """Configuration of one part of a model; there is a subclass for each kind of part."""

    part: ClassVar[str]
    """Name of the part in errors."""
    positive: ClassVar[tuple[str, ...]]
    """Names of fields that must be above 0."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            CheckpointError: with all values that are not supported.
        """
        _refuse(self.part, [*_not_positive(self, *self.positive)] or [*self._findings()])

    @property
    def vocabulary(self) -> int | None:
        """Number of token ids of the texts that the part takes whole; None: it takes none."""
        return None

    def _findings(self) -> Iterator[str]:
        """Yield contradictions between fields; all of `positive` are above 0 when it is called."""
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig(PartConfig):
    """Configuration of an InternViT tower; the defaults are those of the 6B config class (MODEL.md 1.1)."""

    part = "vision"
    positive = ("hidden_size", "num_heads", "num_layers", "intermediate_size", "patch_size", "image_size", "eps")

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
    qk_eps: float | None = None
    """Epsilon of the norms of queries and keys; None: that of the other norms."""
    hidden_act: str = "gelu"

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
        """Number of patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Number of tokens: patches and the class token."""
        return self.grid**2 + 1

    @property
    def head_dim(self) -> int:
        """Number of channels of one head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class QllamaConfig(PartConfig):
    """Configuration of QLLaMA with its queries; the defaults are those of transformers' LLaMA."""

    part = "qllama"
    positive = (
        *("hidden_size", "num_heads", "num_layers", "intermediate_size", "vocab_size"),
        *("eps", "rope_theta", "max_positions", "num_queries", "vision_hidden_size"),
    )

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
    text_alone: bool = False
    """Whether only the text encoder is stored, without queries and heads, as in InternVL-C's plain-PyTorch file."""

    def _findings(self) -> Iterator[str]:
        if self.hidden_size % self.num_heads:
            yield f"{self.num_heads} heads do not divide hidden_size {self.hidden_size}"
        if outside := [layer for layer in self.cross_attention_layers if not 0 <= layer < self.num_layers]:
            yield f"cross-attention in layers {outside} of {self.num_layers}"
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                yield f"{name} {getattr(self, name)} is outside the vocabulary of {self.vocab_size}"

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.vocab_size

    @property
    def head_dim(self) -> int:
        """Number of channels of one head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorConfig(PartConfig):
    """Configuration of the connector of a chat checkpoint: pixel shuffle and mlp1 (MODEL.md 6)."""

    part = "connector"
    positive = ("downsample", "llm_hidden_size", "fewest_tiles", "most_tiles")

    downsample: float = 0.5
    ps_version: str = "v1"
    select_layer: int = -1
    llm_hidden_size: int
    fewest_tiles: int = 1
    most_tiles: int = 1
    """Most tiles that a picture is cut into, without the thumbnail."""
    thumbnail: bool = False
    """Whether the whole picture is added as a last tile if it was cut."""
    joined: bool = True
    """Whether the tower's graph ends in the language model's tokens; False keeps `vision` and `connector` apart."""

    def _findings(self) -> Iterator[str]:
        if not math.isclose(self.factor * self.downsample, 1):
            yield f"downsample_ratio {self.downsample} is no 1/n"
        if self.ps_version not in ("v1", "v2"):
            yield f"ps_version {self.ps_version!r} is unknown"
        if self.fewest_tiles > self.most_tiles:
            yield f"min_dynamic_patch {self.fewest_tiles} is more than max_dynamic_patch {self.most_tiles}"

    @property
    def factor(self) -> int:
        """Number of patches along one side of a cell of the pixel shuffle."""
        return round(1 / self.downsample)


RopeKind = Literal["plain", "linear", "dynamic", "su"]
"""Rules by which rotary angles follow from positions (CHAT.md 4.5 to 4.8)."""
ProjectionRows = Literal["separate", "stacked", "grouped"]
"""Storage of the query, key and value projections of a layer.

``separate`` is three matrices; ``stacked`` is one matrix with all query rows, then all key rows, then all value rows
(Phi-3); ``grouped`` is one matrix with the query heads, the key and the value of each key/value head (InternLM2).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig(PartConfig):
    """Rule of the rotary embedding of a language model."""

    part = "rope"
    positive = ("theta", "factor", "limit", "magnitude")

    kind: RopeKind = "plain"
    theta: float = 10000.0
    """Base of the angles; theta' of the dynamic rule follows from it."""
    factor: float = 1.0
    """Factor of the linear and of the dynamic rule."""
    limit: int = 2048
    """Length up to which angles are as in training: `max_position_embeddings` (dynamic), or the original one (su)."""
    short_factors: tuple[float, ...] = ()
    """Divisors of the frequencies up to `limit`, one for each pair of channels (su)."""
    long_factors: tuple[float, ...] = ()
    """Divisors of the frequencies beyond `limit` (su)."""
    magnitude: float = 1.0
    """Multiplier of cosine and sine at every length (su)."""

    @property
    def follows_length(self) -> bool:
        """Whether angles depend on the length of the whole request, not on the position alone."""
        return self.kind in ("dynamic", "su")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig(PartConfig):
    """Configuration of the language model of a chat checkpoint: one decoder with switches serves all families."""

    part = "llm"
    positive = (
        *("hidden_size", "num_heads", "num_kv_heads", "head_dim", "num_layers", "intermediate_size"),
        *("vocab_size", "eps", "max_positions"),
    )

    family: str
    """Name of the family, which determines keys and fields: qwen2, qwen3, llama, internlm2, phi3, internlm3."""
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    intermediate_size: int
    vocab_size: int
    """Number of rows of the embedding table and of the head."""
    eps: float = 1e-6
    max_positions: int = 2048
    """`max_position_embeddings`; it limits nothing, since angles are computed for any position."""
    rope: RopeConfig = field(default_factory=RopeConfig)
    qkv_rows: ProjectionRows = "separate"
    stacked_mlp: bool = False
    """Whether the rows of gate and then those of up are stored as one matrix."""
    qkv_bias: bool = False
    out_bias: bool = False
    """Whether the projection behind the attention has a bias."""
    qk_norm: bool = False
    """Whether queries and keys of each head are normalized before the rotation."""
    tied_head: bool = False
    """Whether the embedding table is the head too; True only if no head is stored."""

    def _findings(self) -> Iterator[str]:
        if self.num_heads % self.num_kv_heads:
            yield f"{self.num_kv_heads} key/value heads do not divide {self.num_heads} heads"
        if self.head_dim % 2:
            yield f"head_dim {self.head_dim} is odd, so that its halves cannot be rotated"
        pairs = self.head_dim // 2
        for name in ("short_factors", "long_factors"):
            count = len(getattr(self.rope, name))
            if self.rope.kind == "su" and count != pairs:
                yield f"{name} has {count} values for {pairs} pairs of channels"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig(PartConfig):
    """Configuration of the attention pool, which gives the feature shared by pictures and texts (MODEL.md 3.2)."""

    part = "model"
    positive = ("embed_dim", "pool_heads")

    embed_dim: int = 768
    """Number of channels of the shared feature."""
    pool_heads: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Configuration of a model: the parts that the checkpoint has weights for, at most one of each kind."""

    layout: Layout
    parts: tuple[PartConfig, ...]
    """Parts of the model; the first one is the tower, which every model has."""
    preprocessing: Preprocessing | None = None
    """Preprocessing from the checkpoint's files; None means the reference's."""
    without_llm: str | None = None
    """Why the checkpoint's language model has no graph, in one line; None if it has one, or there is none."""

    def find(self, kind: type[P]) -> P | None:
        """Return the part of class `kind`, or None if the model has none."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    def need(self, kind: type[P]) -> P:
        """Return the part of class `kind`, which the model must have.

        Raises:
            LookupError: the model has none.
        """
        if (part := self.find(kind)) is None:
            raise LookupError(f"{self.layout} has no {kind.__name__}")
        return part

    def with_part(self, part: PartConfig) -> "ModelConfig":
        """Return the configuration with `part` instead of its own part of the same class."""
        return replace(self, parts=tuple(part if type(own) is type(part) else own for own in self.parts))

    def without_language(self, reason: str) -> "ModelConfig":
        """Return the configuration without its language model, which has no graph for the `reason`."""
        return replace(
            self, parts=tuple(part for part in self.parts if not isinstance(part, LanguageConfig)), without_llm=reason
        )

    @property
    def tokens_per_tile(self) -> int:
        """Number of embeddings of a tile of a chat model."""
        return (self.vision.grid // self.need(ConnectorConfig).factor) ** 2

    @property
    def vision(self) -> VisionConfig:
        """Configuration of the tower."""
        return self.need(VisionConfig)

    @property
    def vocabulary(self) -> int | None:
        """Number of token ids of the texts that the model takes whole; None: it takes none."""
        return next((part.vocabulary for part in self.parts if part.vocabulary is not None), None)

    @property
    def pictures(self) -> Preprocessing:
        """Preprocessing of pictures."""
        return self.preprocessing or Preprocessing(image_size=self.vision.image_size)

    def __post_init__(self) -> None:
        """Check that the parts fit each other.

        Raises:
            CheckpointError: with all that do not.
        """
        _refuse("model", [*self._findings()])

    def _findings(self) -> Iterator[str]:
        vision, pool, qllama = self.vision, self.find(PoolConfig), self.find(QllamaConfig)
        if qllama is not None and pool is None:
            yield from ("embed_dim is None", "pool_heads is None")
        pooled = [vision.hidden_size, *([qllama.hidden_size] if qllama else [])]
        if pool is not None and any(width % pool.pool_heads for width in pooled):
            yield f"attn_pool_num_heads {pool.pool_heads} does not divide {pooled}"
        if (connector := self.find(ConnectorConfig)) is None:
            return
        if vision.grid % connector.factor:
            yield f"the patch grid {vision.grid} is no multiple of the connector's {connector.factor}"
        layer = connector.select_layer
        if not isinstance(layer, int) or not -vision.num_layers <= layer <= -1:
            yield f"select_layer {layer!r} is outside the tower's {vision.num_layers} layers"


def _not_positive(config: object, *names: str) -> Iterator[str]:
    """Yield the fields that are not a positive int or, for those in `_REAL`, a positive number."""
    for name in names:
        value = getattr(config, name)
        number = positive_int(value) or (name in _REAL and isinstance(value, float) and 0 < value < math.inf)
        if not number:
            yield f"{name} is {value!r}"


def positive_int(value: object) -> bool:
    """Return whether `value` is an int above 0 and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _refuse(part: str, findings: list[str]) -> None:
    if findings:
        raise CheckpointError("; ".join(f"{part} {finding}" for finding in findings))
