"""A roofline prediction of each step's time: the larger of FLOPs at peak rate and bytes at full bandwidth.

Peak and bandwidth come from the data sheet. Launch overhead and lower efficiency make a device slower than predicted;
a cache between kernels makes it faster for small tensors. The prediction shows which steps limit the time.
"""

from dataclasses import dataclass

from internvl_edge.runtime.inspect.plan.flops import MatrixWork
from internvl_edge.runtime.inspect.plan.traffic import Traffic
from internvl_edge.runtime.targets.data_sheet import DataSheet


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The predicted time of a step; it is not a measurement."""

    predicted_ms: float | None
    bound: str
    """The limit, ``compute`` or ``bandwidth``; "" without a prediction."""
    reason: str
    """Reason why there is no prediction, otherwise ""."""


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
