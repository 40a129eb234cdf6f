"""NaN and infinity are reported once, and never ranked."""

import logging

import numpy as np
import pytest

from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.finite import FiniteOutputs, require_finite
from internvl_edge.runtime.tasks.features import require_direction, similarity_logits, zero_shot_classifier


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_graph_is_reported_once(value: float, dtype: type, caplog: pytest.LogCaptureFixture) -> None:
    outputs = {"image_embeds": np.ones((2, 3), dtype), "vision_states": np.ones((2, 4, 3), dtype)}
    watch = FiniteOutputs()
    watch.watch("vision", outputs)
    assert caplog.records == []
    outputs["image_embeds"][1, 2] = value
    outputs["vision_states"][0, 0, 1] = value
    with caplog.at_level(logging.WARNING):
        watch.watch("vision", outputs)
        watch.watch("vision", outputs)
    told = [record.getMessage() for record in caplog.records]
    assert [message.split(";")[0] for message in told] == [
        "graph vision: 1 of 6 values of image_embeds are NaN or inf",
        "graph vision: 1 of 24 values of vision_states are NaN or inf",
    ]
    assert all("--dtype bf16" in message for message in told)


def test_another_graph_is_reported_as_well(caplog: pytest.LogCaptureFixture) -> None:
    watch = FiniteOutputs()
    for graph in ("text", "itm", "text"):
        watch.watch(graph, {"out": np.full((1, 2), np.nan, np.float32)})
    assert [record.getMessage()[:10] for record in caplog.records] == ["graph text", "graph itm:"]


def test_caches_integers_and_scalars_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    outputs = {"present.0.key": np.full((1, 1, 2, 2), np.nan), "ids": np.ones((2, 2), np.int64), "one": np.float64(1)}
    FiniteOutputs().watch("query", {name: np.asarray(value) for name, value in outputs.items()})
    assert caplog.records == []


def test_rows_that_would_rank_anywhere_are_refused() -> None:
    good, bad = np.ones((3, 2)), np.array([[1, 2], [np.nan, 1], [np.inf, 0]])
    assert require_finite(good, "pairs") is good
    with pytest.raises(BackendError, match="pictures: 2 of 3 have NaN or inf; export with --dtype bf16"):
        similarity_logits(bad, good, 1.0)
    with pytest.raises(BackendError, match="texts: 2 of 3 have NaN"):
        similarity_logits(good, bad, 1.0)
    with pytest.raises(BackendError, match="texts: 2 of 3 have NaN"):
        zero_shot_classifier([good, bad])
    with pytest.raises(BackendError, match="pictures: 1 of 2 have features of zeros alone"):
        require_direction(np.array([[0, 0], [0, 1]]), "pictures")
