"""Refusals by the head alone: said once, before the body, on a connection that goes on; nobody else is kept out."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

import pytest

from internvl_edge.runtime.serve import server
from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.http.admission import AdmissionControl, Admitted, RejectedError
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.refusals import OverloadedError
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine, Places, served

CROWDED = "/v2/models/crowded/infer"
TENSOR = {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
BODY = json.dumps({"inputs": [{"name": "a", **TENSOR}, {"name": "b", **TENSOR}]}).encode()


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(FakeEngine())


@pytest.fixture(scope="module")
def places(service: Service) -> Iterator[Places]:
    with served(service) as places:
        yield places


@pytest.fixture
def hasty() -> Iterator[Places]:
    """A server that cuts off soon who sends nothing more."""
    with served(Service(FakeEngine(), options=ProtocolOptions(header_s=0.3, body_s=0.3))) as places:
        yield places


def post(path: str, body: bytes = BODY, *headers: str) -> bytes:
    """Return a request as it is sent."""
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def answers(client: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Return status and body of so many answers."""
    reader, found = client.makefile("rb"), []
    for _ in range(count):
        status, length = int(reader.readline().split()[1]), 0
        while (line := reader.readline().lower()) != b"\r\n":
            length = int(line.split(b":")[1]) if line.startswith(b"content-length:") else length
        found.append((status, reader.read(length)))
    return found


def test_what_finds_no_room_is_refused_before_its_body_is_read(places: Places, service: Service) -> None:
    before = service.record.refusals["crowded", "OverloadedError"], service.record.exchanges["crowded", "http", "429"]
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(post(CROWDED, b"x" * 100)[:-100])
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nretry-after: 2\r\n" in answer
    assert b"\r\ndate: " in answer
    assert answer.endswith(b'{"error":"there is no room"}')  # head and body in one piece
    counted = service.record.refusals["crowded", "OverloadedError"], service.record.exchanges["crowded", "http", "429"]
    assert counted == (before[0] + 1, before[1] + 1)
    assert service.record.under_way == 0


