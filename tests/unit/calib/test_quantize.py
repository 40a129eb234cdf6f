"""Patterns that keep sites high, and what smoothing does to a cache."""

from pathlib import Path

import pytest
import torch

from internvl_edge.calib import quantize
from internvl_edge.calib.quantize import matching_sites
from internvl_edge.calib.sites import Site
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.models.sites import model_sites
from internvl_edge.runtime.errors import CalibrationError


@pytest.fixture(scope="module")
def sites(emoji: Path) -> list[Site]:
    return list(model_sites(open_checkpoint(emoji / "checkpoint").config))


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("vision_model.encoder.layers.0.mlp.fc1", 1), ("*.mlp.fc2", 6), ("qllama.lm_head", 1), ("mlp.fc1", 6)],
)
def test_names_globs_and_tails(sites: list[Site], pattern: str, count: int) -> None:
    assert len(matching_sites([pattern], sites)) == count


def test_a_linear_keeps_the_site_that_it_shares(sites: list[Site]) -> None:
    found = matching_sites(["qllama.model.layers.2.self_attn.v_proj"], sites)
    assert list(found) == ["qllama.model.layers.2.self_attn.q_proj"]


def test_unknown_patterns_are_all_named_with_near_names(sites: list[Site]) -> None:
    with pytest.raises(CalibrationError) as caught:
        matching_sites(["vision_model.encoder.layers.0.mlp.fc3", "zzz"], sites)
    message = str(caught.value)
    assert "vision_model.encoder.layers.0.mlp.fc1" in message
    assert "zzz" in message
    assert "\n" not in message


@pytest.mark.parametrize(("multiple", "rows"), [(1, 5), (4, 8), (5, 5), (16, 16)])
def test_weights_are_padded_with_rows_of_zeros(multiple: int, rows: int) -> None:
    weight = torch.arange(1.0, 16.0).reshape(5, 3)
    found = quantize._padded(weight, multiple)
    assert found.shape == (rows, 3)
    assert torch.equal(found[:5], weight)
    assert not found[5:].any()
