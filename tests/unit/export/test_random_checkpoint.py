"""The benchmarks' random checkpoints are checkpoints: they open, add up, and hold finite values of the right scale."""

from pathlib import Path

import pytest
import torch
from random_checkpoint import write_checkpoint

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.required_tensors import non_finite, require_tensors
from internvl_edge.export.models.internvl import InternVLModel


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_it_opens_adds_up_and_is_finite(tmp_path: Path, dtype: str) -> None:
    written = write_checkpoint(tmp_path, "internvit-300m", layers=1, dtype=dtype, tokenizer=True)
    checkpoint = open_checkpoint(tmp_path)
    with torch.device("meta"):
        expected = {name: tuple(v.shape) for name, v in InternVLModel(checkpoint.config).state_dict().items()}
    require_tensors(checkpoint.tensors, expected)
    assert checkpoint.tokenizer_file is not None
    values = {name: tensor.torch() for name, tensor in checkpoint.tensors.items()}
    assert {str(value.dtype) for value in values.values()} == {f"torch.{dtype}"}
    assert sum(value.nbytes for value in values.values()) == written
    assert [name for name, value in values.items() if non_finite(value.flatten())] == []
    block = "vision_model.encoder.layers.0"
    assert values[f"{block}.mlp.fc2.weight"].float().std().item() == pytest.approx(4096**-0.5, rel=0.05)
    assert values[f"{block}.norm1.weight"].float().mean().item() == pytest.approx(1, abs=0.05)
    assert values[f"{block}.ls1"].float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_no_two_weights_are_equal(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "internvit-300m", layers=2)
    values = {name: tensor.torch() for name, tensor in open_checkpoint(tmp_path).tensors.items()}
    blocks = [f"vision_model.encoder.layers.{index}" for index in range(2)]
    for part in ("attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "norm1.weight", "ls1"):
        first, second = (values[f"{block}.{part}"] for block in blocks)
        assert not torch.equal(first, second), part
