"""What each graph is used for, as export writes it into the manifest."""

from internvl_edge.runtime.bundle.graph_roles import (
    CAPTION_DECODER,
    CONNECTOR,
    IMAGE_ENCODER,
    PAIR_MATCHER,
    QUERY_ENCODER,
    TEXT_ENCODER,
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
}
