"""Predict the memory and the time of a build from the bytes of its weights.

The factors were measured with `benchmarks/build_scale.py` on TensorRT-RTX; other libraries differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from internvl_edge.runtime.byte_sizes import bytes_text
from internvl_edge.runtime.errors import EngineError

_BASE_BYTES = 700 << 20
"""Host bytes of the library itself, before a weight is read."""
_HOST_PER_WEIGHT = 2.1
"""Host bytes of a build for each byte of weights: as parsed, as packed for the kernels, and in part once more."""

_BASE_SECONDS = 3.0
"""Seconds to load the library, parse a graph and choose kernels, whatever its weights."""
_BYTES_PER_SECOND = 120e6
"""Bytes of weights that a build reads, packs and writes in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a build; None for no limit."""

    host_bytes: int | None = None


def host_peak_bytes(weight_bytes: int) -> int:
    """Return the resident memory that building a part with `weight_bytes` of weights is predicted to take."""
    return _BASE_BYTES + round(_HOST_PER_WEIGHT * weight_bytes)


def plan_seconds(weight_bytes: int) -> float:
    """Return the seconds that building a plan with `weight_bytes` of weights is predicted to take."""
    return _BASE_SECONDS + weight_bytes / _BYTES_PER_SECOND


def part_bytes(limits: Limits) -> int | None:
    """Return the most bytes of weights of one part within `limits`; None without limits."""
    if limits.host_bytes is None:
        return None
    return max(1, round((limits.host_bytes - _BASE_BYTES) / _HOST_PER_WEIGHT))


def require_room(limits: Limits, smallest: Mapping[str, int], what: str, remedy: str) -> None:
    """Check that the smallest parts of each graph can be built within `limits`.

    `smallest` has the bytes of weights of the largest part of each graph that cannot be split; `what` names it.

    Raises:
        EngineError: the limits are too low for some graphs, which are named with a sufficient limit.
    """
    if limits.host_bytes is None:
        return
    needed = {name: host_peak_bytes(weights) for name, weights in smallest.items()}
    wrong = {name: size for name, size in needed.items() if size > limits.host_bytes}
    if wrong:
        listed = ", ".join(f"{name} {bytes_text(size)}" for name, size in wrong.items())
        raise EngineError(
            f"--max-host-mem {bytes_text(limits.host_bytes)}: building {what} is predicted to take more ({listed}); "
            f"give {bytes_text(max(wrong.values()))} or more, {remedy}"
        )
