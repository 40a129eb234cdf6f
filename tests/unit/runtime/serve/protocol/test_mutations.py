"""Valid requests with something wrong about them: a 4xx with one sentence, never a 5xx and never silence."""

import http.client
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_fuzz import complaint, exchanged, mutated, mutated_bytes, requests_for

from internvl_edge.runtime.serve.protocol.grpc.messages import message
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine, Places, served


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    with served(Service(FakeEngine(), options=ProtocolOptions(deadline_s=30))) as places:
        yield places


@settings(max_examples=400)
@given(st.randoms(use_true_random=False))
def test_http_mutations(places: Places, random: random.Random) -> None:
    request = mutated(random.choice(requests_for()), random)
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    try:
        status, body = exchanged(connection, request)
    finally:
        connection.close()
    assert complaint(status, body) == "", request


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_grpc_mutations(places: Places, random: random.Random) -> None:
    import grpc

    request = message("ModelInferRequest")(model_name="sum", id="1")
    for name in "ab":
        request.inputs.add(name=name, datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(np.ones(4, np.float32).tobytes())
    request.outputs.add(name="total")
    with grpc.insecure_channel(places.grpc_url) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = call.future(mutated_bytes(request.SerializeToString(), random), timeout=HANG_S)
        assert answer.code().name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"), answer
        assert "\n" not in answer.details()
