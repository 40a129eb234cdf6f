"""A bar moves while torch traces: block by block, one graph in all."""

import pytest
import torch

from internvl_edge.export.canonical.trace import trace_graph
from internvl_edge.export.models.config import ModelConfig, VisionConfig


def test_parts_of_a_graph_are_told_block_by_block() -> None:
    vision = VisionConfig(hidden_size=32, intermediate_size=64, num_heads=2, num_layers=3, image_size=28, patch_size=14)
    parts: list[float] = []
    trace_graph("vision", ModelConfig(layout="internvit", parts=(vision,)), torch.float32, (), parts.append)
    assert sum(parts) == pytest.approx(1)
    assert len(parts) >= 4
    assert all(0 <= part < 0.7 for part in parts)
