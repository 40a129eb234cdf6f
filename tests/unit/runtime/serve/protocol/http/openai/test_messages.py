"""Messages of a conversation: what becomes a question, an answer or a picture, and what is refused by its place."""

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_edge.runtime.inputs.pictures.arguments import PICTURE_MARK
from internvl_edge.runtime.serve.protocol.http.openai.messages import Conversation, conversation
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.signature import AnswerLimits
from tests.unit.runtime.serve.chat_model import LIMITS

BLIND = AnswerLimits(new_tokens=100, context=100, tile_tokens=0, tiles=6)


def png(grey: int = 9) -> bytes:
    file = io.BytesIO()
    Image.new("L", (2, 2), grey).save(file, "PNG")
    return file.getvalue()


def picture(content: bytes | None = None, **more: Any) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(content or png()).decode()}"
    return {"type": "image_url", "image_url": {"url": url, **more}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": parts[0] if isinstance(parts[0], str) else list(parts)}


def said(role: str, words: Any) -> dict[str, Any]:
    return {"role": role, "content": words}


def read(*messages: Any, limits: AnswerLimits = LIMITS, picture_bytes: int = 1 << 20) -> Conversation:
    return conversation(list(messages), limits, picture_bytes)


def refusal(*messages: Any, **more: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        read(*messages, **more)
    return caught.value


def test_questions_and_answers_are_history_and_the_last_question_is_asked() -> None:
    found = read(
        said("system", "Be brief."),
        said("developer", [text("Use"), text("words.")]),
        user("Who?"),
        said("assistant", "https://a.example/ <image>"),
        user(text("And"), text("why?")),
    )
    inputs = found.inputs()
    assert inputs["system"].tolist() == [b"Be brief.\nUse\nwords."]
    assert inputs["history"].tolist() == [[b"Who?", b"https://a.example/ <image>"]]
    assert inputs["question"].tolist() == [b"And\nwhy?"]
    assert set(inputs) == {"system", "history", "question"}


def test_pictures_belong_to_their_question_and_are_put_first_wherever_they_stand() -> None:
    first, second, third = png(1), png(2), png(3)
    found = read(
        user(text("Both?"), picture(first), picture(second)), said("assistant", "Yes."), user(picture(third), text("?"))
    )
    assert found.questions == ["Both?", "?"]
    inputs = found.inputs()
    assert inputs["image"].tolist() == [first, second, third]
    assert inputs["image_turns"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("parts", "question"),
    [
        (
            [text("First"), picture(), text("second"), picture(), text("Same?")],
            "First\n<image>\nsecond\n<image>\nSame?",
        ),
        ([picture(), text("or"), picture()], "<image>\nor\n<image>"),
        ([text("Here"), picture(), text("what?")], "Here\n<image>\nwhat?"),
    ],
)
def test_pictures_between_texts_are_marked(parts: list[Any], question: str) -> None:
    assert read(user(*parts)).questions == [question]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,{}",
        "DATA:IMAGE/PNG;charset=x;BASE64,{}",
        "data:;base64,{}",
        " data:image/png;base64,{}\n",
        "{}",
    ],
)
def test_a_picture_may_have_every_spelling_of_a_data_url(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url.format(base64.b64encode(png()).decode())}}
    assert read(user(part, text("What?"))).pictures == [png()]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.com/a.png", "is an address (https://example.com/a.png), and nothing is fetched here"),
        ("file:///etc/passwd", "nothing is fetched here"),
        ("/etc/passwd", "is no data URL"),
        ("", "is no data URL"),
        ("data:image/png;base64,", "is a data URL of no bytes"),
        ("data:text/html;base64,PGI+", "which is no picture"),
        ("data:image/png;base64,!", "holds no base64"),
    ],
)
def test_other_urls_are_refused_and_never_opened(url: str, words: str) -> None:
    error = refusal(user({"type": "image_url", "image_url": {"url": url}}, text("What?")))
    assert words in str(error)
    assert error.param == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([], "messages"),
        (["hello"], "messages[0]"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"content": "x"}], "messages[0].role"),
        ([said("user", None)], "messages[0].content"),
        ([said("user", [])], "messages[0].content"),
        ([said("user", 7)], "messages[0].content"),
        ([said("user", ["x"])], "messages[0].content[0].type"),
        ([user({"type": "input_audio"})], "messages[0].content[0].type"),
        ([user({"type": "text", "text": 7})], "messages[0].content[0].text"),
        ([user({"type": "text", "text": "x", "cache": 1})], "messages[0].content[0].cache"),
        ([user({"type": "image_url", "image_url": "data:"})], "messages[0].content[0].image_url"),
        ([user(picture(detail="tiny"), text("x"))], "messages[0].content[0].image_url.detail"),
        ([user(picture(size=3), text("x"))], "messages[0].content[0].image_url.size"),
        ([user("x"), said("assistant", [picture()]), user("x")], "messages[1].content[0].type"),
        ([{**user("x"), "name": "ann"}], "messages[0].name"),
        ([user("x"), {**said("assistant", "y"), "tool_calls": [{}]}, user("z")], "messages[1].tool_calls"),
        ([user("x"), said("assistant", None), user("z")], "messages[1].content"),
        ([user("x"), said("assistant", "y")], "messages[1]"),
        ([said("system", "x")], "messages[0]"),
        ([said("assistant", "y"), user("x")], "messages[0]"),
        ([user("x"), user("y")], "messages[1]"),
        ([user("x"), said("system", "y"), user("z")], "messages[1]"),
        ([user("x"), said("assistant", "y"), said("assistant", "z"), user("a")], "messages[2]"),
        ([user(" ")], "messages[0]"),
        ([user(picture())], "messages[0]"),
        ([user("What does <image> mean?")], "messages[0]"),
        ([user(f"data:image/png;base64,{base64.b64encode(png()).decode()}")], "messages[0]"),
        ([user("https://example.com/a.png")], "messages[0]"),
        ([user("\ud800")], "messages[0].content"),
    ],
)
def test_what_is_not_taken_is_refused_by_its_place(messages: list[Any], place: str) -> None:
    error = refusal(*messages)
    assert error.param == place
    assert str(error).startswith(place)
    assert "\n" not in str(error)


