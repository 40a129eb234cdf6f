"""Read how pictures are prepared: `preprocessor_config.json` and the files of processors and videos."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_edge.export.checkpoint.files.json_file import read_json
from internvl_edge.export.models.families.fields import FieldReader, FieldTable, Honoured, harmless, only
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.preprocess import (
    FILTERS,
    MEAN,
    STD,
    Channels,
    Filter,
    Geometry,
    Preprocessing,
)

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Processor:
    """Defaults of one image processor class of transformers."""

    mean: Channels = MEAN
    std: Channels = STD
    resample: Filter = "bicubic"
    square: bool = True
    """Whether a `size` of one number means both sides; otherwise it means the short side."""
    crops: bool = False


_CLIP = _Processor(mean=_CLIP_MEAN, std=_CLIP_STD, square=False, crops=True)
_UNNAMED = _Processor(square=False, crops=True)
"""Defaults for a file that names no class: those of the official files, CLIP's class with ImageNet's mean."""
_PROCESSORS: Mapping[str, _Processor] = {
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "GotOcr2": _Processor(mean=_CLIP_MEAN, std=_CLIP_STD),
    "ViT": _Processor(mean=_HALF, std=_HALF, resample="bilinear"),
    "Siglip": _Processor(mean=_HALF, std=_HALF),
}
_KINDS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


def _processor(value: Any) -> _Processor:
    family = next((str(value).removesuffix(kind) for kind in _KINDS if str(value).endswith(kind)), "")
    if family not in _PROCESSORS:
        known = ", ".join(f"{name}ImageProcessor" for name in _PROCESSORS)
        raise ValueError(f"{value!r} prepares pictures in a way that is not known here; known are {known}")
    return _PROCESSORS[family]


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _factor(value: Any) -> float:
    if (factor := _number(value)) <= 0:
        raise ValueError(f"{value!r} is not above 0")
    return factor


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a number of tiles")
    return value


def _channels(value: Any) -> Channels:
    """Return a number for each of the three channels; a single number stands for all of them, as in transformers."""
    numbers = [_number(each) for each in value] if isinstance(value, list) else [_number(value)] * 3
    if len(numbers) != 3:
        raise ValueError(f"{value!r} has {len(numbers)} numbers, a picture has 3 channels")
    return numbers[0], numbers[1], numbers[2]


def _divisors(value: Any) -> Channels:
    channels = _channels(value)
    if not all(each > 0 for each in channels):
        raise ValueError(f"{value!r} holds numbers that are not above 0")
    return channels


def _filter(value: Any) -> Filter:
    """Return a filter by Pillow's number or name, as ``3``, ``bicubic`` or ``PILImageResampling.BICUBIC``."""
    name = str(value).rpartition(".")[2].lower()
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(FILTERS):
        return FILTERS[value]
    if name not in FILTERS:
        raise ValueError(f"{value!r} is none of 0 to {len(FILTERS) - 1} or {', '.join(FILTERS)}")
    return name


@dataclass(frozen=True, slots=True)
class _Size:
    """A size in the file. `side` is ``both``, ``short``, or None where the class decides."""

    pixels: int
    side: str | None


def _size(value: Any) -> _Size:
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    sizes = value if isinstance(value, Mapping) else {"": value}
    if not all(type(pixels) is int and pixels > 0 for pixels in sizes.values()):
        raise ValueError(f"{value!r} is not a number of pixels")
    match dict(sizes):
        case {"": pixels, **rest} if not rest:
            return _Size(pixels, None)
        case {"shortest_edge": pixels, **rest} if not rest:
            return _Size(pixels, "short")
        case {"height": height, "width": width, **rest} if not rest and height == width:
            return _Size(height, "both")
    raise ValueError(f"{value!r} is not a number, shortest_edge, or a square of height and width")


