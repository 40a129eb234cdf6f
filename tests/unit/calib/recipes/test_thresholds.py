"""Each rule for a threshold, checked by its own criterion computed another way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from internvl_edge.calib.formats import fake_quantize
from internvl_edge.calib.ranges.magnitudes import Magnitudes
from internvl_edge.calib.recipes import thresholds
from internvl_edge.calib.recipes.thresholds import (
    METHODS,
    PERCENTILES,
    candidates,
    default_choice,
    entropy_threshold,
    mse_threshold,
)
from internvl_edge.runtime.numbers.formats import INT8, QUANTIZED, Format

BF16_RELATIVE = 2.0**-8
both = pytest.mark.parametrize("form", [row.weights for row in QUANTIZED.values()], ids=list(QUANTIZED))


def counted(x: np.ndarray) -> Magnitudes:
    seen = Magnitudes()
    seen.add(torch.from_numpy(x))
    return seen


def squared_error(x: np.ndarray, threshold: float, form: Format) -> float:
    """Return what the format itself makes of the tensor as it was counted, in bf16."""
    values = torch.from_numpy(x).bfloat16().double()
    return float((fake_quantize(values, torch.tensor(threshold / form.largest).double(), form) - values).square().sum())


def divergence(x: np.ndarray, threshold: float) -> float:
    """Return KL(P || Q) for INT8 as TensorRT describes it: 2048 bins, the clipped ones in the last, 128 levels."""
    magnitudes = np.abs(x)
    inside = np.histogram(magnitudes, 2048, (0, threshold))[0].astype(float)
    reference = inside.copy()
    reference[-1] += (magnitudes > threshold).sum()
    quantized = np.zeros(2048)
    for level in np.split(np.arange(2048), 128):
        used = level[inside[level] > 0]
        quantized[used] = inside[level].sum() / max(1, used.size)
    p, q = reference / reference.sum(), (quantized + 1e-9) / (quantized + 1e-9).sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@both
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(
    x=arrays(
        np.float32, st.integers(1, 50), elements=st.floats(-60000, 60000, width=32).map(lambda v: np.float32(v**3))
    )
)
def test_no_threshold_exceeds_the_maximum(method: str, form: Format, x: np.ndarray) -> None:
    largest = float(np.abs(x).max())
    found = candidates(counted(x), largest, form, method)
    assert found["max"] == largest
    assert all(0 < value <= largest for name, value in found.items() if name != "max")


@both
@pytest.mark.parametrize("method", METHODS)
def test_a_silent_tensor_has_only_its_maximum(method: str, form: Format) -> None:
    assert candidates(counted(np.zeros(7, np.float32)), 0.0, form, method) == {"max": 0.0}


def test_auto_may_choose_from_all(heavy_tailed: np.ndarray) -> None:
    seen, largest = counted(heavy_tailed), float(np.abs(heavy_tailed).max())
    found = candidates(seen, largest, INT8, "auto")
    for method in set(METHODS) - {"auto"}:
        single = candidates(seen, largest, INT8, method)
        assert single.items() <= found.items()
        assert default_choice(method) in single
    assert default_choice("auto") == "max"
    assert len(found) == len(set(found.values())) == len(PERCENTILES) + 3


def test_percentiles_are_those_of_numpy(heavy_tailed: np.ndarray) -> None:
    found = candidates(counted(heavy_tailed), float(np.abs(heavy_tailed).max()), INT8, "percentile")
    for percentile in PERCENTILES:
        wanted = np.percentile(np.abs(heavy_tailed), percentile, method="inverted_cdf")
        assert found[f"percentile {percentile:g}"] == pytest.approx(wanted, rel=BF16_RELATIVE)


@both
def test_mse_finds_the_least_squared_error_of_its_grid(heavy_tailed: np.ndarray, form: Format) -> None:
    seen = counted(heavy_tailed)
    found = squared_error(heavy_tailed, mse_threshold(seen, form), form)
    others = [squared_error(heavy_tailed, seen.largest * 2.0 ** (-step / 8), form) for step in range(33)]
    assert found == pytest.approx(min(others), rel=1e-6)
    if form.name == "int8":  # FP8 has the range, and gains little by clipping
        assert found < 0.75 * others[0]


def test_entropy_is_nearer_in_divergence_than_the_maximum(heavy_tailed: np.ndarray) -> None:
    seen = counted(heavy_tailed)
    found = entropy_threshold(seen, INT8)
    assert seen.quantile(0.99) < found < seen.largest
    assert divergence(heavy_tailed, found) < 0.5 * divergence(heavy_tailed, seen.largest)


@both
def test_nothing_is_clipped_where_nothing_stands_out(uniform: np.ndarray, form: Format) -> None:
    seen = counted(uniform)
    assert mse_threshold(seen, form) == seen.largest
    assert entropy_threshold(seen, form) == seen.largest


@both
@pytest.mark.parametrize("rule", [mse_threshold, entropy_threshold])
def test_a_threshold_scales_with_its_tensor(rule, form: Format, heavy_tailed: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    small = heavy_tailed[:5000]
    assert rule(counted(small * np.float32(2.0**20)), form) == rule(counted(small), form) * 2.0**20


def test_divergence_is_that_of_shares(rng: np.random.Generator) -> None:
    p, q = rng.uniform(1, 5, 64), rng.uniform(1, 5, 64)
    share, other = p / p.sum(), q / q.sum()
    assert thresholds._kullback_leibler(p, 7 * p) == pytest.approx(0, abs=1e-9)
    assert thresholds._kullback_leibler(p, q) == pytest.approx((share * np.log(share / other)).sum(), abs=1e-6)
    assert thresholds._kullback_leibler(p, 0 * q) == np.inf
