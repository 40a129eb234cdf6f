"""Where to clip a tensor: the classic rules, each from the counts of its magnitudes."""

import math

import numpy as np

from internvl_edge.calib.ranges.magnitudes import Magnitudes
from internvl_edge.runtime.numbers.formats import Format

METHODS = ("auto", "max", "percentile", "entropy", "mse")
PERCENTILES = (99.9, 99.99, 99.999)
"""The first clips a thousandth; activations of a trained tower seldom gain by less, the last is nearly the maximum."""

_STEPS = 2.0 ** (-np.arange(0, 33) / 8)
"""Candidate thresholds below the maximum: eight per octave, four octaves."""
_ENTROPY_BINS = 2048


def candidates(seen: Magnitudes, largest: float, form: Format, method: str) -> dict[str, float]:
    """Return the thresholds that `method` may choose from, by name; `auto` may choose from all.

    Args:
        seen: Counts of the tensor's magnitudes, or of a sample of it.
        largest: The exact maximum: no threshold exceeds it.
        form: Format to quantize to.
        method: One of `METHODS`.
    """
    found = {"max": largest}
    if method in ("auto", "percentile"):
        found |= {f"percentile {p:g}": seen.quantile(p / 100) for p in PERCENTILES}
    if method in ("auto", "entropy"):
        found["entropy"] = entropy_threshold(seen, form)
    if method in ("auto", "mse"):
        found["mse"] = mse_threshold(seen, form)
    return {name: min(value, largest) for name, value in found.items() if value > 0 or name == "max"}


def default_choice(method: str) -> str:
    """Return the name in `candidates` that `method` stands for where it does not choose by error."""
    return {"percentile": f"percentile {PERCENTILES[1]:g}", "auto": "max"}.get(method, method)


def mse_threshold(seen: Magnitudes, form: Format) -> float:
    """Return the threshold with the smallest mean squared error of the tensor itself."""
    values, counts = seen.seen()
    if seen.largest == 0:
        return 0.0
    limits = seen.largest * _STEPS
    errors = [float((counts * (values - _rounded(values, limit, form)) ** 2).sum()) for limit in limits]
    return float(limits[int(np.argmin(errors))])


def entropy_threshold(seen: Magnitudes, form: Format) -> float:
    """Return the threshold whose quantized distribution is nearest in Kullback-Leibler divergence (TensorRT's rule).

    The codes of a floating-point format are not equally wide, so the distribution is compared over their own cells.
    """
    values, counts = seen.seen()
    if seen.largest == 0:
        return 0.0
    limits = seen.largest * _STEPS
    divergences = [_divergence(values, counts, limit, form) for limit in limits]
    return float(limits[int(np.argmin(divergences))])


def _divergence(values: np.ndarray, counts: np.ndarray, limit: float, form: Format) -> float:
    """Return KL(P || Q): P the clipped distribution in fine bins, Q what is left of it after quantization."""
    edges = np.linspace(0, limit, _ENTROPY_BINS + 1)
    bins = np.minimum(np.searchsorted(edges, values, side="left") - 1, _ENTROPY_BINS - 1).clip(0)
    p = np.bincount(bins, counts, _ENTROPY_BINS)
    inside = np.bincount(bins[values <= limit], counts[values <= limit], _ENTROPY_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    codes = np.unique(_rounded(centres, limit, form), return_inverse=True)[1]
    held, used = np.bincount(codes, inside), np.bincount(codes, inside > 0)
    q = np.where(inside > 0, (held / np.maximum(used, 1))[codes], 0.0)
    return _kullback_leibler(p, q)


def _kullback_leibler(p: np.ndarray, q: np.ndarray) -> float:
    kept = p > 0
    if q.sum() == 0:
        return math.inf
    p, q = p / p.sum(), (q + 1e-9 * q.sum()) / (q.sum() * (1 + 1e-9 * q.size))
    return float((p[kept] * np.log(p[kept] / q[kept])).sum())


def _rounded(values: np.ndarray, limit: float, form: Format) -> np.ndarray:
    """Return magnitudes quantized with their largest code at `limit`."""
    scaled = np.minimum(values / (limit / form.largest), form.largest)
    if form.mantissa_bits is None:
        rounded: np.ndarray = np.rint(scaled)
    else:
        exponent = np.floor(np.log2(np.maximum(scaled, 2.0**form.smallest_exponent)))
        step = 2.0 ** (exponent - form.mantissa_bits)
        rounded = np.rint(scaled / step) * step
    return rounded * (limit / form.largest)