_HARMLESS = {
    **harmless("processor_class", "auto_map", "return_tensors", "device", "input_data_format", "transformers_version"),
    **harmless("_valid_processor_keys", "_name_or_path", "disable_grouping", "name_or_path", "is_fast"),
    **harmless("do_convert_rgb"),  # the runtime makes RGB of every picture, as the reference's own code does
    **harmless("crop_to_patches"),  # transformers' own processor cuts pictures whatever the file says (CHAT.md 8)
    **harmless("min_patches", "max_patches"),  # read by `read_tile_limits`
}
_FIELDS = {
    "image_processor_type": Honoured("processor", _processor),
    "feature_extractor_type": Honoured("processor", _processor),
    "image_mean": Honoured("mean", _channels),
    "image_std": Honoured("std", _divisors),
    "resample": Honoured("resample", _filter),
    "interpolation": Honoured("resample", _filter),
    "do_rescale": Honoured("rescales", _flag),
    "rescale_factor": Honoured("rescale_factor", _factor),
    "do_normalize": Honoured("normalizes", _flag),
    "size": Honoured("size", _size),
    "crop_size": Honoured("crop_size", _size),
    "do_center_crop": Honoured("crops", _flag),
    "default_to_square": Honoured("square", _flag),
    "do_resize": only(True, finding="leaves pictures at their own sizes, the graphs take one size"),
    "do_pad": only(False, finding="pads pictures, which the runtime does not"),
    "do_thumbnail": only(False, finding="makes thumbnails, which the runtime does not"),
    "pad_size": only(finding="pads pictures, which the runtime does not"),
    "rescale_offset": only(False, finding="shifts the range of values, which the runtime does not"),
    "data_format": only("channels_first", "ChannelDimension.FIRST", finding="is another layout than the graphs take"),
    **_HARMLESS,
}
PICTURES = FieldTable("preprocessor_config.json", _FIELDS)
_VIDEO_FIELDS = {
    **{name: field for name, field in _FIELDS.items() if not name.endswith("_type")},
    **harmless("video_processor_type", "do_sample_frames", "num_frames", "fps", "min_frames", "max_frames"),
    **harmless("return_metadata", "video_metadata", "initial_shift"),
}
TILES = {"min_patches": Honoured("fewest", _count), "max_patches": Honoured("most", _count)}
"""Limits of the tiles of a picture, which chat models of transformers' own port keep here."""
VIDEOS = FieldTable("video_preprocessor_config.json", _VIDEO_FIELDS)
"""Fields about sampling frames are harmless: callers sample frames, and the runtime prepares them as pictures."""
PROCESSOR = FieldTable(
    "processor_config.json",
    {
        **harmless("processor_class", "image_seq_length", "chat_template", "auto_map", "transformers_version"),
        **harmless("image_processor", "video_processor"),  # read by the tables above
    },
)


def read_preprocessing(folder: Path, image_size: int, reader: FieldReader) -> Preprocessing:
    """Return the preprocessing that the files in `folder` describe, or the reference's if there are none.

    Its size is the one in the files, or else `image_size`, the size of the model's position table. Findings go to
    `reader`.
    """
    found: list[tuple[str, Preprocessing]] = []
    videos: list[tuple[FieldTable, dict[str, Any], str]] = []
    if (path := folder / PICTURES.file).exists():
        found.append((PICTURES.file, _settings(PICTURES, read_json(path), "", image_size, reader)))
    if (path := folder / PROCESSOR.file).exists():
        content = read_json(path)
        reader.read(PROCESSOR, content)
        if isinstance(nested := content.get("image_processor"), dict):
            table = FieldTable(PROCESSOR.file, _FIELDS)
            found.append((table.file, _settings(table, nested, "image_processor", image_size, reader)))
        if isinstance(nested := content.get("video_processor"), dict):
            videos.append((FieldTable(PROCESSOR.file, _VIDEO_FIELDS), nested, "video_processor"))
    if len(found) > 1 and found[0][1] != found[1][1]:
        reader.find(found[1][0], f"image_processor prepares pictures in another way than {found[0][0]}")
    if (path := folder / VIDEOS.file).exists():
        videos.append((VIDEOS, read_json(path), ""))
    settings = found[0][1] if found else Preprocessing(image_size=image_size)
    for table, content, part in videos:
        _check_videos(table, content, part, settings, reader)
    return settings


