"""Names of files become text that every reader of JSON, Parquet and terminals takes."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.inputs.files.names import in_one_line, is_unicode, printable


def test_bytes_that_are_no_utf8_are_written_out() -> None:
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert printable("café.png") == "café.png"
    assert printable("\ud800.png") == r"\xed\xa0\x80.png"
    assert in_one_line("a\nb\x1b.png") == r"a\nb\x1b.png"


@given(name=st.binary(max_size=20))
def test_every_name_is_valid_json_in_utf8(name: bytes) -> None:
    text = printable(os.fsdecode(name))
    assert is_unicode(text)
    assert json.loads(json.dumps({"name": text}, ensure_ascii=False).encode()) == {"name": text}
    assert len(in_one_line(text).splitlines()) <= 1


@given(name=st.text(alphabet=st.characters(), max_size=20))
def test_valid_names_stay_as_they_are(name: str) -> None:
    assert printable(name) == name or not is_unicode(name)
