"""Samples of a calibration: pictures and texts, read, checked and converted to the inputs of a model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from internvl_edge.calib.data.dataset import DataSet, Prompts, digest_of, open_data
from internvl_edge.calib.data.inputs import CalibrationInputs
from internvl_edge.calib.data.synthetic import STOCK_TEXTS, synthetic_ids, synthetic_pixels
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX, Tokenizer
from internvl_edge.runtime.errors import CalibrationError, UnreadableError
from internvl_edge.runtime.inputs.files.names import in_one_line
from internvl_edge.runtime.inputs.pictures.decode import decode
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.inputs.pictures.source import content_of
from internvl_edge.runtime.inputs.read import Record
from internvl_edge.runtime.tasks.captions import DEFAULT_PROMPT

FEWEST = 16
"""Smallest number of samples: with 16 pictures, the percentile 99.99 of a 6 B tower rests on 1,600 values."""
UNREADABLE_SHARE = 0.05
"""Largest share of pictures that may be unreadable, or of one colour only."""
RANDOM = "random"
"""Word that stands for random pictures in place of a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationData:
    """Samples of a calibration, and the identity of their data set."""

    pixel_values: np.ndarray
    texts: tuple[str, ...]
    prompts: tuple[str, ...]
    """Prompt before each of the texts."""
    class_texts: tuple[str, ...] = ()
    """Class names in their templates, which zero-shot classification embeds; empty if the data set has none."""
    source: str
    sha256: str
    unreadable: tuple[str, ...] = ()


def load_data(source: str, settings: Preprocessing, count: int) -> CalibrationData:
    """Return `count` samples, evenly spaced over `source`; the captions of a picture are taken in turn.

    Raises:
        CalibrationError: too few samples, too many unreadable ones, or pictures that are all of one colour.
    """
    if source == RANDOM:
        return _random(settings.image_size, count)
    data = open_data(Path(source)).subsample(count)
    pictures, contents, rows, unreadable = _read(data)
    if len(unreadable) > UNREADABLE_SHARE * len(data.rows):
        raise CalibrationError(
            f"{source}: {len(unreadable)} of {len(data.rows)} pictures cannot be read ({_some(unreadable)}); "
            "repair or remove them"
        )
    if len(pictures) < FEWEST:
        raise CalibrationError(
            f"{source}: {len(pictures)} samples, ranges need at least {FEWEST}; give more pictures or raise "
            "--sample-count (of export: --calibration-samples)"
        )
    flat = [row.file for row, picture in zip(rows, pictures, strict=True) if _is_flat(picture)]
    if len(flat) > UNREADABLE_SHARE * len(pictures):
        raise CalibrationError(
            f"{source}: {len(flat)} of {len(pictures)} pictures have one colour only ({_some(flat)}); "
            "give pictures like those of the task"
        )
    captions = [_caption(data, row, index) for index, row in enumerate(rows)]
    class_texts = _class_texts(data.prompts, count)
    contents += [text.encode() for text in (*(text for text, _ in captions), *class_texts)]
    return CalibrationData(
        pixel_values=preprocess(pictures, settings),
        texts=tuple(text for text, _ in captions),
        prompts=tuple(prompt for _, prompt in captions),
        class_texts=class_texts,
        source=source,
        sha256=digest_of(contents),
        unreadable=tuple(unreadable),
    )


def model_inputs(data: CalibrationData, tokenizer: Tokenizer | None, vocabulary: int | None) -> CalibrationInputs:
    """Return the inputs of a model with `vocabulary` token ids; None: the model takes no texts.

    Without a tokenizer, random ids are used in place of texts, but only with random pictures.
    """
    if vocabulary is None:
        return CalibrationInputs(pixel_values=data.pixel_values)
    if tokenizer is None:
        if data.source != RANDOM:
            raise CalibrationError(
                "calibrate: the checkpoint has no tokenizer.model, so captions cannot be read; add it"
            )
        ids = synthetic_ids(len(data.texts), 16, vocabulary)
        return CalibrationInputs(pixel_values=data.pixel_values, text_ids=ids, caption_ids=ids, match_ids=ids)
    return CalibrationInputs(
        pixel_values=data.pixel_values,
        text_ids=tokenizer.encode_texts([*data.texts, *data.class_texts], prefix=TEXT_PREFIX),
        caption_ids=_caption_ids(data, tokenizer),
        match_ids=tokenizer.encode_texts(data.texts, prefix=""),
    )


def _read(data: DataSet) -> tuple[list[Image.Image], list[bytes], list[Record], list[str]]:
    pictures: list[Image.Image] = []
    contents: list[bytes] = []
    rows: list[Record] = []
    unreadable = []
    for row in data.rows:
        try:
            content = content_of(row.picture)
            pictures.append(decode(content))
        except UnreadableError as error:
            unreadable.append(f"{in_one_line(row.file)} ({error})")
            continue
        contents.append(content)
        rows.append(row)
    return pictures, contents, rows, unreadable


def _caption(data: DataSet, row: Record, index: int) -> tuple[str, str]:
    """Return the caption of sample `index` and its prompt, taken in turn from all captions in all languages."""
    captions = row.captions()
    if not captions:
        return STOCK_TEXTS[index % len(STOCK_TEXTS)], DEFAULT_PROMPT
    language, text = captions[index % len(captions)]
    return text, data.prompts.caption_prompts.get(language, DEFAULT_PROMPT)


def _class_texts(prompts: Prompts, count: int) -> tuple[str, ...]:
    """Return at most `count` class texts, evenly spaced over languages, classes and templates.

    Class texts reach other channels than captions: the demo's "people & body" has 8 times the magnitude of captions.
    """
    texts = [
        template.replace("{}", name)
        for language, names in prompts.class_names.items()
        for name in names
        for template in prompts.templates.get(language, ())
    ]
    step = max(1.0, len(texts) / count)
    return tuple(texts[int(index * step)] for index in range(min(count, len(texts))))


def _caption_ids(data: CalibrationData, tokenizer: Tokenizer) -> np.ndarray:
    rows = [
        np.concatenate([tokenizer.encode_prompt(prompt)[0], tokenizer.encode_texts([text], prefix="")[0, 1:]])
        for prompt, text in zip(data.prompts, data.texts, strict=True)
    ]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return ids


def _random(image_size: int, count: int) -> CalibrationData:
    if count < FEWEST:
        raise CalibrationError(f"--sample-count {count}: ranges need at least {FEWEST}; raise it")
    pixels = synthetic_pixels(image_size, count)
    return CalibrationData(
        pixel_values=pixels,
        texts=tuple(STOCK_TEXTS[index % len(STOCK_TEXTS)] for index in range(count)),
        prompts=(DEFAULT_PROMPT,) * count,
        source=RANDOM,
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
    )


def _is_flat(picture: Image.Image) -> bool:
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
