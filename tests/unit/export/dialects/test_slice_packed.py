"""Packed q, k, v by slices."""

import numpy as np

from internvl_edge.export.dialects.slice_packed import SlicePackedPass
from tests.unit.export.dialects.small_graphs import ops, require_same_outputs, require_untouched

SPLIT = """g (float[b, n, 12] x) => (float[b, n, 4] q, float[b, n, 4] k, float[b, n, 4] v) {
  [qkv] q, k, v = Split<axis = 2, num_outputs = 3>(x)
}"""


def test_equal_parts(rng: np.random.Generator) -> None:
    model = require_same_outputs(SPLIT, SlicePackedPass(), {"x": rng.normal(size=(2, 3, 12)).astype(np.float32)})
    assert ops(model) == ["Slice"] * 3


def test_parts_of_stated_sizes_stay() -> None:
    text = SPLIT.replace("12] x)", "12] x, int64[3] sizes)").replace(", num_outputs = 3>(x)", ">(x, sizes)")
    require_untouched(text, SlicePackedPass())


def test_an_axis_of_unknown_size_stays() -> None:
    require_untouched(SPLIT.replace("12]", "w]").replace("4]", "p]"), SlicePackedPass())
