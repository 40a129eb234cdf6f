"""The page of paths: every one is on it, nothing on it is taken for HTML, and it loads nothing."""

import html
import re

from internvl_edge.runtime.serve.protocol.http.document.docs_page import docs_html
from internvl_edge.runtime.serve.protocol.http.document.openapi import model_words
from internvl_edge.runtime.serve.protocol.http.document.operations import OPERATIONS
from internvl_edge.runtime.serve.signature import Signature, Tensor
from tests.unit.runtime.serve.fake_engine import FakeEngine

PLACE = "http://127.0.0.1:8000"


def page(**signatures: Signature) -> str:
    return docs_html(signatures or FakeEngine().signatures, "1.2<3", PLACE)


def test_every_path_but_those_of_versions_is_on_it() -> None:
    codes = re.findall(r"<tr><td><code>(\w+)</code><td><code>([^<]*)</code>", page())
    assert sorted(codes) == sorted((method, path) for method, path in OPERATIONS if "/versions/" not in path)


def test_models_are_reported_with_their_parameters() -> None:
    text = html.unescape(page())
    for name, signature in FakeEngine().signatures.items():
        assert f"<tr><td>{name}<td><code>{model_words(signature)[:400]}" in text
        assert "; ".join(f"{key}: {words}" for key, words in signature.parameters.items()) in text


def test_what_a_model_with_many_tensors_takes_is_cut() -> None:
    inputs = tuple(Tensor(name=f"past<{index}>", datatype="FP16", shape=(-1, 2)) for index in range(60))
    wide = Signature(name="decoder", inputs=inputs, outputs=(), parameters={}, batched=True)
    (row,) = re.findall(r"<tr><td>decoder<td><code>(.*?)</code>", page(decoder=wide))
    assert html.unescape(row) == f"{model_words(wide)[:400]} ..."


def test_texts_are_escaped_and_nothing_is_loaded() -> None:
    text = page()
    assert "1.2&lt;3" in text
    assert not re.findall(r"(?:src|href)=\"?https?:", text)


def test_commands_are_for_this_server() -> None:
    commands = re.findall(r"<pre>(.*?)</pre>", page(), re.DOTALL)
    assert len(commands) == len([op for (_, path), op in OPERATIONS.items() if op.example and "/versions/" not in path])
    assert all(command.startswith(f"curl {PLACE}/") for command in commands)
    assert not any("{model}" in command for command in commands)
