"""`serve` on the demo: a user starts it, asks it in every way, watches it and stops it."""

import http.client
import json
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from tests.e2e.conftest import Run
from tests.e2e.test_cli import one_line
from tests.project import ROOT
from tests.tolerances import HANG_S

pytest.importorskip("uvicorn")
COMMAND = (sys.executable, "-m", "internvl_edge.cli", "serve")
RAW = {"Inference-Header-Content-Length": "0"}
"""The body is one element: a picture."""
ANY_PORT = ("--http", "0", "--grpc", "0", "--threads", "1", "--deadline-ms", "60000")


@dataclass(frozen=True)
class Server:
    """A server under way."""

    process: "subprocess.Popen[str]"
    http: int
    grpc: int
    log: Path

    def ask(self, path: str, body: Any = None, headers: "dict[str, str] | None" = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=HANG_S)
        sent = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, sent, headers or {})
        answer = connection.getresponse()
        got = answer.status, answer.read()
        connection.close()
        return got


@pytest.fixture(scope="module")
def server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(demo_bundle, tmp_path_factory.mktemp("serve") / "log") as server:
        yield server


@contextmanager
def serving(bundle: Path, log: Path, model: str = "caption") -> Iterator[Server]:
    with log.open("w") as errors:
        process = subprocess.Popen([*COMMAND, bundle, *ANY_PORT], stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        try:
            places = process.stdout.readline().split(", ")
            assert model in process.stdout.readline(), log.read_text()
            yield Server(process, *(int(place.rsplit(":", 1)[1]) for place in places), log)
        finally:
            process.kill()
            process.wait(HANG_S)
            process.stdout.close()


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> Iterator[InternVL]:
    with InternVL.open(demo_bundle) as model:
        yield model


def test_texts_and_pictures_are_embedded_as_in_process(server: Server, model: InternVL, pictures: Path) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["gem stone", "a slice of pizza"]}]}
    status, answer = server.ask("/v2/models/encode_text/infer", body)
    assert status == 200, answer
    got = np.array(json.loads(answer)["outputs"][0]["data"], np.float32).reshape(2, -1)
    np.testing.assert_allclose(got, model.encode_text(["gem stone", "a slice of pizza"]), rtol=1e-3, atol=1e-4)
    picture = sorted(pictures.rglob("*.png"))[0]
    status, answer = server.ask("/v2/models/encode_image/infer", picture.read_bytes(), RAW)
    assert status == 200, answer
    got = np.array(json.loads(answer)["outputs"][0]["data"], np.float32)
    np.testing.assert_allclose(got, model.encode_image([picture])[0], rtol=1e-3, atol=1e-4)


def test_captions_stream_over_grpc(server: Server, model: InternVL, pictures: Path) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    picture = sorted(pictures.rglob("*.png"))[1]
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([picture.read_bytes()], np.object_))
    expected = model.caption([picture])[0]
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        assert client.infer("caption", [image]).as_numpy("text")[0].decode() == expected
        parts: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: parts.put(error or result))
        client.async_stream_infer("caption", [image])
        text, final = "", False
        while not final:
            part = parts.get(timeout=HANG_S)
            text += part.as_numpy("text")[0].decode()
            final = part.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()
    assert text == expected


def test_bombs_are_refused(server: Server) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    status, answer = server.ask("/v2/models/encode_image/infer", bomb, RAW)
    assert 400 <= status < 500, answer
    assert list(json.loads(answer)) == ["error"]
    assert (
        server.ask("/v2/models/encode_image/infer", b"/etc/passwd", {"Inference-Header-Content-Length": "0"})[0] == 400
    )


def test_it_can_be_watched(server: Server, pictures: Path) -> None:
    asked = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["gem stone"]}]}
    assert server.ask("/v2/models/encode_text/infer", asked)[0] == 200
    picture = sorted(pictures.rglob("*.png"))[2].read_bytes()
    assert server.ask("/v2/models/encode_image/infer", picture, RAW)[0] == 200
    status, text = server.ask("/metrics")
    assert status == 200
    assert b'internvl_stage_seconds_count{model="encode_text",stage="compute"}' in text
    assert b"encode_image" in server.ask("/")[1]
    logged = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert {"encode_text", "encode_image"} <= {line.get("model") for line in logged}
    assert all(len(line["trace_id"]) == 32 for line in logged)


def test_perf_analyzer_measures_it(server: Server) -> None:
    """Its binary, from an old wheel of tritonclient, needs libraries that few machines have: `make` finds them."""
    program = ROOT / ".triton" / "perf_analyzer" / "bin" / "perf_analyzer"
    libraries = {**os.environ, "LD_LIBRARY_PATH": str(ROOT / ".triton" / "lib")}
    if not program.is_file():
        pytest.skip("no perf_analyzer; run `make .triton/.ready`")
    if subprocess.run([program, "--version"], env=libraries, capture_output=True, check=False).returncode:
        pytest.skip("perf_analyzer does not start here")
    short = [
        "--measurement-mode",
        "count_windows",
        "--measurement-request-count",
        "5",
        "-p",
        "100",
        "-s",
        "999",
        "-r",
        "3",
    ]
    text = ["-m", "encode_text", "--shape", "text:1", "--string-data", "gem stone"]
    for place in (["-u", f"127.0.0.1:{server.http}"], ["-i", "grpc", "-u", f"127.0.0.1:{server.grpc}"]):
        done = subprocess.run(
            [program, *text, *place, *short], env=libraries, capture_output=True, text=True, check=False, timeout=HANG_S
        )
        assert "throughput" in done.stdout, done.stdout + done.stderr


def test_a_port_that_is_taken_is_one_line(run: Run, demo_bundle: Path, server: Server) -> None:
    for option, port in (("--http", server.http), ("--grpc", server.grpc)):
        other = "--grpc" if option == "--http" else "--http"
        done = run("serve", demo_bundle, option, port, other, "-1")
        one_line(done)
        assert str(port) in done.stderr


def test_what_cannot_be_served_is_one_line(run: Run, tmp_path: Path, demo_bundle: Path) -> None:
    for arguments, words in (
        ((tmp_path / "absent", *ANY_PORT), "no bundle"),
        ((demo_bundle, "--http", "-1", "--grpc", "-1"), "neither"),
    ):
        done = run("serve", *arguments)
        one_line(done)
        assert words in done.stderr


def test_sigterm_lets_requests_finish(demo_bundle: Path, tmp_path: Path, pictures: Path) -> None:
    picture = sorted(pictures.rglob("*.png"))[2].read_bytes()
    with serving(demo_bundle, tmp_path / "log") as own:
        connection = http.client.HTTPConnection("127.0.0.1", own.http, timeout=HANG_S)
        while not _is_under_way(own, connection, picture):
            assert connection.getresponse().read()  # it was answered before anybody looked
        os.kill(own.process.pid, signal.SIGTERM)
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["outputs"][0]["data"][0]
        connection.close()
        assert own.process.wait(HANG_S) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", own.http), 1)


def _is_under_way(server: Server, connection: http.client.HTTPConnection, picture: bytes) -> bool:
    """Ask for a caption; return whether the server was seen to work on it."""
    connection.request("POST", "/v2/models/caption/infer", picture, RAW)
    while not select.select([connection.sock], [], [], 0)[0]:
        if b"internvl_requests_under_way 2" in server.ask("/metrics")[1]:
            return True
    return False
