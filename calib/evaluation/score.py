"""Figures from features and captions: recall, accuracy, exact match, and cosines to other features."""

import numpy as np

from internvl_edge.calib.data.dataset import DataSet
from internvl_edge.calib.evaluation.eval_report import EvalReport
from internvl_edge.calib.evaluation.features import Features
from internvl_edge.calib.evaluation.options import EvalOptions
from internvl_edge.calib.evaluation.selection import chosen_rows
from internvl_edge.calib.metrics import accuracy, caption_owners, exact_match, recall
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.features import unit


def score(features: Features, data: DataSet, options: EvalOptions) -> EvalReport:
    """Return the figures of features that `measure` returned for the same data and options.

    Raises:
        InputError: the features are of another number of pictures.
    """
    rows = chosen_rows(data, options).rows
    counts = {*map(len, features.images.values()), *map(len, features.captions.values())}
    if wrong := sorted(counts - {len(rows)}):
        raise InputError(f"features of {wrong[0]} pictures but {len(rows)} rows; score with the options of measure")
    units = {mode: unit(values) for mode, values in features.images.items()}
    captioned = {
        language: [index for index, row in enumerate(rows) if language in row.texts]
        for language in (*features.texts, *features.captions)
    }
    owners = {
        language: caption_owners([len(rows[index].texts[language]) for index in indices])
        for language, indices in captioned.items()
    }
    places = {group: index for index, group in enumerate(data.prompts.classes)}
    grouped = [index for index, row in enumerate(rows) if row.group in places]
    right = np.array([places[row.group] for row in rows if row.group is not None and row.group in places], np.int64)
    return EvalReport(
        pictures=len(rows),
        retrieval={
            mode: {
                language: _recalls(images[captioned[language]] @ unit(texts).T, owners[language])
                for language, texts in features.texts.items()
            }
            for mode, images in units.items()
            if features.texts
        },
        zero_shot={
            mode: {
                language: accuracy(images[grouped] @ classifier, right)
                for language, classifier in features.classifiers.items()
            }
            for mode, images in units.items()
            if features.classifiers
        },
        captions={
            language: exact_match(
                [found[index] for index in captioned[language]],
                [rows[index].texts[language] for index in captioned[language]],
            )
            for language, found in features.captions.items()
        },
        skipped=features.skipped,
    )


def cosines(a: Features, b: Features) -> dict[str, dict[str, float]]:
    """Return the mean and the lowest cosine between the features of two models for the same pictures and texts.

    Raises:
        InputError: the features have different shapes.
    """
    others = _named(b)
    pairs = {name: (values, others[name]) for name, values in _named(a).items() if name in others}
    wrong = [f"{name} {list(x.shape)} and {list(y.shape)}" for name, (x, y) in pairs.items() if x.shape != y.shape]
    if wrong:
        raise InputError(f"features do not pair up: {', '.join(wrong)}; compare bundles of one checkpoint")
    found = {}
    for name, (x, y) in pairs.items():
        cosine = (unit(x) * unit(y)).sum(axis=1, dtype=np.float64)
        found[name] = {"mean": float(cosine.mean()), "min": float(cosine.min())}
    return found


def _named(features: Features) -> dict[str, np.ndarray]:
    return {f"images.{mode}": values for mode, values in features.images.items()} | {
        f"texts.{language}": values for language, values in features.texts.items()
    }


def _recalls(scores: np.ndarray, right: np.ndarray) -> dict[str, dict[str, float]]:
    return {"image_to_text": recall(scores, right), "text_to_image": recall(scores.T, right.T)}
