"""A plan's X-ray beside its measured time, as figures of the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from internvl_edge.runtime.inspect.xray.xray_report import xray
from internvl_edge.runtime.targets.data_sheet import Target
from tests.gpu.agree import Record

LEAST_RATIO = 0.5
"""Of measured to predicted time. A roofline is a lower bound of a device without caches that runs at its sheet's
clock; tensors that stay in the L2 cache and boosted clocks can undercut it, but not by half."""


def record_prediction(
    plan: Path, target: Target, sizes: Mapping[str, Sequence[int]], profile: int, measured_ms: float, record: Record
) -> float | None:
    """Record what the X-ray of `plan` predicts on `target` at `sizes`; return measured over predicted time.

    None: `target` has no data sheet, so that launches and bytes alone are recorded.
    """
    found = xray(plan, target=target, sizes=sizes, profile=profile)
    record("launches", found.total.launches)
    record("weight_bytes", found.total.weight_bytes)
    record("activation_bytes", found.total.bytes - found.total.weight_bytes)
    record("measured_ms", measured_ms)
    if found.total.predicted_ms is None:
        record("predicted_ms", f"none: {target.name} has no data sheet")
        return None
    ratio = measured_ms / found.total.predicted_ms
    record("predicted_ms", found.total.predicted_ms)
    record("ratio", ratio)
    return ratio
