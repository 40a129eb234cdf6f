"""`run chat`: what it asks of the model, once, line by line, and as JSON."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from internvl_edge.commands.run.chat import chat
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import InputError
from tests.unit.commands.conftest import Invoke, Replace
from tests.unit.runtime.chat_fakes import Tower, scripted_chat
from tests.unit.runtime.embed_fakes import write_pictures


def story(prompt: str) -> str:
    """Answer with the number of turns, of tiles, and the question."""
    turns = prompt.count("<|im_start|>user")
    question = prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0].split("\n")[-1]
    return f"{turns} {prompt.count('<IMG_CONTEXT>') // 2} {question}"


@pytest.fixture
def opened(tmp_path: Path, replace: Replace) -> tuple[InternVL, Tower]:
    model, tower, _ = scripted_chat(tmp_path / "bundle", story)
    replace("internvl_edge.commands.options.request.open_with_progress", model)
    return model, tower


@pytest.fixture
def asked(opened: tuple[InternVL, Tower], monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The settings that reach `chat_stream`."""
    recorded = Mock(side_effect=opened[0].chat_stream)
    monkeypatch.setattr(opened[0], "chat_stream", recorded)
    return recorded


def test_an_answer_is_printed(invoke: Invoke, opened: object, picture: Path) -> None:
    done = invoke(chat, "b", picture, "-q 'What is it?'")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "1 1 What is it?\n", "")


def test_questions_that_follow_know_the_first(invoke: Invoke, opened: tuple[InternVL, Tower], picture: Path) -> None:
    done = invoke(chat, "b", picture, "-q one -q two")
    assert done.stdout == "1 1 one\n2 1 two\n"
    assert opened[1].ran == [1]


def test_json_has_a_line_for_each_answer(invoke: Invoke, opened: object, picture: Path) -> None:
    done = invoke(chat, "b", picture, "-q one -q two --json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first.pop("prompt_tokens") < second.pop("prompt_tokens")
    assert first == {"question": "one", "answer": "1 1 one", "finish_reason": "stop", "completion_tokens": 8}
    assert second["answer"] == "2 1 two"


def test_lines_of_a_pipe_are_questions(opened: object, picture: Path) -> None:
    lines = f"one\n\ntwo\r\n/reset\nthree\n/image {picture}\nfour\n"
    done = CliRunner().invoke(chat, ["b"], input=lines, catch_exceptions=False)
    assert done.stdout == "1 0 one\n2 0 two\n1 0 three\n2 1 four\n"


def test_a_wrong_command_of_a_pipe_ends_it(opened: object) -> None:
    with pytest.raises(InputError, match="/imagine: no such command; /help lists them"):
        CliRunner().invoke(chat, ["b"], input="/imagine\n", catch_exceptions=False)


def test_frames_stand_behind_pictures_with_one_tile_each(
    invoke: Invoke, asked: Mock, tmp_path: Path, picture: Path
) -> None:
    write_pictures(tmp_path / "clip", 5)
    done = invoke(chat, "b", picture, "--video", tmp_path / "clip", "--frames 2 --max-tiles 3 -q 'What now?'")
    (question, images), settings = asked.call_args
    assert question == "<image>\nFrame1: <image>\nFrame2: <image>\nWhat now?"
    assert [image.name for image in images[1:]] == [f"{tmp_path / 'clip'}, frame {number}" for number in (1, 2)]
    assert settings["max_tiles"] == [3, 1, 1]
    assert done.stdout == "1 3 What now?\n"


def test_a_marked_question_is_left_as_it_is(invoke: Invoke, asked: Mock, tmp_path: Path) -> None:
    write_pictures(tmp_path / "clip", 3)
    invoke(chat, "b", "--video", tmp_path / "clip", "--frames 2 -q 'First <image> then <image>'")
    assert asked.call_args.args[0] == "First <image> then <image>"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {"max_new_tokens": 256, "system": None, "stop": (), "repetition_penalty": 1.0}),
        (
            "--max-new-tokens 9 --system Be --stop x --stop y --repetition-penalty 1.5",
            {"max_new_tokens": 9, "system": "Be", "stop": ("x", "y"), "repetition_penalty": 1.5},
        ),
        (
            "--temperature 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --seed 4",
            {"do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 4},
        ),
        ("--top-p 0.9", {"do_sample": True, "top_p": 0.9}),
    ],
)
def test_options_reach_the_model(invoke: Invoke, asked: Mock, options: str, settings: dict[str, Any]) -> None:
    done = invoke(chat, "b", f"-q a {options}")
    assert done.exit_code == 0
    given = asked.call_args.kwargs
    assert {name: given[name] for name in settings} == settings
    assert ("do_sample" in given) == ("do_sample" in settings)


def test_a_temperature_of_0_draws_nothing(invoke: Invoke, asked: Mock) -> None:
    invoke(chat, "b", "-q a --temperature 0 --top-k 5")
    assert not {"do_sample", "temperature", "top_k"} & asked.call_args.kwargs.keys()


def test_beams_print_the_whole_answer(invoke: Invoke, asked: Mock) -> None:
    assert invoke(chat, "b", "-q one --num-beams 2").stdout == "1 0 one\n"
    asked.assert_not_called()


@pytest.mark.parametrize(
    "options", ["-q ''", "-q a --max-tiles 0", "-q a --frames 0", "-q a --num-beams 0", "-q a --temperature nan"]
)
def test_what_no_option_takes_is_a_usage_error(invoke: Invoke, opened: object, options: str) -> None:
    assert invoke(chat, "b", options).exit_code == 2


def test_unreadable_pictures_are_named_before_the_bundle_is_opened(
    invoke: Invoke, replace: Replace, tmp_path: Path
) -> None:
    opening = replace("internvl_edge.commands.options.request.open_with_progress")
    with pytest.raises(InputError, match=r"gone.png \(no such file\)"):
        invoke(chat, "b", tmp_path / "gone.png", "-q a")
    opening.assert_not_called()


def test_a_video_without_frames_is_named(invoke: Invoke, opened: object, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: video: no frames; give one that has some"):
        invoke(chat, "b", "--video", tmp_path / "empty", "-q a")
