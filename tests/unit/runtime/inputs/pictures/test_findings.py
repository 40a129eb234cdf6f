"""Why a picture cannot be used, in a few words."""

import errno

import pytest

from internvl_edge.runtime.errors import UnreadableError
from internvl_edge.runtime.inputs.pictures.findings import NAMED, listed, reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UnreadableError("a folder"), "a folder"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/secret/path"), "no such file"),
        (FileNotFoundError("of a library"), "no such file"),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/path"), "permission denied"),
        (OSError("image file is truncated (3 bytes not processed)"), "broken or cut off"),
        (MemoryError(), "too large for the memory of this machine"),
        (ValueError("/secret/path"), "broken or cut off"),
    ],
)
def test_words_hold_no_path_and_nothing_of_a_library(error: Exception, words: str) -> None:
    assert reason(error) == words


def test_many_findings_are_one_line() -> None:
    assert listed([("a\n.png", "no such file"), ("b.png", "a folder")]) == r"a\n.png (no such file), b.png (a folder)"
    many = [(f"{index}.png", "broken") for index in range(NAMED + 3)]
    assert listed(many[:NAMED]).endswith(f"{NAMED - 1}.png (broken)")
    assert listed(many).endswith(f"{NAMED - 1}.png (broken) and 3 more")
