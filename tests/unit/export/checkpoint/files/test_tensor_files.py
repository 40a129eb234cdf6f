"""Tensors on disk: byte ranges that read back equal, and a line for every kind of broken file."""

import argparse
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from internvl_edge.export.checkpoint.files.safetensors_file import read_safetensors
from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor
from internvl_edge.export.checkpoint.files.torch_file import read_torch_file
from internvl_edge.runtime.errors import CheckpointError

STORED = {
    "half": torch.arange(24).reshape(2, 3, 4).half(),
    "brain": torch.linspace(-3, 3, 10).bfloat16(),
    "single": torch.linspace(0, 1, 1000),
    "double": torch.tensor([1.5], dtype=torch.float64),
    "scalar": torch.tensor(2.6593),
    "ids": torch.arange(5),
    "empty": torch.zeros(0, 3),
}


ARGUMENTS = argparse.Namespace(lr=0.1)


class Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


@pytest.mark.parametrize(("save", "read"), [(save_file, read_safetensors), (torch.save, read_torch_file)])
def test_tensors_read_back_equal(tmp_path: Path, save: Callable[..., None], read: Callable[..., Any]) -> None:
    path = tmp_path / "weights"
    save(STORED, path)
    tensors = read(path)
    assert set(tensors) == set(STORED)
    for name, value in STORED.items():
        lazy = tensors[name]
        assert (lazy.name, lazy.shape, lazy.dtype) == (name, tuple(value.shape), str(value.dtype).split(".")[1])
        assert torch.equal(lazy.torch(), value)


@pytest.mark.parametrize(("save", "read"), [(save_file, read_safetensors), (torch.save, read_torch_file)])
def test_the_byte_range_is_the_tensor(tmp_path: Path, save: Callable[..., None], read: Callable[..., Any]) -> None:
    path = tmp_path / "weights"
    save(STORED, path)
    lazy = read(path)["single"]
    stored = path.read_bytes()[lazy.offset : lazy.offset + lazy.nbytes]
    assert stored == STORED["single"].numpy().tobytes()


