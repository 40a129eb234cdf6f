"""Decisions on sites whose trouble was planted: what is smoothed, clipped or kept high, and why."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from internvl_edge.calib.formats import fake_quantize
from internvl_edge.calib.recipes.decide import KEEP_HIGH_DB, Decision, Rules, decide, outlier_ratio, smoothing_vector
from internvl_edge.calib.sites import NormFold, RowFold
from internvl_edge.runtime.numbers.formats import INT8, QUANTIZED, Format
from tests.unit.calib.observed import observed, site

CHANNELS = 64
NORM = NormFold(parameters=("norm.weight",))
both = pytest.mark.parametrize("form", [row.weights for row in QUANTIZED.values()], ids=list(QUANTIZED))


@pytest.fixture
def weight(rng: np.random.Generator) -> torch.Tensor:
    """``[96, C]``."""
    return torch.from_numpy(rng.normal(size=(96, CHANNELS)).astype(np.float32))


@pytest.fixture
def plain(rng: np.random.Generator) -> np.ndarray:
    """Rows ``[400, C]`` without any outlier."""
    return rng.normal(size=(400, CHANNELS)).astype(np.float32)


@pytest.fixture
def outlier_channels(plain: np.ndarray) -> np.ndarray:
    """Three channels three hundred times as large as the others."""
    plain[:, [3, 17, 40]] *= 300
    return plain


@pytest.fixture
def outlier_values(plain: np.ndarray) -> np.ndarray:
    """Two values, each in its own channel, are ten times as large as any other."""
    plain[[7, 300], [11, 50]] = [40, -40]
    return plain


@pytest.fixture
def deaf(weight: torch.Tensor) -> torch.Tensor:
    """Weights that hardly read the two channels: what is clipped there does not count."""
    weight[:, [11, 50]] /= 100
    return weight


def rules(form: Format = INT8, **changes: object) -> Rules:
    return Rules(precision=QUANTIZED[form.name], dtype="float32", **changes)  # type: ignore[arg-type]


def decided(
    rows: np.ndarray, weight: torch.Tensor, fold: NormFold | RowFold | None, asked: Rules | None = None
) -> Decision:
    return decide(
        site("block.fc", CHANNELS, fold), {"vision": observed(rows, kept_per_batch=200)}, [weight], asked or rules()
    )


def output_sqnr_db(rows: np.ndarray, weight: torch.Tensor, decision: Decision, form: Format) -> float:
    """Return the SQNR of the linear on all rows, written out anew."""
    x, w = torch.from_numpy(rows).double(), weight.double()
    wanted = x @ w.T
    if decision.smoothing is not None:
        vector = torch.from_numpy(decision.smoothing).double()
        x, w = x / vector, w * vector
    scale = w.abs().amax(dim=1, keepdim=True) / form.largest
    found = (
        fake_quantize(x, torch.tensor(decision.clips["vision"].scale).double(), form).double()
        @ fake_quantize(w, scale, form).double().T
    )
    return float(10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()))


class TestOutlierChannels:
    @pytest.mark.parametrize("fold", [NORM, RowFold(weight="v.weight", start=4)])
    def test_are_smoothed_where_something_takes_the_factor(
        self, outlier_channels: np.ndarray, weight: torch.Tensor, fold: NormFold | RowFold
    ) -> None:
        found = decided(outlier_channels, weight, fold)
        assert (found.quantized, found.prescription, found.reason) == (True, "smooth", "a linear of a block")
        assert found.smoothing is not None
        assert found.alpha is not None
        usual = np.median(found.smoothing)
        assert (found.smoothing[[3, 17, 40]] >= 16 * usual).all()
        assert found.smoothing_errors[f"{found.alpha:g}"] == min(found.smoothing_errors.values())
        off = decided(outlier_channels, weight, fold, rules(smooth="off"))
        without = output_sqnr_db(outlier_channels, weight, off, INT8)
        assert output_sqnr_db(outlier_channels, weight, found, INT8) > without

    def test_smoothing_saves_what_the_quiet_channels_say(self, outlier_channels: np.ndarray, rng) -> None:  # type: ignore[no-untyped-def]
        """The weights undo the outliers, as after a function-preserving change of scale: all channels count alike."""
        weight = rng.normal(size=(96, CHANNELS)).astype(np.float32)
        weight[:, [3, 17, 40]] /= 300
        weights = torch.from_numpy(weight)
        off = decided(outlier_channels, weights, NORM, rules(smooth="off"))
        found = decided(outlier_channels, weights, NORM)
        assert output_sqnr_db(outlier_channels, weights, off, INT8) < KEEP_HIGH_DB
        assert output_sqnr_db(outlier_channels, weights, found, INT8) > 35
        assert found.sqnr_db == pytest.approx(output_sqnr_db(outlier_channels, weights, found, INT8), abs=1)
        assert not off.quantized
        assert off.prescription == "keep high"
        assert off.reason == f"output SQNR {off.sqnr_db:.1f} dB, below {KEEP_HIGH_DB:g} dB"

    def test_without_a_fold_the_site_is_kept_high_for_a_stated_reason(
        self, outlier_channels: np.ndarray, rng: np.random.Generator
    ) -> None:
        weight = rng.normal(size=(96, CHANNELS)).astype(np.float32)
        weight[:, [3, 17, 40]] /= 300
        found = decided(outlier_channels, torch.from_numpy(weight), None)
        assert (found.quantized, found.prescription) == (False, "keep high")
        assert found.smoothing is None
        assert list(found.smoothing_errors) == ["off"]
        assert found.reason == f"output SQNR {found.sqnr_db:.1f} dB, below 14 dB"

    @both
    def test_smoothing_keeps_the_product_bit_for_bit(
        self, outlier_channels: np.ndarray, weight: torch.Tensor, form: Format
    ) -> None:
        found = decided(outlier_channels, weight, NORM, rules(form, smooth=0.5))
        assert found.smoothing is not None
        assert found.smoothing.dtype == np.float32
        assert (np.frexp(found.smoothing)[0] == 0.5).all(), "powers of two"
        x, w = torch.from_numpy(outlier_channels), weight
        vector = torch.from_numpy(found.smoothing)
        assert torch.equal((x / vector) * vector, x)
        assert torch.equal((x / vector).double() @ (w * vector).double().T, x.double() @ w.double().T)


class TestOutlierValues:
    def test_are_clipped_where_nothing_folds(self, outlier_values: np.ndarray, deaf: torch.Tensor) -> None:
        found = decided(outlier_values, deaf, None)
        clip = found.clips["vision"]
        assert (found.quantized, found.prescription) == (True, "clip")
        assert clip.method != "max"
        assert clip.threshold < 10
        assert clip.scale == pytest.approx(clip.threshold / 127)
        assert clip.errors[clip.method] == min(clip.errors.values()) < clip.errors["max"] / 1.26
        assert clip.clipped_share == pytest.approx((np.abs(outlier_values) > clip.threshold).mean(), abs=2e-5)
        assert 0 < clip.clipped_share < 1e-2

    def test_are_kept_by_the_method_that_keeps_all(self, outlier_values: np.ndarray, deaf: torch.Tensor) -> None:
        clip = decided(outlier_values, deaf, None, rules(method="max")).clips["vision"]
        assert (clip.threshold, clip.method, clip.clipped_share) == (40.0, "max", 0.0)

    @pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
    def test_are_treated_as_the_method_says(self, outlier_values: np.ndarray, deaf: torch.Tensor, method: str) -> None:
        clip = decided(outlier_values, deaf, None, rules(method=method)).clips["vision"]
        assert clip.method.startswith(method)
        assert set(clip.errors) >= {"max", clip.method}
        automatic = decided(outlier_values, deaf, None).clips["vision"]
        assert automatic.errors[automatic.method] <= clip.errors[clip.method] * (1 + 1e-6)


class TestSmoothing:
    def test_off_is_respected(self, outlier_channels: np.ndarray, weight: torch.Tensor) -> None:
        found = decided(outlier_channels, weight, NORM, rules(smooth="off"))
        assert (found.alpha, found.smoothing) == (None, None)
        assert list(found.smoothing_errors) == ["off"]

    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_a_given_alpha_is_taken_even_where_it_does_not_pay(
        self, plain: np.ndarray, weight: torch.Tensor, alpha: float
    ) -> None:
        found = decided(plain, weight, NORM, rules(smooth=alpha))
        wanted = smoothing_vector(torch.from_numpy(np.abs(plain).max(axis=0)), weight.abs().amax(dim=0), alpha)
        assert found.alpha == alpha
        np.testing.assert_array_equal(found.smoothing, wanted)

    def test_tame_activations_need_nothing(self, plain: np.ndarray, weight: torch.Tensor) -> None:
        found = decided(plain, weight, NORM)
        assert (found.quantized, found.prescription) == (True, "none")
        assert found.sqnr_db > 30

    def test_one_vector_is_decided_over_all_graphs_and_the_worst_tells(
        self, plain: np.ndarray, weight: torch.Tensor
    ) -> None:
        loud = plain.copy()
        loud[:, 5] *= 200
        seen = {"text": observed(plain * 4), "query": observed(loud)}
        found = decide(site("block.fc", CHANNELS, NORM), seen, [weight, weight / 7], rules())
        assert found.smoothing is not None
        assert found.smoothing[5] > 4 * np.median(found.smoothing), "one graph alone makes the channel an outlier"
        assert set(found.clips) == {"text", "query"}
        assert found.clips["text"].threshold != found.clips["query"].threshold
        assert found.sqnr_db == min(clip.sqnr_db for clip in found.clips.values())
        for graph, clip in found.clips.items():
            assert clip.threshold <= (seen[graph].amax / found.smoothing).max()

    @settings(max_examples=60)
    @given(
        amax=arrays(np.float32, 9, elements=st.floats(0, 1e5, width=32)),
        columns=arrays(np.float32, 9, elements=st.floats(0, 100, width=32)),
        alpha=st.floats(0, 1),
    )
    def test_a_vector_is_powers_of_two_around_one(self, amax: np.ndarray, columns: np.ndarray, alpha: float) -> None:
        found = smoothing_vector(torch.from_numpy(amax), torch.from_numpy(columns), alpha).numpy()
        assert (np.frexp(found)[0] == 0.5).all()
        assert np.median(found) == 1
        assert (found >= 2.0**-18).all()
        assert (found <= 2.0**18).all()

    def test_alpha_one_levels_the_activation_and_zero_the_weight(self) -> None:
        amax, columns = torch.tensor([1.0, 4, 64, 4, 4]), torch.tensor([8.0, 1, 1, 1, 0.25])
        np.testing.assert_array_equal(amax / smoothing_vector(amax, columns, 1.0), [4, 4, 4, 4, 4])
        np.testing.assert_array_equal(columns * smoothing_vector(amax, columns, 0.0), [1, 1, 1, 1, 1])

    def test_a_channel_without_values_counts_as_a_hundred_thousandth_of_the_largest(self) -> None:
        """1e-5 is 2^-16.6, so its factor is 2^-17 by activations and 2^17 by weights, however large the others are."""
        loud, even = torch.tensor([0.0, 4, 4, 4, 4]), torch.full((5,), 4.0)
        np.testing.assert_array_equal(smoothing_vector(loud, even, 1.0), [2.0**-17, 1, 1, 1, 1])
        np.testing.assert_array_equal(smoothing_vector(even, loud, 0.0), [2.0**17, 1, 1, 1, 1])
        np.testing.assert_array_equal(smoothing_vector(torch.zeros(5), torch.zeros(5), 0.5), [1, 1, 1, 1, 1])

    def test_every_documented_alpha_is_tried(self, outlier_channels: np.ndarray, weight: torch.Tensor) -> None:
        found = decided(outlier_channels, weight, NORM)
        assert list(found.smoothing_errors) == ["off", "0.25", "0.5", "0.65", "0.8", "1"]


class TestSilence:
    @both
    def test_a_silent_tensor_loses_nothing(self, weight: torch.Tensor, form: Format) -> None:
        found = decided(np.zeros((20, CHANNELS), np.float32), weight, NORM, rules(form))
        assert found.quantized
        assert found.sqnr_db == 200
        assert found.clips["vision"].scale > 0
        assert found.smoothing is None or np.isfinite(found.smoothing).all()

    def test_silent_weights_lose_nothing(self, plain: np.ndarray) -> None:
        assert decided(plain, torch.zeros(8, CHANNELS), None).sqnr_db == 200

    def test_outlier_ratio(self) -> None:
        assert outlier_ratio(observed(np.array([[1, -2, 3, 600, 2]], np.float32))) == 300
        assert outlier_ratio(observed(np.array([[0, 0, 9]], np.float32))) == 0


def test_a_scale_is_what_the_graph_can_store(plain: np.ndarray, weight: torch.Tensor) -> None:
    found = decide(
        site("block.fc", CHANNELS),
        {"vision": observed(plain)},
        [weight],
        Rules(precision=QUANTIZED["fp8"], dtype="float16"),
    )
    scale = found.clips["vision"].scale
    assert scale == float(np.float16(scale)) != found.clips["vision"].threshold / 448
