"""Zero-shot classes."""

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.classification import classifier, classify
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


def test_without_templates_a_label_is_its_own_text(model: InternVL, pixels: np.ndarray) -> None:
    found = classify(model, pixels[:1], ["cat", "kite"])
    np.testing.assert_array_equal(found, classify(model, pixels[:1], ["cat", "kite"], ["{}"]))
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-6)


def test_a_label_that_is_given_twice_has_two_columns(model: InternVL, pixels: np.ndarray) -> None:
    found = classify(model, pixels[:1], ["cat", "kite", "cat"])
    assert found[0, 0] == found[0, 2]


def test_a_classifier_is_a_column_of_unit_length_for_each_label(model: InternVL) -> None:
    columns = classifier(model, ["cat", "kite"], ["a {}", "the {} and the {}"])
    expected = unit(unit(model.encode_text(["a cat", "the cat and the cat"])).mean(axis=0))
    np.testing.assert_allclose(columns[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "templates", "reported"),
    [
        ([], None, "no label or no template"),
        (["cat"], [], "no label or no template"),
        (["cat"], ["a {}", "a photo"], "templates without {}: a photo;"),
        (["cat"], ["x" * 999], "templates without {}: x"),
    ],
)
def test_nothing_to_compare_with_is_refused_before_anything_runs(
    model: InternVL, calls: list[tuple[str, int]], labels: list[str], templates: "list[str] | None", reported: str
) -> None:
    with pytest.raises(InputError, match=r"^classify: ") as caught:
        classify(model, ["gone.png"], labels, templates)
    assert reported in str(caught.value)
    assert len(str(caught.value)) < 400
    assert calls == []
