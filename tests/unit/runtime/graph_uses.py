"""What each graph is used for, as export writes it into the manifest; `tiles` is the `vision` of a chat model."""

from internvl_edge.runtime.bundle.graph_roles import (
    CAPTION_DECODER,
    CONNECTOR,
    IMAGE_ENCODER,
    LANGUAGE_MODEL,
    PAIR_MATCHER,
    QUERY_ENCODER,
    TEXT_ENCODER,
    TILE_ENCODER,
    TOKEN_EMBEDDER,
    GraphUse,
)

USES = {
    "vision": GraphUse(role=IMAGE_ENCODER, rows="pictures"),
    "query": GraphUse(role=QUERY_ENCODER, rows="pictures"),
    "text": GraphUse(role=TEXT_ENCODER, rows="texts", ids="texts"),
    "decoder": GraphUse(
        role=CAPTION_DECODER, rows="sequences", ids="prompts", prompt_tokens=(1, 5, 16), new_tokens=(16, 64)
    ),
    "itm": GraphUse(role=PAIR_MATCHER, rows="pictures", ids="pairs"),
    "connector": GraphUse(role=CONNECTOR, rows="pictures"),
    "tiles": GraphUse(role=TILE_ENCODER, rows="pictures"),
    "llm": GraphUse(
        role=LANGUAGE_MODEL, rows="sequences", prompt_tokens=(1, 512, 512), new_tokens=(400, 0), in_chunks=True
    ),
    "embed_tokens": GraphUse(role=TOKEN_EMBEDDER, rows="sequences", ids="questions"),
}
