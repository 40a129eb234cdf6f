"""Rotary embedding in every spelling that a config may have: the table that it means, or a refusal by name."""

import math
from typing import Any

import pytest
import torch

from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.models.config import QllamaConfig
from internvl_edge.export.models.qllama import rotary_table
from internvl_edge.runtime.errors import CheckpointError

WIDTH, HEADS = 32, 4
D = WIDTH // HEADS


def _qllama(**fields: Any) -> QllamaConfig:
    content = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "max_position_embeddings": 64, **fields}
    config = config_from_json(
        {
            "model_type": "internvl",
            "attn_pool_num_heads": 4,
            "vision_config": {"hidden_size": 32, "num_attention_heads": 4},
            "qllama_config": content,
        }
    ).need(QllamaConfig)
    assert config is not None
    return config


SPELLINGS: list[tuple[dict[str, Any], float]] = [
    ({}, 1e4),
    ({"rope_theta": 5e5}, 5e5),
    ({"rope_theta": 500000}, 5e5),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5),
    ({"rope_parameters": {"rope_theta": 5e5}}, 5e5),
    ({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 500000, "rope_type": "default"}}, 5e5),
    ({"rope_theta": 5e5, "rope_scaling": None}, 5e5),
    ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}}, 5e5),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 1e4),
    ({"rope_scaling": {"type": "linear", "factor": 1.0}}, 1e4),
    ({"rope_parameters": {"rope_theta": 5e5, "factor": 1.0}}, 5e5),
    ({"rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0}}, 1e4),
    ({"rope_theta": 5e5, "partial_rotary_factor": 1.0}, 5e5),
]


@pytest.mark.parametrize(("fields", "theta"), SPELLINGS)
def test_the_table_is_that_of_the_base(fields: dict[str, Any], theta: float) -> None:
    config = _qllama(**fields)
    for position in (0, 1, 37, 63):
        angles = [position * theta ** (-2 * i / D) for i in range(D // 2)]
        for part, function in (("cos", math.cos), ("sin", math.sin)):
            expected = torch.tensor([function(angle) for angle in angles])
            torch.testing.assert_close(rotary_table(config, part)[position], expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize(("fields", "theta"), SPELLINGS)
def test_the_table_is_that_of_the_library(fields: dict[str, Any], theta: float) -> None:
    models = pytest.importorskip("transformers.models.llama.modeling_llama", reason="transformers is not installed")
    config_class = pytest.importorskip("transformers").LlamaConfig
    parameters = {"rope_type": "default", "rope_theta": theta}
    library = models.LlamaRotaryEmbedding(
        config_class(
            hidden_size=WIDTH, num_attention_heads=HEADS, max_position_embeddings=64, rope_parameters=parameters
        )
    )
    cos, sin = library(torch.zeros(1, 64, WIDTH), torch.arange(64)[None])
    config = _qllama(**fields)
    for part, expected in (("cos", cos), ("sin", sin)):
        torch.testing.assert_close(rotary_table(config, part), expected[0, :, : D // 2], atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling is of type 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters is of type 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling is of type 'linear'"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, "is of type 'linear'"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling has a factor of 4.0, but no type says of what"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": None, "factor": 2}}, "has a factor of 2, but no type"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling is of type 'linear'"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', which is no object"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "they mean the same thing"),
        (
            {"rope_scaling": {"type": "dynamic", "rope_type": "linear", "factor": 2}},
            "type is 'dynamic' and qllama_config.rope_scaling.rope_type is 'linear'",
        ),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0"),
        ({"rope_parameters": {"mrope_section": [1, 2]}}, "qllama_config.rope_parameters.mrope_section = [1, 2]"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 rotates a part of each head"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 rotates a part"),
        ({"rotary_pct": 0.25}, "rotary_pct 0.25 rotates a part"),
    ],
)
def test_what_the_graphs_do_not_compute_is_refused_by_name(fields: dict[str, Any], finding: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        _qllama(**fields)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)
