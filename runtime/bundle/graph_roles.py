"""What graphs are for: the manifest says it of each, and tasks find their graphs by it instead of by name."""

from dataclasses import dataclass
from typing import Literal

Rows = Literal["pictures", "texts", "sequences"]
"""What a row of a batch is; a sequence is one of several that may belong to a picture, as a beam of a search."""
ROW_WORDS = {"pictures": "pictures", "texts": "texts", "sequences": "rows"}
"""What rows are called where they are counted."""
Ids = Literal["texts", "pairs", "prompts"]
"""What token ids are: whole texts of their own, texts that come with a picture each, or a part of what is written."""

IMAGE_ENCODER = "image encoder"
"""Pictures to vision states, and to InternVL-C's feature where the model pools them."""
QUERY_ENCODER = "query encoder"
"""Vision states to what InternVL-G's feature adds, and to the cache that a caption starts with."""
TEXT_ENCODER = "text encoder"
CAPTION_DECODER = "caption decoder"
PAIR_MATCHER = "pair matcher"
"""Vision states and a text to whether they match."""
CONNECTOR = "connector"
"""Vision states to what the language model of a chat checkpoint takes."""

EXPORTED_AS = {
    IMAGE_ENCODER: "vision",
    QUERY_ENCODER: "query",
    TEXT_ENCODER: "text",
    CAPTION_DECODER: "decoder",
    PAIR_MATCHER: "itm",
    CONNECTOR: "connector",
}
"""Role -> the name of the graph that export writes for it, in the order in which graphs feed each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphUse:
    """How a runtime uses a graph; the defaults are those of a graph that no task uses, and that is run by its name."""

    role: str = ""
    rows: Rows = "sequences"
    ids: Ids | None = None
    """What `input_ids` are, where it takes them."""
    prompt_tokens: tuple[int, int, int] | None = None
    """Fewest, usual and most tokens of its first call, where it goes on with a cache; None: it has none."""
    new_tokens: tuple[int, int] = (0, 0)
    """Rows behind its first cache where a step is tuned, and how many may follow the longest prompt."""

    @property
    def phases(self) -> tuple[str, ...]:
        """The kinds of call that it is tuned for, the most frequent last; empty: there is one kind."""
        return ("prompt", "step") if self.prompt_tokens is not None else ()

    @property
    def takes_texts(self) -> bool:
        """Whether its ids are whole texts, which end in padding and are as long as the model allows."""
        return self.ids in ("texts", "pairs")
