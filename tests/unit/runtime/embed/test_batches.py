"""Batches in order, whatever the threads do; unreadable pictures apart; memory bounded; threads gone at the end."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.embed.batches import Batch, BatchOptions, batches
from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.inputs.pictures.source import PictureFile
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS, Stages
from tests.tolerances import HANG_S
from tests.unit.runtime.embed_fakes import greys, write_pictures


@dataclass
class Grey:
    """A picture of one grey; negative: unreadable."""

    grey: int
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return str(self.grey)

    def content(self) -> np.ndarray:
        time.sleep(self.seconds)
        if self.grey < 0:
            raise UnreadableError(f"no picture {self.grey}")
        return np.full((2, 2, 3), self.grey, np.uint8)


def options(batch_size: int, workers: int = 2, ahead: int = 2) -> BatchOptions:
    return BatchOptions(preprocessing=Preprocessing(image_size=2), batch_size=batch_size, workers=workers, ahead=ahead)


def pictures_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pictures")]


@settings(max_examples=40)
@given(
    values=st.lists(st.integers(-50, 255), max_size=23),
    batch_size=st.integers(1, 7),
    workers=st.integers(1, 4),
    ahead=st.integers(1, 3),
)
def test_order_is_kept_and_the_unreadable_are_distinguished(
    values: list[int], batch_size: int, workers: int, ahead: int
) -> None:
    pictures = [Grey(value, seconds=(index % 3) * 1e-4) for index, value in enumerate(values)]
    seen, bad, covered = [], [], []
    for batch in batches(pictures, options(batch_size, workers, ahead)):
        seen += greys(batch.pixel_values)
        bad += batch.bad
        covered += list(range(batch.start, batch.start + batch.count))
    assert covered == list(range(len(values)))
    assert seen == [value for value in values if value >= 0]
    assert bad == [(index, f"no picture {value}") for index, value in enumerate(values) if value < 0]
    assert pictures_threads() == []


def test_values_are_those_of_preprocess(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, 7)
    parts = [batch.pixel_values.copy() for batch in batches([PictureFile(path) for path in paths], options(3))]
    np.testing.assert_array_equal(np.concatenate(parts), preprocess(paths, Preprocessing(image_size=2)))


def test_decoding_goes_on_while_the_caller_works_but_not_far_ahead() -> None:
    read: list[int] = []

    @dataclass
    class Counted(Grey):
        def content(self) -> np.ndarray:
            read.append(self.grey)
            return super().content()

    stream = batches([Counted(index) for index in range(40)], options(batch_size=4, ahead=2))
    next(stream)
    deadline = time.monotonic() + HANG_S
    while len(read) < 12 and time.monotonic() < deadline:
        time.sleep(1e-3)
    time.sleep(0.02)
    assert sorted(read) == list(range(12))  # the batch in hand and two ahead
    stream.close()
    assert pictures_threads() == []


def test_leaving_early_does_not_wait_for_what_nobody_wants() -> None:
    read: list[int] = []

    @dataclass
    class Counted(Grey):
        def content(self) -> np.ndarray:
            read.append(self.grey)
            return super().content()

    stream = batches([Counted(index, seconds=0.01) for index in range(400)], options(batch_size=100, ahead=3))
    next(stream)
    stream.close()
    assert max(read) < 300, "a queued part of the last batch began; running parts end"


def test_stages_are_measured_in_the_threads(tmp_path: Path) -> None:
    stages = Stages()
    pictures = [PictureFile(path) for path in write_pictures(tmp_path, 4)]
    assert [batch.count for batch in batches(pictures, options(2), stages)] == [2, 2]
    assert sorted(span.stage for span in stages.spans) == [DECODE_IMAGE] * 4 + [PREPROCESS] * 4


def test_a_batch_of_unreadable_pictures_has_no_row() -> None:
    (batch,) = batches([Grey(-1), Grey(-2)], options(2))
    assert isinstance(batch, Batch)
    assert batch.pixel_values.shape == (0, 3, 2, 2)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": 0}, {"ahead": 0}, {"geometry": "stretch"}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong.values()))}.*; |unknown; choose"):
        BatchOptions(preprocessing=Preprocessing(image_size=2), **wrong)  # type: ignore[arg-type]
