"""The manifest of a chat bundle whose graphs are never run, and the chat model that is served of it."""

from typing import Any

from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL, TILE_ENCODER, GraphUse
from internvl_edge.runtime.bundle.manifest import (
    SCHEMA,
    ChatInfo,
    EmbeddingInfo,
    FileInfo,
    GraphInfo,
    LanguageInfo,
    Manifest,
    ModelInfo,
    TensorSpec,
    TilingInfo,
    VisionInfo,
)
from internvl_edge.runtime.serve.models import CHAT, ServedModel, served_models
from internvl_edge.runtime.serve.signature import AnswerLimits

CONTEXT, TILE_TOKENS, TILES = 100, 9, 6
LIMITS = AnswerLimits(new_tokens=CONTEXT, context=CONTEXT, tile_tokens=TILE_TOKENS, tiles=TILES)


def chat_manifest() -> Manifest:
    language = LanguageInfo(
        layers=1,
        kv_heads=1,
        head_dim=2,
        hidden_size=2,
        vocab_size=300,
        max_context=CONTEXT,
        max_positions=64,
        tokens_per_tile=TILE_TOKENS,
        embedding=EmbeddingInfo(file="weights", offset=0, dtype="float32", rows=300),
    )
    conversation = ChatInfo(
        layout="official",
        template="internvl2_5",
        system=None,
        context_token_id=263,
        context_token="<IMG_CONTEXT>",
        start_token="<img>",
        end_token="</img>",
        stop_token_ids=(260,),
        pad_token_id=258,
    )
    return Manifest(
        schema=SCHEMA,
        producer={},
        model=ModelInfo(
            layout="internvl_chat",
            vision=VisionInfo(image_size=28, patch_size=14, hidden_size=2, tokens=5),
            tiling=TilingInfo(fewest=1, most=TILES, thumbnail=True),
            language=language,
            chat=conversation,
        ),
        precision="fp32",
        graphs={
            "vision": _graph("pixel_values", ("batch", 3, 28, 28), "vit_embeds", TILE_ENCODER),
            "llm": _graph("inputs_embeds", ("batch", "length", 2), "logits", LANGUAGE_MODEL),
        },
        files={"tokenizer/vocab.json": FileInfo(bytes=1, sha256="")},
    )


def chat_model(**options: Any) -> ServedModel:
    return served_models(chat_manifest(), **options)[CHAT]


def _graph(takes: str, shape: tuple[int | str, ...], gives: str, role: str) -> GraphInfo:
    return GraphInfo(
        file="g.onnx",
        use=GraphUse(role=role),
        inputs=(TensorSpec(name=takes, dtype="float32", shape=shape),),
        outputs=(TensorSpec(name=gives, dtype="float32", shape=("batch", 300)),),
    )
