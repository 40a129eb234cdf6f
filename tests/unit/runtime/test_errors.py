"""What an exception of a library says, in one line."""

import pytest

from internvl_edge.runtime.errors import first_line, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no kernel \n  at file.cc:12"), "no kernel"),
        (RuntimeError("\n\nafter a gap"), "after a gap"),
        (ValueError(), "ValueError"),
        (OSError(2, "No such file or directory", "a\nb"), "[Errno 2] No such file or directory: 'a\\nb'"),
    ],
)
def test_the_first_line_or_the_type(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_all_of_it_on_one_line() -> None:
    assert one_line(ImportError("libcuda.so.1:\n  undefined symbol")) == "libcuda.so.1: undefined symbol"
