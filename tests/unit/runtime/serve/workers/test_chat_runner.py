"""Answers of a chat model in a worker, over graphs that follow a script: pieces, outputs, settings and refusals."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.serve.models import CHAT
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import BadRequestError, FailedError
from internvl_edge.runtime.serve.workers.chat_runner import chat_steps
from internvl_edge.runtime.serve.workers.messages import Job, Piece
from internvl_edge.runtime.serve.workers.model_runner import ModelRunner
from internvl_edge.runtime.tasks.generation.search import never
from tests.unit.runtime.chat_bundles import CHATML
from tests.unit.runtime.chat_fakes import ScriptedLlm, Tower, scripted_chat
from tests.unit.runtime.serve.chat_model import chat_model

Chat = tuple[InternVL, Tower, ScriptedLlm]
prompts: list[str] = []


def echo(prompt: str) -> str:
    """Answer with the last line of the question, backwards."""
    prompts.append(prompt)
    return prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0].split("\n")[-1][::-1]


@pytest.fixture
def model(tmp_path: Path) -> InternVL:
    prompts.clear()
    return scripted_chat(tmp_path / "chat", echo)[0]


def strings(*values: bytes) -> np.ndarray:
    return np.array([*values, None], np.object_)[:-1]


def png(width: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 4), (90, 0, 0)).save(file, "PNG")
    return file.getvalue()


def job(question: str, parameters: dict[str, Any] | None = None, **inputs: np.ndarray) -> Job:
    choices = {name: choice.default for name, choice in chat_model().choices.items()}
    part = {"question": strings(question.encode()), **inputs}
    settings = {**choices, "max_tiles": 3, **(parameters or {})}
    return Job(id=7, model=CHAT, parts=(part,), shared={}, parameters=settings, outputs=None, stream=True)


def answer(
    model: InternVL, asked: Job, cancelled: Callable[[], bool] = never
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the pieces and the outputs."""
    *pieces, outputs = chat_steps(model, asked, cancelled, Monitor())
    assert all(isinstance(piece, Piece) and (piece.id, piece.part, piece.row) == (7, 0, 0) for piece in pieces)
    return [piece.text for piece in pieces], outputs  # type: ignore[return-value, union-attr]


def test_pieces_joined_are_the_text_of_the_outputs(model: InternVL) -> None:
    pieces, outputs = answer(model, job("What is it?"))
    assert len(pieces) > 3
    assert "".join(pieces).encode() == outputs["text"].item() == b"?ti si tahW"
    assert outputs["finish_reason"].item() == b"stop"
    assert outputs["completion_tokens"].tolist() == [12]
    assert outputs["prompt_tokens"].tolist() == [len(model.chat_prompt("What is it?").input_ids)]
    assert set(outputs) == {"text", "finish_reason", "prompt_tokens", "completion_tokens"}


def test_history_and_system_are_those_of_the_request(model: InternVL) -> None:
    answer(model, job("b?", history=strings(b"a?", b"<image>").reshape(1, 2), system=strings(b"Hear.")))
    assert prompts[-1].startswith("<|im_start|>system\nHear.<|im_end|>")
    assert "user\na?<|im_end|>\n<|im_start|>assistant\n<image><|im_end|>\n<|im_start|>user\nb?" in prompts[-1]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("official", ["<image>\na?", "Image-2: <image>\nImage-3: <image>\nb?"]),
        ("native", ["<image>\na?", "<image>\n<image>\nb?"]),
    ],
)
def test_pictures_are_put_first_in_their_question_as_the_layout_does(
    tmp_path: Path, layout: str, expected: list[str]
) -> None:
    model = scripted_chat(tmp_path / "chat", echo, jinja=CHATML if layout == "native" else None)[0]
    inputs = {"image": strings(png(), png(8), png()), "image_turns": np.array([0, 1, 1])}
    history = strings(b"a?", b"?a").reshape(1, 2)
    _, given = answer(model, job("b?", {"max_tiles": 1}, history=history, **inputs))
    first, second = expected
    prompt = model.chat_prompt(second, [1, 1, 1], [(first, "?a")])
    assert given["prompt_tokens"].item() == len(prompt.input_ids)
    assert prompts[-1].count("<IMG_CONTEXT>") == 6


def test_each_picture_has_its_own_number_of_tiles(model: InternVL) -> None:
    inputs = {"image": strings(png(8), png(8)), "image_tiles": np.array([1, 2])}
    answer(model, job("a?", **inputs))
    assert prompts[-1].count("<IMG_CONTEXT>") == 2 * (1 + 3), "two tiles have a thumbnail"


def test_marks_say_where_pictures_stand(model: InternVL) -> None:
    inputs = {"image": strings(png(), png()), "image_turns": np.array([0, 0])}
    _, marked = answer(model, job("a <image>\nand <image>\nb?", {"max_tiles": 1}, **inputs))
    assert marked["text"].item() == b"?b"
    assert "a <img>" in prompts[-1]
    assert "and <img>" in prompts[-1]
    alone = {"image": strings(png())}
    assert answer(model, job("a?", {"max_tiles": 1}, **alone))[1]["text"].item() == b"?a", "without turns"


