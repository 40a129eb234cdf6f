"""Clipping thresholds of a tensor by the usual methods, from the histogram of its magnitudes."""

import math

import numpy as np

from internvl_edge.calib.ranges.magnitudes import Magnitudes
from internvl_edge.runtime.numbers.formats import Format

METHODS = ("auto", "max", "percentile", "entropy", "mse")
PERCENTILES = (99.9, 99.99, 99.999)
"""Percentiles that are tried as thresholds.

The first clips a thousandth of the values, and activations of a trained tower seldom gain by clipping more; the last
is nearly the maximum.
"""

_STEPS = 2.0 ** (-np.arange(0, 33) / 8)
"""Candidate thresholds as shares of the maximum: eight in an octave, over four octaves."""
_ENTROPY_BINS = 2048
"""Number of bins in which distributions are compared, from 0 to the threshold."""


def unknown_method(name: str) -> list[str]:
    """Return what is wrong with the value `name` of --method: one finding if there is no such method, or none."""
    return [] if name in METHODS else [f"--method {name}: unknown; choose from {', '.join(METHODS)}"]


def candidates(seen: Magnitudes, largest: float, form: Format, method: str) -> dict[str, float]:
    """Return the candidate thresholds of `method` by name; those of `auto` are the candidates of all methods.

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
    """Return the name of the candidate that `method` takes where candidates are not compared by their error."""
    return {"percentile": f"percentile {PERCENTILES[1]:g}", "auto": "max"}.get(method, method)


def mse_threshold(seen: Magnitudes, form: Format) -> float:
    """Return the threshold with the smallest mean squared error of the quantized tensor; 0 for a tensor of zeros."""
    values, counts = seen.seen()
    if seen.largest == 0:
        return 0.0
    limits = seen.largest * _STEPS
    errors = [float((counts * (values - _rounded(values, limit, form)) ** 2).sum()) for limit in limits]
    return float(limits[int(np.argmin(errors))])


def entropy_threshold(seen: Magnitudes, form: Format) -> float:
    """Return the threshold with the smallest Kullback-Leibler divergence after quantization; 0 for a tensor of zeros.

    This is the rule of TensorRT's entropy calibrator. The codes of a floating-point format are not equally spaced, so
    the values that share a code are found by rounding.
    """
    values, counts = seen.seen()
    if seen.largest == 0:
        return 0.0
    limits = seen.largest * _STEPS
    divergences = [_divergence(values, counts, limit, form) for limit in limits]
    return float(limits[int(np.argmin(divergences))])


def _divergence(values: np.ndarray, counts: np.ndarray, limit: float, form: Format) -> float:
    """Return KL(P || Q) of the clipped distribution P in fine bins and its quantized distribution Q."""
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
    """Return magnitudes rounded to the codes of `form` whose largest stands for `limit`."""
    scaled = np.minimum(values / (limit / form.largest), form.largest)
    if form.mantissa_bits is None:
        rounded: np.ndarray = np.rint(scaled)
    else:
        exponent = np.floor(np.log2(np.maximum(scaled, 2.0**form.smallest_exponent)))
        step = 2.0 ** (exponent - form.mantissa_bits)
        rounded = np.rint(scaled / step) * step
    return rounded * (limit / form.largest)
