"""A port of gRPC: a free one, one that is taken, an address of version 6, and one with a certificate."""

import asyncio
import socket
from typing import Any

import grpc
import pytest

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.serve.protocol.grpc.messages import SERVICE, message
from internvl_edge.runtime.serve.protocol.grpc.server import grpc_server, listen
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine


def test_a_free_port_answers_and_a_taken_one_is_one_line() -> None:
    async def run() -> bytes:
        server, other = grpc_server(Service(FakeEngine())), grpc_server(Service(FakeEngine()))
        port = listen(server, "127.0.0.1", 0, None)
        assert port > 0
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: cannot be listened on for gRPC; choose another port"):
            listen(other, "127.0.0.1", port, None)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer: bytes = await channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", timeout=HANG_S)
        await server.stop(None)
        await other.stop(None)
        return answer

    assert message("ServerLiveResponse").FromString(asyncio.run(run())).live


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_with_colons_stands_in_brackets() -> None:
    class Server:
        def add_insecure_port(self, address: str) -> int:
            assert address == "[::1]:9000"
            return 9000

    server: Any = Server()
    assert listen(server, "::1", 9000, None) == 9000


def test_a_key_and_its_certificate_make_the_port_secure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def add_secure_port(self, address: str, credentials: Any) -> int:
            assert (address, credentials) == ("localhost:9000", [(b"key", b"certificate")])
            return 9000

    server: Any = Server()
    monkeypatch.setattr(grpc, "ssl_server_credentials", lambda pairs: pairs)
    assert listen(server, "localhost", 9000, (b"key", b"certificate")) == 9000


def test_a_message_beyond_the_limit_is_refused() -> None:
    async def run() -> "grpc.StatusCode":
        server = grpc_server(Service(FakeEngine(), options=ProtocolOptions(body_bytes=1000)))
        port = listen(server, "127.0.0.1", 0, None)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/ModelInfer")(bytes(1001), timeout=HANG_S)
        await server.stop(None)
        return caught.value.code()

    assert asyncio.run(run()) is grpc.StatusCode.RESOURCE_EXHAUSTED
