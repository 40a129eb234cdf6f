"""Names of OpenAI's models follow from what is served."""

import pytest

from internvl_edge.runtime.serve.protocol.openai_models import (
    chat_models,
    embedding_models,
    model_entry,
    openai_models,
    require_model,
)
from internvl_edge.runtime.serve.refusals import UnknownModelError
from internvl_edge.runtime.serve.signature import Signature
from tests.unit.runtime.serve.fake_engine import FakeEngine


def signatures(*names: str) -> dict[str, Signature]:
    return {name: FakeEngine().signatures[name] for name in names}


def test_models_are_those_that_are_served() -> None:
    assert openai_models(signatures("encode_image", "encode_text", "chat")) == (
        "internvl-c",
        "internvl-g",
        "internvl-chat",
    )
    assert embedding_models(signatures("encode_text")) == ("internvl-c",)
    assert chat_models(signatures("encode_text")) == ()
    assert openai_models({}) == ()


def test_another_model_is_refused_with_its_code() -> None:
    assert require_model("b", ("a", "b")) == "b"
    assert model_entry("a", ("a",))["id"] == "a"
    for name in ("c", None, [], {}):
        with pytest.raises(UnknownModelError) as caught:
            require_model(name, ("a", "b"))
        assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
