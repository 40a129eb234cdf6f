"""RMSNormalization written out: fp32 statistics whatever the type, and what is left alone."""

import numpy as np
import pytest

from internvl_edge.export.dialects.decompose_norms import DecomposeNormsPass
from tests.unit.export.dialects.small_graphs import ops, require_same_outputs, require_untouched

NORM = """g (float[b, n, 8] x, float[8] gain) => (float[b, n, 8] y) {
  [norm] y = RMSNormalization<epsilon = 1e-6>(x, gain)
}"""
PLAIN = ["Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]


def test_a_norm_in_fp32(rng: np.random.Generator) -> None:
    feeds = {"x": rng.normal(size=(2, 3, 8)).astype(np.float32), "gain": rng.normal(size=8).astype(np.float32)}
    model = require_same_outputs(NORM, DecomposeNormsPass(), feeds)
    assert ops(model) == PLAIN
    assert model.graph[-1].name == "norm"


def test_statistics_of_fp16_are_fp32(rng: np.random.Generator) -> None:
    """Squares of 300 overflow fp16; the mean of them must not."""
    feeds = {"x": (300 * rng.normal(size=(2, 3, 8))).astype(np.float16), "gain": np.ones(8, np.float16)}
    half = 2**-10  # values reach 3: one unit in the last place of fp16 there
    model = require_same_outputs(NORM.replace("float[", "float16["), DecomposeNormsPass(), feeds, 2 * half)
    assert ops(model) == ["Cast", *PLAIN[:-1], "Cast", "Mul"]


def test_epsilon_is_the_operators_own_default(rng: np.random.Generator) -> None:
    feeds = {"x": (1e-3 * rng.normal(size=(2, 3, 8))).astype(np.float32), "gain": np.ones(8, np.float32)}
    require_same_outputs(NORM.replace("<epsilon = 1e-6>", ""), DecomposeNormsPass(), feeds)


@pytest.mark.parametrize(
    "text",
    [
        NORM.replace("epsilon = 1e-6", "axis = 1, epsilon = 1e-6").replace("float[8]", "float[n, 8]"),
        NORM.replace("epsilon = 1e-6", "stash_type = 10, epsilon = 1e-6"),
        NORM.replace("RMSNormalization", "LayerNormalization"),
    ],
)
def test_other_norms_stay(text: str) -> None:
    require_untouched(text, DecomposeNormsPass())
