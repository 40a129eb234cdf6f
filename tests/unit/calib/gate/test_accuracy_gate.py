"""The accuracy gate: nothing lost on equal outputs, much on shuffled ones, and no pass for features that broke."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.calib.data.dataset import DataSet, open_data
from internvl_edge.calib.gate import accuracy
from internvl_edge.calib.gate.accuracy import AccuracyGate, RunGraph, held_out
from internvl_edge.calib.metrics import recall, strict_recall_at_1
from internvl_edge.export.blockwise.model import BlockwiseModel
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.runtime.progress import Advance

WIDTH = 64


@pytest.fixture(scope="module")
def data(emoji: Path) -> DataSet:
    return open_data(emoji / "data" / "test.jsonl").subsample(12)


@pytest.fixture(scope="module")
def outputs(data: DataSet) -> dict[str, np.ndarray]:
    """Pictures whose captions, in every language, point the same way."""
    images = np.random.default_rng(0).normal(size=(len(data.rows), WIDTH)).astype(np.float32)
    return {"image_embeds": images, "text_embeds": np.tile(images, (len(data.languages), 1))}


def running(outputs: Mapping[str, np.ndarray]) -> RunGraph:
    def run(graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if graph == "text":
            return {"text_embeds": outputs["text_embeds"]}
        return {"image_embeds": outputs["image_embeds"], "vision_states": outputs["image_embeds"][:, None]}

    return run


@pytest.fixture(scope="module")
def gate(emoji: Path, data: DataSet, outputs: dict[str, np.ndarray]) -> AccuracyGate:
    checkpoint = open_checkpoint(emoji / "checkpoint")
    model = BlockwiseModel("demo", checkpoint, checkpoint.config)
    return AccuracyGate(data, model, ("vision", "text"), running(outputs))


def test_the_same_outputs_lose_nothing(gate: AccuracyGate, outputs: dict[str, np.ndarray]) -> None:
    assert gate.measure(running(outputs)).drop == 0


def test_shuffled_pictures_lose_nearly_all(gate: AccuracyGate, outputs: dict[str, np.ndarray]) -> None:
    shuffled = {**outputs, "image_embeds": np.roll(outputs["image_embeds"], 1, axis=0)}
    assert gate.measure(running(shuffled)).drop == 100


class Counting:
    """Remembers the totals of its tasks, and how far they came."""

    def __init__(self) -> None:
        self.tasks: list[list[float]] = []

    @contextmanager
    def task(self, label: str, total: float, unit: str) -> Iterator[Advance]:
        self.tasks.append([total, 0])

        def advance(more: float) -> None:
            self.tasks[-1][1] += more

        yield advance


def test_the_reference_is_run_once(emoji: Path, data: DataSet, outputs: dict[str, np.ndarray]) -> None:
    """The first measurement sees the pictures twice, the next ones once; progress reaches its total."""
    checkpoint = open_checkpoint(emoji / "checkpoint")
    model = BlockwiseModel("demo", checkpoint, checkpoint.config)
    gate, progress = AccuracyGate(data, model, ("vision", "text"), running(outputs)), Counting()
    for _ in range(2):
        gate.measure(running(outputs), progress)
    assert progress.tasks == [[24, 24], [12, 12]]


def test_pictures_go_through_in_batches_that_fit(
    gate: AccuracyGate, emoji: Path, data: DataSet, outputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch holds as many values as the constant says, and one picture at least."""
    checkpoint = open_checkpoint(emoji / "checkpoint")
    model = BlockwiseModel("demo", checkpoint, checkpoint.config)
    for limit, sizes in ((5 * model.values_per_picture, [5, 5, 2]), (1, [1] * 12)):
        monkeypatch.setattr(accuracy, "_WIDEST_VALUES", limit)
        seen: list[int] = []

        def counted(graph: str, inputs: Mapping[str, np.ndarray], seen: list[int] = seen) -> dict[str, np.ndarray]:
            if graph == "vision":
                start, size = sum(seen), len(inputs["pixel_values"])
                seen.append(size)
                return {"image_embeds": outputs["image_embeds"][start : start + size]}
            return {"text_embeds": outputs["text_embeds"]}

        assert gate.measure(counted).drop == 0
        assert seen == sizes


@pytest.mark.parametrize("value", [np.nan, 1.0])
def test_broken_features_do_not_pass(gate: AccuracyGate, outputs: dict[str, np.ndarray], value: float) -> None:
    broken = {name: np.full_like(values, value) for name, values in outputs.items()}
    assert not gate.measure(running(broken)).drop <= 50


def test_held_out_rows_are_not_those_calibrated_on(emoji: Path) -> None:
    data = open_data(emoji / "data" / "calibration.jsonl")
    used = {row.file for row in data.subsample(64).rows}
    assert used.isdisjoint(row.file for row in held_out(data, 64, 32).rows)
    assert len(held_out(data, len(data.rows), 32).rows) == 32, "of all rows where no others are left"


def test_nan_is_a_miss_and_ties_are_no_clear_first() -> None:
    scores = np.array([[1.0, np.nan], [0.2, 0.9]])
    assert recall(scores)["R@1"] == 50
    assert recall(np.ones((2, 2)))["R@1"] == 100
    assert strict_recall_at_1(np.ones((2, 2))) == 0
    assert strict_recall_at_1(scores) == 50


def test_every_caption_is_measured(emoji: Path, tmp_path: Path) -> None:
    """Two captions a picture, which point at it: none is lost on the same outputs, one half on a picture's second."""
    rows = [{"file": f"{index}.png", "caption": ["a", "b"]} for index in range(3)]
    for row in rows:
        Image.new("RGB", (70, 70)).save(tmp_path / str(row["file"]))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    checkpoint = open_checkpoint(emoji / "checkpoint")
    model = BlockwiseModel("demo", checkpoint, checkpoint.config)
    images = np.eye(3, WIDTH, dtype=np.float32)
    outputs = {"image_embeds": images, "text_embeds": np.repeat(images, 2, axis=0)}
    data = open_data(tmp_path / "t.jsonl")
    gate = AccuracyGate(data, model, ("vision", "text"), running(outputs))
    same = gate.measure(running(outputs))
    assert [(metric.reference, metric.quantized) for metric in same.metrics] == [(100.0, 100.0)] * 2
    texts = outputs["text_embeds"].copy()
    texts[1::2] = np.roll(texts[1::2], 2, axis=0)  # of each picture the second points at another
    worse = gate.measure(running({**outputs, "text_embeds": texts}))
    assert [metric.quantized for metric in worse.metrics] == [0.0, 50.0], "a tie is no clear first"
