"""Every field of a checkpoint's preprocessor files is honoured, harmless, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.checkpoint.config.preprocessor import read_preprocessing
from internvl_edge.export.models.config import ModelConfig, VisionConfig
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.export.models.resolution import at_image_size
from internvl_edge.runtime.errors import CheckpointError, ExportError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing

OFFICIAL = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
PORT = {
    "crop_size": None,
    "crop_to_patches": False,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "do_center_crop": None,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "image_std": [0.229, 0.224, 0.225],
    "input_data_format": None,
    "max_patches": 12,
    "min_patches": 1,
    "processor_class": "InternVLProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"height": 224, "width": 224},
}
REFERENCE = Preprocessing(image_size=224)


def read(folder: Path, accept: tuple[str, ...] = (), **files: dict[str, Any]) -> Preprocessing:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    reader = FieldReader(frozenset(accept))
    found = read_preprocessing(folder, 224, reader)
    reader.finish()
    return found


def changed(folder: Path, **fields: Any) -> Preprocessing:
    return read(folder, preprocessor_config={**OFFICIAL, **fields})


def test_the_official_files_are_the_reference(tmp_path: Path) -> None:
    assert read(tmp_path) == REFERENCE
    assert read(tmp_path, preprocessor_config=OFFICIAL) == REFERENCE
    assert read(tmp_path, preprocessor_config=PORT).geometry == "squash"  # as all that it serves has it
    assert read(tmp_path, preprocessor_config={}) == REFERENCE


@pytest.mark.parametrize(
    ("fields", "honoured"),
    [
        ({"image_mean": [0.5, 0.4, 0.3]}, {"mean": (0.5, 0.4, 0.3)}),
        ({"image_mean": 0.5, "image_std": 0.25}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ({"resample": 2}, {"resample": "bilinear"}),
        ({"resample": 0}, {"resample": "nearest"}),
        ({"resample": 1}, {"resample": "lanczos"}),
        ({"resample": 4}, {"resample": "box"}),
        ({"resample": 5}, {"resample": "hamming"}),
        ({"resample": "BILINEAR"}, {"resample": "bilinear"}),
        ({"resample": "PILImageResampling.BICUBIC"}, {}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"do_rescale": False}, {"rescale_factor": 1.0}),
        ({"rescale_factor": 1 / 127.5}, {"rescale_factor": 1 / 127.5}),
        ({"rescale_factor": 1 / 255}, {}),
        ({"size": 256}, {"geometry": "clip", "short_side": 256}),
        ({"size": [224, 224], "crop_size": [224, 224]}, {"geometry": "squash"}),
        ({"size": {"shortest_edge": 256}}, {"geometry": "clip", "short_side": 256}),
        ({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}, {}),
        ({"do_center_crop": False, "size": {"height": 224, "width": 224}}, {"geometry": "squash"}),
        ({"do_center_crop": False, "default_to_square": True}, {"geometry": "squash"}),
        ({"do_convert_rgb": False}, {}),
        ({"image_processor_type": "CLIPImageProcessor"}, {}),
    ],
)
def test_honoured(tmp_path: Path, fields: dict[str, Any], honoured: dict[str, Any]) -> None:
    assert changed(tmp_path, **fields) == Preprocessing(image_size=224, **honoured)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        ("CLIPImageProcessor", {"mean": (0.48145466, 0.4578275, 0.40821073)}),
        ("ViTImageProcessor", {"mean": (0.5,) * 3, "resample": "bilinear", "geometry": "squash"}),
        ("SiglipImageProcessorFast", {"mean": (0.5,) * 3, "resample": "bicubic", "geometry": "squash"}),
    ],
)
def test_what_a_file_leaves_out_is_its_classes(tmp_path: Path, kind: str, defaults: dict[str, Any]) -> None:
    found = read(tmp_path, preprocessor_config={"image_processor_type": kind, "size": 224})
    assert {name: getattr(found, name) for name in defaults} == defaults


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean .* has 2 numbers, a picture has 3 channels"),
        ({"image_mean": "0.5"}, "image_mean '0.5' is not a number"),
        ({"image_std": [0.2, 0.0, 0.2]}, "image_std .* not above 0"),
        ({"resample": 6}, "resample 6 is none of 0 to 5 or nearest"),
        ({"resample": "cubic"}, "resample 'cubic' is none of"),
        ({"resample": True}, "resample True is none of"),
        ({"do_resize": False}, "do_resize False leaves pictures at their own sizes"),
        ({"do_pad": True}, "do_pad True pads pictures"),
        ({"do_normalize": "no"}, "do_normalize 'no' is neither true nor false"),
        ({"rescale_factor": 0}, "rescale_factor 0 is not above 0"),
        ({"size": {"height": 224, "width": 336}}, "size .* not a number, shortest_edge, or a square"),
        ({"size": {"longest_edge": 224}}, "size .* not a number, shortest_edge"),
        ({"size": 0}, "size 0 is not a number of pixels"),
        ({"size": 200}, "size 200 and crop_size 224: the runtime crops what was scaled to a larger"),
        ({"do_center_crop": False}, "size 224 is of the short side and do_center_crop is false"),
        ({"data_format": "channels_last"}, "data_format 'channels_last' is another layout"),
        (
            {"gamma": 2.2},
            r"unknown fields .*preprocessor_config.gamma = 2.2; .*--accept-config preprocessor_config.gamma",
        ),
        ({"feature_extractor_type": "DonutFeatureExtractor"}, "DonutFeatureExtractor' prepares pictures in a way"),
        ({"image_processor_type": "ViTImageProcessor"}, "mean the same thing"),
    ],
)
def test_refused_by_name(tmp_path: Path, fields: dict[str, Any], finding: str) -> None:
    with pytest.raises(CheckpointError, match=f"(?i)^preprocessor_config.json: .*{finding}|^{finding}"):
        changed(tmp_path, **fields)


def test_all_findings_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"image_mean .*; resample 9 .*do_pad"):
        changed(tmp_path, image_mean=[1], resample=9, do_pad=True)


def test_an_unknown_field_can_be_accepted(tmp_path: Path) -> None:
    files = {"preprocessor_config": {**OFFICIAL, "gamma": 2.2}}
    assert read(tmp_path, ("preprocessor_config.gamma",), **files) == REFERENCE


def test_a_processor_file_with_and_without_pictures(tmp_path: Path) -> None:
    plain = {"image_seq_length": 256, "processor_class": "InternVLProcessor"}
    assert read(tmp_path, processor_config=plain) == REFERENCE
    nested = {**plain, "image_processor": {**PORT, "image_mean": [0.5] * 3}}
    assert read(tmp_path, processor_config=nested).mean == (0.5, 0.5, 0.5)
    with pytest.raises(CheckpointError, match="image_processor prepares pictures in another way than preprocessor_con"):
        read(tmp_path, processor_config=nested, preprocessor_config=OFFICIAL)


def test_frames_must_be_prepared_as_pictures(tmp_path: Path) -> None:
    video = {"video_processor_type": "InternVLVideoProcessor", "image_mean": OFFICIAL["image_mean"], "num_frames": 8}
    assert read(tmp_path, preprocessor_config=OFFICIAL, video_preprocessor_config=video) == REFERENCE
    with pytest.raises(CheckpointError, match=r"^video_preprocessor_config.json: mean .* of frames is not .* pictures"):
        read(tmp_path, video_preprocessor_config={**video, "image_mean": [0.5] * 3})


def test_two_sizes_need_a_choice(tmp_path: Path) -> None:
    found = changed(tmp_path, size=448, crop_size=448)
    config = ModelConfig(layout="internvit", parts=(VisionConfig(image_size=224),), preprocessing=found)
    with pytest.raises(
        ExportError, match=r"the position table has 224 px, the checkpoint's files name 448 px; choose with --image"
    ):
        at_image_size(config, None)
    for size in (224, 448):
        chosen = at_image_size(config, size)
        assert (chosen.vision.image_size, chosen.pictures.image_size) == (size, size)


def test_another_size_scales_the_crop(tmp_path: Path) -> None:
    config = ModelConfig(layout="internvit", parts=(VisionConfig(),), preprocessing=changed(tmp_path, size=256))
    assert at_image_size(config, 448).pictures.short_side == 512


def test_a_size_without_end_is_refused() -> None:
    config = ModelConfig(layout="internvit", parts=(VisionConfig(),))
    with pytest.raises(ExportError, match="--image-size 14000000: more than 8192"):
        at_image_size(config, 14_000_000)
