"""Where findings of a machine are kept, for every part of the program."""

from pathlib import Path

import pytest

from internvl_edge.runtime.cache_folder import cache_folder


def test_the_variable_of_the_program_goes_before_that_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    monkeypatch.setenv("INTERNVL_EDGE_CACHE", "/here")
    assert cache_folder() == Path("/here")
    monkeypatch.setenv("INTERNVL_EDGE_CACHE", "")
    assert cache_folder() == Path("/there/internvl-edge")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "internvl-edge"
