"""Match pictures with texts: compute whether a text belongs to a picture (MODEL.md 3.8)."""

import numpy as np

from internvl_edge.runtime.bundle.graph_roles import IMAGE_ENCODER, PAIR_MATCHER
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.inputs.pictures.arguments import Pictures, picture_count
from internvl_edge.runtime.inputs.pictures.preprocess import pixel_batches, require_readable
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.tasks.opened import OpenedGraphs
from internvl_edge.runtime.tasks.retrieval import stacked
from internvl_edge.runtime.tasks.texts import Texts, id_batches, ids_of


def match(model: OpenedGraphs, images: Pictures, texts: Texts, monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return image-text matching logits ``[B, 2]`` of picture i with text i; column 1 is the match.

    Raises:
        InputError: the number of texts is not the number of pictures.
    """
    graphs = model.bundle.graphs_of(IMAGE_ENCODER, PAIR_MATCHER)
    ids = ids_of(model, texts, "", monitor, other_positions=model.info.num_query_tokens)
    pictures = picture_count(images)
    if len(ids) != pictures:
        raise InputError(f"match: {pictures} pictures but {len(ids)} texts; give one text a picture")
    require_readable(images, model.batch_size)
    size = model.rows(*graphs)
    batches = pixel_batches(images, model.preprocessing, "squash", size, monitor)
    logits = [
        _logits(model, pixels, rows, monitor) for pixels, rows in zip(batches, id_batches(ids, size), strict=True)
    ]
    return require_finite(stacked(logits), "pairs")


def _logits(model: OpenedGraphs, pixels: np.ndarray, ids: np.ndarray, monitor: Monitor) -> np.ndarray:
    vision, matcher = model.bundle.graphs_of(IMAGE_ENCODER, PAIR_MATCHER)
    states = model.run(vision, {"pixel_values": pixels}, monitor)["vision_states"]
    return model.run(matcher, {"vision_states": states, "input_ids": ids}, monitor)["itm_logits"]
