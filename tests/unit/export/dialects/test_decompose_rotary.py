"""RotaryEmbedding written out, packed and per head; rows of the tables are gathered once."""

import numpy as np
import pytest

from internvl_edge.export.dialects.decompose_rotary import DecomposeRotaryPass
from tests.unit.export.dialects.small_graphs import ops, require_same_outputs, require_untouched

PER_HEAD = """g (float[b, 2, n, 4] q, float[b, 2, n, 4] k, float[16, 2] c, float[16, 2] s, int64[b, n] p)
=> (float[b, 2, n, 4] x, float[b, 2, n, 4] y) {
  [attn_q] x = RotaryEmbedding(q, c, s, p)
  [attn_k] y = RotaryEmbedding(k, c, s, p)
}"""
PACKED = PER_HEAD.replace("b, 2, n, 4", "b, n, 8").replace("RotaryEmbedding(", "RotaryEmbedding<num_heads = 2>(")


def feeds(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    angles = rng.normal(size=(16, 2)).astype(np.float32)
    found = {name: rng.normal(size=shape).astype(np.float32) for name in "qk"}
    return found | {"c": np.cos(angles), "s": np.sin(angles), "p": rng.integers(0, 16, (3, 5))}


def test_heads_apart(rng: np.random.Generator) -> None:
    model = require_same_outputs(PER_HEAD, DecomposeRotaryPass(), feeds(rng, 3, 2, 5, 4))
    assert ops(model).count("Gather") == 2  # cosine and sine, for q and k together
    assert "Reshape" not in ops(model)


def test_heads_packed(rng: np.random.Generator) -> None:
    model = require_same_outputs(PACKED, DecomposeRotaryPass(), feeds(rng, 3, 5, 8))
    assert ops(model).count("Gather") == 2
    assert ops(model).count("Reshape") == 4


def test_other_positions_are_gathered_apart(rng: np.random.Generator) -> None:
    text = PER_HEAD.replace("int64[b, n] p)", "int64[b, n] p, int64[b, n] r)").replace("(k, c, s, p)", "(k, c, s, r)")
    both = feeds(rng, 3, 2, 5, 4) | {"r": rng.integers(0, 16, (3, 5))}
    assert ops(require_same_outputs(text, DecomposeRotaryPass(), both)).count("Gather") == 4


@pytest.mark.parametrize("attribute", ["interleaved = 1", "rotary_embedding_dim = 2"])
def test_other_layouts_stay(attribute: str) -> None:
    require_untouched(PER_HEAD.replace("RotaryEmbedding(", f"RotaryEmbedding<{attribute}>("), DecomposeRotaryPass())


def test_angles_of_each_row_need_no_table(rng: np.random.Generator) -> None:
    """As in a language model, whose angles follow from its positions."""
    text = PER_HEAD.replace("[16, 2]", "[b, n, 2]").replace(", int64[b, n] p)", ")").replace(", s, p)", ", s)")
    given = feeds(rng, 3, 2, 5, 4)
    angles = rng.normal(size=(3, 5, 2)).astype(np.float32)
    values = {"q": given["q"], "k": given["k"], "c": np.cos(angles), "s": np.sin(angles)}
    found = ops(require_same_outputs(text, DecomposeRotaryPass(), values))
    assert "Gather" not in found
    assert found.count("Unsqueeze") == 2