@pytest.mark.parametrize("limit", [1, 4, 12, 1000, 4000, 1 << 20])
def test_chunks_cover_a_tensor_in_order(tmp_path: Path, limit: int) -> None:
    save_file(STORED, tmp_path / "weights")
    lazy = read_safetensors(tmp_path / "weights")["single"]
    chunks = [chunk.clone() for chunk in lazy.chunks(limit)]
    assert max(chunk.numel() for chunk in chunks) <= max(1, limit // 4)
    assert torch.equal(torch.cat(chunks), STORED["single"])


def test_an_empty_tensor_has_no_chunks(tmp_path: Path) -> None:
    save_file(STORED, tmp_path / "weights")
    assert list(read_safetensors(tmp_path / "weights")["empty"].chunks(100)) == []


def test_views_read_back_contiguous(tmp_path: Path) -> None:
    whole = torch.arange(40.0)
    views = {"transposed": whole.view(8, 5).t(), "part": whole[3:9], "repeated": whole[:1].expand(4), "plain": whole}
    torch.save(views, tmp_path / "w.bin")
    tensors = read_torch_file(tmp_path / "w.bin")
    for name, value in views.items():
        assert torch.equal(tensors[name].torch(), value)
        assert tensors[name].torch().is_contiguous()
        assert torch.equal(torch.cat([c.clone() for c in tensors[name].chunks(16)]), value.flatten())
    assert [name for name, tensor in tensors.items() if tensor.strides is not None] == ["transposed", "repeated"]


@pytest.mark.parametrize(
    "nest", [("module",), ("state_dict",), ("model",), ("module", "model"), ("model_state_dict",), ("net", "params")]
)
def test_weights_may_lie_under_a_training_scripts_key(tmp_path: Path, nest: tuple[str, ...]) -> None:
    content: dict[str, Any] = {"a": torch.ones(2)}
    for key in nest[::-1]:
        content = {key: content, "step": 7, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "args": ARGUMENTS}
    torch.save(content, tmp_path / "w.pth")
    assert set(read_torch_file(tmp_path / "w.pth")) == {"a"}


def test_opening_a_torch_file_reads_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    torch.save({"a": torch.zeros(1 << 20)}, path)
    before = read_torch_file(path)["a"]
    with path.open("r+b") as file:  # what lies in the range now is what a read gives later
        file.seek(before.offset)
        file.write(struct.pack("<f", 5.0))
    assert before.torch()[0] == 5


def test_a_merged_weight_is_the_dense_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    base, up, down = (torch.randn(shape, generator=generator) for shape in ((6, 4), (6, 2), (2, 4)))
    merged = MergedTensor(name="w", base=_held(base), up=_held(up), down=_held(down), scale=2.0)
    assert merged.fits
    assert torch.equal(merged.torch(), base + 2.0 * (up @ down))
    assert torch.equal(torch.cat(list(merged.chunks(8))), merged.torch().flatten())


def test_a_merged_fp16_weight_is_added_up_in_fp32() -> None:
    base, up, down = torch.full((1, 1), 1.0), torch.full((1, 1), 3.0), torch.full((1, 1), 2.0**-13)
    merged = MergedTensor(name="w", base=_held(base.half()), up=_held(up), down=_held(down), scale=2.0)
    assert merged.torch().dtype == torch.float16
    assert merged.torch().item() == 1 + 2.0**-10  # 1 + 6 / 8192, rounded once


@pytest.mark.parametrize(("up", "down"), [((6, 3), (2, 4)), ((5, 2), (2, 4)), ((6, 2), (2, 5)), ((6, 2, 1), (2, 4))])
def test_a_misfit_adapter_is_told(up: tuple[int, ...], down: tuple[int, ...]) -> None:
    parts = {"base": _held(torch.ones(6, 4)), "up": _held(torch.ones(up)), "down": _held(torch.ones(down))}
    assert not MergedTensor(name="w", scale=2.0, **parts).fits


@pytest.mark.parametrize("size", [0, 4, 20, 300, -1])
def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, size: int) -> None:
    save_file(STORED, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:size])
    _refused(read_safetensors, tmp_path / "w.safetensors", "not a whole safetensors file")


def test_a_corrupt_safetensors_header_is_refused(tmp_path: Path) -> None:
    save_file(STORED, tmp_path / "w.safetensors")
    data = bytearray((tmp_path / "w.safetensors").read_bytes())
    data[8:20] = b"\xff" * 12
    (tmp_path / "w.safetensors").write_bytes(data)
    _refused(read_safetensors, tmp_path / "w.safetensors", "not a whole safetensors file")


@pytest.mark.parametrize(
    ("stored", "dtype"), [("F8_E4M3", "float8_e4m3fn"), ("I8", "int8"), ("F4_NEW", "F4_NEW"), ("U64", "U64")]
)
def test_a_type_that_no_graph_takes_is_kept_by_name(tmp_path: Path, stored: str, dtype: str) -> None:
    entries = {
        "a": {"dtype": stored, "shape": [2], "data_offsets": [0, 2]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
    }
    _write_header(tmp_path / "w.safetensors", entries, b"\0\0" + struct.pack("<f", 5.0))
    found = read_safetensors(tmp_path / "w.safetensors")
    assert (found["a"].dtype, found["b"].torch().tolist()) == (dtype, [5.0])


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "a has 4 bytes instead of 8"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "a does not begin where the tensor before"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "are listed, the file has"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}, "a has -8 bytes"),
        ({"a": {"dtype": "F32"}}, "'data_offsets'"),
        ({"a": 3}, "int"),
        ([1], "list"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, float("inf")]}}, "infinity"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}, "not enough values"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path: Path, entries: Any, finding: str) -> None:
    _write_header(tmp_path / "w.safetensors", entries, b"\0" * 8)
    _refused(read_safetensors, tmp_path / "w.safetensors", finding)


