"""Image-text matching."""

from pathlib import Path

import numpy as np

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.tokenizer import Tokenizer


def test_matching_pairs_pictures_with_texts_without_prefix(model: InternVL, pixels: np.ndarray, golden_a: Path) -> None:
    texts = ["cat", "red", "a kite"]
    ids = Tokenizer(golden_a / "checkpoint" / "tokenizer.model").encode_texts(texts, prefix="")
    logits = model.match(pixels[:3], texts)
    np.testing.assert_allclose(logits[:, 0], pixels[:3].mean(axis=(2, 3)).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(logits[:, 1], ids.sum(axis=1))
