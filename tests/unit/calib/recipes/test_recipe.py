"""What follows from decisions: factors that leave every product bit for bit the same, corrections, the saved recipe."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from internvl_edge.calib.formats import encode, scale_of
from internvl_edge.calib.recipes.decide import Clip, Decision, Rules
from internvl_edge.calib.recipes.recipe import Factors, LinearWeights, Recipe, folded, mean_correction, save_recipe
from internvl_edge.calib.sites import Fold, NormFold, RowFold, Site
from internvl_edge.runtime.numbers.formats import QUANTIZED, Format
from tests.unit.calib.observed import site

WIDTH = 6
HIDDEN = 5
VECTORS = arrays(np.int8, WIDTH, elements=st.integers(-18, 18)).map(lambda e: np.ldexp(np.float32(1), e))
"""Powers of two as `smoothing_vector` gives them, ``[WIDTH]``."""


def decision(made: Site, smoothing: np.ndarray | None, *, quantized: bool = True) -> Decision:
    clip = Clip(threshold=2.0, scale=2 / 127, method="mse", clipped_share=0.0, sqnr_db=30.0, errors={"max": 1e-3})
    return Decision(
        site=made,
        alpha=None if smoothing is None else 0.5,
        smoothing=smoothing,
        smoothing_errors={},
        clips={"vision": clip},
        quantized=quantized,
        reason="a linear of a block" if quantized else "--keep-high fc2",
        prescription="none",
    )


def smoothed(name: str, fold: Fold, vector: np.ndarray, layer_scale: str | None = None) -> Decision:
    return decision(site(name, len(vector), fold, layer_scale), vector)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def applied(factors: Mapping[str, Factors], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as they are stored."""
    assert set(factors) <= set(weights), "a factor of a parameter that is not there"
    return {name: factors.get(name, Factors()).apply(value) for name, value in weights.items()}


def powers(*exponents: int) -> np.ndarray:
    return np.ldexp(np.float32(1), np.array(exponents)).astype(np.float32)