@pytest.mark.parametrize("size", [0, 1, 100, 2000, -1])
def test_a_truncated_torch_file_is_refused(tmp_path: Path, size: int) -> None:
    torch.save(STORED, tmp_path / "w.bin")
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:size])
    _refused(read_torch_file, tmp_path / "w.bin", "w.bin: ")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    torch.save({"a": torch.ones(2), "b": Code()}, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    _refused(read_torch_file, tmp_path / "w.bin", "holds code or objects that are no tensors (posix.system)")


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"a": Code()}, protocol=2))
    _refused(read_torch_file, tmp_path / "w.bin", "posix.system")


def test_torchs_old_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    _refused(read_torch_file, tmp_path / "w.bin", "load and save it anew")


@pytest.mark.parametrize("content", [torch.ones(3), {"epoch": 3}, [1, 2]])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.bin")
    _refused(read_torch_file, tmp_path / "w.bin", "holds no tensors")


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.eye(3).to_sparse()}, tmp_path / "w.bin")
    _refused(read_torch_file, tmp_path / "w.bin", "sparse tensors b")


@pytest.mark.parametrize("read", [read_safetensors, read_torch_file])
def test_a_git_lfs_pointer_is_told_from_a_broken_file(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    (tmp_path / "w").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    _refused(read, tmp_path / "w", "git lfs pull")


@pytest.mark.parametrize("read", [read_safetensors, read_torch_file])
def test_what_is_no_file_is_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    _refused(read, tmp_path, "cannot be read (Is a directory)")
    _refused(read, tmp_path / "absent", "cannot be read (No such file or directory)")


def test_a_file_cut_after_opening_is_told_when_read(tmp_path: Path) -> None:
    save_file(STORED, tmp_path / "w.safetensors")
    lazy = read_safetensors(tmp_path / "w.safetensors")["single"]
    os.truncate(tmp_path / "w.safetensors", lazy.offset + 40)
    with pytest.raises(CheckpointError, match="ends 3960 bytes early"):
        lazy.torch()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ENTRY = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "X9"]) | JSON, "shape": JSON, "data_offsets": JSON}
)


@given(entries=st.dictionaries(st.text(max_size=3), ENTRY | JSON, max_size=3) | JSON, size=st.integers(0, 16))
def test_any_header_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, entries: Any, size: int
) -> None:
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    _write_header(path, entries, bytes(size))
    try:
        found = read_safetensors(path)
    except CheckpointError as error:
        message = str(error)
        assert "\n" not in message
        return
    assert sum(tensor.nbytes for tensor in found.values()) == size


@given(cut=st.integers(0, 4000), byte=st.integers(0, 255), place=st.integers(0, 900))
def test_a_damaged_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, byte: int, place: int
) -> None:
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    save_file(STORED, path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(data[: len(data) - cut % len(data)])
    try:
        found = read_safetensors(path)
    except CheckpointError as error:
        message = str(error)
        assert "\n" not in message
        return
    assert all(0 <= tensor.offset <= tensor.offset + tensor.nbytes <= len(data) for tensor in found.values())


def _write_header(path: Path, entries: Any, data: bytes) -> None:
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def _held(value: torch.Tensor) -> Any:
    """Return a stand-in for a lazy tensor that is `value`."""

    class Held(LazyTensor):
        def torch(self) -> torch.Tensor:
            return value

    dtype, nbytes = str(value.dtype).split(".")[1], value.numel() * value.element_size()
    return Held(name="held", dtype=dtype, shape=tuple(value.shape), file=Path("held"), offset=0, nbytes=nbytes)


def _refused(read: Callable[[Path], Any], path: Path, finding: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert finding in message
    assert "\n" not in message
