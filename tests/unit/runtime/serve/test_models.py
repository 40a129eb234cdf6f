"""The served models of a bundle, their batching keys, and requests that are refused before anything runs."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.bundle.manifest import SCHEMA, FileInfo, GraphInfo, Manifest, TensorSpec
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.serve import validation as checks
from internvl_edge.runtime.serve.models import ServedModel, Span, served_models
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import BadRequestError, TooLargeError
from internvl_edge.runtime.serve.requests import Request
from internvl_edge.runtime.serve.validation import validated_request
from tests.unit.runtime.graph_uses import USES
from tests.unit.runtime.serve.chat_model import CONTEXT, LIMITS, TILES, chat_manifest, chat_model
from tests.unit.runtime.serve.onnx_bundle import MODEL, TEXT, VISION

QUERY = GraphInfo(
    file="q.onnx",
    use=USES["query"],
    inputs=(TensorSpec(name="vision_states", dtype="float32", shape=("batch", 1, 3)),),
    outputs=(TensorSpec(name="query_embeds", dtype="float32", shape=("batch", 3)),),
)
DECODER = GraphInfo(
    file="d.onnx",
    use=USES["decoder"],
    inputs=(
        TensorSpec(name="input_ids", dtype="int64", shape=("batch", "length")),
        TensorSpec(name="position_ids", dtype="int64", shape=("batch", "length")),
        TensorSpec(name="past_key_values.0.key", dtype="float32", shape=("batch", 1, "past", 2)),
    ),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 320)),),
)
TABLE = GraphInfo(
    file="t.onnx",
    inputs=(TensorSpec(name="x", dtype="float32", shape=(3, "n")),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("n",)),),
)
MANIFEST = Manifest(
    schema=SCHEMA,
    producer={},
    model=MODEL,
    precision="fp32",
    graphs={"vision": VISION, "query": QUERY, "text": TEXT, "decoder": DECODER, "table": TABLE},
    files={"tokenizer.model": FileInfo(bytes=1, sha256="")},
)
MODELS = served_models(MANIFEST)
OPTIONS = ServeOptions(max_rows=8, max_text_bytes=50)


def strings(*values: object) -> np.ndarray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def request(model: str, **inputs: Any) -> Request:
    return Request(model=model, inputs=inputs)


def caption(**parameters: Any) -> Request:
    return Request(model="caption", inputs={"image": strings(b"x")}, parameters=parameters)


def classes(*labels: bytes) -> Request:
    return request("classify", image=strings(b"x"), labels=strings(*labels))


def check(asked: Request) -> None:
    validated_request(asked, MODELS[asked.model], MODEL, OPTIONS)


def test_graphs_and_tasks_are_served() -> None:
    tasks = ["encode_image", "encode_text", "classify", "caption"]
    assert list(MODELS) == ["vision", "query", "text", "decoder", "table", *tasks]
    assert MODELS["decoder"].signature.batched
    assert not MODELS["table"].signature.batched
    assert MODELS["caption"].signature.streams
    assert MODELS["encode_image"].signature.outputs[0].shape == (-1, 3)


def test_tasks_need_their_graphs_and_the_tokenizer() -> None:
    assert list(served_models(MANIFEST, ("vision",))) == ["vision", "encode_image"]
    assert list(served_models(replace(MANIFEST, files={}), ("vision", "text"))) == ["vision", "text", "encode_image"]
    with pytest.raises(BundleError, match="no graph itm; choose from vision, query"):
        served_models(MANIFEST, ("vision", "itm"))


def test_types_that_the_protocol_lacks_are_reported() -> None:
    odd = replace(TEXT, outputs=(TensorSpec(name="e", dtype="float8_e4m3fn", shape=("texts", 1)),))
    with pytest.raises(BundleError, match="e is float8_e4m3fn"):
        served_models(replace(MANIFEST, graphs={"text": odd}))


def test_mode_g_needs_the_query_graph() -> None:
    asked = Request(model="encode_image", inputs={"image": strings(b"x")}, parameters={"mode": "g"})
    check(asked)
    with pytest.raises(BadRequestError, match="mode is 'g' instead of c"):
        validated_request(asked, served_models(MANIFEST, ("vision",))["encode_image"], MODEL, OPTIONS)


def key(served: ServedModel, **more: Any) -> object:
    return served.key(Request(model=served.signature.name, **more))


def test_rows_of_one_shape_and_about_one_length_are_joined() -> None:
    text, task = MODELS["text"], MODELS["encode_text"]
    ids = np.zeros((2, 5), np.int64)
    assert key(text, inputs={"input_ids": ids}) == key(text, inputs={"input_ids": ids[:1]})
    assert key(text, inputs={"input_ids": ids}) != key(text, inputs={"input_ids": ids[:, :4]})
    assert key(text, inputs={"input_ids": ids}) != key(text, inputs={"input_ids": ids}, outputs=("text_embeds",))
    short, long = (key(task, inputs={"text": strings(b"x" * size)}) for size in (10, 60))
    assert short == key(task, inputs={"text": strings(b"y", b"z")})
    assert short != long


def test_parameters_and_shared_inputs_are_one_for_a_batch() -> None:
    classify, image = MODELS["classify"], strings(b"p")
    cat, dog = ({"image": image, "labels": strings(b"a", label)} for label in (b"cat", b"dog"))
    assert key(classify, inputs=cat) == key(classify, inputs={**cat, "image": strings(b"q", b"r")})
    assert key(classify, inputs=cat) != key(classify, inputs=dog)
    assert key(classify, inputs=cat) == key(classify, inputs=cat, parameters={"mode": "g", "the protocol's": 1})
    assert key(classify, inputs=cat) != key(classify, inputs=cat, parameters={"mode": "c"})


def test_what_has_no_rows_goes_alone() -> None:
    inputs = {"x": np.zeros((3, 2), np.float32)}
    assert key(MODELS["table"], inputs=inputs) != key(MODELS["table"], inputs=inputs)
    assert MODELS["table"].rows(request("table", **inputs)) == 1


@pytest.mark.parametrize(
    ("asked", "finding"),
    [
        (request("text"), "input input_ids is missing"),
        (request("text", input_ids=np.zeros((1, 2), np.int64), x=np.zeros(1)), "there is no input 'x'"),
        (request("text", input_ids=np.zeros((1, 2), np.int32)), "input_ids is INT32 instead of INT64"),
        (request("text", input_ids=np.zeros(2, np.int64)), r"shape \[2\] instead of \[-1, -1\]"),
        (request("text", input_ids=np.zeros((0, 2), np.int64)), "nothing can be computed"),
        (request("text", input_ids=np.full((1, 2), 320)), "input_ids holds 320 to 320 instead of 0 to 319"),
        (request("text", input_ids=np.zeros((1, 41), np.int64)), "41 positions, the model has 40"),
        (request("encode_text", text=strings("no bytes")), "other values than BYTES"),
        (request("encode_text", text=strings(b"fine", b"\xff")), "text 1 is not UTF-8"),
        (request("encode_text", text=strings(b" ")), "text 0 is empty"),
        (request("classify", image=strings(b"x"), labels=strings(b"")), "labels 0 is empty"),
        (request("classify", image=strings(b"x"), labels=strings(b"a"), templates=strings(b"a")), "lacks {}"),
        (Request(model="text", inputs={"input_ids": np.zeros((1, 2), np.int64)}, outputs=("z",)), "no output 'z'"),
        (
            Request(model="caption", inputs={"image": strings(b"x")}, parameters={"num_beams": True}),
            "num_beams is True instead of 1 to 8",
        ),
        (caption(num_beams=9), "num_beams is 9 instead of 1 to 8"),
        (caption(num_beams=10**12), "num_beams is 1000000000000 instead of 1 to 8"),
        (caption(num_beams=2.0), "num_beams is 2.0 instead of 1 to 8"),
        (caption(num_beams="2"), "num_beams is '2' instead of 1 to 8"),
        (caption(max_new_tokens=0), "max_new_tokens is 0 instead of 1 to 40"),
        (caption(max_new_tokens=2**63 - 1), "instead of 1 to 40$"),
        (caption(min_new_tokens=-1), "min_new_tokens is -1 instead of 0 to 40"),
        (classes(b"cat", b"dog", b"cat"), "labels 2 is the same as labels 0"),
        (classes(b"cat", b" cat "), "labels 1 is the same as labels 0"),
        (classes(b"hot dog", b"hot  dog"), "labels 1 is the same as labels 0"),
        (classes("ﬁsh".encode(), b"fish"), "labels 1 is the same as labels 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(asked: Request, finding: str) -> None:
    with pytest.raises(BadRequestError, match=finding) as refused:
        check(asked)
    assert "\n" not in str(refused.value)


def test_axes_of_one_name_have_one_size() -> None:
    ids = np.zeros((2, 3), np.int64)
    past = np.zeros((2, 1, 0, 2), np.float32)
    check(request("decoder", input_ids=ids, position_ids=ids, **{"past_key_values.0.key": past}))
    with pytest.raises(BadRequestError, match="axis length is 2 in position_ids but 3 in input_ids"):
        check(request("decoder", input_ids=ids, position_ids=ids[:, :2], **{"past_key_values.0.key": past}))


def test_limits_are_reported() -> None:
    with pytest.raises(TooLargeError, match="9 rows, at most 8"):
        check(request("encode_text", text=strings(*[b"x"] * 9)))
    with pytest.raises(TooLargeError, match="text of more than 50 bytes"):
        check(request("encode_text", text=strings(b"x" * 51)))
    labels, templates = strings(b"a", b"b", b"c"), strings(*[b"{}"] * 3)
    with pytest.raises(TooLargeError, match="9 labels in templates"):
        check(request("classify", image=strings(b"x"), labels=labels, templates=templates))


def test_more_than_may_be_is_refused_before_each_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "picture_in_text", lambda text: pytest.fail("a text was looked at"))
    with pytest.raises(TooLargeError, match="9 rows"):
        check(request("encode_text", text=strings(*[b"https://x/a.png"] * 9)))
    with pytest.raises(TooLargeError, match="9 labels"):
        check(classes(*[b"cat"] * 9))


def test_captions_are_bounded_by_the_option_and_the_model() -> None:
    for positions, wanted in ((40, 40), (2048, 256)):
        text = replace(MODEL.require_text(), max_positions=positions)
        manifest = replace(MANIFEST, model=replace(MODEL, text=text))
        assert served_models(manifest)["caption"].choices["max_new_tokens"].words == f"1 to {wanted}"
    few = served_models(MANIFEST, None, 7)["caption"]
    assert (few.choices["max_new_tokens"].words, few.choices["max_new_tokens"].default) == ("1 to 7", 7)
    with pytest.raises(BadRequestError, match="is 8 instead of 1 to 7; serve with a larger --max-new-tokens for more"):
        validated_request(caption(max_new_tokens=8), few, MODEL, OPTIONS)


def test_labels_that_only_look_alike_are_two() -> None:
    check(classes(b"Cat", b"cat", b"cats", b"c at"))


def test_labels_of_many_marks_take_no_long_time_to_compare() -> None:
    labels = [(f"{index}a" + (chr(0x301) + chr(0x327)) * 16_000).encode() for index in range(8)]
    began = time.process_time()
    validated_request(classes(*labels), MODELS["classify"], MODEL, ServeOptions())
    assert time.process_time() - began < 2
    with pytest.raises(BadRequestError, match="labels 1 is the same as labels 0"):
        check(classes(labels[0], labels[0]))


def test_words_that_begin_as_a_picture_does_are_text() -> None:
    check(request("encode_text", text=strings(b"GIF89a is a format", b"RIFFabcdWEBP", b"BM")))
    with pytest.raises(BadRequestError, match="text 0 is a GIF picture"):
        check(request("encode_text", text=strings(b"GIF89a\x01\0\x01\0")))


def test_many_findings_are_counted() -> None:
    with pytest.raises(BadRequestError, match="and 3 more"):
        check(request("encode_text", text=strings(*[b" "] * 8)))


def test_options_out_of_range_are_all_named() -> None:
    with pytest.raises(
        InputError, match=r"workers 0 .*max_batch -1 .*max_new_tokens 0 .*max_delay_ms nan .*deadline_ms 0"
    ):
        ServeOptions(workers=0, max_batch=-1, max_new_tokens=0, max_delay_ms=float("nan"), deadline_ms=0)
    with pytest.raises(InputError, match=r"threads 0 .*max_answer_tokens 0 .*answer_deadline_s 0"):
        ServeOptions(threads=0, max_answer_tokens=0, answer_deadline_s=0)


def test_several_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert ServeOptions().session.threads is None
    assert ServeOptions(workers=3).session.threads == 2
    assert ServeOptions(workers=3, threads=5).session.threads == 5


def conversation(**inputs: Any) -> Request:
    return request("chat", **{"question": strings(b"What?"), **inputs})


def check_chat(asked: Request, served: ServedModel | None = None) -> Request:
    return validated_request(asked, served or chat_model(), chat_manifest().model, OPTIONS)


def test_a_chat_model_needs_its_language_model_and_tokenizer() -> None:
    manifest = chat_manifest()
    assert list(served_models(manifest)) == ["vision", "llm", "chat"]
    assert list(served_models(manifest, ("vision",))) == ["vision"]
    assert list(served_models(replace(manifest, files={}))) == ["vision", "llm"]
    assert list(served_models(replace(manifest, model=replace(manifest.model, chat=None)))) == ["vision", "llm"]
    assert list(served_models(replace(manifest, model=replace(manifest.model, language=None)))) == ["vision", "llm"]


def test_limits_of_answers_are_those_of_bundle_and_option() -> None:
    assert chat_model().signature.answers == LIMITS
    few = chat_model(max_answer_tokens=20)
    assert few.signature.answers == replace(LIMITS, new_tokens=20)
    assert few.choices["max_new_tokens"].words == "0 to 20"
    assert chat_model(max_answer_tokens=10**6).choices["max_new_tokens"].words == f"0 to {CONTEXT}"
    with pytest.raises(BadRequestError, match="is 21 instead of 0 to 20; serve with a larger --max-answer-tokens"):
        check_chat(replace(conversation(), parameters={"max_new_tokens": 21}), few)
    untiled = replace(chat_manifest(), model=replace(chat_manifest().model, tiling=None))
    assert served_models(untiled)["chat"].choices["max_tiles"].words == "1 to 12"


def test_without_the_graph_of_tiles_a_chat_model_takes_no_pictures() -> None:
    blind = served_models(chat_manifest(), ("llm",))["chat"]
    assert [tensor.name for tensor in blind.signature.inputs] == ["question", "history", "system", "stop"]
    assert "max_tiles" not in blind.choices
    with pytest.raises(BadRequestError, match="there is no input 'image'"):
        check_chat(conversation(image=strings(b"x")), blind)


def test_requests_of_a_chat_model_are_computed_alone_and_whole() -> None:
    served, asked = chat_model(), conversation(history=strings(b"a", b"b", b"c", b"d").reshape(2, 2))
    assert (served.rows(asked), served.shared(asked)) == (1, {})
    assert set(served.part(asked, 0, 1)) == {"question", "history"}
    assert served.key(asked, stream=True) != served.key(asked, stream=True)
    assert served.parameters(asked) == {
        "max_new_tokens": 0,
        "temperature": 0,
        "top_k": 50,
        "top_p": 1,
        "min_p": 0,
        "repetition_penalty": 1,
        "seed": -1,
        "logprobs": -1,
        "max_tiles": TILES,
    }


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0.5, "top_p": 0.0, "top_k": 0, "repetition_penalty": 1.2, "seed": 2**62, "max_tiles": TILES},
        {"temperature": 2, "max_new_tokens": CONTEXT, "logprobs": 20},
    ],
)
def test_settings_of_answers(parameters: dict[str, Any]) -> None:
    check_chat(replace(conversation(), parameters=parameters))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", 2.5, "0 to 2"),
        ("temperature", float("nan"), "0 to 2"),
        ("temperature", True, "0 to 2"),
        ("top_p", -0.1, "0 to 1"),
        ("top_k", 1.5, "0 to"),
        ("repetition_penalty", 0, "0.01 to 100"),
        ("seed", -2, "-1 to"),
        ("max_tiles", 7, "1 to 6"),
        ("logprobs", 21, "-1 to 20"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(BadRequestError, match=f"{name} is .* instead of {words}"):
        check_chat(replace(conversation(), parameters={name: value}))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"question": strings(b" ")}, "question 0 is empty"),
        ({"question": strings(b"https://x/a.png")}, "question 0 is an address"),
        ({"stop": strings(b"")}, "stop 0 is empty"),
        ({"history": strings(b"a", b"b")}, r"history has shape \[2\] instead of \[-1, 2\]"),
        ({"history": strings(b"a", b"b", b"c").reshape(1, 3)}, r"instead of \[-1, 2\]"),
        ({"history": strings(b"a", b"\xff").reshape(1, 2)}, "history 1 is not UTF-8"),
        ({"image": strings(b"x"), "image_turns": np.array([1])}, "instead of ascending turns from 0 to 0"),
        ({"image": strings(b"x", b"y"), "image_turns": np.array([1])}, "image_turns are 1 for 2 pictures"),
        ({"image_turns": np.array([0])}, "image_turns are 1 for 0 pictures"),
        ({"image": strings(b"x"), "image_tiles": np.array([7])}, r"image_tiles are \[7\] instead of .* from 1 to 6"),
        ({"image": strings(b"x"), "image_tiles": np.array([1, 1])}, "instead of one number a picture"),
        ({"image_tiles": np.array([1])}, "instead of one number a picture"),
        ({"image": strings(*[b"x"] * 12)}, "12 pictures of at least 9 tokens are 108 of a context of 100"),
    ],
)
def test_conversations_that_do_not_fit_are_refused(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        check_chat(conversation(**inputs))


def test_what_was_said_may_be_anything() -> None:
    history = strings(b"", b"https://x/a.png", b"data:image/png;base64,iVBO", b"").reshape(2, 2)
    pictures = {"image": strings(b"x", b"y", b"z"), "image_turns": np.array([0, 2, 2])}
    checked = check_chat(conversation(history=history, stop=strings(b"\n"), **pictures))
    assert checked.inputs["history"].tolist() == history.tolist()
    check_chat(conversation(history=strings(b"a", b"x" * 3200).reshape(1, 2)))
    with pytest.raises(
        BadRequestError, match="history has a text of more than 3200 bytes, for a context of 100"
    ) as error:
        check_chat(conversation(history=strings(b"a", b"x" * 3201).reshape(1, 2)))
    assert error.value.code == "context_length_exceeded"


def test_a_span_holds_the_numbers_between() -> None:
    assert [value in Span(0, 1) for value in (0, 0.5, 1.0, 1.1, True, "0", float("nan"))] == [True] * 3 + [False] * 4
