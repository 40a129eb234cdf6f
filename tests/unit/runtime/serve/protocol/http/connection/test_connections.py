"""Connections: slow clients, those who hang up, what is no HTTP, TLS, and answers without delay."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path

import pytest

from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine, Places, served
from tests.unit.runtime.serve.protocol.http.asking import rows

HASTY = ProtocolOptions(header_s=0.3, body_s=0.3, write_s=0.3)


def test_no_http_is_refused_in_json(places: Places) -> None:
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(4096).endswith(b'{"error":"invalid HTTP request received"}')


def test_a_client_that_hangs_up_cancels_the_work(places: Places, engine: FakeEngine, service: Service) -> None:
    engine.cancelled.clear()
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request("POST", "/v2/models/slow/infer", json.dumps(rows()))
    time.sleep(0.2)
    connection.close()
    assert engine.cancelled.wait(HANG_S)
    while not service.record.exchanges["slow", "http", "499"]:
        time.sleep(0.01)


def test_a_stream_that_nobody_reads_is_closed(places: Places, engine: FakeEngine) -> None:
    engine.streams_closed.clear()
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request("POST", "/v2/models/caption/generate_stream", json.dumps({"image": "x"}))
    connection.getresponse().read(10)
    connection.close()
    assert engine.streams_closed.wait(HANG_S)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\n",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
def test_slow_clients_are_cut(begun: bytes) -> None:
    with served(Service(FakeEngine(), options=HASTY)) as places:
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
            client.sendall(begun)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1024) == b""
            assert time.monotonic() - start > 0.29, "cut at once"


def test_an_endless_head_is_cut(places: Places) -> None:
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000)
        assert b" 400 " in client.recv(4096)


def test_tls(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc")
    triton = pytest.importorskip("tritonclient.grpc")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    try:
        subprocess.run([*made, "-keyout", key, "-out", cert, *name], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    with served(Service(FakeEngine()), tls_cert=cert, tls_key=key) as places:
        trust = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection(places.http_url, context=trust, timeout=HANG_S)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with triton.InferenceServerClient(f"localhost:{places.grpc}", ssl=True, creds=credentials) as client:
            assert client.is_server_live()


def test_answers_are_not_delayed(places: Places) -> None:
    """Nagle's delay, which would add 40 ms to every answer on a connection that is kept, is off at the server's end."""
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request("POST", "/v2/models/sum/infer", json.dumps(rows()))
    assert connection.getresponse().read()
    assert _without_delay(connection.sock.getsockname()) == [True]
    connection.close()


def _without_delay(client: object) -> list[bool]:
    """Return whether Nagle's delay is off on the connections to `client` of this process, where the server is."""
    found = []
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # others are no connections
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as each:
                    if each.getpeername() == client:
                        found.append(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
    return found
