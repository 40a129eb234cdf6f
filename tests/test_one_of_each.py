"""What every part of the program needs stands in one file: nobody writes their own beside it."""

import re
from pathlib import Path

import pytest

from tests.project import ROOT

ROOMS = ("commands", "export", "calib", "runtime")
SOURCES = {path: path.read_text(encoding="utf-8") for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("the folder that a machine's findings are kept in", r'environ\.get\("(XDG_CACHE_HOME|INTERNVL_EDGE_CACHE)"\)'),
        ("the modules of TensorRT-RTX", r'"(onnxruntime_ep_nv_tensorrt_rtx|tensorrt_rtx_bindings)"'),
        ("the version of a TensorRT module", r"of unknown version"),
        ("a message of TensorRT on one line", r"In \\w\+ at"),
        ("the first line of what a library says", r"splitlines\(\)\[0\]|partition\(\"\\n\"\)\[0\]|def first_line"),
        ("all of it on one line", r'" "\.join\((\w+|str\(\w+\))\.split\(\)\)'),
        ("ids where there is no tokenizer", r"\.integers\((3|\w*WORD), "),
        ("the pattern of a block's path", r"\\blayers\\\.\\d\+"),
        ("the path of a route", r'"/v[12](/|")'),
        ("the decoders of pictures", r'"PIL\.|Image\.open\(|f"PIL\.'),
        ("the opset of canonical graphs", r"^\w*OPSET = 23$"),
        ("a temporary name beside a file", r"token_hex|NamedTemporaryFile|with_\w+\(f[^)]*getpid"),
        ("a constant of a graph", r"\.register_initializer\(made\)"),
        ("the softmax of an attention", r'op\("Softmax"'),
        ("a GPU that begins something", r"^FIRST_\w+_SM = "),
    ],
)
def test_it_stands_in_one_file(what: str, pattern: str) -> None:
    found = [path for path, text in SOURCES.items() if re.search(pattern, text, re.MULTILINE)]
    assert len(found) == 1, (what, [str(Path(path).relative_to(ROOT)) for path in found])
