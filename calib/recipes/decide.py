"""Decide how one site is quantized: smoothing, threshold and scale, by the error of the output of its linears."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from internvl_edge.calib.formats import amax_of, broadcast_scale, fake_quantize, ratio_db, scale_of
from internvl_edge.calib.ranges.magnitudes import Magnitudes
from internvl_edge.calib.ranges.observer import Statistics
from internvl_edge.calib.recipes.thresholds import candidates, default_choice
from internvl_edge.calib.sites import Site
from internvl_edge.runtime.numbers.formats import Format, Precision

ALPHAS = (0.25, 0.5, 0.65, 0.8, 1.0)
"""Candidates for SmoothQuant's alpha, the share of a channel's range that moves from the activation to the weight."""
SAMPLED_WEIGHT_ROWS = 512
"""Number of output rows on which an error is measured, evenly spaced over all linears of the site."""
OUTLIER_RATIO = 100.0
"""Ratio of the largest channel to the median channel above which activations are called massive (Sun et al. 2024)."""
KEEP_HIGH_DB = 14.0
"""SQNR in dB of the output below which a site stays in high precision: 4 % of the output's energy would be noise."""
WORTH_DB = 1.0
"""Gain in dB above which a report names clipping or smoothing as the remedy of a site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The activation quantizer of a site in one graph."""

    threshold: float
    """Magnitude above which values are clipped."""
    scale: float | None
    """Scale per tensor; None where activations are not quantized."""
    method: str
    clipped_share: float
    """Share of the values that are clipped, from 0 to 1."""
    sqnr_db: float
    """SQNR in dB of the output of the linears, on the rows that were kept from calibration."""
    errors: Mapping[str, float]
    """Name of each candidate threshold -> error energy of the output over the output's energy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The decision on a site: how it is quantized, or why it stays in high precision."""

    site: Site
    alpha: float | None
    """SmoothQuant's alpha; None without smoothing."""
    smoothing: np.ndarray | None
    """Powers of two ``[C]`` that divide the channels of the activation and multiply the columns of the weights."""
    smoothing_errors: Mapping[str, float]
    """Each candidate alpha, or ``off`` -> relative error energy of the output without clipping."""
    clips: Mapping[str, Clip]
    """Graph -> activation quantizer; graphs share weights but have ranges of their own."""
    quantized: bool
    reason: str
    prescription: str

    @property
    def sqnr_db(self) -> float:
        """Lowest SQNR in dB over the graphs."""
        return min((clip.sqnr_db for clip in self.clips.values()), default=200.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings under which sites are decided."""

    precision: Precision
    """Formats of weights and of activations."""
    dtype: str
    """Type of the scales and of everything in high precision, as torch names it."""
    method: str = "auto"
    smooth: str | float = "auto"
    fp8_attention: bool = False
    """Whether the products of attention are quantized as well, in a precision that allows it."""


def decide(site: Site, seen: Mapping[str, Statistics], weights: Sequence[Tensor], rules: Rules) -> Decision:
    """Return how to quantize `site`, from the statistics `seen` of each graph and the weights ``[out, C]`` in fp32.

    A site whose columns do not fill the blocks of the format stays in high precision.
    """
    unfit = _unfit(weights, rules)
    if unfit:
        rules = replace(rules, precision=replace(rules.precision, weights=None))
    sampled = _sampled_rows(weights)
    columns = torch.stack([w.abs().amax(dim=0) for w in weights]).amax(dim=0)
    trial = _CandidateErrors(seen, sampled, rules)
    vectors = _vectors(site, seen, columns, rules)
    errors = {name: trial.error(vector) for name, vector in vectors.items()}
    best = min(errors, key=lambda name: errors[name])
    smoothing = vectors[best]
    clips = {graph: trial.clip(graph, smoothing) for graph in seen}
    worst = min(clip.sqnr_db for clip in clips.values())
    poor = f"output SQNR {worst:.1f} dB, below {KEEP_HIGH_DB:g} dB" if worst < KEEP_HIGH_DB else ""
    high = unfit or poor
    return Decision(
        site=site,
        alpha=None if best == "off" else float(best),
        smoothing=None if smoothing is None else smoothing.numpy(),
        smoothing_errors=errors,
        clips=clips,
        quantized=not high,
        reason=high or "a linear of a block",
        prescription=_prescription(bool(high), errors, best, clips),
    )


def outlier_ratio(seen: Statistics) -> float:
    """Return the ratio of the largest channel to the median channel."""
    median = float(np.median(seen.amax))
    return seen.largest / median if median > 0 else 0.0


class _CandidateErrors:
    """Measures the error of ``x w^T`` of candidate quantizations, on kept rows of x and sampled rows of weights."""

    def __init__(self, seen: Mapping[str, Statistics], sampled: Tensor, rules: Rules) -> None:
        self._seen = seen
        self._rows = {graph: torch.from_numpy(found.rows) for graph, found in seen.items()}
        self._outputs = {graph: rows @ sampled.T for graph, rows in self._rows.items()}
        self._sampled = sampled
        self._rules = rules

    def error(self, smoothing: Tensor | None) -> float:
        """Return the relative error without clipping, as the mean over the graphs."""
        weights = self._weights(smoothing)
        found = [self._error(graph, self._range(graph, smoothing), smoothing, weights) for graph in self._seen]
        return float(np.mean(found))

    def clip(self, graph: str, smoothing: Tensor | None) -> Clip:
        """Return the quantizer of `graph`: with ``auto`` the candidate of the smallest error, else the method's own."""
        form, method = self._rules.precision.activations, self._rules.method
        if form is None:
            return self._unclipped(graph, smoothing)
        magnitudes = self._magnitudes(graph, smoothing)
        limits = candidates(magnitudes, self._range(graph, smoothing), form, method)
        weights = self._weights(smoothing)
        errors = {name: self._error(graph, limit, smoothing, weights) for name, limit in limits.items()}
        name = min(errors, key=lambda name: errors[name]) if method == "auto" else default_choice(method)
        name = name if name in limits else "max"
        return Clip(
            threshold=limits[name],
            scale=self._scale(limits[name], form),
            method=name,
            clipped_share=magnitudes.share_above(limits[name]),
            sqnr_db=ratio_db(1.0, errors[name]),
            errors=errors,
        )

    def _unclipped(self, graph: str, smoothing: Tensor | None) -> Clip:
        """Return the quantizer without clipping and scale, for the case that only weights are quantized."""
        limit = self._range(graph, smoothing)
        error = self._error(graph, limit, smoothing, self._weights(smoothing))
        return Clip(
            threshold=limit,
            scale=None,
            method="max",
            clipped_share=0.0,
            sqnr_db=ratio_db(1.0, error),
            errors={"max": error},
        )

    def _error(self, graph: str, limit: float, smoothing: Tensor | None, weights: Tensor) -> float:
        rows, outputs = self._rows[graph], self._outputs[graph]
        x = rows if smoothing is None else rows / smoothing
        form = self._rules.precision.activations
        found = (x if form is None else fake_quantize(x, torch.tensor(self._scale(limit, form)), form)) @ weights.T
        energy = float(outputs.square().sum())
        return float((found - outputs).square().sum()) / max(energy, 1e-30)

    def _weights(self, smoothing: Tensor | None) -> Tensor:
        weights = self._sampled if smoothing is None else self._sampled * smoothing
        form = self._rules.precision.weights
        if form is None:
            return weights
        scale = scale_of(amax_of(weights, form.granularity), form, self._rules.dtype)
        return fake_quantize(weights, broadcast_scale(scale, form.granularity, weights.ndim), form)

    def _range(self, graph: str, smoothing: Tensor | None) -> float:
        amax = torch.from_numpy(self._seen[graph].amax)
        return float((amax if smoothing is None else amax / smoothing).max())

    def _magnitudes(self, graph: str, smoothing: Tensor | None) -> Magnitudes:
        """Return the magnitudes of the tensor: exact ones, or those of the kept rows where smoothing has changed it."""
        if smoothing is None:
            return self._seen[graph].magnitudes
        counts = Magnitudes()
        counts.add(self._rows[graph] / smoothing)
        return counts

    def _scale(self, limit: float, form: Format) -> float:
        return float(scale_of(torch.tensor(limit), form, self._rules.dtype))


def _unfit(weights: Sequence[Tensor], rules: Rules) -> str:
    """Return why the weights cannot have scales of the format; the empty text if they can."""
    if (form := rules.precision.weights) is None:
        return ""
    try:
        for weight in weights:
            form.granularity.scale_shape(weight.shape)
    except ValueError as error:
        return str(error)
    return ""


def _sampled_rows(weights: Sequence[Tensor]) -> Tensor:
    whole = sum(len(w) for w in weights)
    step = max(1, whole // SAMPLED_WEIGHT_ROWS)
    return torch.cat([w[::step] for w in weights])


def _vectors(site: Site, seen: Mapping[str, Statistics], columns: Tensor, rules: Rules) -> dict[str, Tensor | None]:
    """Return the candidate smoothing vectors by their alpha; one vector serves all graphs, which share weights."""
    if site.fold is None or rules.smooth == "off":
        return {"off": None}
    amax = torch.from_numpy(np.max([found.amax for found in seen.values()], axis=0))
    if rules.smooth != "auto":
        return {f"{float(rules.smooth):g}": smoothing_vector(amax, columns, float(rules.smooth))}
    return {"off": None, **{f"{alpha:g}": smoothing_vector(amax, columns, alpha) for alpha in ALPHAS}}


def smoothing_vector(amax: Tensor, columns: Tensor, alpha: float) -> Tensor:
    """Return SmoothQuant's ``amax^alpha / columns^(1 - alpha)`` as powers of two with the median 1.

    Powers of two fold into weights without rounding. Channels without values on either side count as 1e-5 of the
    largest, so that no factor is 0.
    """
    a = amax.float().clamp(min=1e-5 * float(amax.max().clamp(min=1e-20)))
    w = columns.float().clamp(min=1e-5 * float(columns.max().clamp(min=1e-20)))
    exponents = alpha * a.log2() - (1 - alpha) * w.log2()
    return torch.exp2((exponents - exponents.median()).round())


def _prescription(kept: bool, errors: Mapping[str, float], best: str, clips: Mapping[str, Clip]) -> str:
    if kept:
        return "keep high"
    if best != "off" and ratio_db(errors.get("off", errors[best]), errors[best]) >= WORTH_DB:
        return "smooth"
    if any(ratio_db(clip.errors["max"], clip.errors[clip.method]) >= WORTH_DB for clip in clips.values()):
        return "clip"
    return "none"
