"""Triton's calls for shared memory, traces, logs and loading, by tritonclient's own methods over both protocols."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.service import Service
from tests.unit.runtime.serve.fake_engine import FakeEngine, served

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(request: pytest.FixtureRequest, engine: FakeEngine) -> Iterator[Any]:
    with served(Service(engine)) as places:
        module, url = (http, places.http_url) if request.param == "http" else (grpc, places.grpc_url)
        with module.InferenceServerClient(url) as client:
            yield client


def plain(client: Any, call: str, *arguments: Any, **more: Any) -> Any:
    if isinstance(client, grpc.InferenceServerClient):
        more["as_json"] = True
    return getattr(client, call)(*arguments, **more)


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_there_is_no_shared_memory(client: Any, kind: str) -> None:
    assert plain(client, f"get_{kind}_shared_memory_status") in ([], {})
    for arguments in ((), ("mine",)):
        getattr(client, f"unregister_{kind}_shared_memory")(*arguments)
    region = ("mine", "/mine", 16) if kind == "system" else ("mine", b"aGFuZGxl", 0, 16)
    with pytest.raises(Exception, match="shared memory is not offered; send tensors as binary data"):
        getattr(client, f"register_{kind}_shared_memory")(*region)
    with pytest.raises(Exception, match="there is no region 'mine' of shared memory"):
        getattr(client, f"get_{kind}_shared_memory_status")("mine")


def test_traces_are_off_and_stay_so(client: Any) -> None:
    settings = plain(client, "get_trace_settings")
    settings = settings.get("settings", settings)
    assert settings["trace_level"] in (["OFF"], {"value": ["OFF"]})
    assert plain(client, "get_trace_settings", "sum")
    assert plain(client, "update_trace_settings", settings={"trace_level": ["OFF"]})
    with pytest.raises(Exception, match=r"changing trace settings \('trace_level'\) is not offered; .*--traces"):
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    with pytest.raises(Exception, match="'nope' is not served"):
        client.get_trace_settings("nope")


def test_logs_are_reported_and_stay_so(client: Any) -> None:
    settings = plain(client, "get_log_settings")
    assert settings.get("settings", settings)["log_format"] in ("default", {"string_param": "default"})
    assert plain(client, "update_log_settings", {"log_info": True, "log_verbose_level": 0})
    with pytest.raises(Exception, match=r"changing log settings \('log_verbose_level'\) is not offered"):
        client.update_log_settings({"log_verbose_level": 1})


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_models_stay_as_they_are(client: Any, call: str) -> None:
    with pytest.raises(Exception, match="'sum', is not offered; the server keeps the bundle"):
        getattr(client, call)("sum")


def test_the_index_may_be_of_ready_models_alone(client: Any, engine: FakeEngine) -> None:
    def names(ask: "Callable[[], Any]") -> list[str]:
        index = ask()
        return [model["name"] for model in (index.get("models", []) if isinstance(index, dict) else index)]

    assert "sum" in names(lambda: plain(client, "get_model_repository_index"))
    engine.ready = False
    try:
        assert "sum" in names(lambda: plain(client, "get_model_repository_index"))
        if isinstance(client, grpc.InferenceServerClient):
            request = grpc.service_pb2.RepositoryIndexRequest(ready=True)
            assert not client._client_stub.RepositoryIndex(request).models
    finally:
        engine.ready = True


def test_a_model_that_is_not_there_is_not_ready(client: Any) -> None:
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("sum", "7")
    assert client.is_model_ready("sum")
