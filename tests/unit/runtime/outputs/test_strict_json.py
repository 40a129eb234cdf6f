"""JSON that a strict parser reads, and that gives back what went in."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.outputs.strict_json import json_line, json_text


def strictly(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    text.encode()  # UTF-8 has no half characters
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("name", ["a\nb", 'quo"te', "caf\udce9", "\u2028 \x85", "\x00\x1b[31m", "𝄞日本", "\\udce9", ""])
def test_odd_names(name: str) -> None:
    assert strictly(json_text({name: [name]})) == {name: [name]}
    line = json_line({"image": name})
    assert line.splitlines() == [line[:-1]]
    assert strictly(line) == {"image": name}


def test_bytes_of_a_name_come_back() -> None:
    (name,) = strictly(json_text([Path(os.fsdecode(b"caf\xe9.png"))]))  # type: ignore[misc]
    assert os.fsencode(name) == b"caf\xe9.png"


def test_foreign_letters_stay_readable() -> None:
    assert json_text({"caption": "日本"}, indent=None) == '{"caption": "日本"}'


def test_numbers_that_json_lacks() -> None:
    content = {"nan": math.nan, "most": [math.inf, np.float32("-inf")], "array": np.array([[1.5, math.nan]])}
    found = strictly(json_text(content))
    assert found == {"nan": "NaN", "most": ["Infinity", "-Infinity"], "array": [[1.5, "NaN"]]}
    assert math.isnan(float(found["nan"]))  # type: ignore[index]


def test_numpy_and_tuples() -> None:
    content = {"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "t": (1, None), 7: "number"}
    assert strictly(json_text(content)) == {"i": 3, "f": 0.5, "b": True, "t": [1, None], "7": "number"}


def test_two_keys_that_become_one_are_refused() -> None:
    with pytest.raises(ValueError, match="two entries of one name"):
        json_text({1: "a", "1": "b"})


def test_what_json_has_no_place_for_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        json_text({"set": {1}})
