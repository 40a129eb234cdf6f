"""Decide how one site is quantized: smoothing, clip and scale, each by the error of the linears' own output."""

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
"""How much of a channel's range smoothing moves from activation to weight: 1 all of it (SmoothQuant's alpha)."""
SAMPLED_WEIGHT_ROWS = 512
"""Output rows on which an error is measured, evenly spaced over all linears of the site."""
OUTLIER_RATIO = 100.0
"""Largest channel over the median channel from which on activations are called massive (Sun et al. 2024)."""
KEEP_HIGH_DB = 14.0
"""Output SQNR below which a site stays in high precision: 4 % of the output's energy would be noise."""
WORTH_DB = 1.0
"""Gain from which on a report calls clipping or smoothing a prescription."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """How the activation of a site is quantized in one graph."""

    threshold: float
    scale: float | None
    """None where activations are not quantized."""
    method: str
    clipped_share: float
    sqnr_db: float
    """Of the linears' output, on the kept rows."""
    errors: Mapping[str, float]
    """Candidate -> relative error energy of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How a site is quantized, or why it is not."""

    site: Site
    alpha: float | None
    smoothing: np.ndarray | None
    """Powers of two that the activation's channels are divided by and the weights' columns multiplied, ``[C]``."""
    smoothing_errors: Mapping[str, float]
    clips: Mapping[str, Clip]
    """Graph -> its activation quantizer: graphs share weights, not ranges."""
    quantized: bool
    reason: str
    prescription: str

    @property
    def sqnr_db(self) -> float:
        """The worst graph's."""
        return min((clip.sqnr_db for clip in self.clips.values()), default=200.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What may be decided."""

    precision: Precision
    """Names the format of weights and that of activations."""
    dtype: str
    """Type of scales and of what is not quantized, as torch names it."""
    method: str = "auto"
    smooth: str | float = "auto"
    fp8_attention: bool = False
    """Whether attention itself is quantized as well, where the precision can."""


def decide(site: Site, seen: Mapping[str, Statistics], weights: Sequence[Tensor], rules: Rules) -> Decision:
    """Return how to quantize `site` given what each graph saw and its weights ``[out, C]`` in fp32.

    A site whose columns do not fill the blocks of the format stays high.
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
    """Return the largest channel over the median channel."""
    median = float(np.median(seen.amax))
    return seen.largest / median if median > 0 else 0.0


class _CandidateErrors:
    """Tries quantizations on the kept rows: error of ``x w^T`` over the sampled rows of the weights."""

    def __init__(self, seen: Mapping[str, Statistics], sampled: Tensor, rules: Rules) -> None:
        self._seen = seen
        self._rows = {graph: torch.from_numpy(found.rows) for graph, found in seen.items()}
        self._outputs = {graph: rows @ sampled.T for graph, rows in self._rows.items()}
        self._sampled = sampled
        self._rules = rules

    def error(self, smoothing: Tensor | None) -> float:
        """Return the mean over graphs of the relative error with the whole range kept."""
        weights = self._weights(smoothing)
        found = [self._error(graph, self._range(graph, smoothing), smoothing, weights) for graph in self._seen]
        return float(np.mean(found))

    def clip(self, graph: str, smoothing: Tensor | None) -> Clip:
        """Return the activation quantizer of `graph`: the candidate with the smallest error, or the method's own."""
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
        """Return what stands for an activation quantizer where only weights are quantized: nothing is clipped."""
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
        """Return the counts of the tensor: exact ones, or those of the kept rows where smoothing has changed it."""
        if smoothing is None:
            return self._seen[graph].magnitudes
        counts = Magnitudes()
        counts.add(self._rows[graph] / smoothing)
        return counts

    def _scale(self, limit: float, form: Format) -> float:
        return float(scale_of(torch.tensor(limit), form, self._rules.dtype))


def _unfit(weights: Sequence[Tensor], rules: Rules) -> str:
    """Return why the weights cannot have scales of the format; empty if they can."""
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
    """Return the smoothing vectors that may be chosen, by their alpha, decided over all graphs at once."""
    if site.fold is None or rules.smooth == "off":
        return {"off": None}
    amax = torch.from_numpy(np.max([found.amax for found in seen.values()], axis=0))
    if rules.smooth != "auto":
        return {f"{float(rules.smooth):g}": smoothing_vector(amax, columns, float(rules.smooth))}
    return {"off": None, **{f"{alpha:g}": smoothing_vector(amax, columns, alpha) for alpha in ALPHAS}}


def smoothing_vector(amax: Tensor, columns: Tensor, alpha: float) -> Tensor:
    """Return ``amax^alpha / columns^(1 - alpha)`` around 1 as powers of two: these fold without any rounding.

    Channels that are silent on either side count as a hundred-thousandth of the loudest, so that no factor is 0.
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
