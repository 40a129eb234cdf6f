"""Rotary rules of language models, in every spelling that a config may have (CHAT.md 4.7, 4.8; traps 9)."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.export.models.config import RopeConfig
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.export.models.families.language.rope import rope_config
from internvl_edge.runtime.errors import CheckpointError

DYNAMIC = RopeConfig(kind="dynamic", theta=1e6, factor=2.0, limit=64)
TYPES = ("linear", "dynamic", "su", "longrope", "yarn")


def rope(types: tuple[str, ...] = TYPES, **fields: Any) -> RopeConfig:
    reader, content = FieldReader(), {"max_positions": 64, **fields}
    found = rope_config(content, types, "llm_config", reader)
    reader.finish()
    assert content == {"max_positions": 64}
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, RopeConfig()),
        ({"theta": 1e6}, RopeConfig(theta=1e6)),
        ({"theta": 1000000, "rope_scaling": {"type": "default"}}, RopeConfig(theta=1000000)),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, RopeConfig(theta=1e6)),
        ({"rope_parameters": {"rope_theta": 1e6}}, RopeConfig(theta=1e6)),
        ({"theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, DYNAMIC),
        ({"theta": 1e6, "rope_scaling": {"rope_type": "dynamic", "type": "dynamic", "factor": 2.0}}, DYNAMIC),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "dynamic", "factor": 2.0}}, DYNAMIC),
        (
            {
                "theta": 1e6,
                "rope_scaling": {"type": "dynamic", "factor": 2.0},
                "rope_parameters": {"rope_theta": 1e6, "rope_type": "dynamic", "factor": 2.0},
            },
            DYNAMIC,
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            RopeConfig(kind="linear", factor=4.0, limit=64),
        ),
    ],
)
def test_every_spelling_gives_its_rule(fields: dict[str, Any], expected: RopeConfig) -> None:
    assert rope(**fields) == expected


@given(
    theta=st.sampled_from((1e4, 5e5, 1e6, 5e7)),
    kind=st.sampled_from(("default", "linear", "dynamic", None)),
    factor=st.floats(1.0, 64.0, exclude_min=True),
    name=st.sampled_from((("type",), ("rope_type",), ("type", "rope_type"))),
    base=st.sampled_from(("beside", "inside", "both")),
    place=st.sampled_from((("rope_scaling",), ("rope_parameters",), ("rope_scaling", "rope_parameters"))),
)
def test_all_spellings_of_a_rule_are_one_rule(
    theta: float, kind: str | None, factor: float, name: tuple[str, ...], base: str, place: tuple[str, ...]
) -> None:
    scaling: dict[str, Any] = {} if kind is None else dict.fromkeys(name, kind)
    scaling |= {"factor": factor} if kind in ("linear", "dynamic") else {}
    scaling |= {"rope_theta": theta} if base != "beside" else {}
    fields: dict[str, Any] = dict.fromkeys(place, scaling) | ({"theta": theta} if base != "inside" else {})
    scaled: dict[str, Any] = {"kind": kind, "factor": factor, "limit": 64} if kind in ("linear", "dynamic") else {}
    assert rope(**fields) == RopeConfig(theta=theta, **scaled)


@pytest.mark.parametrize("kind", ["su", "longrope"])
@pytest.mark.parametrize("original", [16, 40, 64])
def test_su_has_factors_of_both_lengths_and_a_magnitude_at_every_length(kind: str, original: int) -> None:
    scaling = {"type": kind, "short_factor": [1.0, 1.05], "long_factor": [1, 4.5]}
    expected = RopeConfig(
        kind="su",
        limit=original,
        short_factors=(1.0, 1.05),
        long_factors=(1.0, 4.5),
        magnitude=math.sqrt(1 + math.log(64 / original) / math.log(original)),
    )
    assert rope(rope_scaling=scaling, original=original) == expected
    assert rope(rope_parameters={**scaling, "original_max_position_embeddings": original}) == expected
    hand = {16: math.sqrt(1.5), 40: 1.0618, 64: 1.0}
    assert expected.magnitude == pytest.approx(hand[original], abs=1e-4)


def test_a_length_that_shrinks_changes_no_magnitude() -> None:
    scaling = {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}
    assert rope(rope_scaling=scaling, original=128).magnitude == 1.0


def test_phi3s_yarn_differs_in_its_magnitude() -> None:
    scaling = {"type": "yarn", "short_factor": [1.0], "long_factor": [2.0]}
    assert rope(rope_scaling=scaling, original=16).magnitude == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        (
            {"rope_scaling": {"type": "llama3", "factor": 8.0}},
            "llm_config.rope_scaling is of type 'llama3'; the graphs",
        ),
        ({"rope_scaling": {"factor": 8.0}}, "has a factor of 8.0, but no type says of what"),
        ({"rope_scaling": {"type": "dynamic"}}, "is of type 'dynamic', which needs factor"),
        ({"rope_scaling": {"type": "su", "long_factor": [1.0]}}, "which needs short_factors, original"),
        ({"rope_scaling": [2]}, r"rope_scaling is \[2\], which is no object"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
        ({"theta": "1e6"}, "theta is '1e6'"),
        (
            {"theta": 1e4, "rope_parameters": {"rope_theta": 1e6}},
            "rope_theta 10000.0 and rope_parameters.rope_theta 1000000.0, but they mean the same thing",
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2}, "rope_parameters": {"type": "dynamic", "factor": 3}},
            "rope_scaling and llm_config.rope_parameters differ, but they mean the same thing",
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2, "original_max_position_embeddings": 32}},
            "stretches from 32, not from 64",
        ),
        (
            {
                "original": 16,
                "rope_scaling": {"type": "su", "factor": 3.0, "short_factor": [1.0], "long_factor": [1.0]},
            },
            "has a factor of 3.0, the lengths one of 4",
        ),
        (
            {"original": 16, "rope_scaling": {"type": "su", "short_factor": [0], "long_factor": [1.0]}},
            r"short_factor is \[0\], which is no list of factors",
        ),
        (
            {
                "original": 16,
                "rope_scaling": {
                    "type": "su",
                    "original_max_position_embeddings": 8,
                    "short_factor": [1.0],
                    "long_factor": [1.0],
                },
            },
            "is 16 in llm_config and 8 in llm_config.rope_scaling, but they mean the same thing",
        ),
        (
            {"original": 1, "rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}},
            "stretches 1 to 64 positions",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 2, "beta_fast": 32}}, "rope_scaling.beta_fast"),
    ],
)
def test_other_values_are_refused_by_name(fields: dict[str, Any], finding: str) -> None:
    with pytest.raises(CheckpointError, match=finding):
        rope(**fields)


def test_a_type_that_the_family_does_not_know_is_refused() -> None:
    with pytest.raises(CheckpointError, match="of type 'yarn'; the graphs have default, dynamic for this family"):
        rope(("dynamic",), rope_scaling={"type": "yarn", "factor": 4.0})
