"""A plan is read in pieces where TensorRT can, and mapped where it cannot."""

import mmap
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from internvl_edge.runtime.backends.tensorrt.plans.library import Library
from internvl_edge.runtime.backends.tensorrt.plans.plan_reader import deserialize
from tests.unit.runtime.fake_tensorrt import IStreamReaderV2, SeekPosition

CONTENT = bytes(range(256))


def library(trt: Any, take: Any) -> Library:
    runtime = SimpleNamespace(deserialize_cuda_engine=take)
    return Library(flavour="tensorrt", trt=trt, version="10", runtime=runtime, errors=deque(["of before"]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.plan"
    found.write_bytes(CONTENT)
    return found


def test_pieces_are_those_that_are_asked_for(path: Path) -> None:
    def take(reader: Any) -> bytes:
        assert isinstance(reader, IStreamReaderV2)
        first = reader.read(4, 0)
        assert reader.seek(-2, SeekPosition.CUR)
        second = reader.read(3, 0)
        assert reader.seek(-1, SeekPosition.END)
        last = reader.read(100, 0)
        assert reader.seek(10, SeekPosition.SET)
        return first + second + last + reader.read(1, 0)

    trt = SimpleNamespace(IStreamReaderV2=IStreamReaderV2, SeekPosition=SeekPosition)
    found = library(trt, take)
    assert deserialize(found, path) == bytes([0, 1, 2, 3, 2, 3, 4, 255, 10])
    assert found.errors == deque()


def test_a_version_without_a_reader_gets_the_mapped_file(path: Path) -> None:
    def take(source: Any) -> bytes:
        assert isinstance(source, mmap.mmap)
        return bytes(source)

    assert deserialize(library(SimpleNamespace(), take), path) == CONTENT


def test_a_plan_that_is_refused_is_none(path: Path) -> None:
    assert deserialize(library(SimpleNamespace(), lambda source: None), path) is None
