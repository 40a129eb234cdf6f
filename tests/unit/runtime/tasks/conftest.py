"""A model whose graphs are NumPy functions."""

from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.tasks import opened as opened_module
from tests.unit.runtime.fake_graphs import FakeSession


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Graph and rows of every call; opening a graph is a call of -1 rows."""
    recorded: list[tuple[str, int]] = []

    def open_session(backend: str, bundle: Bundle, graph: str, options: SessionOptions) -> FakeSession:
        bundle.require(graph)
        recorded.append((graph, -1))
        return FakeSession(graph, recorded)

    monkeypatch.setattr(opened_module, "open_session", open_session)
    return recorded


@pytest.fixture
def model(bundle_folder: Path, calls: list[tuple[str, int]]) -> InternVL:
    return InternVL.open(bundle_folder, batch_size=2)


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(5, 3, 4, 4)).astype(np.float32)
