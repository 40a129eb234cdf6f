"""Which files of a checkpoint a bundle shares, how, and what is said where that cannot be."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from internvl_edge.export.checkpoint.files.tensors import LazyTensor
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_store import plan_weights, shared_files, write_store
from internvl_edge.runtime.errors import ExportError

Tensors = list[LazyTensor]


@pytest.fixture
def tensors(tmp_path: Path) -> Tensors:
    """One tensor that fills its file, one that takes little of it, and one of another type."""
    found = []
    for name, count, size, dtype in (
        ("whole", 8, 40, "float32"),
        ("part", 2, 40, "float32"),
        ("half", 8, 16, "float16"),
    ):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(bytes(size))
        nbytes = count * (4 if dtype == "float32" else 2)
        found.append(LazyTensor(name=name, dtype=dtype, shape=(count,), file=file, offset=size - nbytes, nbytes=nbytes))
    return found


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files share blocks."""
    monkeypatch.setattr("fcntl.ioctl", lambda write, _, read: os.write(write, os.pread(read, 1 << 20, 0)))


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize(
    ("way", "shared"), [("auto", ["whole"]), ("copy", []), ("link", ["part", "whole"])], ids=["auto", "copy", "link"]
)
def test_files_are_shared_that_pay(tensors: Tensors, tmp_path: Path, way: str, shared: list[str]) -> None:
    found = shared_files(tensors, "float32", way, tmp_path)
    assert sorted(path.stem for path in found) == shared
    assert not (tmp_path / ".trial").exists()
    plan = plan_weights(tensors, "float32", found)
    assert sorted(tensor.name for tensor in plan.shared) == shared
    assert sorted(source.name for source in plan.written) == sorted({"whole", "part", "half"} - {*shared})
    assert sorted(plan.files) == [f"checkpoint-{name}.safetensors" for name in shared]


def test_nothing_is_shared_where_that_would_be_a_second_copy(
    tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    assert shared_files(tensors, "float32", "auto", tmp_path) == frozenset()
    assert not (tmp_path / ".trial").exists()


def test_a_link_to_another_file_system_is_refused_before_anything_is_done(
    tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(
        ExportError, match=r"--weights link: .*whole.* \(Invalid cross-device link\); take --weights auto"
    ):
        shared_files(tensors, "float32", "link", tmp_path)


@pytest.mark.parametrize("count", range(1, 66, 8))
def test_values_begin_at_a_multiple_of_64_bytes(tmp_path: Path, count: int) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(bytes(4))
    tensor = LazyTensor(name="n" * count, dtype="float32", shape=(1,), file=file, offset=0, nbytes=4)
    plan = plan_weights([tensor], "float32", frozenset())
    with SourceScan([]) as scan:
        write_store(plan, tmp_path, scan, lambda done: None)
    (place,) = plan.placements.values()
    content = (tmp_path / "weights.safetensors").read_bytes()
    assert place.offset % 64 == 0
    assert place.offset == 8 + int.from_bytes(content[:8], "little") == len(content) - 4


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize(("way", "names"), [("auto", 1), ("link", 2)])
def test_a_shared_file_is_another_file_unless_links_are_asked_for(
    tensors: Tensors, tmp_path: Path, way: str, names: int
) -> None:
    (store := tmp_path / "store").mkdir()
    plan = plan_weights(tensors[:1], "float32", shared_files(tensors[:1], "float32", way, store))
    with SourceScan(plan.shared) as scan:
        files = write_store(plan, store, scan, lambda done: None, link=way == "link")
    assert list(files) == ["checkpoint-whole.safetensors"]
    assert tensors[0].file.stat().st_nlink == names
    assert (store / "checkpoint-whole.safetensors").read_bytes() == tensors[0].file.read_bytes()


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: Callable[..., NamedTuple] = lambda *_: NamedTuple("Usage", [("free", int)])(free=3_200_000_000)  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", free)
    large = LazyTensor(name="large", dtype="float32", shape=(1 << 31,), file=tensors[0].file, offset=0, nbytes=1 << 33)
    (store := tmp_path / "store").mkdir()
    plan = plan_weights([large], "float32", frozenset())
    with (
        pytest.raises(ExportError, match=r"the weights take 8\.6 GB, 3\.2 GB are free; free space or"),
        SourceScan([]) as scan,
    ):
        write_store(plan, store, scan, lambda done: None)
    assert list(store.iterdir()) == []
