"""Symbolic sizes from input shapes: 26 tokens and 3 heads of the demo, times the batch."""

from pathlib import Path

import pytest

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.plan.schedule import Program, parse_program, read_plan
from internvl_edge.runtime.inspect.plan.symbols import sizes_of
from tests.unit.runtime.inspect.xray.excerpt import ENGINE, write_plan

ROWS, HEADS = "proxy___mye42911.1", "proxy___mye76967"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return read_plan(write_plan(tmp_path / "a.plan")).schedules[0].program


def test_the_plans_own_arithmetic_gives_every_size(program: Program) -> None:
    sizes = sizes_of(program, {"pixel_values": (5, 3, 70, 70)})
    assert (sizes.values[ROWS], sizes.values[HEADS]) == (5 * 26, 5 * 3)
    assert sizes.shapes == {"pixel_values": (5, 3, 70, 70)}
    assert sizes.assumed == ()
    dims = {dim for tensor in program.tensors.values() for dim in tensor.dims if isinstance(dim, str)}
    assert dims <= sizes.values.keys()


def test_what_is_not_given_is_the_smallest_and_said(program: Program) -> None:
    sizes = sizes_of(program, {})
    assert sizes.values[ROWS] == 26
    assert sizes.assumed == ("pixel_values[0] = 1",)


def test_the_smallest_is_the_profiles() -> None:
    text = ENGINE.decode()
    geq = next(line for line in text.splitlines() if line.startswith("  geq="))
    program, _ = parse_program(text.replace(geq, geq.replace("__s^1i64", "__s^3i64")))
    assert sizes_of(program, {}).assumed == ("pixel_values[0] = 3",)


@pytest.mark.parametrize(
    ("shapes", "finding"),
    [
        ({"pixel_values": (9, 3, 70, 70)}, r"pixel_values\[0\] is 9, the plan takes 1 to 8"),
        ({"pixel_values": (0, 3, 70, 70)}, r"pixel_values\[0\] is 0, the plan takes 1 to 8"),
        ({"pixel_values": (1, 3, 70, 71)}, r"pixel_values\[3\] is 71, must be 70"),
        ({"pixel_values": (1, 3, 70)}, "pixel_values: has 4 axes, 3 were given"),
        ({"pixels": (1,)}, "pixels: no input of it; it has pixel_values"),
        ({"pixels": (1,), "pixel_values": (9, 3, 70, 71)}, r"pixels: .*must be 70; .*is 9"),
    ],
)
def test_shapes_that_do_not_fit_are_named_all_at_once(
    program: Program, shapes: dict[str, tuple[int, ...]], finding: str
) -> None:
    with pytest.raises(EngineError, match=finding):
        sizes_of(program, shapes)


def test_a_size_that_cannot_be_worked_out_stays_unknown() -> None:
    text = ENGINE.decode().replace('output={"__mye16169_shape', 'output={"lost__mye16169_shape')
    program, _ = parse_program(text)
    sizes = sizes_of(program, {})
    assert ROWS not in sizes.values
    assert sizes.shape((ROWS, 192)) is None
    assert sizes.values[HEADS] == 3