def test_limits_of_tokens_and_texts_end_an_answer(model: InternVL) -> None:
    _, outputs = answer(model, job("abcdef", {"max_new_tokens": 3}))
    assert (outputs["text"].item(), outputs["finish_reason"].item()) == (b"fed", b"length")
    pieces, outputs = answer(model, job("abcdef", stop=strings(b"dc", b"x")))
    assert ("".join(pieces), outputs["finish_reason"].item()) == ("fe", b"stop")


def test_settings_reach_the_answer(model: InternVL, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    original = InternVL.chat_stream

    def record(self: InternVL, *arguments: Any, **settings: Any) -> Any:
        seen.append(settings)
        return original(self, *arguments, **settings)

    monkeypatch.setattr(InternVL, "chat_stream", record)
    answer(model, job("a"))
    assert {name: seen[-1].get(name) for name in ("do_sample", "seed", "log_probabilities")} == dict.fromkeys(
        ("do_sample", "seed", "log_probabilities")
    )
    assert seen[-1]["max_new_tokens"] == 1024
    answer(model, job("a", {"temperature": 0.5, "top_k": 9, "min_p": 0.1, "seed": 3, "repetition_penalty": 1.5}))
    expected = {"do_sample": True, "temperature": 0.5, "top_k": 9, "min_p": 0.1, "seed": 3, "repetition_penalty": 1.5}
    assert expected.items() <= seen[-1].items()
    answer(model, job("a", {"temperature": 0.5}))
    assert seen[-1]["seed"] is None


def test_log_probabilities_are_of_the_tokens_of_the_text(model: InternVL) -> None:
    _, outputs = answer(model, job("ab", {"logprobs": 2}))
    tokens = json.loads(outputs["logprobs"].item())
    assert [token["token"] for token in tokens] == ["b", "a"]
    assert [token["bytes"] for token in tokens] == [[98], [97]]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in tokens)
    assert tokens[0]["top_logprobs"][0]["token"] == "b"
    assert "logprobs" not in answer(model, job("ab"))[1]


def test_an_answer_that_nobody_waits_for_ends(model: InternVL) -> None:
    asked = iter([False, False, False, True])
    pieces, outputs = answer(model, job("abcdefgh"), cancelled=lambda: next(asked))
    assert len(pieces) < 8
    assert outputs["finish_reason"].item() == b"cancelled"


def test_a_request_that_does_not_fit_the_model_is_refused_before_any_graph(model: InternVL) -> None:
    with pytest.raises(InputError, match="image 0"):
        answer(model, job("a?", image=strings(b"no picture")))
    with pytest.raises(InputError, match=r"this bundle.s context is 4000"):
        answer(model, job("a" * 5000))
    with pytest.raises(InputError, match="1 for 2 <image> marks"):
        answer(model, job("<image> <image> a?", image=strings(png())))


@pytest.fixture
def runner(model: InternVL) -> Iterator[ModelRunner]:
    before = Image.MAX_IMAGE_PIXELS
    made = ModelRunner(model, ServeOptions(max_pixels=100))
    yield made
    made.close()
    Image.MAX_IMAGE_PIXELS = before


def test_the_runner_gives_pieces_and_a_result_of_one_part(runner: ModelRunner) -> None:
    *pieces, (outputs,) = runner.stream(runner.prepare(job("ab")))
    assert [piece.text for piece in pieces] == ["b", "a"]
    assert outputs["text"].item() == b"ba"


def test_the_runner_asks_whether_somebody_waits(runner: ModelRunner) -> None:
    prepared = runner.prepare(job("abcdefgh"))
    asked = iter([False, False, True])
    prepared.cancelled = lambda: next(asked)
    *pieces, (outputs,) = runner.stream(prepared)
    assert len(pieces) < 8
    assert outputs["finish_reason"].item() == b"cancelled"


def test_an_error_is_a_refusal_that_says_what_the_client_may_know(
    runner: ModelRunner, model: InternVL, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((long,),) = runner.stream(runner.prepare(job("a" * 5000)))
    assert isinstance(long, BadRequestError)
    assert str(long).startswith("chat: the prompt has 5")
    assert (long.param, long.code) == ("messages", "context_length_exceeded")
    ((refusal,),) = runner.stream(runner.prepare(job("a?", image=strings(png(40)))))
    assert isinstance(refusal, BadRequestError)
    assert "pixels" in str(refusal)
    assert refusal.param == "messages"

    def fail(*arguments: object, **settings: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(model, "chat_stream", fail)
    ((failure,),) = runner.stream(runner.prepare(job("a?")))
    assert isinstance(failure, FailedError)
    assert "secret" not in str(failure)
