"""Finding the texts of programs among the bytes of a plan."""

import struct
from pathlib import Path

import pytest

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.plan.programs import PlanBytes

FIRST, SECOND = b"header {\n a\n}\n", b"header {\n b\n}\nmain {\n}\n"


def framed(text: bytes, length: int | None = None) -> bytes:
    """Return a program as a plan holds it: a mark, a version, the length, the text."""
    return b"NLYM\1\0\0\0" + struct.pack("<Q", len(text) if length is None else length) + text


def found(path: Path, content: bytes) -> tuple[list[str], tuple[str, ...], int]:
    path.write_bytes(content)
    with PlanBytes(path) as plan:
        return list(plan.texts()), plan.layers(), plan.size


@pytest.mark.parametrize("magic", [b"vtrt", b"ftrt"])
def test_texts_end_by_their_own_length(tmp_path: Path, magic: bytes) -> None:
    content = magic + b"\0\xff" + framed(FIRST) + b"\0\1binary" + framed(SECOND) + b"\2"
    assert found(tmp_path / "a.plan", content) == ([FIRST.decode(), SECOND.decode()], (), len(content))


@pytest.mark.parametrize("length", [0, 3, 1 << 40])
def test_a_length_that_does_not_fit_is_not_believed(tmp_path: Path, length: int) -> None:
    texts, _, _ = found(tmp_path / "a.plan", b"vtrt" + framed(FIRST, length) + framed(SECOND))
    assert texts[0].startswith(FIRST.decode())
    assert "b" not in texts[0]
    assert texts[1:] == [SECOND.decode()]


def test_a_text_without_a_frame_ends_with_the_file(tmp_path: Path) -> None:
    assert found(tmp_path / "a.plan", b"vtrt" + FIRST)[0] == [FIRST.decode()]


def test_layers_are_named_once_and_in_order(tmp_path: Path) -> None:
    head = b"[ONNX Layer: b.attn][ONNX Layer: a]\0[ONNX Layer: b.attn]"
    later = b"[ONNX Layer: behind]"
    assert found(tmp_path / "a.plan", b"vtrt" + head + framed(FIRST) + later)[1] == ("b.attn", "a")
    assert found(tmp_path / "b.plan", b"vtrt" + head)[1] == ("b.attn", "a")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "cannot be read as a plan"), (b"ONNX....", r"no TensorRT plan \(it begins with b'ONNX'\)")],
)
def test_what_is_no_plan(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(EngineError, match=told):
        found(tmp_path / "a.plan", content)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"gone\.plan: cannot be read as a plan"), PlanBytes(tmp_path / "gone.plan"):
        pass
