"""Settings of a generation: all that are out of range are named at once."""

from typing import Any

import pytest

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.generation.config import GenerationConfig


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens is 5 with max_new_tokens 4"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"eos_token_ids": (4, -1)}, "eos_token_id is -1"),
        (
            {"num_beams": 0, "max_new_tokens": -2, "eos_token_ids": (-3,)},
            "num_beams is 0, max_new_tokens is -2, an eos_token_id is -3",
        ),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(limits: dict[str, Any], found: str) -> None:
    with pytest.raises(InputError, match=found):
        GenerationConfig(**limits)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"temperature": 0.0}, r"temperature is 0\.0, not above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1, "top_p": 1.5, "min_p": -0.1}, r"top_k is -1, .*top_p is 1\.5, .*min_p is -0\.1"),
        ({"num_beams": 2}, "do_sample with 2 beams"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty is 0\.0"),
        ({"log_probabilities": 21}, "log_probabilities is 21"),
    ],
)
def test_sampling_out_of_range_is_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(InputError, match=found):
        GenerationConfig(do_sample=True, **settings)


def test_settings_of_sampling_do_not_matter_without_it() -> None:
    assert GenerationConfig(temperature=0.0, top_p=-1).max_new_tokens == 30


def test_limits_and_ranges_are_named_together() -> None:
    with pytest.raises(InputError, match=r"max_new_tokens is 0, repetition_penalty is -1.*; give 1 to .* and give"):
        GenerationConfig(max_new_tokens=0, repetition_penalty=-1)
