"""Deadlines, keys and memory for bodies, by themselves."""

import time
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.serve.protocol.binary_tensors import array_from_raw, raw_from_array
from internvl_edge.runtime.serve.protocol.checks import batches_of, deadline_of, quoted
from internvl_edge.runtime.serve.protocol.credentials import Credentials, read_keys
from internvl_edge.runtime.serve.protocol.http.body import Buffers
from internvl_edge.runtime.serve.protocol.http.generate import answer
from internvl_edge.runtime.serve.protocol.http.infer import Asked
from internvl_edge.runtime.serve.protocol.http.openai import embeddings
from internvl_edge.runtime.serve.protocol.http.openai.embeddings import EmbeddingsRequest
from internvl_edge.runtime.serve.protocol.json_tensors import flattened
from internvl_edge.runtime.serve.refusals import BadRequestError, FailedError, OverloadedError, UnauthorizedError
from internvl_edge.runtime.serve.requests import Response
from internvl_edge.runtime.serve.server import ServerOptions
from internvl_edge.runtime.serve.signature import Signature, Tensor


def test_each_batch_of_a_request_without_a_deadline_has_the_usual_one() -> None:
    texts = np.array([b"x"] * 1024, np.object_)
    assert batches_of({"text": texts}, 16) == 64
    assert batches_of({"text": texts[:16]}, 16) == 1
    assert batches_of({"text": texts[:17]}, 16) == 2
    assert batches_of({"image": texts[:1], "labels": texts[:50], "templates": texts[:3]}, 16) == 10
    assert batches_of({}, 16) == 1
    assert batches_of({"x": np.float32(1)}, 16) == 1  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("timeout", "remaining", "expected"),
    [
        (0, None, 0.5),
        (2_000_000, None, 2.0),
        (2_000_000, 1.0, 1.0),
        (0, 9.0, 9.0),
        (2**62, None, 86400.0),
        (0, 1e9, 86400.0),
    ],
)
def test_the_sooner_of_two_deadlines_holds(timeout: int, remaining: "float | None", expected: float) -> None:
    before = time.monotonic()
    deadline = deadline_of({"timeout": timeout}, 0.5, remaining)
    assert before + expected <= deadline <= time.monotonic() + expected


@pytest.mark.parametrize("timeout", [-1, 1.5, "1", True, None])
def test_other_timeouts_are_refused(timeout: object) -> None:
    with pytest.raises(BadRequestError, match="microseconds"):
        deadline_of({"timeout": timeout}, 0.5)


def test_without_keys_clients_are_addresses() -> None:
    assert Credentials().client("", "", "10.0.0.1") == "10.0.0.1"


def test_keys_name_clients_and_are_kept_as_digests() -> None:
    credentials = Credentials(["one", "two"])
    names = {
        credentials.client("Bearer one", "", ""),
        credentials.client("", "one", ""),
        credentials.client("bearer two", "", ""),
    }
    assert len(names) == 2
    assert "one" not in repr(vars(credentials))
    for authorization, key in (("", ""), ("Bearer three", ""), ("Basic one", ""), ("Bearer ", "one ")):
        with pytest.raises(UnauthorizedError):
            credentials.client(authorization, key, "")


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team a\none\n\n two \n")
    assert read_keys(file) == ("one", "two")
    file.write_text("# nobody\n")
    for wrong in (file, tmp_path / "absent"):
        with pytest.raises(InputError, match=wrong.name):
            read_keys(wrong)


def test_bodies_share_their_memory() -> None:
    buffers = Buffers(10)
    buffers.take(10)
    with pytest.raises(OverloadedError) as caught:
        buffers.take(1)
    assert caught.value.retry_after_s == 1.0
    assert buffers.held == 10


def test_raw_tensors_survive_both_ways(rng: np.random.Generator) -> None:
    strings = np.array([[b"", b"x"], [b"\xff" * 300, "ü".encode()]], np.object_)
    np.testing.assert_array_equal(array_from_raw("x", "BYTES", (2, 2), raw_from_array(strings, "BYTES")), strings)
    numbers = rng.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(array_from_raw("x", "FP32", (4, 3), raw_from_array(numbers.T, "FP32")), numbers.T)


def test_booleans_are_bytes_of_0_and_1() -> None:
    with pytest.raises(BadRequestError, match="0 or 1"):
        array_from_raw("x", "BOOL", (2,), b"\x01\x02")


def test_what_json_cannot_say_is_refused() -> None:
    for datatype, values in (
        ("FP32", np.array([np.nan], np.float32)),
        ("FP16", np.array([np.inf], np.float16)),
        ("BF16", np.array([0x7F80], np.uint16)),
        ("BYTES", np.array([b"\xff"], np.object_)),
    ):
        with pytest.raises(BadRequestError, match="as binary data"):
            flattened("x", datatype, values)


def test_an_output_of_another_type_than_it_is_called_is_never_sent() -> None:
    for datatype, values in (("FP16", np.ones(1, np.float32)), ("FP32", np.ones(1)), ("BF16", np.ones(1, np.float32))):
        with pytest.raises(TypeError, match=f"instead of {datatype}"):
            raw_from_array(values, datatype)
        with pytest.raises(TypeError, match=f"instead of {datatype}"):
            flattened("x", datatype, values)


def test_quotes_are_short_and_one_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 1000)) < 100


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither HTTP nor gRPC"):
        ServerOptions(http=None, grpc=None)
    with pytest.raises(InputError, match="http 65536, grpc -2; a port is a number from 0, for any free one, to 65535"):
        ServerOptions(http=65536, grpc=-2)
    with pytest.raises(InputError, match="HTTP and gRPC are both to listen on 8000; give each its own port"):
        ServerOptions(http=8000, grpc=8000)
    ServerOptions(http=0, grpc=0)
    with pytest.raises(InputError, match="certificate and its key"):
        ServerOptions(tls_cert=tmp_path / "cert.pem")


@pytest.mark.parametrize("name", ["id", "model_name", "model_version"])
def test_an_output_of_a_fields_name_is_not_lost_in_generate(name: str) -> None:
    signature = Signature(
        name="odd",
        inputs=(),
        outputs=(Tensor(name=name, datatype="FP32", shape=(1,)),),
        parameters={},
        batched=False,
    )
    response = Response(outputs={name: np.ones(1, np.float32)})
    with pytest.raises(BadRequestError, match=f"output {name}: has the name of another field here; ask .* with infer"):
        answer(signature, Asked(inputs={}, id="mine"), response)


@pytest.mark.parametrize("packed", [False, True])
def test_embeddings_that_are_no_numbers_are_an_error(packed: bool) -> None:
    rows = {0: np.ones(2, np.float32), 1: np.array([1, np.nan], np.float32), 2: np.array([np.inf, 1], np.float32)}
    request = EmbeddingsRequest(model="internvl-c", texts={}, pictures={}, base64=packed)
    with pytest.raises(FailedError, match="NaN or infinity for input 1, 2; export with"):
        embeddings.answer(request, rows, 0)
    assert len(embeddings.answer(request, {0: rows[0]}, 0)["data"]) == 1
