"""The type in which calibration multiplies."""

import pytest

from internvl_edge.calib import measure_ranges


@pytest.mark.parametrize("bf16", [False, True])
def test_auto_is_bf16_where_the_processor_multiplies_it(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_ranges, "multiplies_bf16", lambda: bf16)
    assert measure_ranges.compute_type("auto") == ("bfloat16" if bf16 else "float32")
    assert measure_ranges.compute_type("fp32") == "float32"
    assert measure_ranges.compute_type("bf16") == "bfloat16"
