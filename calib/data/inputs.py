"""The samples of a calibration as a model takes them."""

from dataclasses import dataclass

import numpy as np

from internvl_edge.runtime.bundle.graph_roles import Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationInputs:
    """What the samples are; ids are right-padded with 0."""

    pixel_values: np.ndarray
    """``[S, 3, H, W]``."""
    text_ids: np.ndarray | None = None
    """``[T, L]`` for `text`."""
    caption_ids: np.ndarray | None = None
    """``[S, n]`` for `decoder`: prompt, caption and eos."""
    match_ids: np.ndarray | None = None
    """``[S, L]`` for `itm`."""

    def ids(self, kind: Ids) -> np.ndarray | None:
        """Return the ids of one kind."""
        return {"texts": self.text_ids, "prompts": self.caption_ids, "pairs": self.match_ids}[kind]
