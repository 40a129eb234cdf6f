"""A prediction of each step's time from a data sheet: the larger of arithmetic at peak and bytes at full bandwidth.

Nothing else goes in: no launch overhead and no efficiency below the sheet's, which make a device slower than this, and
no cache between kernels, which makes it faster where tensors are small. What it tells is where the time must go.
"""

from dataclasses import dataclass

from internvl_edge.runtime.inspect.plan.flops import MatrixWork
from internvl_edge.runtime.inspect.plan.traffic import Traffic
from internvl_edge.runtime.targets.data_sheet import DataSheet


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The time of a step by the data sheet; never a measurement."""

    predicted_ms: float | None
    bound: str
    """``compute`` or ``bandwidth``; "" where nothing is predicted."""
    reason: str
    """Why nothing is predicted, else ""."""


def predict(traffic: Traffic | None, work: MatrixWork | None, sheet: DataSheet | None) -> Prediction:
    """Return the prediction for a step of `traffic` and `work` on the device of `sheet`."""
    if sheet is None:
        return _none("the target has no data sheet")
    if traffic is None:
        return _none("its bytes are not readable")
    if work is None:
        return _none("its FLOPs are not readable")
    bandwidth_ms = traffic.bytes / (sheet.bandwidth_gb_s * 1e9) * 1e3
    if work.flops == 0:
        return Prediction(predicted_ms=bandwidth_ms, bound="bandwidth", reason="")
    peak = sheet.tflops.get(work.dtype)
    if peak is None:
        return _none(f"the data sheet has no peak for {work.dtype}")
    compute_ms = work.flops / (peak * 1e12) * 1e3
    bound = "compute" if compute_ms > bandwidth_ms else "bandwidth"
    return Prediction(predicted_ms=max(compute_ms, bandwidth_ms), bound=bound, reason="")


def _none(reason: str) -> Prediction:
    return Prediction(predicted_ms=None, bound="", reason=reason)
