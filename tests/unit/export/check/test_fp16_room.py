"""fp16 is taken where the largest value times the required headroom is within its range."""

import pytest
import torch

from internvl_edge.export.check.fp16_room import LargestValues, fitting_dtype
from internvl_edge.export.numerics.reach import HEADROOM

LIMIT = 65504 / HEADROOM


@pytest.mark.parametrize(("largest", "dtype"), [(LIMIT, "fp16"), (LIMIT * 1.001, "bf16"), (3.0e38, "bf16")])
def test_the_largest_value_decides(largest: float, dtype: str) -> None:
    found, reason = fitting_dtype({"a.norm": 3.0, "a.down_proj": largest})
    assert found == dtype
    assert reason.endswith("that fp16 holds, before a.down_proj")
    assert f"reach {largest:.3g} of 65504" in reason


def test_the_largest_input_of_each_part_is_kept_and_ids_are_none() -> None:
    values = LargestValues()
    record = values.recorders({"a": None, "b": None})
    x = torch.tensor([1.0, -7.0])
    assert record["a"](x) is x
    record["a"](torch.tensor([2.0]))
    record["b"](torch.tensor([9]))
    record["b"](torch.zeros(0))
    assert values.of == {"a": 7.0}
