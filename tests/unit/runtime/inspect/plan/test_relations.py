"""The host arithmetic of a plan, forwards and backwards."""

import pytest

from internvl_edge.runtime.inspect.plan.relations import relations_of
from tests.unit.runtime.inspect.plan.small_programs import program, step


@pytest.mark.parametrize(
    ("kind", "a", "b", "expected"),
    [
        ("add", 7, 3, 10),
        ("sub", 7, 3, 4),
        ("mul", 7, 3, 21),
        ("div", 7, 3, 2),
        ("div", 7, 0, 0),
        ("mod", 7, 3, 1),
        ("mod", 7, 0, 0),
        ("min", 7, 3, 3),
        ("max", 7, 3, 7),
        ("eq", 3, 3, 1),
        ("lt", 3, 3, 0),
        ("gt", 7, 3, 1),
        ("leq", 3, 3, 1),
        ("geq", 3, 7, 0),
        ("and", 2, 0, 0),
        ("or", 2, 0, 1),
        ("unheard_of", 7, 3, None),
    ],
)
def test_each_operation_on_two_numbers(kind: str, a: int, b: int, expected: int | None) -> None:
    relations = relations_of(program({}, shape_steps=[step(kind, "a b", "y")]))
    assert relations.forward({"a": a, "b": b}).get("y") == expected
    assert "y" not in relations.forward({"a": a}), "an operand is not known"


@pytest.mark.parametrize(
    ("kind", "operands", "expected"),
    [
        ("copy", (7,), 7),
        ("cast", (7,), 7),
        ("reshape", (7,), 7),
        ("not", (7,), 0),
        ("not", (0,), 1),
        ("neg", (7,), None),
        ("select", (1, 5, 6), 5),
        ("select", (0, 5, 6), 6),
        ("other", (0, 5, 6), None),
    ],
)
def test_operations_on_one_and_three_numbers(kind: str, operands: tuple[int, ...], expected: int | None) -> None:
    names = "abc"[: len(operands)]
    relations = relations_of(program({}, shape_steps=[step(kind, " ".join(names), "y")]))
    assert relations.forward(dict(zip(names, operands, strict=True))).get("y") == expected


def test_constants_carry_their_value_in_the_name() -> None:
    relations = relations_of(
        program({}, shape_steps=[step("mul", "rows __s^12i64", "a"), step("add", "a __s^M2i64", "b")])
    )
    assert relations.constants == {"__s^12i64": 12, "__s^M2i64": -2}
    assert relations.forward({"rows": 3})["b"] == 34
    assert [relations.is_free(name) for name in ("rows", "a", "__s^12i64")] == [True, False, False]


def test_backwards_to_the_free_size() -> None:
    steps = [
        step("cast", "rows", "rows64"),
        step("sub", "rows64 __s^1i64", "a"),
        step("mul", "a __s^4i64", "b"),
        step("max", "b __s^1i64", "c"),
    ]
    relations = relations_of(program({}, shape_steps=steps))
    values = relations.forward({})
    assert relations.source("rows64") == "rows"
    assert relations.backward("b", 20, values) == ("rows", 6)
    assert relations.backward("c", 20, values) is None, "a maximum has no inverse"
    assert relations.backward("b", 20, {}) is None, "the second operand is not known"


def test_what_is_asserted_bounds_and_equates() -> None:
    steps = [
        step("geq", "rows __s^2i64", "p"),
        step("leq", "rows __s^8i64", "q"),
        step("leq", "length __s^80i64", "r"),
        step("leq", "free limit", "s"),
        step("geq", "other __s^5i64", "unasserted"),
        step("eq", "rows batch", "t"),
        step("and", "p q", "pq"),
        step("and", "pq r", "all"),
        step("assert", "all", ""),
        step("assert", "s", ""),
        step("assert", "t", ""),
    ]
    relations = relations_of(program({}, shape_steps=steps))
    assert relations.bounds() == {"rows": (2, 8), "length": (1, 80)}
    assert relations.equalities() == [("rows", "batch")]


def test_a_circle_of_copies_ends() -> None:
    relations = relations_of(program({}, shape_steps=[step("copy", "a", "b"), step("copy", "b", "a")]))
    assert relations.source("a") in ("a", "b")
    assert relations.backward("a", 1, {}) is None


def test_arithmetic_among_the_steps_of_the_schedule_counts_as_well() -> None:
    relations = relations_of(program({}, steps=[step("function", "x", "y"), step("add", "a __s^1i64", "b")]))
    assert relations.forward({"a": 1})["b"] == 2
    assert relations.is_free("y")
