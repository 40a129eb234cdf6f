"""Samples of a calibration as inputs of a model."""

from dataclasses import dataclass

import numpy as np

from internvl_edge.runtime.bundle.graph_roles import Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationInputs:
    """Samples as arrays; token ids are padded with 0 on the right."""

    pixel_values: np.ndarray
    """Preprocessed pictures ``[S, 3, H, W]``."""
    text_ids: np.ndarray | None = None
    """Token ids ``[T, L]`` for the graph `text`."""
    caption_ids: np.ndarray | None = None
    """Token ids ``[S, n]`` for the graph `decoder`: prompt, caption and eos."""
    match_ids: np.ndarray | None = None
    """Token ids ``[S, L]`` for the graph `itm`."""

    def ids(self, kind: Ids) -> np.ndarray | None:
        """Return the token ids of one kind."""
        return {"texts": self.text_ids, "prompts": self.caption_ids, "pairs": self.match_ids}[kind]
