"""Differences of a graph's outputs to torch: every value counts but keys and values of padding."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.export.check import verify_graph as module
from internvl_edge.export.check.verify_graph import OutputError, require_ok, verify_graph
from internvl_edge.runtime.errors import VerificationError

MASK = np.array([[0, 1, 1], [1, 1, 1]])


@pytest.fixture
def keys(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((2, 2, 3, 4)).astype(np.float32)


def errors(
    monkeypatch: pytest.MonkeyPatch, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, OutputError]:
    """Return the errors of a graph with these outputs, whose first row begins with padding."""
    monkeypatch.setattr(module, "run_rounded", lambda _file, _inputs: (dict(found), []))
    measured, _ = verify_graph("llm", Path("llm.onnx"), {"attention_mask": MASK}, expected, precision="fp16")
    return {error.output: error for error in measured}


def test_padding_does_not_count(monkeypatch: pytest.MonkeyPatch, keys: np.ndarray) -> None:
    other = keys.copy()
    other[0, :, 0] += 5
    error = errors(monkeypatch, {"present.0.key": other}, {"present.0.key": keys})["present.0.key"]
    assert error.max_abs_diff == 0
    assert error.cosine == pytest.approx(1)


@pytest.mark.parametrize(("row", "place"), [(0, 1), (1, 0)])
def test_every_other_position_counts(monkeypatch: pytest.MonkeyPatch, keys: np.ndarray, row: int, place: int) -> None:
    other = keys.copy()
    other[row, 1, place, 2] += 5
    found = errors(monkeypatch, {"present.0.key": other}, {"present.0.key": keys})
    assert found["present.0.key"].max_abs_diff == pytest.approx(5)
    with pytest.raises(VerificationError, match=r"llm.present.0.key differs by 5 \(allowed"):
        require_ok([*found.values()])


def test_logits_of_all_rows_count(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((2, 5))
    other = logits + np.array([[0, 0, 3, 0, 0], [0, 0, 0, 0, 0]])
    assert errors(monkeypatch, {"logits": other}, {"logits": logits})["logits"].max_abs_diff == pytest.approx(3)
