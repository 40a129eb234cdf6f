"""Sizes in words."""

import pytest

from internvl_edge.export.engine.byte_sizes import parse_bytes
from internvl_edge.runtime.errors import EngineError


@pytest.mark.parametrize(
    ("text", "found"),
    [("12GiB", 12 << 30), ("800mib", 800 << 20), ("16GB", 16 * 10**9), ("1.5G", 1_500_000_000), ("4096", 4096)],
)
def test_sizes(text: str, found: int) -> None:
    assert parse_bytes("--max-host-mem", text) == found


@pytest.mark.parametrize("text", ["", "GiB", "12 cows", "-1GiB", "0", "12TiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(EngineError, match=r"^--max-host-mem .*: not a size; give one as 12GiB"):
        parse_bytes("--max-host-mem", text)