class TestSmoothing:
    """Each test holds a function on the stored weights against the same on the checkpoint's, without any tolerance."""

    @settings(max_examples=60)
    @given(vector=VECTORS, bias=st.booleans())
    def test_folds_into_the_norm(self, vector: np.ndarray, bias: bool) -> None:
        parameters = ("norm.weight", "norm.bias") if bias else ("norm.weight",)
        weights = {"norm.weight": numbers(WIDTH, seed=1), "qkv.weight": numbers(9, WIDTH, seed=3)}
        if bias:
            weights["norm.bias"] = numbers(WIDTH, seed=2)
        stored = applied(folded([smoothed("qkv", NormFold(parameters=parameters), vector)], {}), weights)
        x = numbers(4, WIDTH)

        def linear(kept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            normed = F.layer_norm(x, (WIDTH,)) * kept["norm.weight"] + kept.get("norm.bias", torch.zeros(WIDTH))
            return normed, normed @ kept["qkv.weight"].T

        (plain, wanted), (divided, found) = linear(weights), linear(stored)
        assert torch.equal(divided, plain / torch.from_numpy(vector))
        assert torch.equal(found, wanted)

    @settings(max_examples=60)
    @given(vector=VECTORS)
    def test_folds_into_the_v_rows_of_qkv(self, vector: np.ndarray) -> None:
        """v and its bias start at row 2 * WIDTH; what attention makes of v is linear in it."""
        fold = RowFold(weight="qkv.weight", start=2 * WIDTH, bias="qkv.bias")
        weights = {
            "qkv.weight": numbers(3 * WIDTH, WIDTH, seed=1),
            "qkv.bias": numbers(3 * WIDTH, seed=2),
            "proj.weight": numbers(WIDTH, WIDTH, seed=3),
        }
        stored = applied(folded([smoothed("proj", fold, vector)], {}), weights)
        for name in ("qkv.weight", "qkv.bias"):
            assert torch.equal(stored[name][: 2 * WIDTH], weights[name][: 2 * WIDTH]), "q and k are not touched"
        x = numbers(4, WIDTH)

        def attended(kept: Mapping[str, Tensor]) -> Tensor:
            q, k, v = (x @ kept["qkv.weight"].T + kept["qkv.bias"]).split(WIDTH, dim=1)
            return torch.softmax(q @ k.T, dim=1) @ v @ kept["proj.weight"].T

        assert torch.equal(attended(stored), attended(weights))

    @settings(max_examples=60)
    @given(vector=VECTORS)
    def test_folds_into_the_up_rows(self, vector: np.ndarray) -> None:
        weights = {name: numbers(WIDTH, HIDDEN, seed=i) for i, name in enumerate(("gate.weight", "up.weight"))}
        weights["down.weight"] = numbers(HIDDEN, WIDTH, seed=3)
        stored = applied(folded([smoothed("down", RowFold(weight="up.weight"), vector)], {}), weights)
        assert torch.equal(stored["gate.weight"], weights["gate.weight"]), "silu is not linear"
        x = numbers(4, HIDDEN, seed=4)

        def mlp(kept: Mapping[str, Tensor]) -> Tensor:
            return (F.silu(x @ kept["gate.weight"].T) * (x @ kept["up.weight"].T)) @ kept["down.weight"].T

        assert torch.equal(mlp(stored), mlp(weights))

    def test_two_sites_of_one_weight_fold_both(self) -> None:
        """qkv takes the columns of its own smoothing, and the rows that proj's asks of v."""
        own, next_ = powers(1, -2, 0, 3, 0, 0), powers(4, 0, -1, 0, 2, 0)
        decisions = [
            smoothed("qkv", NormFold(parameters=("norm.weight",)), own),
            smoothed("proj", RowFold(weight="qkv.weight", start=2 * WIDTH), next_),
        ]
        weight = numbers(3 * WIDTH, WIDTH)
        wanted = weight * torch.from_numpy(own)
        wanted[2 * WIDTH :] /= torch.from_numpy(next_)[:, None]
        assert torch.equal(folded(decisions, {})["qkv.weight"].apply(weight), wanted)

    def test_linears_of_one_site_share_the_vector(self) -> None:
        vector = powers(1, 2, 3, 4, 5, 6)
        made = Site(
            name="q",
            linears=("q", "k"),
            tower="qllama",
            block=0,
            kind="qkv",
            channels=WIDTH,
            fold=NormFold(parameters=("n",)),
        )
        factors = folded([decision(made, vector)], {})
        assert set(factors) == {"q.weight", "k.weight", "n"}
        for name in ("q.weight", "k.weight"):
            np.testing.assert_array_equal(factors[name].apply(torch.ones(3, WIDTH)), np.tile(vector, (3, 1)))

    def test_a_site_kept_high_is_not_smoothed(self) -> None:
        made = site("qkv", WIDTH, NormFold(parameters=("norm.weight",)))
        assert folded([decision(made, powers(1, 2, 3, 4, 5, 6), quantized=False)], {}) == {}
        assert folded([decision(made, None)], {}) == {}


class TestLayerScale:
    @pytest.mark.parametrize("name", ["proj", "fc2"])
    @pytest.mark.parametrize("quantized", [True, False])
    def test_folds_into_rows_and_bias(self, name: str, quantized: bool) -> None:
        """The graph has lost the vector, so it folds even where the linear stays high."""
        scale = numbers(4, seed=1)
        weights = {f"{name}.weight": numbers(4, WIDTH, seed=2), f"{name}.bias": numbers(4, seed=3)}
        made = site(name, WIDTH, layer_scale="ls")
        factors = folded([decision(made, None, quantized=quantized)], {"ls": scale})
        stored = applied(factors, weights)
        assert torch.equal(stored[f"{name}.weight"], weights[f"{name}.weight"] * scale[:, None])
        assert torch.equal(stored[f"{name}.bias"], weights[f"{name}.bias"] * scale)
        x = numbers(3, WIDTH)
        plain = F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]) * scale
        torch.testing.assert_close(F.linear(x, stored[f"{name}.weight"], stored[f"{name}.bias"]), plain)

    def test_rows_and_columns_meet_in_proj(self) -> None:
        vector, scale = powers(3, 0, -2, 1, 0, 5), numbers(4, seed=1)
        fold = RowFold(weight="v.weight")
        factors = folded([smoothed("proj", fold, vector, layer_scale="ls")], {"ls": scale.half()})
        weight = numbers(4, WIDTH, seed=2)
        wanted = weight * scale.half().float()[:, None] * torch.from_numpy(vector)
        assert torch.equal(factors["proj.weight"].apply(weight), wanted)
        assert torch.equal(factors["proj.bias"].apply(torch.ones(4)), scale.half().float())
        assert set(factors) == {"proj.weight", "proj.bias", "v.weight"}

    def test_two_factors_of_the_same_rows_multiply(self) -> None:
        """A linear with a layer scale whose rows the next site's smoothing divides too."""
        vector, scale = powers(3, 0, -2, 1, 0, 5), numbers(WIDTH, seed=1)
        first = decision(site("v", WIDTH, layer_scale="ls"), None)
        second = smoothed("o", RowFold(weight="v.weight", bias="v.bias"), vector)
        factors = folded([first, second], {"ls": scale})
        for name in ("v.weight", "v.bias"):
            shape = (WIDTH, 3) if name == "v.weight" else (WIDTH,)
            wanted = (scale / torch.from_numpy(vector)).reshape(WIDTH, *[1] * (len(shape) - 1)).expand(shape)
            assert torch.equal(factors[name].apply(torch.ones(shape)), wanted)

    def test_a_high_site_keeps_its_layer_scale_and_drops_its_smoothing(self) -> None:
        made = site("proj", WIDTH, RowFold(weight="v.weight"), layer_scale="ls")
        factors = folded([decision(made, powers(1, 1, 1, 1, 1, 1), quantized=False)], {"ls": torch.ones(4)})
        assert set(factors) == {"proj.weight", "proj.bias"}
        assert factors["proj.weight"].columns is None


