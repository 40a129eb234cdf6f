"""Requests of many threads leave together, in order, in time; one that fails or is cancelled harms no other."""

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_edge.runtime.embed.micro_batcher import MicroBatcher, QueueFullError
from internvl_edge.runtime.errors import BackendError, InputError
from tests.tolerances import HANG_S
from tests.unit.runtime.embed_fakes import fake_model, greys, write_pictures

LONG_MS = 60_000.0


class Recorded:
    """Doubles items, keeps the batches, and waits in the first one until `go` is set."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.started.set()
        assert self.go.wait(HANG_S)
        if any(item < 0 for item in items):
            raise ValueError(f"negative in {items}")
        return [2 * item for item in items]


@settings(max_examples=25)
@given(
    items=st.lists(st.integers(-3, 50), max_size=30), max_batch=st.integers(1, 6), delay_ms=st.sampled_from([0.0, 0.5])
)
def test_each_gets_its_own_answer(items: list[int], max_batch: int, delay_ms: float) -> None:
    run = Recorded()
    with MicroBatcher(run, max_batch=max_batch, max_delay_ms=delay_ms) as batcher:
        futures = [batcher.submit(item) for item in items]
    for item, future in zip(items, futures, strict=True):
        if item < 0:
            assert isinstance(future.exception(), ValueError)
        else:
            assert future.result() == 2 * item
    assert max(map(len, run.batches), default=0) <= max_batch
    if all(item >= 0 for item in items):
        assert [item for batch in run.batches for item in batch] == items


def test_a_full_batch_leaves_at_once_and_a_lonely_one_after_the_delay() -> None:
    with MicroBatcher(Recorded(), max_batch=3, max_delay_ms=LONG_MS) as batcher:
        futures = [batcher.submit(item) for item in range(3)]
        assert [future.result(HANG_S) for future in futures] == [0, 2, 4]
    with MicroBatcher(Recorded(), max_batch=3, max_delay_ms=30) as batcher:
        start = time.monotonic()
        assert batcher.submit(1).result(HANG_S) == 2
        assert time.monotonic() - start >= 0.03


def test_what_comes_while_the_graph_runs_leaves_together() -> None:
    run = Recorded(held=True)
    with MicroBatcher(run, max_batch=8, max_delay_ms=1) as batcher:
        batcher.submit(1)
        assert run.started.wait(HANG_S)
        futures = [batcher.submit(item) for item in (2, 3, 4)]
        time.sleep(0.01)
        run.go.set()
        assert [future.result(HANG_S) for future in futures] == [4, 6, 8]
    assert run.batches == [[1], [2, 3, 4]]


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    run = Recorded()
    batcher = MicroBatcher(run, max_batch=8, max_delay_ms=LONG_MS)
    future = batcher.submit(5)
    batcher.close()
    batcher.close()
    assert future.result(0) == 10
    with pytest.raises(BackendError, match="closed; open another"):
        batcher.submit(6)


def test_the_cancelled_are_never_run_and_no_company() -> None:
    run = Recorded(held=True)
    with MicroBatcher(run, max_batch=2, max_delay_ms=LONG_MS) as batcher:
        first = [batcher.submit(item) for item in (1, 2)]
        assert run.started.wait(HANG_S)
        third, fourth = batcher.submit(3), batcher.submit(4)
        assert third.cancel()
        run.go.set()
        assert [future.result(HANG_S) for future in first] == [2, 4]
        with pytest.raises(CancelledError):
            third.result()
        assert not fourth.done()  # waits for further items
        assert batcher.submit(5).result(HANG_S) == 10
    assert run.batches == [[1, 2], [4, 5]]


def test_a_full_queue_refuses_unless_someone_has_left_it() -> None:
    run = Recorded(held=True)
    with MicroBatcher(run, max_batch=1, queue=2) as batcher:
        batcher.submit(0)
        assert run.started.wait(HANG_S)
        waiting = [batcher.submit(1), batcher.submit(2)]
        with pytest.raises(QueueFullError, match="2 requests wait already; ask again later"):
            batcher.submit(3)
        waiting[0].cancel()
        last = batcher.submit(4)
        run.go.set()
        assert last.result(HANG_S) == 8
    assert run.batches == [[0], [2], [4]]


def test_a_wrong_number_of_results_is_reported() -> None:
    empty: list[int] = []
    with MicroBatcher(lambda items: empty, max_batch=2, max_delay_ms=LONG_MS) as batcher:
        futures: list[Future[int]] = [batcher.submit(item) for item in (1, 2)]
        for future in futures:
            with pytest.raises(BackendError, match="0 results of 1 items; return one for each"):
                future.result(HANG_S)


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_delay_ms": -1.0}, {"max_delay_ms": np.nan}, {"queue": 0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="give 1 or more, 0 or more"):
        MicroBatcher(Recorded(), **wrong)  # type: ignore[arg-type]


def test_pictures_of_many_threads_go_through_a_model_together(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, ran = fake_model(bundle_folder, monkeypatch)
    paths: list[object] = list(write_pictures(tmp_path / "p", 20))
    Image.new("L", (3, 3)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no")
    batcher: MicroBatcher[object, np.ndarray] = MicroBatcher(model.encode_image, max_batch=5, max_delay_ms=200)
    with batcher, ThreadPoolExecutor(10) as pool:
        features = list(pool.map(lambda path: batcher.submit(path).result(HANG_S), paths))
        assert greys(np.stack(features)) == list(range(20))
        good, bad = batcher.submit(tmp_path / "good.png"), batcher.submit(tmp_path / "bad.png")
        assert greys(good.result(HANG_S)[None]) == [0]
        with pytest.raises(InputError, match=r"bad.png \(not a picture\)"):
            bad.result(HANG_S)
    assert max(rows for _, rows in ran) > 1
