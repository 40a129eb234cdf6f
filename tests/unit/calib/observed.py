"""Statistics of rows as one run would have collected them, and sites to decide on them."""

from collections.abc import Sequence

import numpy as np
import torch

from internvl_edge.calib.ranges.observer import Observer, Statistics
from internvl_edge.calib.sites import NormFold, RowFold, Site


def observed(rows: np.ndarray | Sequence[np.ndarray], kept_per_batch: int = 128) -> Statistics:
    """Return the statistics of batches ``[R, C]``; one array is one batch, and a batch is one sample."""
    batches = [rows] if isinstance(rows, np.ndarray) else rows
    observer = Observer("layer", kept_per_batch)
    for batch in batches:
        observer.observe(torch.from_numpy(np.asarray(batch, np.float32)), 1)
    return observer.statistics()


def site(name: str, channels: int, fold: NormFold | RowFold | None = None, layer_scale: str | None = None) -> Site:
    """Return a site of one linear."""
    return Site(
        name=name,
        linears=(name,),
        tower="vision",
        block=0,
        kind=name.rpartition(".")[2],
        channels=channels,
        fold=fold,
        layer_scale=layer_scale,
    )