class TestCorrection:
    @pytest.mark.parametrize("form", [row.weights for row in QUANTIZED.values()], ids=list(QUANTIZED))
    def test_gives_back_what_rounding_takes_from_the_mean(self, form: Format) -> None:
        x, weight = numbers(2000, WIDTH, seed=1) + 2, numbers(4, WIDTH, seed=2)
        scale = scale_of(weight.abs().amax(dim=1), form, "float32")
        codes = encode(weight, scale[:, None], form)
        correction = mean_correction(weight, codes.float() * scale[:, None], x.mean(dim=0).numpy())
        rounded = x @ (codes.float() * scale[:, None]).T
        lost = (x @ weight.T - rounded).mean(dim=0)
        assert lost.abs().max() > 1e-3, "nothing to correct"
        torch.testing.assert_close(correction, lost, rtol=1e-3, atol=1e-5)

    def test_is_added_after_the_layer_scale(self) -> None:
        factors = Factors(rows=torch.tensor([2.0, 3]), added=torch.tensor([0.5, -1]))
        np.testing.assert_array_equal(factors.apply(torch.tensor([1.0, 1])), [2.5, 2])


class TestRecipe:
    @pytest.fixture
    def recipe(self) -> Recipe:
        quantized = smoothed("qkv", NormFold(parameters=("norm.weight",)), powers(0, 1, 2, 3, 4, 5))
        high = decision(site("fc2", WIDTH), powers(1, 1, 1, 1, 1, 1), quantized=False)
        return Recipe(
            rules=Rules(precision=QUANTIZED["int8"], dtype="float16"),
            decisions=(quantized, high),
            linears={"qkv": LinearWeights(scale=torch.tensor([0.5, 0.25]))},
        )

    def test_quantized_sites_are_those_that_the_graph_reads(self, recipe: Recipe) -> None:
        assert [(found.name, clip.scale) for found, clip in recipe.quantized("vision")] == [("qkv", 2 / 127)]
        assert recipe.quantized("text") == []

    def test_saved_it_says_what_was_done_and_why(self, recipe: Recipe, tmp_path: Path) -> None:
        save_recipe(recipe, tmp_path / "calibration")
        content = json.loads((tmp_path / "calibration" / "recipe.json").read_text())
        assert (content["precision"], content["dtype"]) == ("int8", "float16")
        placements = {entry["name"]: (entry["placement"], entry["reason"]) for entry in content["sites"]}
        assert placements == {"qkv": ("quantized", "a linear of a block"), "fc2": ("high", "--keep-high fc2")}
        assert content["sites"][0]["graphs"]["vision"]["scale"] == 2 / 127
        vectors = load_file(tmp_path / "calibration" / "vectors.safetensors")
        assert set(vectors) == {"qkv.weight_scale", "qkv.smoothing"}, "fc2 is not smoothed"
        np.testing.assert_array_equal(vectors["qkv.smoothing"], powers(0, 1, 2, 3, 4, 5))
