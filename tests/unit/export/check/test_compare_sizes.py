"""Two models match by the sizes that their graphs share, whatever else differs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.check.compare import _check_sizes
from internvl_edge.runtime.bundle.manifest import ModelInfo, TextInfo, TilingInfo, VisionInfo
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing

VISION = VisionInfo(image_size=56, patch_size=14, hidden_size=32, tokens=17)
TEXT = TextInfo(layers=2, heads=4, head_dim=16, vocab_size=128, max_positions=64, num_query_tokens=8)
MODEL = ModelInfo(layout="internvl", vision=VISION, text=TEXT, embed_dim=24, logit_scale=4.6)


class Opened:
    """An opened model, as far as its sizes are compared."""

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self.path = Path(model.layout)
        self.pictures = Preprocessing(image_size=56)


def check(one: ModelInfo, other: ModelInfo) -> None:
    models: list[Any] = [Opened(one), Opened(other)]
    _check_sizes(*models)
    _check_sizes(*models[::-1])


@pytest.mark.parametrize(
    "other",
    [
        ModelInfo(layout="internvit", vision=VISION),
        ModelInfo(layout="internvl_chat", vision=VISION, tiling=TilingInfo(fewest=1, most=6, thumbnail=True)),
        replace(MODEL, logit_scale=None),
        replace(MODEL, text=replace(TEXT, eos_token_id=3, bos_token_id=2, pad_token_id=1, max_text_length=40)),
    ],
    ids=["the tower alone", "another layout", "no scale of cosines", "other special tokens"],
)
def test_what_no_graph_computes_with_may_differ(other: ModelInfo) -> None:
    check(MODEL, other)


def test_tilings_may_differ() -> None:
    chat = ModelInfo(layout="internvl_chat", vision=VISION, tiling=TilingInfo(fewest=1, most=6, thumbnail=True))
    check(chat, replace(chat, tiling=TilingInfo(fewest=1, most=12, thumbnail=False)))


@pytest.mark.parametrize(
    ("other", "finding"),
    [
        (replace(MODEL, vision=replace(VISION, hidden_size=48)), r"\(vision hidden_size: 32 and 48\)"),
        (
            replace(MODEL, text=replace(TEXT, layers=3, vocab_size=130)),
            r"\(text layers: 2 and 3, text vocab_size: 128 and 130\)",
        ),
        (replace(MODEL, embed_dim=25), r"\(embed_dim: 24 and 25\)"),
    ],
)
def test_sizes_that_differ_are_named(other: ModelInfo, finding: str) -> None:
    with pytest.raises(BundleError, match=f"do not match {finding}; compare two of one checkpoint"):
        check(MODEL, other)
