"""Two files that could both be meant: which differences count, and which are only another way to store the same."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from internvl_edge.export.checkpoint.files.agreement import first_difference
from internvl_edge.export.checkpoint.files.safetensors_file import read_safetensors
from internvl_edge.export.checkpoint.files.tensors import LazyTensor

Tensors = dict[str, torch.Tensor]
W = "vision_model.encoder.layers.0.attn.qkv.weight"


def stored(path: Path, tensors: Tensors) -> dict[str, LazyTensor]:
    save_file(tensors, path)
    return read_safetensors(path)


def difference(folder: Path, a: Tensors, b: Tensors) -> str | None:
    return first_difference(stored(folder / "a.safetensors", a), stored(folder / "b.safetensors", b))


def test_equal_tensors_agree_whatever_wraps_their_names(tmp_path: Path) -> None:
    values = torch.arange(6.0).reshape(2, 3)
    assert difference(tmp_path, {W: values}, {W: values.clone()}) is None
    assert difference(tmp_path, {W: values}, {f"module.{W}": values.clone()}) is None


def test_a_tensor_of_one_file_alone_is_a_difference_unless_it_is_a_tied_head(tmp_path: Path) -> None:
    values = {W: torch.ones(2)}
    assert difference(tmp_path, values, {**values, "a.weight": torch.ones(1)}) == "a.weight is in one of them only"
    assert difference(tmp_path, {**values, "qllama.lm_head.weight": torch.ones(1)}, values) is None


def test_shapes(tmp_path: Path) -> None:
    found = difference(tmp_path, {W: torch.ones(2, 3)}, {W: torch.ones(3, 2)})
    assert found == f"{W} is [2, 3] and [3, 2]"


@pytest.mark.parametrize(
    ("first", "second", "factor", "equal"),
    [
        (torch.float32, torch.float32, 1 + 2**-23, True),
        (torch.float32, torch.float32, 1 + 2**-20, False),
        (torch.float32, torch.float16, 1 + 2**-11, True),
        (torch.float16, torch.float32, 1 + 2**-8, False),
        (torch.float32, torch.bfloat16, 1 + 2**-8, True),
        (torch.bfloat16, torch.float32, 1 + 2**-5, False),
        (torch.float16, torch.bfloat16, 1 + 2**-8, True),
    ],
)
def test_values_are_equal_up_to_the_rounding_of_the_shorter_type(
    tmp_path: Path, first: torch.dtype, second: torch.dtype, factor: float, equal: bool
) -> None:
    """fp16 keeps 10 bits behind the point, bf16 7; a wide type holds the factor, a narrow one rounds it away."""
    a, b = (torch.full((4,), 1.0), torch.full((4,), factor))
    a, b = (a.to(first), b.to(second)) if second.itemsize >= first.itemsize else (b.to(first), a.to(second))
    found = difference(tmp_path, {W: a}, {W: b})
    assert found == (None if equal else f"{W} has different values")


def test_what_fp16_cannot_hold_is_not_compared(tmp_path: Path) -> None:
    assert difference(tmp_path, {W: torch.full((4,), 2.0**-25)}, {W: torch.zeros(4)}) is None
    assert difference(tmp_path, {W: torch.full((4,), 2.0**-23)}, {W: torch.zeros(4)}) is not None


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    """4096 bytes of fp32 are 1024 values; of fp16 they are 2048, of which as many are compared as of the other."""
    values = torch.zeros(3000)
    for place, equal in ((1023, False), (1024, True)):
        changed = values.clone()
        changed[place] = 1.0
        assert (difference(tmp_path, {W: values}, {W: changed}) is None) is equal
        assert (difference(tmp_path, {W: values}, {W: changed.half()}) is None) is equal


def test_values_that_are_no_numbers_are_equal_to_themselves(tmp_path: Path) -> None:
    values = torch.tensor([float("nan"), float("inf"), 1.0])
    assert difference(tmp_path, {W: values}, {W: values.clone()}) is None


def test_empty_tensors_agree(tmp_path: Path) -> None:
    assert difference(tmp_path, {W: torch.zeros(0, 4)}, {W: torch.zeros(0, 4)}) is None


def test_types_that_torch_does_not_have_are_compared_by_name(tmp_path: Path) -> None:
    def odd(dtype: str) -> dict[str, LazyTensor]:
        return {W: LazyTensor(name=W, dtype=dtype, shape=(1,), file=tmp_path / "absent", offset=0, nbytes=1)}

    assert first_difference(odd("F4"), odd("F4")) is None
    assert first_difference(odd("F4"), odd("float16")) == f"{W} has different values"
