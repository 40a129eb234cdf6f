"""No picture is ever embedded as text: /v1/embeddings, infer and generate, over both protocols."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine, Places, served

grpc = pytest.importorskip("tritonclient.grpc")


def picture() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(target, "PNG")
    return target.getvalue()


PNG = picture()
ASCII_BMP = b"BM" + bytes(12) + b"\x28\0\0\0" + b"\x01\0\0\0" * 2 + b"\x01\0\x18\0" + bytes(40)
"""Bytes that are UTF-8 as well."""
B64 = base64.b64encode(PNG).decode()
SPELLINGS = [
    f"data:image/png;base64,{B64}",
    f"DATA:IMAGE/PNG;BASE64,{B64}",
    f" data:;base64,{B64}",
    f"data:image/png;name=a.png;base64,{B64.rstrip('=')}",
    B64,
]
NO_PICTURES = ["data:image/png;base64,", "https://example.com/a.png", "data:text/plain,hello"]


@pytest.fixture(scope="module")
def places(engine: FakeEngine) -> Iterator[Places]:
    with served(Service(engine)) as places:
        yield places


def ask(places: Places, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://{places.http_url}{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=HANG_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def tensor(name: str, *values: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": values}


@pytest.mark.parametrize("text", SPELLINGS)
def test_embeddings_are_of_the_picture(places: Places, engine: FakeEngine, text: str) -> None:
    status, answer = ask(places, "/v1/embeddings", {"model": "internvl-g", "input": ["four", text]})
    assert status == 200
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    (of_text, of_picture) = engine.seen[-2:]
    assert (of_text.model, of_text.inputs["text"].tolist()) == ("encode_text", [b"four"])
    assert (of_picture.model, of_picture.inputs["image"].tolist()) == ("encode_image", [PNG])


@pytest.mark.parametrize("text", NO_PICTURES)
def test_embeddings_of_no_picture_are_refused_by_place(places: Places, text: str) -> None:
    status, error = ask(places, "/v1/embeddings", {"model": "internvl-g", "input": ["four", text]})
    assert status == 400
    assert error["message"].startswith("input 1 is a")


def test_an_empty_text_is_named_by_its_place_among_pictures(places: Places) -> None:
    status, error = ask(places, "/v1/embeddings", {"model": "internvl-g", "input": [SPELLINGS[0], " "]})
    assert (status, error["message"]) == (400, "input 1 is empty; leave it out, or send a text")


@pytest.mark.parametrize("path", ["infer", "generate"])
@pytest.mark.parametrize("text", SPELLINGS)
def test_inputs_that_take_pictures_take_each_spelling(places: Places, engine: FakeEngine, text: str, path: str) -> None:
    body = {"image": text} if path == "generate" else {"inputs": [tensor("image", text)]}
    assert ask(places, f"/v2/models/encode_image/{path}", body)[0] == 200
    assert engine.seen[-1].inputs["image"].tolist() == [PNG]


@pytest.mark.parametrize("path", ["infer", "generate"])
@pytest.mark.parametrize("text", [*SPELLINGS, *NO_PICTURES])
def test_inputs_that_take_text_refuse_it(places: Places, path: str, text: str) -> None:
    body = {"text": ["four", text]} if path == "generate" else {"inputs": [tensor("text", "four", text)]}
    status, error = ask(places, f"/v2/models/encode_text/{path}", body)
    assert status == 400
    assert error.startswith("encode_text: text 1 is a")


@pytest.mark.parametrize("text", NO_PICTURES)
def test_inputs_that_take_pictures_say_what_came_instead(places: Places, text: str) -> None:
    status, error = ask(places, "/v2/models/encode_image/infer", {"inputs": [tensor("image", B64, text)]})
    assert status == 400
    assert error.startswith("encode_image: image 1 is a")


def test_raw_tensors_are_held_to_it_too(places: Places, engine: FakeEngine) -> None:
    with grpc.InferenceServerClient(places.grpc_url) as client:
        for name, content, words in (
            ("text", SPELLINGS[0].encode(), "text 0 is a picture and no text"),
            ("text", PNG, "text 0 is a PNG picture and no text"),
            ("text", ASCII_BMP, "text 0 is a BMP picture and no text"),
            ("image", b"s3://bucket/a.png", "image 0 is an address"),
        ):
            value = grpc.InferInput(name, [1], "BYTES")
            value.set_data_from_numpy(np.array([content], np.object_))
            with pytest.raises(grpc.InferenceServerException, match=words):
                client.infer("encode_text" if name == "text" else "encode_image", [value])
        value = grpc.InferInput("image", [1], "BYTES")
        value.set_data_from_numpy(np.array([SPELLINGS[1].encode()], np.object_))
        client.infer("encode_image", [value])
        assert engine.seen[-1].inputs["image"].tolist() == [PNG]


def test_a_prompt_is_a_text_too(places: Places) -> None:
    status, error = ask(places, "/v2/models/caption/generate", {"image": B64, "prompt": SPELLINGS[0]})
    assert (status, error) == (
        400,
        "caption: prompt 0 is a picture and no text; send it to a model that takes pictures",
    )
