"""Pictures by a checkpoint's own file equal those of transformers' processor of the same file, bit by bit."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.export.checkpoint.config.preprocessor import read_preprocessing
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.runtime.inputs.pictures.preprocess import preprocess

OFFICIAL: dict[str, Any] = {
    "crop_size": 56,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 56,
}
SQUARE = {"size": {"height": 56, "width": 56}, "do_center_crop": False}
NO_MEAN = {"image_mean": None, "image_std": None}
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"image_mean": [0.5] * 3, "image_std": [0.5, 0.25, 0.2]},
    {"resample": 2},
    {"resample": 1},
    {"size": 64},
    {"size": {"shortest_edge": 70}, "resample": 2},
    {"do_normalize": False},
    {"do_rescale": False},
    {"rescale_factor": 1 / 127.5},
    SQUARE,
    NO_MEAN,
    {"image_processor_type": "ViTImageProcessor", **SQUARE, **NO_MEAN, "resample": None},
    {"image_processor_type": "SiglipImageProcessor", **SQUARE, **NO_MEAN, "do_center_crop": None},
)


def processor(folder: Path) -> Any:
    """Return transformers' own, by its Pillow backend; its defaults changed their names over the versions."""
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        except (ImportError, TypeError, ValueError) as error:
            pytest.skip(f"transformers gives no processor here: {error}")


@pytest.mark.parametrize("change", CHANGES, ids=[", ".join(change) or "official" for change in CHANGES])
def test_bit_equal(tmp_path: Path, rng: np.random.Generator, change: dict[str, Any]) -> None:
    content = {name: value for name, value in {**OFFICIAL, **change}.items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    reader = FieldReader()
    settings = read_preprocessing(tmp_path, 56, reader)
    reader.finish()
    theirs = processor(tmp_path)
    sizes = ((60, 90), (91, 60), (56, 56), (57, 123))
    for size in sizes:
        picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs(images=picture, return_tensors="np")["pixel_values"]
        values = preprocess([picture], settings, settings.geometry_of("clip"))
        np.testing.assert_array_equal(values, np.asarray(expected, np.float32))