@pytest.mark.parametrize("body", [b"", BODY, b"x" * 1_000_000])
@pytest.mark.parametrize("path", [CROWDED, "/v2/models/crowded/versions/1/infer", "/v2/models/crowded/generate"])
def test_the_connection_goes_on(places: Places, path: str, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        for _ in range(2):
            client.sendall(post(path, body))
            assert answers(client, 1) == [(429, b'{"error":"there is no room"}')]
        client.sendall(post("/v2/models/sum/infer"))
        assert answers(client, 1)[0][0] == 200


def test_answers_keep_the_order_of_requests(places: Places) -> None:
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(post("/v2/models/sum/infer") + post(CROWDED) + post("/v2/models/sum/infer") + post(CROWDED))
        assert [status for status, _ in answers(client, 4)] == [200, 429, 200, 429]


@pytest.mark.parametrize(
    ("version", "header"), [("1.0", "X: y"), ("1.0", "Connection: keep-alive"), ("1.1", "Connection: close")]
)
def test_a_connection_that_shall_close_is_closed(places: Places, version: str, header: str) -> None:
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(post(CROWDED, BODY, header).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_a_body_that_waits_for_a_word_need_not_come(places: Places) -> None:
    """Whether it comes after a refusal is the client's choice, so that nobody knows where the next request begins."""
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(post(CROWDED, b"x" * 100, "Expect: 100-continue")[:-100])
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert answer.endswith(b'{"error":"there is no room"}')


def test_a_trace_goes_on() -> None:
    seen: list[Exchange] = []

    class Watched(Record):
        def ended(self, exchange: Exchange) -> None:
            seen.append(exchange)

    admission = AdmissionControl(Service(FakeEngine(), record=Watched()))
    trace = f"00-{'a' * 32}-{'b' * 16}-01".encode()
    with pytest.raises(RejectedError):
        admission.admit(b"POST", CROWDED, "10.0.0.1", [(b"host", b"x"), (b"traceparent", trace)])
    assert seen[0].trace.trace_id == "a" * 32
    assert (seen[0].method, seen[0].client, seen[0].status) == (f"POST {CROWDED}", "10.0.0.1", "429")


def test_who_is_refused_and_sends_no_more_is_cut(hasty: Places) -> None:
    with socket.create_connection(("127.0.0.1", hasty.http), HANG_S) as client:
        client.sendall(post(CROWDED, b"x" * 100)[:-50])
        assert answers(client, 1)[0][0] == 429
        assert client.recv(1) == b""


def test_whatever_the_head_does_not_decide_comes_in(places: Places) -> None:
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    for method, path, status in (
        ("GET", "/v2/models/crowded", 200),
        ("GET", CROWDED, 405),
        ("POST", "/v2/models/nobody/infer", 404),
        ("POST", CROWDED + "?x=1", 429),
        ("GET", "/v2/health/live", 200),
        ("GET", "/metrics", 200),
    ):
        connection.request(method, path, BODY if method == "POST" else None)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, path
    connection.close()


def test_the_key_comes_first() -> None:
    with served(Service(FakeEngine(), credentials=Credentials(["secret"]))) as places:
        for headers, status in (((), 401), (("x-api-key: wrong",), 401), (("Authorization: Bearer secret",), 429)):
            with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
                client.sendall(post(CROWDED, BODY, *headers))
                assert answers(client, 1)[0][0] == status


class Narrow(FakeEngine):
    """Has room for so many requests."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def require_room(self, model: str, client: str, coming: Mapping[str, int] = MappingProxyType({})) -> bool:
        if model == "encode_image":  # whose answer may be known
            return False
        if sum(coming.values()) >= self.room:
            raise OverloadedError("there is no room", 1.5)
        return True


class Clients:
    """Come to a admission one after the other, and begin in their turns."""

    def __init__(self, room: int) -> None:
        self.admission = AdmissionControl(Service(Narrow(room)))
        self.begun: list[int] = []

    def come(self, *numbers: int, model: str = "sum") -> list[bool]:
        """Return whether each was let in."""
        found = []
        for number in numbers:
            try:
                admitted = self.admission.admit(b"POST", f"/v2/models/{model}/infer", f"10.0.0.{number % 3}", ())
            except RejectedError:
                found.append(False)
            else:
                found.append(True)
                assert admitted is not None
                self.admission.begin(admitted, partial(self.begun.append, number))
        return found


def test_a_turn_of_the_loop_lets_in_as_many_as_there_is_room_for() -> None:
    async def scene() -> None:
        clients = Clients(room=3)
        assert clients.come(*range(5)) == [True, True, True, False, False]
        await asyncio.sleep(0)  # those who came in are queued, and counted there
        assert clients.come(*range(4)) == [True, True, True, False]

    asyncio.run(scene())


def test_those_who_come_at_once_begin_in_their_order_some_in_each_turn() -> None:
    async def scene() -> None:
        clients = Clients(room=20)
        assert sum(clients.come(*range(25))) == 20
        assert clients.begun == list(range(8))
        await asyncio.sleep(0)
        assert clients.begun == list(range(16))
        assert sum(clients.come(*range(100, 110))) == 8  # as many as are queued by now
        await asyncio.sleep(0)
        assert clients.begun == [*range(20), *range(100, 104)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert clients.begun == [*range(20), *range(100, 108)]
        assert all(clients.come(*range(20)))  # nobody is counted any more

    asyncio.run(scene())


def test_who_is_admitted_and_does_not_come_holds_no_room() -> None:
    async def scene() -> None:
        clients = Clients(room=1)
        for _ in range(3):
            admitted = clients.admission.admit(b"POST", "/v2/models/sum/infer", "10.0.0.1", ())
            assert admitted == Admitted("10.0.0.1", queued=True)

    asyncio.run(scene())


def test_who_may_need_no_room_takes_none() -> None:
    async def scene() -> None:
        clients = Clients(room=2)
        assert all(clients.come(*range(20), model="encode_image"))
        assert clients.come(20, 21, 22) == [True, True, False]
        for _ in range(3):
            await asyncio.sleep(0)
        assert clients.begun == list(range(22))

    asyncio.run(scene())


def test_of_two_keys_the_first_counts_as_everywhere() -> None:
    admission = AdmissionControl(Service(FakeEngine(), credentials=Credentials(["one", "two"])))
    clients = [
        admission.admit(b"POST", "/v2/models/sum/infer", "10.0.0.1", [(b"x-api-key", key) for key in keys])
        for keys in ((b"one",), (b"one", b"two"), (b"two", b"one"), (b"wrong", b"one"))
    ]
    assert clients[0] == clients[1] != clients[2]
    assert clients[3] is None


def test_who_asks_faster_than_it_takes_refusals_is_read_no_more(places: Places, service: Service) -> None:
    def refused() -> int:
        return service.record.refusals["crowded", "OverloadedError"]

    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", places.http))
        client.settimeout(1)
        flood = post(CROWDED, b"") * 400_000
        with pytest.raises(TimeoutError):
            client.sendall(flood)
        end, before = time.monotonic() + HANG_S, -1
        while before != refused():  # what came by then is refused; on a busy machine that takes a while
            assert time.monotonic() < end
            before = refused()
            time.sleep(0.5)
        assert before < 200_000
        connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        client.settimeout(HANG_S)
        assert answers(client, 5000) == [(429, b'{"error":"there is no room"}')] * 5000


def test_a_request_behind_a_refusal_is_no_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_IDLE_S", 1)
    with (
        served(Service(FakeEngine())) as places,
        socket.create_connection(("127.0.0.1", places.http), HANG_S) as client,
    ):
        client.sendall(post(CROWDED) + post("/v2/models/slow/infer"))
        assert answers(client, 1)[0][0] == 429
        client.settimeout(2)
        with pytest.raises(TimeoutError):
            client.recv(1)  # b"" would be a connection that was closed


def test_the_wait_in_admission_control_counts_against_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(admission: AdmissionControl, admitted: Admitted, start: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(0.3, start)

    monkeypatch.setattr(AdmissionControl, "begin", late)
    engine = FakeEngine()
    service = Service(engine, options=ProtocolOptions(deadline_s=60))
    with served(service) as places, socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        before = time.monotonic()
        client.sendall(post("/v2/models/sum/infer"))
        assert answers(client, 1)[0][0] == 200
        taken = time.monotonic() - before
    deadline = engine.seen[-1].deadline
    assert deadline is not None
    assert before + 60 <= deadline + 0.01 <= before + taken + 59.71  # a minute from the head, not from its beginning
    assert service.record.latency["sum"].sum >= 0.29


def test_a_conversation_that_finds_no_room_is_refused_by_its_head_in_openai_s_form(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = b"POST", "/v1/chat/completions", "1.2.3.4", ()
    control = AdmissionControl(service)
    assert control.admit(*asked) == Admitted("1.2.3.4", True)
    assert control.admit(b"GET", *asked[1:]) is None

    def require_room(*given: object) -> bool:
        raise OverloadedError("the queue is full", 1.5)

    monkeypatch.setattr(service.engine, "require_room", require_room)
    with pytest.raises(RejectedError) as caught:
        control.admit(*asked)
    head, _, body = caught.value.answer.partition(b"\r\n\r\n")
    assert b"retry-after: 2" in head
    assert json.loads(body)["error"]["type"] == "rate_limit_error"