def read_tile_limits(folder: Path, reader: FieldReader) -> Mapping[str, int]:
    """Return the limits ``fewest`` and ``most`` of the tiles of a picture, as far as the files in `folder` state them.

    Findings go to `reader`.
    """
    found: dict[str, int] = {}
    for file, part in ((PICTURES.file, ""), (PROCESSOR.file, "image_processor")):
        whole = read_json(folder / file) if (folder / file).exists() else {}
        content = whole.get(part, {}) if part else whole
        if not isinstance(content, Mapping):
            continue
        limits = reader.read(FieldTable(file, TILES, others="harmless"), content, part)
        if any(found.get(name, limit) != limit for name, limit in limits.items()):
            reader.find(file, f"{part} cuts pictures into other numbers of tiles than {PICTURES.file}")
        found |= limits
    return found


def _settings(
    table: FieldTable, content: Mapping[str, Any], part: str, image_size: int, reader: FieldReader
) -> Preprocessing:
    values = reader.read(table, content, part)
    processor: _Processor = values.get("processor", _UNNAMED)
    final, geometry, short = _geometry(table, values, processor, image_size, reader)
    normalizes = values.get("normalizes", True)
    try:
        return Preprocessing(
            image_size=final,
            mean=values.get("mean", processor.mean) if normalizes else (0.0, 0.0, 0.0),
            std=values.get("std", processor.std) if normalizes else (1.0, 1.0, 1.0),
            resample=values.get("resample", processor.resample),
            rescale_factor=values.get("rescale_factor", 1 / 255) if values.get("rescales", True) else 1.0,
            geometry=geometry,
            short_side=short,
        )
    except InputError as error:
        reader.find(table.file, str(error))
        return Preprocessing(image_size=image_size)


def _geometry(
    table: FieldTable, values: Mapping[str, Any], processor: _Processor, image_size: int, reader: FieldReader
) -> tuple[int, Geometry | None, int | None]:
    """Return the final side in pixels, the geometry for all tasks or None, and the short side before a crop or None.

    The official files have one size for short side and crop. They leave each task its own geometry, since the
    reference's code for retrieval, captions and classification does not read them.
    """
    size: _Size | None = values.get("size")
    square = values.get("square", processor.square)
    crop: _Size | None = values.get("crop_size")
    if size is not None:
        square = square if size.side is None else size.side == "both"
    if not values.get("crops", processor.crops):
        if size is not None and not square:
            reader.find(table.file, f"size {size.pixels} is of the short side and do_center_crop is false: not square")
        return (size.pixels if size else image_size), ("squash" if size else None), None
    final = crop.pixels if crop else size.pixels if size else image_size
    if size is None or size.pixels == final:
        return final, ("squash" if size and square else None), None
    if square or size.pixels < final:
        shown = f"size {size.pixels}{' of both sides' if square else ''} and crop_size {final}"
        reader.find(table.file, f"{shown}: the runtime crops what was scaled to a larger short side")
        return final, None, None
    return final, "clip", size.pixels


def _check_videos(
    table: FieldTable, content: Mapping[str, Any], part: str, pictures: Preprocessing, reader: FieldReader
) -> None:
    """Report settings of video frames that differ from those of pictures, since the runtime prepares both alike."""
    values = reader.read(table, content, part)
    for target in ("mean", "std", "resample", "rescale_factor"):
        own = getattr(pictures, target)
        if target in values and values[target] != own:
            reader.find(table.file, f"{target} {values[target]} of frames is not {own} of pictures, as which they go")
