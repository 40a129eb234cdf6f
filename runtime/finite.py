"""NaN and infinity in what a graph gives, told once."""

import logging
from collections.abc import Mapping

import numpy as np

from internvl_edge.runtime.errors import BackendError

logger = logging.getLogger(__name__)

REMEDY = "export with --dtype bf16 or fp32, or keep the layers that overflow high"


class FiniteOutputs:
    """Watches features and logits ``[B, D]``; of states ``[B, N, H]`` the first row, which has read all the others.

    Caches and further rows are left out: what is wrong there reaches the logits, and looking at all of them would cost
    as much as a layer.
    """

    def __init__(self) -> None:
        self._reported: set[tuple[str, str]] = set()

    def watch(self, graph: str, outputs: Mapping[str, np.ndarray]) -> None:
        """Warn of the first output of its name that holds NaN or infinity."""
        for name, values in outputs.items():
            if (
                "." not in name
                and values.dtype.kind == "f"
                and not _finite(values)
                and (graph, name) not in self._reported
            ):
                self._reported.add((graph, name))
                wrong = int((~np.isfinite(values)).sum())
                logger.warning(
                    "graph %s: %d of %d values of %s are NaN or inf; %s", graph, wrong, values.size, name, REMEDY
                )


def require_finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return `values` ``[N, D]`` of `what`, among which NaN would rank anywhere.

    Raises:
        BackendError: rows with NaN or infinity.
    """
    if wrong := int((~np.isfinite(values)).any(axis=1).sum()):
        raise BackendError(f"{what}: {wrong} of {len(values)} have NaN or inf; {REMEDY}")
    return values


def _finite(values: np.ndarray) -> bool:
    looked_at = values[:, 0] if values.ndim == 3 else values
    return bool(np.isfinite(looked_at).all())
