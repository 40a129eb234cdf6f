"""The engine with real processes: answers, a kill in the middle, an end that waits, and a start that fails."""

import asyncio
import hashlib
import io
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.pool import WorkerEngine
from internvl_edge.runtime.serve.refusals import BadRequestError, TooLargeError, UnavailableError
from internvl_edge.runtime.serve.requests import Request
from internvl_edge.runtime.serve.workers.process import ProcessLink
from internvl_edge.runtime.serve.workers.worker import Worker
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.onnx_bundle import write_onnx_bundle

BATCH = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx_bundle(tmp_path_factory.mktemp("served") / "bundle")


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, HANG_S))


def engine(bundle: Path, **options: Any) -> WorkerEngine:
    return WorkerEngine(bundle, ServeOptions(threads=1, max_batch=BATCH, backend="onnxruntime", **options))


def ids(*rows: list[int], **more: Any) -> Request:
    return Request(model="text", inputs={"input_ids": np.array(rows)}, **more)


def encoded(colour: tuple[int, int, int], size: tuple[int, int] = (5, 5)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "PNG")
    return target.getvalue()


def pictures(*contents: bytes) -> Request:
    values = np.empty(len(contents), np.object_)
    values[:] = contents
    return Request(model="encode_image", inputs={"image": values})


def process(worker: Worker) -> int:
    assert isinstance(worker.link, ProcessLink)
    return worker.link.pid


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_requests_are_joined_computed_and_cut_apart(bundle: Path) -> None:
    async def scene() -> None:
        served = engine(bundle)
        await served.start()
        try:
            answers = await asyncio.gather(*(served.infer(ids(*[[n, row] for row in range(n)])) for n in range(1, 12)))
            for n, answer in enumerate(answers, 1):
                assert answer.outputs["text_embeds"].tolist() == [[n + row] for row in range(n)]
            whole = np.arange(3 * 20 * 16, dtype=np.float32).reshape(20, 3, 4, 4)
            raw = await served.infer(Request(model="vision", inputs={"pixel_values": whole}))
            np.testing.assert_allclose(raw.outputs["image_embeds"], whole.mean(axis=(2, 3)), rtol=1e-6)
        finally:
            await served.close()

    run(scene())


def test_pictures_are_decoded_and_a_bad_one_fails_alone(bundle: Path) -> None:
    async def scene() -> None:
        served = engine(bundle, max_pixels=100)
        await served.start()
        try:
            good = (served.infer(pictures(encoded((level, 0, 255)))) for level in (0, 255))
            path = str(bundle / "manifest.json").encode()
            bad = (served.infer(pictures(content)) for content in (path, encoded((0, 0, 0), (11, 10))))
            black, red, unreadable, large = await asyncio.gather(*good, *bad, return_exceptions=True)
            assert not isinstance(black, BaseException)
            assert not isinstance(red, BaseException)
            np.testing.assert_allclose(black.outputs["embedding"][0, 0], -0.485 / 0.229, rtol=1e-5)
            np.testing.assert_allclose(red.outputs["embedding"][0, 0], (1 - 0.485) / 0.229, rtol=1e-5)
            assert isinstance(unreadable, BadRequestError)
            assert str(bundle) not in str(unreadable)
            assert isinstance(large, TooLargeError)
        finally:
            await served.close()

    run(scene())


def test_no_request_is_lost_with_a_worker_that_is_killed(bundle: Path) -> None:
    async def scene() -> None:
        served = engine(bundle, queue=64)
        await served.start()
        try:
            (worker,) = served.workers
            killed = process(worker)
            os.kill(killed, signal.SIGSTOP)  # it holds what it is given
            asked = [asyncio.ensure_future(served.infer(ids([n, 1], client=str(n % 3)))) for n in range(20)]
            await until(lambda: len(worker.jobs) == 2)
            os.kill(killed, signal.SIGKILL)
            await until(lambda: not served.ready)
            answers = await asyncio.gather(*asked)
            assert [answer.outputs["text_embeds"].item() for answer in answers] == [n + 1 for n in range(20)]
            assert process(worker) != killed
            assert served.ready
        finally:
            await served.close()

    run(scene())


def test_a_process_that_hangs_is_ended_and_replaced(bundle: Path) -> None:
    async def scene() -> None:
        served = engine(bundle, stall_s=1)
        await served.start()
        try:
            (worker,) = served.workers
            stopped = process(worker)
            os.kill(stopped, signal.SIGSTOP)
            answer = await served.infer(ids([2, 3], deadline=time.monotonic() + HANG_S))
            assert answer.outputs["text_embeds"].item() == 5
            assert process(worker) != stopped
        finally:
            await served.close()

    run(scene())


def test_closing_answers_what_was_taken_up_and_takes_nothing_more(bundle: Path) -> None:
    async def scene() -> None:
        served = engine(bundle)
        await served.start()
        processes = [process(worker) for worker in served.workers]
        asked = [asyncio.ensure_future(served.infer(ids([n]))) for n in range(20)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(served.close(30))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await served.infer(ids([1]))
        assert [answer.outputs["text_embeds"].item() for answer in await asyncio.gather(*asked)] == list(range(20))
        await closing
        for number in processes:
            with pytest.raises(ProcessLookupError):
                os.kill(number, 0)

    run(scene())


def test_a_worker_that_cannot_open_its_graphs_says_why(tmp_path: Path) -> None:
    folder = write_onnx_bundle(tmp_path / "broken")

    async def scene() -> None:
        served = engine(folder)
        manifest = (folder / "manifest.json").read_text()
        text = folder / "onnx" / "fp32" / "text.onnx"
        content = b"\0" * text.stat().st_size
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        text.write_bytes(content)
        (folder / "manifest.json").write_text(manifest.replace(digest, hashlib.sha256(content).hexdigest()))
        with pytest.raises(BackendError, match=r"text\.onnx: ONNX Runtime refuses the graph"):
            await served.start()
        assert not served.ready

    run(scene())
