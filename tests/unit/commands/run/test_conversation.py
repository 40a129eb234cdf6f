"""The conversation in a terminal: history, commands, errors that do not end it, and Ctrl-C."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from internvl_edge.commands.run.conversation import Talk, talk_in_terminal
from internvl_edge.runtime.stages import UNMEASURED
from tests.unit.commands.run.test_chat import story
from tests.unit.runtime.chat_fakes import ScriptedLlm, scripted_chat

Type = Callable[..., None]
SETTINGS = {"max_tiles": None, "num_beams": 1, "system": None}


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Talk, ScriptedLlm]:
    model, _, llm = scripted_chat(tmp_path / "bundle", story)
    return Talk(model, [Image.new("RGB", (4, 4))], [], SETTINGS, UNMEASURED), llm


@pytest.fixture
def talk(opened: tuple[Talk, ScriptedLlm]) -> Talk:
    return opened[0]


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Let the next calls of `input` return these lines, or raise these errors, and then end."""

    def put(*lines: str | type[BaseException]) -> None:
        typed = iter([*lines, EOFError])

        def read(prompt: str = "") -> str:
            line = next(typed)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", read)

    return put


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_a_conversation_keeps_its_history(talk: Talk, types: Type, capsys: pytest.CaptureFixture[str]) -> None:
    types("one", "", "two", "/reset", "three")
    talk_in_terminal(talk)
    printed = capsys.readouterr()
    assert printed.out == "1 1 one\n2 1 two\n1 1 three\n"
    assert "Ctrl-D ends the conversation" in printed.err


def test_a_picture_is_shown_with_the_next_question(
    talk: Talk, types: Type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "b c.png")
    types("one", f"/image '{tmp_path / 'b c.png'}'", "two", "three")
    talk_in_terminal(talk)
    assert capsys.readouterr().out == "1 1 one\n2 2 two\n3 2 three\n"


def test_a_saved_conversation_is_a_row_of_questions(
    talk: Talk, types: Type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types(f"/save {tmp_path / 'none.json'}", "one", f"/save {tmp_path / 'c.json'}")
    talk_in_terminal(talk)
    assert json.loads((tmp_path / "c.json").read_text()) == {
        "system": None,
        "images": ["Image"],
        "history": [["<image>\none", "1 1 one"]],
    }
    assert json.loads((tmp_path / "none.json").read_text())["history"] == []
    assert f"{tmp_path / 'c.json'}: saved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("/image", "Error: /image: no file named; write /image FILE"),
        ("/save ", "Error: /save: no file named; write /save FILE"),
        ("/save /none/of/it", "Error: /none/of/it: "),
        ("/dance", "Error: /dance: no such command; /help lists them"),
        ("/image gone.png", "Error: unreadable pictures: gone.png (no such file)"),
        ("<image> <image> what", "Error: pictures: 1 for 2 <image> marks"),
        ("/help", "/image FILE   show a picture with the next question"),
    ],
)
def test_a_fault_is_one_line_and_the_conversation_goes_on(
    talk: Talk, types: Type, capsys: pytest.CaptureFixture[str], line: str, finding: str
) -> None:
    types(line, "one")
    talk_in_terminal(talk)
    printed = capsys.readouterr()
    assert finding in printed.err
    assert printed.out == "1 1 one\n"


def test_ctrl_c_gives_up_a_line(talk: Talk, types: Type, capsys: pytest.CaptureFixture[str]) -> None:
    types(KeyboardInterrupt, "one")
    talk_in_terminal(talk)
    assert capsys.readouterr().out == "1 1 one\n"


def test_an_answer_that_was_stopped_before_its_first_word_is_no_turn(talk: Talk) -> None:
    assert list(talk.pieces("one", lambda: True)) == []
    assert talk.last is not None
    assert talk.last.finish_reason == "cancelled"
    assert "".join(talk.pieces("one", lambda: False)) == "1 1 one"


def test_ctrl_c_stops_an_answer_and_not_the_program(
    opened: tuple[Talk, ScriptedLlm], types: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    talk, llm = opened

    def interrupted(prompt: str) -> str:
        if prompt.count("<|im_start|>user") == 1 and len(llm.columns) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return story(prompt)

    llm.script = interrupted
    types("a long question", "two")
    talk_in_terminal(talk)
    printed = capsys.readouterr()
    first, second = printed.out.splitlines()
    assert "1 1 a long question".startswith(first)
    assert len(first) < 6
    assert second == "2 1 two"
    assert "(stopped)" in printed.err
