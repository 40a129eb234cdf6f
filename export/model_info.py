"""What the runtime has to know of a model, from its checkpoint."""

from internvl_edge.export.config import ModelConfig
from internvl_edge.runtime.manifest import ModelInfo


def model_info(config: ModelConfig, logit_scale: float | None = None) -> ModelInfo:
    """Return the manifest's description of `config`."""
    vision, text, connector = config.vision, config.qllama, config.connector
    return ModelInfo(
        family=config.family,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        vision_hidden_size=vision.hidden_size,
        vision_tokens=vision.tokens,
        embed_dim=config.embed_dim,
        logit_scale=logit_scale,
        num_query_tokens=text.num_queries if text else None,
        text_layers=text.num_layers if text else None,
        text_heads=text.num_heads if text else None,
        text_head_dim=text.head_dim if text else None,
        vocab_size=text.vocab_size if text else None,
        max_positions=text.max_positions if text else None,
        fewest_tiles=connector.fewest_tiles if connector else None,
        most_tiles=connector.most_tiles if connector else None,
        thumbnail=connector.thumbnail if connector else None,
        **({name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")} if text else {}),
    )
