"""What verification runs on: what is given, what lies beside the weights if it can be read, and stand-ins."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.calib.data.synthetic import synthetic_ids, synthetic_pixels
from internvl_edge.export.run.samples import load_samples
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess

SETTINGS = Preprocessing(image_size=8)


def test_pictures_beside_the_weights_are_taken_if_they_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a-teaser.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "._b.png").write_text("")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "c.jfif", "jpeg")
    found = load_samples(None, SETTINGS, 2, tmp_path)
    assert found.source == str(tmp_path)
    np.testing.assert_array_equal(found.pixel_values, preprocess([tmp_path / "c.jfif"], SETTINGS))
    assert "a-teaser.png: not verified on (not a picture: a Git LFS pointer" in caplog.text


def test_without_a_readable_one_they_are_synthetic_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "teaser.png").write_text("")
    found = load_samples(None, SETTINGS, 2, tmp_path)
    assert found.source == "synthetic pictures"
    np.testing.assert_array_equal(found.pixel_values, synthetic_pixels(8, 2))


def test_an_unreadable_picture_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "teaser.png").write_text("")
    with pytest.raises(InputError, match=r"teaser.png \(not a picture: an empty file\)"):
        load_samples(tmp_path, SETTINGS, 2)


def test_random_ids_begin_a_text_and_are_the_same_again() -> None:
    ids = synthetic_ids(3, 16, 100)
    assert ids.shape == (3, 16)
    assert (ids[:, 0] == 1).all()
    assert ids[:, 1:].min() >= 3
    assert ids.max() < 100
    np.testing.assert_array_equal(ids, synthetic_ids(3, 16, 100))
