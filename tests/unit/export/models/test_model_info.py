"""The manifest's description of a language model."""

import pytest

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.models.model_info import language_info
from internvl_edge.runtime.bundle.manifest import EmbeddingInfo
from tests.golden_chat import golden_chat


@pytest.mark.parametrize(
    ("case", "rope_limit", "max_positions"),
    [
        ("c1", None, 32768),
        ("c2", 160, 160),  # dynamic
        ("c4", 128, 128),  # dynamic, transformers' own layout
        ("c6", 192, 768),  # su: the original length decides, not the longest one
    ],
)
def test_the_length_that_changes_angles_is_not_the_longest_one(
    case: str, rope_limit: int | None, max_positions: int
) -> None:
    table = EmbeddingInfo(file="weights", offset=0, dtype="float16", rows=600)
    info = language_info(open_checkpoint(golden_chat(case).checkpoint).config, table, 8192)
    assert (info.rope_limit, info.max_positions, info.max_context) == (rope_limit, max_positions, 8192)
