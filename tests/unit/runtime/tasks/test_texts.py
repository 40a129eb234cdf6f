"""What has no answer is reported where it enters: nothing, padding alone, pixels that are no numbers, no texts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.manifest import ModelInfo, TextInfo, VisionInfo
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.tasks.opened import require_elements
from internvl_edge.runtime.tasks.texts import check_ids, require_nonpadding_ids, text_list
from tests.unit.runtime.toy_bundle import write_toy_bundle

ROW = np.zeros((1, 3, 4, 4), np.float32)


@pytest.fixture
def model(tmp_path: Path) -> InternVL:
    """Its `vision` sums each plane of a picture."""
    return InternVL.open(write_toy_bundle(tmp_path / "bundle").path, backend="onnxruntime")


NOTHING = (
    [],
    (),
    np.zeros((0, 4, 4, 3), np.uint8),
    ROW[:0],
)


@pytest.mark.parametrize("images", NOTHING, ids=["list", "tuple", "uint8", "float32"])
def test_features_of_nothing_are_refused(model: InternVL, images: object) -> None:
    for use in (model.encode_image, model.encode_video):
        with pytest.raises(InputError, match="no input given; give at least one"):
            use(images)  # type: ignore[operator]


@pytest.mark.parametrize("images", NOTHING[:3], ids=["list", "tuple", "uint8"])
def test_pixels_of_nothing_are_an_empty_array(model: InternVL, images: list[object]) -> None:
    assert model.preprocess(images).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(model: InternVL, value: float) -> None:
    pixels = np.zeros((3, 3, 4, 4), np.float32)
    pixels[1, 2, 0, 0] = value
    with pytest.raises(InputError, match="pixel_values: 1 of 3 pictures hold NaN or inf; prepare them again"):
        model.encode_image(pixels)


def test_a_graph_that_overflows_gives_no_feature(model: InternVL) -> None:
    with pytest.raises(BackendError, match="pictures: 1 of 2 have NaN or inf; export with --dtype bf16 or fp32"):
        model.encode_image(np.concatenate([ROW, ROW + np.float32(3e38)]))


def test_a_graph_needs_elements(model: InternVL) -> None:
    with pytest.raises(InputError, match=r"graph vision: pixel_values \[0, 3, 4, 4\] without elements; give one row"):
        model.run_graph("vision", {"pixel_values": ROW[:0]})
    require_elements("decoder", {"input_ids": np.ones((1, 1)), "past_key_values.0.key": np.zeros((1, 2, 0, 4))})


@pytest.mark.parametrize(
    ("texts", "finding"),
    [
        ("cat", "labels: 'cat' is one label, not several; give a list"),
        (None, "labels: NoneType is no list of texts"),
        (3, "labels: int is no list of texts"),
        (["a", 1, None], r"labels: no texts at positions 1 \(int\), 2 \(NoneType\); give strings"),
        (np.zeros((2, 2)), r"no texts at positions 0 \(list\)"),
    ],
)
def test_what_are_no_texts(texts: object, finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        text_list(texts, "labels")


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda texts: np.array(texts, object), iter])
def test_texts_in_any_order_of_arrays(make: Callable[[list[str]], object]) -> None:
    assert text_list(make(["a", "日本"]), "texts") == ["a", "日本"]


def test_ids_of_padding_alone() -> None:
    ids = np.array([[1, 5, 0], [0, 0, 0], [2, 0, 0]])
    with pytest.raises(InputError, match=r"ids: no text at positions 1 \(padding alone\); leave these rows out"):
        require_nonpadding_ids(ids)
    np.testing.assert_array_equal(require_nonpadding_ids(ids[[0, 2]]), ids[[0, 2]])
    with pytest.raises(InputError, match="no text at positions 0"):
        require_nonpadding_ids(np.zeros((2, 0), np.int64))


@pytest.mark.parametrize(
    ("ids", "others", "finding"),
    [
        ([[0, 9], [3, 4]], 6, None),
        (np.zeros((0, 2), np.int64), 0, None),
        (np.zeros((2, 0), np.int64), 8, None),
        ([[0, 10]], 0, "ids: found 0 to 10; the model knows 0 to 9"),
        ([[12, 0]], 0, "ids: found 0 to 12; the model knows 0 to 9"),
        ([[-1, 9]], 0, "ids: found -1 to 9; the model knows 0 to 9"),
        ([[1, 2]], 7, "ids: 9 positions, the model has 8; shorten them"),
        ([1, 2], 0, r"ids: found int64 \[2\]; give integers \[rows, length\]"),
        ([[1.0, 2.0]], 0, r"ids: found float64 \[1, 2\]"),
    ],
)
def test_ids_are_of_the_vocabulary_and_have_places(ids: object, others: int, finding: str | None) -> None:
    info = ModelInfo(
        layout="internvl",
        vision=VisionInfo(image_size=4, patch_size=2, hidden_size=4, tokens=5),
        text=TextInfo(layers=1, heads=1, head_dim=4, vocab_size=10, max_positions=8, num_query_tokens=2),
    )
    if finding is None:
        check_ids(info, np.array(ids), others)
        return
    with pytest.raises(InputError, match=finding):
        check_ids(info, np.array(ids), others)
