"""The table of precisions: what each names, and what follows from a row."""

import ast

import pytest

from internvl_edge.runtime.numbers.formats import (
    CODE_TYPES,
    DTYPES,
    FP8,
    INT8,
    PER_ROW,
    PER_TENSOR,
    PRECISIONS,
    QUANTIZED,
    Granularity,
)
from tests.project import ROOT

ROOMS = ("commands", "export", "calib", "runtime")
SHEETS = "runtime/targets/devices.py"
"""Data sheets give operations per second for each type."""


def test_names_and_what_is_quantized() -> None:
    assert list(PRECISIONS) == ["fp32", "fp16", "bf16", "int8", "fp8"]
    assert DTYPES == {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    assert list(QUANTIZED) == ["int8", "fp8"]
    assert [kind.name for kind in CODE_TYPES] == ["int8", "float8_e4m3fn"]


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_have_a_scale_for_each_row_and_activations_one(name: str) -> None:
    row = QUANTIZED[name]
    assert row.weights is not None
    assert row.activations is not None
    assert (row.weights.granularity, row.activations.granularity) == (PER_ROW, PER_TENSOR)
    assert row.weights.type is row.activations.type


def test_limits_are_symmetric_but_for_int8s_lowest_code() -> None:
    assert (INT8.largest, INT8.lowest, INT8.mantissa_bits) == (127, -128, None)
    assert (FP8.largest, FP8.lowest, FP8.mantissa_bits, FP8.smallest_exponent) == (448, -448, 3, -6)
    assert 2.0**8 * (2 - 2.0**-FP8.mantissa_bits) == FP8.largest + 32, "E4M3 gives its largest mantissa to NaN"


def test_tolerances_and_needs() -> None:
    assert {name: row.relative_tolerance for name, row in PRECISIONS.items()} == {
        "fp32": 1e-4,
        "fp16": 1e-2,
        "bf16": 6e-2,
        "int8": 1e-1,
        "fp8": 2e-1,
    }
    assert {name: row.largest_difference for name, row in PRECISIONS.items()} == {
        "fp32": 1e-4,
        "fp16": 5e-3,
        "bf16": 6e-2,
        "int8": 0.25,
        "fp8": 0.25,
    }
    assert {name: row.needs for name, row in PRECISIONS.items() if row.needs} == {"bf16": "bf16", "fp8": "FP8"}
    assert {name: row.instead for name, row in PRECISIONS.items() if row.needs} == {"bf16": "fp16", "fp8": "int8"}
    assert all(not PRECISIONS[row.instead].needs for row in PRECISIONS.values() if row.needs)
    assert [name for name, row in PRECISIONS.items() if row.attention is not None] == ["fp8"]


def test_shapes_of_scales_by_hand() -> None:
    blocks = Granularity(axis=1, block=32)
    assert [kind.scale_shape((6, 96)) for kind in (PER_TENSOR, PER_ROW, blocks)] == [(), (6,), (6, 3)]
    assert [kind.attributes for kind in (PER_TENSOR, PER_ROW, blocks)] == [
        {},
        {"axis": 0},
        {"axis": 1, "block_size": 32},
    ]
    assert [str(kind) for kind in (PER_TENSOR, PER_ROW, blocks)] == ["per tensor", "per channel", "per block of 32"]
    with pytest.raises(ValueError, match="axis 1 of \\[6, 90\\] is no multiple of blocks of 32"):
        blocks.scale_shape((6, 90))


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_branches_on_a_format_or_keeps_a_table_of_its_own(room: str) -> None:
    files = [path for path in (ROOT / room).rglob("*.py") if path.relative_to(ROOT).as_posix() != SHEETS]
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.Dict | ast.MatchValue) and _decides_by_name(node)
    ]
    assert wrong == [], "ask the row"


def _decides_by_name(node: ast.Compare | ast.Dict | ast.MatchValue) -> bool:
    """Return whether a comparison is with a name of a format, or a dictionary has all of them as keys."""
    parts = [part for part in node.keys if part is not None] if isinstance(node, ast.Dict) else [node]
    held = {inner.value for part in parts for inner in ast.walk(part) if isinstance(inner, ast.Constant)}
    return set(QUANTIZED) <= held if isinstance(node, ast.Dict) else bool(set(QUANTIZED) & held)
