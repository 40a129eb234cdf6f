"""Image-text matching."""

from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.tasks.matching import match
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle


def test_matching_pairs_pictures_with_texts_without_prefix(model: InternVL, pixels: np.ndarray, golden_a: Path) -> None:
    texts = ["cat", "red", "a kite"]
    ids = Tokenizer(golden_a / "checkpoint" / "tokenizer.model").encode_texts(texts, prefix="")
    logits = model.match(pixels[:3], texts)
    np.testing.assert_allclose(logits[:, 0], pixels[:3].mean(axis=(2, 3)).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(logits[:, 1], ids.sum(axis=1))


def test_pairs_of_all_batches_stay_in_order(model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray) -> None:
    logits = match(model, pixels, ["cat"] * 5)
    np.testing.assert_allclose(logits[:, 0], pixels.mean(axis=(2, 3)).sum(axis=1), rtol=1e-5)
    assert [call for call in calls if call[0] == "itm" and call[1] > 0] == [("itm", 2), ("itm", 2), ("itm", 1)]


@pytest.mark.parametrize("texts", [["cat"], ["cat"] * 3])
def test_another_number_of_texts_is_refused(model: InternVL, pixels: np.ndarray, texts: list[str]) -> None:
    with pytest.raises(InputError, match=f"match: 2 pictures but {len(texts)} texts; give one text a picture"):
        match(model, pixels[:2], texts)


def test_a_bundle_without_the_graph_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    bundle = write_bundle(tmp_path / "retrieval", ("vision", "text"), MODEL, None)
    with pytest.raises(BundleError, match="itm"):
        match(InternVL.open(bundle), pixels[:1], ["cat"])
