"""Gelu written out by Erf; the one by tanh is another function."""

import numpy as np

from internvl_edge.export.dialects.decompose_gelu import DecomposeGeluPass
from tests.unit.export.dialects.small_graphs import ops, require_same_outputs, require_untouched

GELU = "g (float[b, 64] x) => (float[b, 64] y) { [act] y = Gelu(x) }"


def test_gelu_in_fp32(rng: np.random.Generator) -> None:
    model = require_same_outputs(GELU, DecomposeGeluPass(), {"x": (3 * rng.normal(size=(4, 64))).astype(np.float32)})
    assert ops(model) == ["Div", "Erf", "Mul", "Add", "Mul"]
    assert model.graph[-1].name == "act"


def test_fp16_is_computed_in_fp32(rng: np.random.Generator) -> None:
    """In the tail 1 + erf cancels: fp16 would leave nothing of GELU(-3) = -0.00405."""
    x = np.concatenate([np.full((1, 64), -3), 3 * rng.normal(size=(3, 64))]).astype(np.float16)
    model = require_same_outputs(GELU.replace("float[", "float16["), DecomposeGeluPass(), {"x": x}, 2**-7)
    assert ops(model) == ["Cast", "Div", "Erf", "Mul", "Add", "Mul", "Cast"]
    from tests.unit.export.dialects.small_graphs import run

    np.testing.assert_allclose(run(model, {"x": x})[0][0], -0.00405, rtol=2e-3)


def test_gelu_by_tanh_stays() -> None:
    require_untouched(GELU.replace("Gelu(", 'Gelu<approximate = "tanh">('), DecomposeGeluPass())
