"""Features and captions that a model computes for a data set."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from internvl_edge.calib.data.dataset import DataSet
from internvl_edge.calib.evaluation.options import EvalOptions
from internvl_edge.calib.evaluation.selection import Selection, language_name, parts_of, select
from internvl_edge.runtime.bundle.graph_roles import IMAGE_ENCODER, QUERY_ENCODER
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.progress import Advance, Progress, Silent
from internvl_edge.runtime.tasks.features import unit
from internvl_edge.runtime.tasks.generation.config import GenerationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features and captions of a model for a data set."""

    images: Mapping[str, np.ndarray]
    """Mode -> picture features ``[B, D]``, not normalised."""
    texts: Mapping[str, np.ndarray]
    """Language -> text features ``[T, D]``, not normalised, of the captions in this language."""
    classifiers: Mapping[str, np.ndarray]
    """Language -> zero-shot classifier ``[D, classes]``."""
    captions: Mapping[str, list[str]]
    """Language -> one generated caption for each picture."""
    skipped: tuple[tuple[str, str], ...] = ()


def measure(model: InternVL, data: DataSet, options: EvalOptions, progress: Progress | None = None) -> Features:
    """Return features and captions; each picture is read once and passes `vision` and `query` once.

    Raises:
        InputError: pictures that cannot be read, languages or prompts that do not fit the data.
        BundleError: features are NaN, infinite or all 0.
    """
    progress = progress or Silent()
    selection = select(parts_of(model), data, options)
    names, templates = data.prompts.class_names, data.prompts.templates
    prompted = {language: len(names[language]) * len(templates[language]) for language in selection.classifiers}
    texts, classifiers = {}, {}
    count = sum(map(len, selection.texts.values())) + sum(prompted.values())
    with progress.task("Encoding texts", count, "texts") as advance:
        for language, captions in selection.texts.items():
            texts[language] = _checked(model.encode_text(captions), f"text_embeds in {language_name(language)}")
            advance(len(captions))
        for language, count in prompted.items():
            columns = model.classifier(names[language], templates[language]).T
            classifiers[language] = _checked(columns, f"classifier in {language_name(language)}").T
            advance(count)
    with progress.task("Encoding pictures", len(selection.data.rows), "pictures") as advance:
        images, written = _through_vision(model, selection, options, advance)
    return Features(
        images=images, texts=texts, classifiers=classifiers, captions=written, skipped=tuple(selection.skipped)
    )


def _through_vision(
    model: InternVL, selection: Selection, options: EvalOptions, advance: Advance
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return picture features by mode and captions by language, from one pass over the pictures."""
    images: dict[str, list[np.ndarray]] = {mode: [] for mode in selection.modes}
    captions: dict[str, list[str]] = {language: [] for language in selection.caption_prompts}
    if not images and not captions:
        return {}, {}
    (encoder,) = model.bundle.graphs_of(IMAGE_ENCODER)
    for start in range(0, len(selection.data.rows), options.batch_size):
        rows = selection.data.rows[start : start + options.batch_size]
        pixels = model.preprocess([selection.data.picture(row) for row in rows])
        vision = model.run_graph(encoder, {"pixel_values": pixels})
        query: Mapping[str, np.ndarray] = {}
        if "g" in images or captions:
            (queries,) = model.bundle.graphs_of(QUERY_ENCODER)
            query = model.run_graph(queries, {"vision_states": vision["vision_states"]})
        if "c" in images:
            images["c"].append(_checked(vision["image_embeds"], "image_embeds"))
        if "g" in images:
            images["g"].append(unit(images["c"][-1]) + unit(_checked(query["query_embeds"], "query_embeds")))
        for language, prompt in selection.caption_prompts.items():
            captions[language] += _captions(model, query, prompt, options.max_new_tokens)
        advance(len(rows))
    return {mode: np.concatenate(parts) for mode, parts in images.items()}, captions


def _captions(model: InternVL, query: Mapping[str, np.ndarray], prompt: str, max_new_tokens: int) -> list[str]:
    """Return a greedy caption for each row of the query graph's outputs."""
    rows = len(next(iter(query.values())))
    prompts = np.repeat(model.tokenizer.encode_prompt(prompt), rows, axis=0)
    config = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_ids=(model.info.require_text().eos_token_id,))
    return [model.tokenizer.decode(row) for row in model.continue_from(query, prompts, config)]


def _checked(features: np.ndarray, name: str) -> np.ndarray:
    """Return `features` after checking that every row is finite and not all 0: a NaN would rank first in recall."""
    if wrong := int((~(np.isfinite(features).all(axis=1) & features.any(axis=1))).sum()):
        raise BundleError(f"{name}: {wrong} of {len(features)} rows are NaN, inf or all 0; export with a wider type")
    return features
