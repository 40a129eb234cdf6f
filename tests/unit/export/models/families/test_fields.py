"""A table says of each field what it is; what no table names is an error until it is accepted."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.export.models.families.fields import FieldReader, FieldTable, Honoured, harmless, only
from internvl_edge.runtime.errors import CheckpointError


def _positive(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"is {value!r}, no positive number")
    return value


TABLE = FieldTable(
    "thing_config.json",
    {
        "width": Honoured("width", _positive),
        "hidden_size": Honoured("width", _positive),
        "bias": only(False, finding="is not supported: the graphs have no biases"),
        **harmless("dropout"),
    },
)


def _read(content: dict[str, Any], *accept: str, part: str = "") -> tuple[dict[str, Any], tuple[str, ...]]:
    reader = FieldReader(frozenset(accept))
    values = reader.read(TABLE, content, part)
    return values, reader.finish()


def test_honoured_values_come_by_their_target_and_null_is_absent() -> None:
    assert _read({"hidden_size": 4, "bias": None, "dropout": 0.5, "new": None}) == ({"width": 4}, ())


def test_two_spellings_of_one_thing_may_agree_and_must() -> None:
    assert _read({"hidden_size": 4, "width": 4})[0] == {"width": 4}
    with pytest.raises(CheckpointError, match="hidden_size is 4 and width is 5, but they mean the same thing"):
        _read({"hidden_size": 4, "width": 5})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(CheckpointError) as caught:
        _read({"width": -1, "bias": True, "new": 3, "other": {"a": 1}}, part="inner")
    assert str(caught.value) == (
        "thing_config.json: inner.width is -1, no positive number; "
        "inner.bias True is not supported: the graphs have no biases; "
        "unknown fields that could change what the model computes: thing_config.inner.new = 3, "
        "thing_config.inner.other = {'a': 1}; correct the file or choose another checkpoint; "
        "remove what the model does not need, or accept it as having no effect: "
        "--accept-config thing_config.inner.new --accept-config thing_config.inner.other"
    )


def test_an_accepted_field_is_reported_and_only_if_it_is_there() -> None:
    assert _read({"new": 3}, "thing_config.new", "thing_config.absent") == ({}, ("thing_config.new",))


def test_what_is_refused_cannot_be_accepted() -> None:
    with pytest.raises(CheckpointError, match="bias True"):
        _read({"bias": True}, "thing_config.bias")


def test_a_table_may_leave_the_rest_alone() -> None:
    reader = FieldReader()
    assert reader.read(FieldTable("x.json", {"a": Honoured("a")}, others="harmless"), {"a": 1, "b": 2}) == {"a": 1}
    assert reader.finish() == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(["width", "bias", "dropout", "new", "x y"]) | st.text(), JSON))
def test_any_json_object_is_read_or_refused_in_one_line(content: dict[str, Any]) -> None:
    reader = FieldReader()
    reader.read(TABLE, json.loads(json.dumps(content)))
    error = _error_of(reader)
    assert "\n" not in error
    known = {name for name, value in content.items() if value is None or name == "dropout"}
    assert not error or set(content) - known


def _error_of(reader: FieldReader) -> str:
    try:
        reader.finish()
    except CheckpointError as error:
        return str(error)
    return ""
