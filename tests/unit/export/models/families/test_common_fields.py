"""Values of `config.json` that may be written in several ways are brought to one."""

from typing import Any

import pytest

from internvl_edge.export.models.families.common_fields import square, token_ids


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (2, (2,)),
        ("</s>", ("</s>",)),
        ("2", (2,)),
        (" 2 ", (2,)),
        ([2, 5], (2, 5)),
        ([2, "2", "x", 2, "x"], (2, "x")),
        ([], ()),
    ],
)
def test_token_ids(value: Any, ids: tuple[int | str, ...]) -> None:
    assert token_ids(value) == ids


@pytest.mark.parametrize("value", [True, 2.5, None, "", " ", [1, None], [[1]], [False]])
def test_what_is_no_token_id(value: Any) -> None:
    with pytest.raises(ValueError, match="which is no token id"):
        token_ids(value)


@pytest.mark.parametrize(("value", "side"), [(448, 448), ([448, 448], 448), ("x", "x"), (None, None)])
def test_one_side_of_a_square(value: Any, side: Any) -> None:
    assert square(value) == side


@pytest.mark.parametrize("value", [[448, 224], [448], [448, 448, 448], []])
def test_what_is_no_square(value: Any) -> None:
    with pytest.raises(ValueError, match="which is no square"):
        square(value)
