"""A tensor of the rows of several others: their values in order, from all of their files."""

from pathlib import Path

import pytest
import torch

from internvl_edge.export.checkpoint.files.safetensors_file import read_safetensors
from internvl_edge.export.checkpoint.files.tensors import JoinedTensor, LazyTensor, MergedTensor
from internvl_edge.export.checkpoint.fingerprint import fingerprint
from internvl_edge.export.checkpoint.joined_rows import with_joined_rows
from internvl_edge.export.checkpoint.required_tensors import require_tensors
from internvl_edge.export.checkpoint.store.weight_sources import readable_in_place, stored_chunks, whole
from internvl_edge.export.models.config import ModelConfig, VisionConfig
from internvl_edge.runtime.errors import CheckpointError
from tests.unit.export.checkpoint.checkpoint_folders import Tensors, write_safetensors

LAYER = "vision_model.encoder.layers.0.attn."
PARTS = {f"{LAYER}{part}_proj.weight": torch.arange(8.0).view(2, 4) + 8 * index for index, part in enumerate("qkv")}
NAME = f"{LAYER}qkv.weight"
MODEL = ModelConfig(layout="internvit", parts=(VisionConfig(),))


def stored(folder: Path, weights: Tensors, name: str = "w.safetensors") -> dict[str, LazyTensor]:
    return read_safetensors(write_safetensors(folder, weights, name) / name)


def joined(tensors: dict[str, LazyTensor | MergedTensor]) -> JoinedTensor:
    found = with_joined_rows(tensors)[NAME]
    assert isinstance(found, JoinedTensor)
    return found


def test_rows_stand_in_the_order_of_the_parts(tmp_path: Path) -> None:
    one, two, three = (
        stored(tmp_path, {name: value}, f"{index}.safetensors") for index, (name, value) in enumerate(PARTS.items())
    )
    tensor = joined({**three, **one, **two})
    expected = torch.arange(24.0).view(6, 4)
    assert (tensor.shape, tensor.dtype, tensor.name) == ((6, 4), "float32", NAME)
    assert torch.equal(tensor.torch(), expected)
    assert torch.equal(whole(tensor), expected)
    for limit in (1, 4, 12, 16, 1 << 20):
        chunks = [chunk.clone() for chunk in tensor.chunks(limit)]
        assert torch.equal(torch.cat(chunks).view(6, 4), expected)
        assert all(chunk.numel() * 4 <= max(limit, 4) for chunk in chunks)
    assert torch.equal(torch.cat([chunk.clone() for chunk in stored_chunks(tensor)]).view(6, 4), expected)
    assert tensor.files == {tmp_path / f"{index}.safetensors" for index in range(3)}
    assert not readable_in_place(tensor, "float32")


def test_nothing_else_changes(tmp_path: Path) -> None:
    other = {
        "language_model.model.layers.0.self_attn.q_proj.weight": torch.ones(2, 4),
        f"{LAYER}proj.bias": torch.ones(2),
    }
    tensors = stored(tmp_path, PARTS | other)
    assert with_joined_rows(tensors).keys() == {NAME, *other}
    assert with_joined_rows({name: tensors[name] for name in other}).keys() == other.keys()


@pytest.mark.parametrize(
    "change", [None, torch.ones(2, 5), torch.ones(3, 4), torch.ones(2, 4, dtype=torch.float16)], ids=str
)
def test_parts_that_do_not_fit_are_named(tmp_path: Path, change: torch.Tensor | None) -> None:
    last = f"{LAYER}v_proj.weight"
    weights = {name: value for name, value in PARTS.items() if name != last or change is not None}
    weights |= {last: change} if change is not None else {}
    with pytest.raises(
        CheckpointError, match=r"q_proj\.weight and the tensors beside it are not of one type and shape"
    ):
        with_joined_rows(stored(tmp_path, weights))


def test_the_digest_is_of_every_part(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = fingerprint([joined({**stored(tmp_path / "a", PARTS)})], MODEL)
    for index, name in enumerate(PARTS):
        folder = tmp_path / str(index)
        folder.mkdir()
        assert fingerprint([joined({**stored(folder, PARTS | {name: PARTS[name] + 1})})], MODEL) != first


def test_a_part_may_have_an_adapter(tmp_path: Path) -> None:
    tensors = stored(tmp_path, PARTS | {"down": torch.ones(1, 4), "up": torch.ones(2, 1), "wide": torch.ones(1, 5)})
    name = f"{LAYER}v_proj.weight"

    def merged(down: str, scale: float) -> JoinedTensor:
        part = MergedTensor(name=name, base=tensors[name], down=tensors[down], up=tensors["up"], scale=scale)
        return joined({each: part if each == name else tensors[each] for each in PARTS})

    expected = torch.arange(24.0).view(6, 4)
    expected[4:] += 2
    assert torch.equal(merged("down", 2.0).torch(), expected)
    assert fingerprint([merged("down", 2.0)], MODEL) != fingerprint([merged("down", 3.0)], MODEL)
    require_tensors({NAME: merged("down", 2.0)}, {NAME: (6, 4)})
    with pytest.raises(CheckpointError, match=rf"1 with a LoRA adapter of another shape: {NAME}"):
        require_tensors({NAME: merged("wide", 2.0)}, {NAME: (6, 4)})
