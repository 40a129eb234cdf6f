"""Statistics of one tensor over all samples: range of each channel, histogram of magnitudes, and a few rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from internvl_edge.calib.ranges.magnitudes import Magnitudes
from internvl_edge.runtime.errors import CalibrationError

COUNTED_VALUES = 2 << 20
"""Number of values of a batch that are counted, in evenly spaced rows; to count all would double a 6 B tower's time."""
CURVE_POINTS = 8
"""Number of points on the curve for each batch, since one batch may hold all samples."""
EXTREME_SHARE = 4
"""One of this many kept rows is among the largest of its batch, so that a rare massive token is not missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Statistics of one tensor with C channels in one graph."""

    amax: np.ndarray
    """Largest magnitude of each channel, over all rows, ``[C]`` fp32."""
    mean: np.ndarray
    """Mean of each channel over the counted rows, ``[C]`` fp32."""
    counted_rows: int
    magnitudes: Magnitudes
    rows: np.ndarray
    """Rows of the tensor, ``[R, C]`` fp32, on which quantizations are tried."""
    curve: np.ndarray
    """Largest magnitude so far, at `CURVE_POINTS` points of each batch: how the range grew over the samples."""
    token_amax: float
    """Largest magnitude of any row."""
    token_median: float
    """Median over rows of their largest magnitude."""

    @property
    def largest(self) -> float:
        """Largest magnitude of the tensor."""
        return float(self.amax.max(initial=0.0))


@dataclass
class Observer:
    """Collects the statistics of one tensor batch by batch."""

    name: str
    rows_per_sample: float
    """Number of rows to keep of each sample; below 1, one row of every n-th sample."""
    amax: Tensor | None = None
    total: Tensor | None = None
    counted_rows: int = 0
    samples: int = 0
    magnitudes: Magnitudes = field(default_factory=Magnitudes)
    kept: list[Tensor] = field(default_factory=list)
    kept_rows: int = 0
    curve: list[float] = field(default_factory=list)
    token_amax: list[np.ndarray] = field(default_factory=list)

    def observe(self, rows: Tensor, samples: int) -> None:
        """Add one batch of rows ``[R, C]`` of `samples` samples.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        magnitude = rows.detach().abs()
        amax, tokens = magnitude.amax(dim=0).float(), magnitude.amax(dim=1).float()
        if not bool(torch.isfinite(amax).all()):
            count = int((~torch.isfinite(amax)).sum())
            raise CalibrationError(
                f"{self.name}: NaN or infinity in {count} of {amax.numel()} channels; repair the checkpoint, "
                "or leave out the picture that causes it"
            )
        self.amax = amax if self.amax is None else torch.maximum(self.amax, amax)
        self._extend_curve(tokens)
        self.token_amax.append(tokens.numpy())
        counted = rows[:: max(1, rows.numel() // COUNTED_VALUES)]
        self.magnitudes.add(counted)
        total = counted.float().sum(dim=0)
        self.total = total if self.total is None else self.total + total
        self.counted_rows += counted.shape[0]
        self.samples += samples
        self._keep(rows, tokens)

    def statistics(self) -> Statistics:
        """Return the statistics of all batches.

        Raises:
            CalibrationError: there was no batch.
        """
        if self.amax is None or self.total is None:
            raise CalibrationError(f"{self.name}: no sample reached it; add samples, or leave out its graph")
        tokens = np.concatenate(self.token_amax)
        return Statistics(
            amax=self.amax.numpy(),
            mean=(self.total / max(1, self.counted_rows)).numpy(),
            counted_rows=self.counted_rows,
            magnitudes=self.magnitudes,
            rows=torch.cat(self.kept).numpy() if self.kept else np.zeros((0, self.amax.numel()), np.float32),
            curve=np.array(self.curve, np.float32),
            token_amax=float(tokens.max()),
            token_median=float(np.median(tokens)),
        )

    def _extend_curve(self, tokens: Tensor) -> None:
        """Add the points of one batch to the curve; its rows are in the order of their samples."""
        reached = self.curve[-1] if self.curve else 0.0
        for stretch in tokens.tensor_split(min(CURVE_POINTS, tokens.numel())):
            reached = max(reached, float(stretch.max()))
            self.curve.append(reached)

    def _keep(self, rows: Tensor, tokens: Tensor) -> None:
        """Keep rows of this batch: a few of the largest, and seeded random ones of the rest."""
        due = int(self.samples * self.rows_per_sample) - self.kept_rows
        due = min(due, rows.shape[0])
        if due <= 0:
            return
        largest = torch.topk(tokens, due // EXTREME_SHARE).indices
        rng = np.random.default_rng((self.samples, rows.shape[0]))
        rest = np.setdiff1d(np.arange(rows.shape[0]), largest.numpy())
        spread = torch.from_numpy(rng.choice(rest, due - largest.numel(), replace=False))
        self.kept.append(rows[torch.cat([largest, spread])].float().clone())
        self.kept_rows += due


def merge_statistics(parts: list[Statistics], rows: int) -> Statistics:
    """Return the statistics of one run over the samples of all parts, with `rows` of their kept rows, evenly spaced.

    The median token alone is not exact: it is the median of the medians.
    """
    counted = sum(part.counted_rows for part in parts)
    mean = sum(part.mean.astype(np.float64) * part.counted_rows for part in parts) / max(1, counted)
    magnitudes = Magnitudes()
    for part in parts:
        magnitudes.merge(part.magnitudes)
    kept = np.concatenate([part.rows for part in parts])
    chosen = np.linspace(0, len(kept) - 1, min(rows, len(kept))).astype(int) if len(kept) else slice(0)
    starts = np.maximum.accumulate([0.0, *(part.curve[-1] for part in parts)])
    return Statistics(
        amax=np.max([part.amax for part in parts], axis=0),
        mean=np.asarray(mean, np.float32),
        counted_rows=counted,
        magnitudes=magnitudes,
        rows=kept[chosen],
        curve=np.concatenate([np.maximum(part.curve, start) for part, start in zip(parts, starts, strict=False)]),
        token_amax=max(part.token_amax for part in parts),
        token_median=float(np.median([part.token_median for part in parts])),
    )


def to_arrays(name: str, seen: Statistics) -> dict[str, np.ndarray]:
    """Return `seen` as named arrays: counts of the codes that occur, and rows in fp16 over the largest magnitude."""
    codes = np.flatnonzero(seen.magnitudes.counts)
    unit = np.float32(max(seen.largest, 1e-30))
    return {
        f"{name}/amax": seen.amax,
        f"{name}/mean": seen.mean,
        f"{name}/codes": codes.astype(np.int32),
        f"{name}/counts": seen.magnitudes.counts[codes],
        f"{name}/rows": (seen.rows / unit).astype(np.float16),
        f"{name}/curve": seen.curve,
        f"{name}/numbers": np.array([seen.counted_rows, seen.token_amax, seen.token_median, unit], np.float64),
    }


def from_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Statistics:
    """Return the statistics that `to_arrays` stored under `name`."""
    magnitudes = Magnitudes()
    magnitudes.counts[arrays[f"{name}/codes"]] = arrays[f"{name}/counts"]
    counted, token_amax, token_median, unit = arrays[f"{name}/numbers"]
    return Statistics(
        amax=arrays[f"{name}/amax"],
        mean=arrays[f"{name}/mean"],
        counted_rows=int(counted),
        magnitudes=magnitudes,
        rows=arrays[f"{name}/rows"].astype(np.float32) * np.float32(unit),
        curve=arrays[f"{name}/curve"],
        token_amax=float(token_amax),
        token_median=float(token_median),
    )
