"""Describe a model for the manifest."""

from dataclasses import dataclass

from internvl_edge.export.models.config import (
    ConnectorConfig,
    LanguageConfig,
    ModelConfig,
    PoolConfig,
    QllamaConfig,
    VisionConfig,
)
from internvl_edge.runtime.bundle.manifest import (
    ChatInfo,
    EmbeddingInfo,
    LanguageInfo,
    ModelInfo,
    TextInfo,
    TilingInfo,
    VisionInfo,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatParts:
    """Facts of a language model that the export decides or reads from other files than its config."""

    embedding: EmbeddingInfo
    max_context: int
    conversation: ChatInfo


def model_info(config: ModelConfig, logit_scale: float | None = None, chat: ChatParts | None = None) -> ModelInfo:
    """Return the manifest's description of `config`; without `chat`, the bundle has no language model."""
    qllama, connector, pool = config.find(QllamaConfig), config.find(ConnectorConfig), config.find(PoolConfig)
    return ModelInfo(
        layout=config.layout,
        vision=_vision(config.vision),
        text=_text(qllama) if qllama is not None else None,
        tiling=_tiling(connector) if connector is not None else None,
        embed_dim=pool.embed_dim if pool is not None else None,
        logit_scale=logit_scale,
        language=language_info(config, chat.embedding, chat.max_context) if chat is not None else None,
        chat=chat.conversation if chat is not None else None,
    )


def language_info(config: ModelConfig, embedding: EmbeddingInfo, max_context: int) -> LanguageInfo:
    """Return the manifest's description of the language model."""
    language = config.need(LanguageConfig)
    return LanguageInfo(
        layers=language.num_layers,
        kv_heads=language.num_kv_heads,
        head_dim=language.head_dim,
        hidden_size=language.hidden_size,
        vocab_size=language.vocab_size,
        max_context=max_context,
        max_positions=language.max_positions,
        tokens_per_tile=config.tokens_per_tile,
        embedding=embedding,
        rope_limit=language.rope.limit if language.rope.follows_length else None,
    )


def _vision(config: VisionConfig) -> VisionInfo:
    return VisionInfo(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.hidden_size,
        tokens=config.tokens,
    )


def _text(config: QllamaConfig) -> TextInfo:
    return TextInfo(
        layers=config.num_layers,
        heads=config.num_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        num_query_tokens=config.num_queries,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _tiling(config: ConnectorConfig) -> TilingInfo:
    return TilingInfo(fewest=config.fewest_tiles, most=config.most_tiles, thumbnail=config.thumbnail)
