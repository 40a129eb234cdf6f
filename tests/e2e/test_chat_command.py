"""`run chat` and `eval` as a user runs them on the chat example: once, over pipes, and in a terminal."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.conftest import Run
from tests.exports import Exports
from tests.golden_chat import golden_chat
from tests.tolerances import HANG_S

CHAT = [sys.executable, "-m", "internvl_edge.cli", "run", "chat"]
LIST, WHICH = "List the things from left to right.", "Which one belongs to food & drink?"
THINGS = "watermelon, chair, bear, turkey"


@pytest.fixture(scope="module")
def bundle(exports: Exports, chat_example: Path) -> Path:
    return exports.bundle(chat_example / "checkpoint", dtype="fp32")


@pytest.fixture(scope="module")
def talkative(exports: Exports) -> Path:
    """A bundle of random weights, whose answers do not end by themselves."""
    return exports.bundle(golden_chat("c1").checkpoint, dtype="fp32")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory, chat_example: Path) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    with zipfile.ZipFile(chat_example / "data" / "test.zip") as archive:
        return Path(archive.extract("0185.png", folder))


def test_questions_on_a_picture_of_five_tiles(run: Run, bundle: Path, picture: Path) -> None:
    done = run("run", "chat", bundle, picture, "-q", LIST, "-q", WHICH)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{THINGS}\nwatermelon\n"


def test_json_of_answers(run: Run, bundle: Path, picture: Path) -> None:
    done = run("run", "chat", bundle, picture, "-q", LIST, "--json", "--stop", ", bear", "--max-new-tokens", 30)
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert answer["answer"] == "watermelon, chair"
    assert answer["finish_reason"] == "stop"
    assert answer["prompt_tokens"] > 5 * 9


def test_drawn_answers_are_repeated_by_their_seed(run: Run, bundle: Path, picture: Path) -> None:
    asked = ("run", "chat", bundle, picture, "-q", LIST, "--temperature", 5, "--seed")
    first, again, other = (run(*asked, seed).stdout for seed in (1, 1, 2))
    assert first == again != other


def test_beams(run: Run, bundle: Path, picture: Path) -> None:
    assert run("run", "chat", bundle, picture, "-q", LIST, "--num-beams", 3).stdout == f"{THINGS}\n"


def test_frames_of_a_video(run: Run, bundle: Path, picture: Path, tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.open(picture).convert("RGB").crop((76 * index, 0, 76 * index + 72, 72)) for index in range(4)]
    frames[0].save(tmp_path / "v.gif", save_all=True, append_images=frames[1:])
    done = run("run", "chat", bundle, "--video", tmp_path / "v.gif", "--frames", 4, "-q", "What is in Image-1?")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (("-q", "<image> or <image>?"), "pictures: 1 for 2 <image> marks"),
        (("--max-tiles", "6", "-q", "a " * 9000), r"chat: the prompt has \d+ tokens, 45 of them for 5 tiles"),
        (("gone.png", "-q", "a"), r"gone.png \(no such file\)"),
        (("--video", "gone.mp4", "-q", "a"), "gone.mp4: no such file"),
    ],
)
def test_what_is_refused_is_one_line(
    run: Run, bundle: Path, picture: Path, arguments: tuple[str, ...], finding: str
) -> None:
    done = run("run", "chat", bundle, picture, *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert re.match(f"Error: .*{finding}", done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [("-q", ""), ("--max-tiles", "0", "-q", "a"), ("--frames", "0", "-q", "a"), ("--top-p", "2", "-q", "a")],
)
def test_what_no_option_takes(run: Run, bundle: Path, arguments: tuple[str, ...]) -> None:
    assert run("run", "chat", bundle, *arguments).returncode == 2


def test_a_bundle_without_a_language_model_says_so(run: Run, demo_bundle: Path) -> None:
    done = run("run", "chat", demo_bundle, "-q", "a")
    assert done.returncode == 1
    assert "has no language model" in done.stderr


def test_eval_reads_questions_and_compares(run: Run, bundle: Path, chat_example: Path) -> None:
    data = chat_example / "data" / "test.jsonl"
    done = run("eval", bundle, "--data", data, "--baseline", bundle, "--sample-count", 12)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 questions, percent")
    shares = [line.split()[1] for line in done.stdout.split("\n\n")[1].splitlines()[2:]]
    assert set(shares) == {"100.0"}
    rows = json.loads(run("eval", bundle, "--data", data, "--sample-count", 2, "--json").stdout)["bundle"]["answers"]
    assert [row["id"] for row in rows] == ["t0000", "t0423"]
    assert set(rows[0]) == {"id", "kind", "answer", "right", "log_probability", "tokens"}


def test_lines_of_a_pipe(bundle: Path, picture: Path) -> None:
    lines = f"{LIST}\n{WHICH}\n/reset\nWhat is at the end?\n"
    done = subprocess.run([*CHAT, bundle, picture], input=lines, capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{THINGS}\nwatermelon\nturkey\n", "")


def test_a_reader_that_ends_ends_the_command_quietly(talkative: Path) -> None:
    asked = [*CHAT, talkative, "-q", "Tell me a story.", "--max-new-tokens", "2000"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3)
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(HANG_S)


def test_ctrl_c_ends_one_answer_with_its_exit_code(talkative: Path) -> None:
    asked = [*CHAT, talkative, "-q", "Tell me a story.", "--max-new-tokens", "5000"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        begun = process.stdout.read(3)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.stderr.read() == b""
        assert process.wait(HANG_S) == 130
    assert (begun + rest).endswith(b"\n")


class Terminal:
    """A process whose streams are one terminal."""

    def __init__(self, *command: object) -> None:
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.execvp(str(command[0]), [str(word) for word in command])
        self._shown = ""

    def until(self, text: str, again: str = "") -> None:
        """Read until `text` is shown, behind what the last call waited for; type `again` every second until then."""
        deadline = time.monotonic() + HANG_S
        while text not in self._shown:
            assert time.monotonic() < deadline, self._shown
            if select.select([self._descriptor], [], [], 1)[0]:
                self._shown += os.read(self._descriptor, 1 << 16).decode(errors="replace")
            elif again:
                self.type(again)
        self._shown = self._shown.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def code(self) -> int:
        """Return the exit code."""
        deadline = time.monotonic() + HANG_S
        while not (ended := os.waitpid(self._pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, self._shown
            time.sleep(0.05)
        return os.waitstatus_to_exitcode(ended[1])

    def close(self) -> None:
        """End the process, which sees that its terminal is gone."""
        os.close(self._descriptor)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(closing(Terminal(*CHAT, *arguments)))


def test_a_conversation_in_a_terminal(
    terminal: Callable[..., Terminal], bundle: Path, picture: Path, tmp_path: Path
) -> None:
    talk = terminal(bundle, picture)
    talk.until("> ")
    talk.type(f"{LIST}\n")
    talk.until(f"{THINGS}\r\n")
    talk.type(f"{WHICH}\n")
    talk.until("watermelon\r\n")
    talk.type("/image gone.png\n")
    talk.until("gone.png (no such file)")
    talk.type(f"/save {tmp_path / 'c.json'}\n")
    talk.until("saved")
    talk.until("> ")
    talk.type("half a li")
    talk.until("half a li")
    # Python's `input` overlooks an interrupt that comes just before it waits for the next key.
    talk.until("Ctrl-D ends", again="\x03")
    talk.until("> ")
    talk.type("\x04")
    assert talk.code() == 0
    history = json.loads((tmp_path / "c.json").read_text())["history"]
    assert history == [[f"<image>\n{LIST}", THINGS], [WHICH, "watermelon"]]


def test_ctrl_c_in_a_terminal_stops_an_answer_alone(terminal: Callable[..., Terminal], talkative: Path) -> None:
    talk = terminal(talkative, "--max-new-tokens", 6000)
    talk.until("> ")
    talk.type("Tell me a story.\n")
    talk.until("story.\r\n")
    time.sleep(1)
    talk.type("\x03")
    talk.until("(stopped)")
    talk.until("> ")
    talk.type("\x04")
    assert talk.code() == 0
