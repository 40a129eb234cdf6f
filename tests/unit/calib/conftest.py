"""The samples that the tests of this room share."""

import numpy as np
import pytest


@pytest.fixture
def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    """Student's t with 3 degrees of freedom: one value in a thousand is far from all others, as in a trained tower."""
    return rng.standard_t(3, 100_000).astype(np.float32)


@pytest.fixture
def uniform(rng: np.random.Generator) -> np.ndarray:
    """Nothing to clip: every magnitude up to the largest is as frequent as any other."""
    return rng.uniform(-1, 1, 100_000).astype(np.float32)
