"""The roles of graphs. The manifest stores the role of each graph, and tasks find their graphs by role, not by name."""

from dataclasses import dataclass
from typing import Literal

Rows = Literal["pictures", "texts", "sequences"]
"""Meaning of a row of a batch. Several sequences may belong to one picture, as the beams of a search do."""
ROW_WORDS = {"pictures": "pictures", "texts": "texts", "sequences": "rows"}
"""Words for rows in messages that count them."""
Ids = Literal["texts", "pairs", "prompts", "questions"]
"""Meaning of token ids: whole texts, texts that are paired with one picture each, a part of a generated text, or the
prompt of a chat."""

IMAGE_ENCODER = "image encoder"
"""Role of the graph from pictures to vision states, and to InternVL-C's feature where the model pools the states."""
QUERY_ENCODER = "query encoder"
"""Role of the graph from vision states to the second part of InternVL-G's feature and to the first cache of a
caption."""
TEXT_ENCODER = "text encoder"
CAPTION_DECODER = "caption decoder"
PAIR_MATCHER = "pair matcher"
"""Role of the graph from vision states and a text to logits of their match."""
CONNECTOR = "connector"
"""Role of the graph from vision states to the embeddings that the language model of a chat checkpoint takes."""
TILE_ENCODER = "tile encoder"
"""Role of the graph from tiles to the language model's embeddings: tower, pixel shuffle and mlp1 in one."""
LANGUAGE_MODEL = "language model"
"""Role of the graph from embeddings and a cache to the logits of the next token of an answer."""
TOKEN_EMBEDDER = "token embedder"
"""Role of the graph from token ids to embeddings, for other runtimes; ours reads the rows from the mapped store."""

EXPORTED_AS = {
    IMAGE_ENCODER: "vision",
    TILE_ENCODER: "vision",
    QUERY_ENCODER: "query",
    TEXT_ENCODER: "text",
    CAPTION_DECODER: "decoder",
    PAIR_MATCHER: "itm",
    CONNECTOR: "connector",
    LANGUAGE_MODEL: "llm",
    TOKEN_EMBEDDER: "embed_tokens",
}
"""Name of the graph that export writes for each role, in the order in which graphs feed each other.

Roles that no model has both of may share a name: `vision` takes pictures in every model.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphUse:
    """The use of a graph by the runtime. The defaults are for graphs that no task uses and that are run by name."""

    role: str = ""
    rows: Rows = "sequences"
    ids: Ids | None = None
    """Meaning of the graph's `input_ids`; None for graphs without that input."""
    prompt_tokens: tuple[int, int, int] | None = None
    """Fewest, usual and most tokens of the first call of a graph with a cache; None for graphs without a cache."""
    new_tokens: tuple[int, int] = (0, 0)
    """Tokens before a decoding step for which it is tuned, and the most that may follow the longest prompt."""
    in_chunks: bool = False
    """Whether a longer prompt comes in several calls, each with the cache of those before, up to the model's longest
    context; otherwise a prompt is one call."""

    @property
    def phases(self) -> tuple[str, ...]:
        """Return the kinds of call that the graph is tuned for, the most frequent last; empty if there is one kind."""
        return ("prompt", "step") if self.prompt_tokens is not None else ()

    @property
    def takes_texts(self) -> bool:
        """Return whether its ids are whole texts, which are padded at the end up to the model's length."""
        return self.ids in ("texts", "pairs")
