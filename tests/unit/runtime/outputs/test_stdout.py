"""A stdout that takes every text, and one that fails."""

import io
import os
import sys
from pathlib import Path

import pytest

from internvl_edge.runtime.outputs.stdout import drop_stdout, prepare_streams


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", b"a\xe9 \xe2\x82\xac"), ("UTF8", b"a\xe9 \xe2\x82\xac"), ("ascii", b"a\\udce9 \\u20ac")],
)
def test_streams_take_every_text(monkeypatch: pytest.MonkeyPatch, encoding: str, written: bytes) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    prepare_streams()
    sys.stdout.write("a\udce9 €")
    assert raw.getvalue() == written


def test_a_stdout_that_cannot_be_flushed_leads_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        own = os.dup(file.fileno())

        class Full(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def fileno(self) -> int:
                return own

            def flush(self) -> None:
                raise OSError(28, "No space left on device")

        full = Full()
        monkeypatch.setattr(sys, "stdout", full)
        drop_stdout()
        os.write(own, b"lost")
        monkeypatch.undo()
        os.close(own)
        full.flush = lambda: None
    assert (tmp_path / "out").read_bytes() == b""


def test_a_stdout_that_works_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        file.write("kept")
        drop_stdout()
        assert (tmp_path / "out").read_text() == "kept"


def test_no_stdout_is_nothing_to_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    drop_stdout()
