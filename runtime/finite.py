"""Find NaN and infinity in the outputs of graphs, with one warning for each output."""

import logging
from collections.abc import Mapping

import numpy as np

from internvl_edge.runtime.errors import BackendError

logger = logging.getLogger(__name__)

REMEDY = "export with --dtype bf16 or fp32, or keep the layers that overflow high"


class FiniteOutputs:
    """A check of features and logits ``[B, D]``, and of the first row of states ``[B, N, H]``.

    The first row attends to all others. Caches and the other rows are not checked: errors there reach the logits, and
    checking all of them would cost as much as a layer.
    """

    def __init__(self) -> None:
        self._reported: set[tuple[str, str]] = set()

    def watch(self, graph: str, outputs: Mapping[str, np.ndarray]) -> None:
        """Log a warning the first time that an output of `graph` with this name holds NaN or infinity."""
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
    """Return `values` ``[N, D]`` of `what` if all are finite: NaN would take any place in a ranking.

    Raises:
        BackendError: rows with NaN or infinity.
    """
    if wrong := int((~np.isfinite(values)).any(axis=1).sum()):
        raise BackendError(f"{what}: {wrong} of {len(values)} have NaN or inf; {REMEDY}")
    return values


def _finite(values: np.ndarray) -> bool:
    looked_at = values[:, 0] if values.ndim == 3 else values
    return bool(np.isfinite(looked_at).all())
