"""Which block a node lies in, by its name."""

import pytest

from internvl_edge.export.canonical.block_names import block_of


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("vision_model.encoder.layers.3.attn.qkv/MatMul", "vision_model.encoder.layers.3"),
        ("vision_model.encoder.layers.31", "vision_model.encoder.layers.31"),
        ("qllama.model.layers.0.mlp.gate_proj", "qllama.model.layers.0"),
        ("vision_model.embeddings/Add", None),
        ("players.3.attn", None),
        ("", None),
        (None, None),
    ],
)
def test_the_path_of_the_block(name: str | None, block: str | None) -> None:
    assert block_of(name) == block