def test_what_is_no_list_is_refused() -> None:
    with pytest.raises(BadRequestError, match="messages is a list of messages"):
        conversation({"role": "user"}, LIMITS, 1)


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    answer = {**said("assistant", "y"), "refusal": None, "tool_calls": [], "annotations": [], "audio": None}
    assert read(user("x"), answer, user("z")).answers == ["y"]


def test_limits_of_pictures_are_numbers() -> None:
    error = refusal(user(*[picture()] * 12, text("Which?")))
    assert str(error) == "messages: 12 pictures of at least 9 tokens are 108 of a context of 100; send fewer"
    assert error.code == "context_length_exceeded"
    assert len(read(user(*[picture()] * 11, text("Which?"))).pictures) == 11
    assert f"has {len(png())} bytes, a picture has at most 50" in str(
        refusal(user(picture(), text("?")), picture_bytes=50)
    )
    assert "no graph for them" in str(refusal(user(picture(), text("?")), limits=BLIND))
    assert read(user("?"), limits=BLIND).questions == ["?"]
    assert "2049 messages, at most 2048" in str(refusal(*[user("x")] * 2049))


def read_or_refused(messages: Any) -> Conversation | BadRequestError:
    try:
        return conversation(messages, LIMITS, 1 << 20)
    except BadRequestError as error:
        return error


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_PART = st.one_of(
    st.builds(lambda words: {"type": "text", "text": words}, st.text(max_size=20) | _JSON),
    st.builds(lambda url: {"type": "image_url", "image_url": url}, _JSON),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, st.text(max_size=20) | _JSON),
    st.just(picture()),
    _JSON,
)
_MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | _JSON,
            "content": st.text(max_size=20) | st.lists(_PART, max_size=4) | _JSON,
        },
        optional={"name": _JSON, "refusal": _JSON},
    ),
    _JSON,
)


@given(st.lists(_MESSAGE, max_size=5) | _JSON)
def test_any_json_is_read_or_refused_in_one_line(messages: Any) -> None:
    found = read_or_refused(json.loads(json.dumps(messages)))
    if isinstance(found, BadRequestError):
        assert found.param
        assert str(found).startswith(found.param)
        assert "\n" not in str(found)
        return
    inputs = found.inputs()
    assert len(found.answers) == len(found.questions) - 1
    assert len(inputs.get("image", ())) == len(inputs.get("image_turns", ()))
    for turn, question in enumerate(found.questions):
        assert question.count(PICTURE_MARK) in (0, found.turns.count(turn))
