"""The switches of the one decoder: packed projections are those of separate ones, and angles follow their rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from internvl_edge.export.models.config import LanguageConfig, RopeConfig
from internvl_edge.export.models.language import LanguageAttention, LanguageMLP, LanguageModel, Rotary

CONFIG = LanguageConfig(
    family="llama",
    hidden_size=20,
    num_heads=6,
    num_kv_heads=2,
    head_dim=4,
    num_layers=1,
    intermediate_size=12,
    vocab_size=32,
    qkv_bias=True,
)
POSITIONS = torch.tensor([[0, 3, 200]])


def angles(rope: RopeConfig, length: int | None) -> np.ndarray:
    """Return the angle of position 3 for a head of 8 channels, as the cosine and sine give it."""
    cos, sin = Rotary(rope, 8)(POSITIONS, torch.tensor([length]) if length is not None else None)
    return torch.atan2(sin, cos)[0, 1].numpy()


def projections(seed: int) -> dict[str, Tensor]:
    """Return weights and biases of separate projections, by letter and kind."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"q": 24, "k": 8, "v": 8}
    return {
        f"{letter}.{kind}": torch.randn(*((count, 20) if kind == "weight" else (count,)), generator=generator)
        for letter, count in rows.items()
        for kind in ("weight", "bias")
    }


def packed(rows: str, separate: dict[str, Tensor], kind: str) -> Tensor:
    q, k, v = (separate[f"{letter}.{kind}"] for letter in "qkv")
    if rows == "stacked":
        return torch.cat([q, k, v])
    groups = [torch.cat([q[12 * j : 12 * j + 12], k[4 * j : 4 * j + 4], v[4 * j : 4 * j + 4]]) for j in range(2)]
    return torch.cat(groups)


@pytest.mark.parametrize("rows", ["stacked", "grouped"])
def test_packed_projections_are_those_of_three_matrices(rows: str) -> None:
    """InternLM2 stores three query heads, a key and a value for each key head; Phi-3 all queries, keys, values."""
    given, x = projections(0), torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(1))
    apart = LanguageAttention(CONFIG)
    together = LanguageAttention(replace(CONFIG, qkv_rows=rows))  # type: ignore[arg-type]
    for letter in "qkv":
        for kind in ("weight", "bias"):
            getattr(getattr(apart, f"{letter}_proj"), kind).data = given[f"{letter}.{kind}"]
    for kind in ("weight", "bias"):
        getattr(together.qkv_proj, kind).data = packed(rows, given, kind)
    for mine, theirs in zip(together._projected(x), apart._projected(x), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gate_and_up_as_one_matrix() -> None:
    apart, together = LanguageMLP(CONFIG), LanguageMLP(replace(CONFIG, stacked_mlp=True))
    together.gate_up_proj.weight.data = torch.cat([apart.gate_proj.weight, apart.up_proj.weight]).data
    together.down_proj.weight.data = apart.down_proj.weight.data
    x = torch.randn(2, 3, 20)
    torch.testing.assert_close(together(x), apart(x))


def test_a_tied_head_is_the_table() -> None:
    names = set(dict(LanguageModel(replace(CONFIG, tied_head=True)).named_parameters()))
    assert not any("lm_head" in name for name in names)
    assert "lm_head.weight" in dict(LanguageModel(CONFIG).named_parameters())


def test_parameters_follow_the_switches() -> None:
    bare = replace(CONFIG, qkv_bias=False, qk_norm=True, out_bias=True)
    names = set(dict(LanguageAttention(bare).named_parameters()))
    weights = {f"{part}.weight" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")}
    assert names == {*weights, "o_proj.bias"}
    assert tuple(LanguageAttention(bare).q_norm.weight.shape) == (4,)  # type: ignore[union-attr]


def test_plain_and_linear_angles() -> None:
    plain = angles(RopeConfig(theta=16.0), None)
    np.testing.assert_allclose(plain, [3 - 0.0, 1.5, 0.75, 0.375], rtol=1e-6)
    np.testing.assert_allclose(angles(RopeConfig(kind="linear", theta=16.0, factor=2.0), None), plain / 2, rtol=1e-6)


@pytest.mark.parametrize(("length", "stretch"), [(50, 1.0), (100, 1.0), (101, 1.02), (300, 5.0)])
def test_dynamic_angles_change_beyond_the_limit(length: int, stretch: float) -> None:
    """theta' = theta * (factor * n / limit - (factor - 1))^(d / (d - 2)) above 100, theta up to there."""
    rope = RopeConfig(kind="dynamic", theta=16.0, factor=2.0, limit=100)
    theta = 16.0 * stretch ** (8 / 6)
    np.testing.assert_allclose(angles(rope, length), 3 * theta ** (-np.arange(4) / 4), rtol=2e-6)


@pytest.mark.parametrize(("length", "factors"), [(100, (1, 2, 4, 8)), (101, (2, 4, 8, 16))])
def test_long_factors_divide_beyond_the_limit(length: int, factors: tuple[int, ...]) -> None:
    rope = RopeConfig(
        kind="su", theta=16.0, limit=100, short_factors=(1.0, 2.0, 4.0, 8.0), long_factors=(2.0, 4.0, 8.0, 16.0)
    )
    np.testing.assert_allclose(angles(rope, length), 3 * 16.0 ** (-np.arange(4) / 4) / factors, rtol=2e-6)


def test_the_magnitude_scales_cosine_and_sine_at_every_length() -> None:
    rope = RopeConfig(
        kind="su", theta=16.0, limit=100, short_factors=(1.0,) * 4, long_factors=(1.0,) * 4, magnitude=1.25
    )
    cos, sin = Rotary(rope, 8)(POSITIONS, torch.tensor([5]))
    np.testing.assert_allclose((cos**2 + sin**2).numpy(), np.full((1, 3, 4), 1.5625), rtol=1e-5)
