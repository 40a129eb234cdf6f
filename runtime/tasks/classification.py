"""Classify pictures zero-shot by comparing them with texts about each class (MODEL.md 4.2)."""

from collections.abc import Sequence

import numpy as np

from internvl_edge.runtime.bundle.modes import Mode, mode_of
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import Pictures
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.stages import POSTPROCESS
from internvl_edge.runtime.tasks.features import class_probabilities, zero_shot_classifier
from internvl_edge.runtime.tasks.opened import OpenedGraphs
from internvl_edge.runtime.tasks.retrieval import encode_text, image_features
from internvl_edge.runtime.tasks.texts import SHOWN, text_list

DEFAULT_TEMPLATES = ("{}",)


def classify(
    model: OpenedGraphs,
    images: Pictures,
    labels: Sequence[str],
    templates: Sequence[str] | None = None,
    mode: Mode | None = None,
    monitor: Monitor = UNMONITORED,
) -> np.ndarray:
    """Return zero-shot probabilities ``[B, labels]``; each template has ``{}`` in place of the label.

    Columns follow the labels by position. A label that is given twice has two columns, which share its probability.

    With `mode` None the bundle's `default_mode` is used.

    Raises:
        InputError: no label, or a template without a place for one.
    """
    labels = text_list(labels, "labels")
    chosen = text_list(DEFAULT_TEMPLATES if templates is None else templates, "templates")
    lacking = [template for template in chosen if "{}" not in template]
    if lacking or not labels or not chosen:
        finding = f"templates without {{}}: {', '.join(lacking)[:SHOWN]}" if lacking else "no label or no template"
        raise InputError(f"classify: {finding}; give labels, and templates as 'a photo of {{}}'")
    features = image_features(model, images, mode_of(model.bundle, mode), "crop", monitor)
    columns = classifier(model, labels, chosen, monitor)
    with monitor.stages.stage(POSTPROCESS):
        return class_probabilities(features, columns)


def classifier(
    model: OpenedGraphs, labels: Sequence[str], templates: Sequence[str], monitor: Monitor = UNMONITORED
) -> np.ndarray:
    """Return the zero-shot classifier ``[D, labels]``."""
    texts = [template.replace("{}", label) for label in labels for template in templates]
    features = encode_text(model, texts, monitor).reshape(len(labels), len(templates), -1)
    return zero_shot_classifier(list(features))
