"""What is printed, and a stdout that cannot take it."""

import errno

import click
import pytest

from internvl_edge.commands.output import printing
from internvl_edge.commands.output.printing import show, show_json
from internvl_edge.runtime.errors import EdgeError


def test_text_goes_to_stdout_or_where_stdout_is_a_file_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    show("a")
    show("b", newline=False)
    show("c", to_stderr=True)
    assert capfd.readouterr() == ("a\nb", "c\n")


def test_json_is_utf8_and_strict(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    show_json({"label": "ü", "value": float("nan")})
    assert capfdbinary.readouterr().out == '{\n  "label": "ü",\n  "value": "NaN"\n}\n'.encode()


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            EdgeError,
            r"stdout: cannot be written \(No space left on device\)",
        ),
        (OSError("odd"), EdgeError, r"stdout: cannot be written \(odd\); make room, or lead it elsewhere"),
        (BrokenPipeError("left"), BrokenPipeError, "left"),
    ],
)
def test_a_stdout_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, error: OSError, raised: type[Exception], message: str
) -> None:
    dropped = []

    def echo(text: str, **_settings: bool) -> None:
        raise error

    monkeypatch.setattr(click, "echo", echo)
    monkeypatch.setattr(printing, "drop_stdout", lambda: dropped.append(True))
    with pytest.raises(raised, match=message):
        show("a")
    assert bool(dropped) == (raised is EdgeError)
