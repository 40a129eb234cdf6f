"""Predict what a build takes and what a plan needs, from the bytes of its weights: predictions, named so.

The factors were measured with `benchmarks/build_scale.py` on TensorRT-RTX; other libraries differ.
"""

from dataclasses import dataclass

_BASE_BYTES = 700 << 20
"""The library itself, before a weight is read."""
_HOST_PER_WEIGHT = 2.1
"""Host bytes while building for each byte of weights: as parsed, as packed for the kernels, and in part once more."""

_BASE_SECONDS = 3.0
"""To load the library, parse a graph and choose kernels, before weights count."""
_BYTES_PER_SECOND = 120e6
"""Weights that a build reads, packs and writes in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a build and its plans may take; None does not limit."""

    host_bytes: int | None = None
    device_bytes: int | None = None


def host_peak_bytes(weight_bytes: int) -> int:
    """Return the resident memory that building a part with `weight_bytes` of weights is predicted to take."""
    return _BASE_BYTES + round(_HOST_PER_WEIGHT * weight_bytes)


def plan_seconds(weight_bytes: int) -> float:
    """Return the seconds that building a plan with `weight_bytes` of weights is predicted to take."""
    return _BASE_SECONDS + weight_bytes / _BYTES_PER_SECOND


def part_bytes(limits: Limits) -> int | None:
    """Return the most weights that one part may hold within `limits`; None where nothing limits."""
    found = []
    if limits.host_bytes is not None:
        found.append(round((limits.host_bytes - _BASE_BYTES) / _HOST_PER_WEIGHT))
    if limits.device_bytes is not None:
        found.append(limits.device_bytes)
    return max(1, min(found)) if found else None
