"""Compute raw features of pictures and texts, and their similarity (MODEL.md 3.7, 4.2)."""

import numpy as np

from internvl_edge.runtime.bundle.graph_roles import TEXT_ENCODER
from internvl_edge.runtime.bundle.modes import MODE_ROLES, Mode, mode_of
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.inputs.pictures.arguments import Pictures
from internvl_edge.runtime.inputs.pictures.preprocess import Geometry, pixel_batches, require_readable
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.stages import POSTPROCESS
from internvl_edge.runtime.tasks.features import similarity_logits, unit
from internvl_edge.runtime.tasks.opened import OpenedGraphs
from internvl_edge.runtime.tasks.texts import Texts, id_batches, ids_of


def encode_image(model: OpenedGraphs, images: Pictures, mode: Mode = "c", monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return raw features ``[B, D]``: InternVL-C's pooled feature, or InternVL-G's sum of two unit vectors."""
    return image_features(model, images, mode, "squash", monitor)


def encode_text(model: OpenedGraphs, texts: Texts, monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return raw features ``[T, D]`` of texts."""
    (graph,) = model.bundle.graphs_of(TEXT_ENCODER)
    ids = ids_of(model, texts, TEXT_PREFIX, monitor)
    parts = id_batches(ids, model.rows(graph))
    features = stacked([model.run(graph, {"input_ids": part}, monitor)["text_embeds"] for part in parts])
    return require_finite(features, "texts")


def similarity(
    model: OpenedGraphs, images: Pictures, texts: Texts, mode: Mode | None = None, monitor: Monitor = UNMONITORED
) -> np.ndarray:
    """Return scaled cosines ``[B, T]`` as the reference's forward; `mode` None is the bundle's `default_mode`."""
    scale = model.required(model.info.logit_scale, "logit scale")
    image_embeds = encode_image(model, images, mode_of(model.bundle, mode), monitor)
    text_embeds = encode_text(model, texts, monitor)
    with monitor.stages.stage(POSTPROCESS):
        return similarity_logits(image_embeds, text_embeds, scale)


def image_features(
    model: OpenedGraphs, images: Pictures, mode: Mode, geometry: Geometry, monitor: Monitor
) -> np.ndarray:
    """Return raw features ``[B, D]`` of pictures that are scaled with this `geometry` or the checkpoint's own.

    Raises:
        InputError: pictures that cannot be read, or none.
        BundleError: the bundle lacks a graph that the mode needs.
    """
    graphs = model.bundle.graphs_of(*MODE_ROLES[mode_of(model.bundle, mode)])
    require_readable(images, model.batch_size)
    batches = pixel_batches(images, model.preprocessing, geometry, model.rows(*graphs), monitor)
    return stacked([_batch_features(model, pixels, graphs, monitor) for pixels in batches])


def stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Return the rows of all batches in one array.

    Raises:
        InputError: there is no batch.
    """
    if not parts:
        raise InputError("no input given; give at least one picture or text")
    return np.concatenate(parts)


def _batch_features(model: OpenedGraphs, pixels: np.ndarray, graphs: tuple[str, ...], monitor: Monitor) -> np.ndarray:
    image_encoder, *query_encoder = graphs
    vision = model.run(image_encoder, {"pixel_values": pixels}, monitor)
    pooled = model.required(vision.get("image_embeds"), "image embedding")
    if not query_encoder:
        return require_finite(pooled, "pictures")
    query = model.run(query_encoder[0], {"vision_states": vision["vision_states"]}, monitor)
    with monitor.stages.stage(POSTPROCESS):
        features: np.ndarray = unit(pooled) + unit(query["query_embeds"])
        return require_finite(features, "pictures")
