"""Plans against ONNX Runtime: how far apart, and whether that is near enough."""

from collections.abc import Callable, Mapping

import numpy as np

from tests.tolerances import FP16_RELATIVE, PLAN_8BIT_RELATIVE

Record = Callable[[str, object], None]
"""pytest's `record_property`: a figure for the report."""


def relative_differences(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the largest difference of each output, as a share of the largest value expected of it."""
    shares = {}
    for name, wanted in expected.items():
        wide = wanted.astype(np.float32)
        largest = float(np.abs(wide).max()) or 1.0
        shares[name] = float(np.abs(found[name].astype(np.float32) - wide).max()) / largest
    return shares


def require_agreement(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], precision: str, record: Record
) -> None:
    """Hold all outputs against ONNX Runtime's within the bound of `precision`; record the worst one."""
    shares = relative_differences(found, expected)
    bound = FP16_RELATIVE if precision == "fp16" else PLAN_8BIT_RELATIVE
    worst = max(shares, key=lambda name: np.nan_to_num(shares[name], nan=np.inf))
    record("worst_output", worst)
    record("largest_relative_difference", shares[worst])
    beyond = {name: share for name, share in shares.items() if not share <= bound}
    assert not beyond, f"further from ONNX Runtime than {bound} of the largest value: {beyond}"
