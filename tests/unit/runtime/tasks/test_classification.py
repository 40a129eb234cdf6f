"""Zero-shot classes."""

import numpy as np

from internvl_edge.runtime import InternVL
from tests.unit.runtime.fake_graphs import unit


def test_classes_average_over_templates_and_crop_the_picture(model: InternVL, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (4, 9, 3), dtype=np.uint8)
    labels, templates = ["cat", "kite"], ["a {}", "the red {}"]
    probabilities = model.classify([picture], labels, templates)
    columns = [unit(unit(model.encode_text([t.format(label) for t in templates])).mean(axis=0)) for label in labels]
    features = model.encode_image(model.preprocess([picture], "crop"), "g")
    logits = 100 * unit(features) @ np.stack(columns, axis=1)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-3)
    assert probabilities.shape == (1, 2)
