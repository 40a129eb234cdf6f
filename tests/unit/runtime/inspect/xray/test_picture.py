"""The pictures of a block: widths are bytes and times, texts fit and are escaped."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.runtime.inspect.xray.picture import WIDTH, block_picture, time_picture
from internvl_edge.runtime.inspect.xray.xray_report import Kernel, PlanXray, xray
from tests.unit.runtime.inspect.xray.excerpt import BLOCK, ROUND, write_plan


@pytest.fixture
def found(tmp_path: Path) -> PlanXray:
    return xray(write_plan(tmp_path / "a.plan"), target=ROUND, sizes={"pixel_values": (2, 3, 70, 70)})


@pytest.fixture
def kernel(found: PlanXray) -> Kernel:
    return replace(
        found.kernels[1],
        read_bytes=300,
        weight_bytes=100,
        written_bytes=100,
        at_most=False,
        predicted_ms=1.0,
        quantizes="",
        dequantizes="",
    )


def widths(picture: str) -> list[tuple[str, float]]:
    return [(shade, float(width)) for shade, width in re.findall(r'class="c-\w+ ([wro])".*?width="([\d.]+)"', picture)]


def test_the_widest_bar_is_the_kernel_that_moves_most(kernel: Kernel) -> None:
    smaller = replace(kernel, read_bytes=100, weight_bytes=0, written_bytes=100)
    assert widths(block_picture([kernel, smaller], BLOCK)) == [
        ("w", 115.0),
        ("r", 230.0),
        ("o", 115.0),
        ("r", 115.0),
        ("o", 115.0),
    ]


def test_what_cannot_be_read_has_no_bar(kernel: Kernel) -> None:
    picture = block_picture([replace(kernel, read_bytes=None)], "")
    assert widths(picture) == []
    assert "not readable" in picture
    assert 'aria-label="Kernels of the graph, in order"' in picture


@pytest.mark.parametrize(
    ("quantizes", "dequantizes", "marks"),
    [("", "", ""), ("own", "", "Q"), ("", "product", "DQ"), ("fused", "fused", "DQ Q")],
)
def test_marks_say_what_turns_to_8_bits_and_back(kernel: Kernel, quantizes: str, dequantizes: str, marks: str) -> None:
    picture = block_picture([replace(kernel, quantizes=quantizes, dequantizes=dequantizes)], BLOCK)
    assert re.findall(r'<text class="t e" x="452" y="\d+">([^<]*)</text>', picture) == [marks]


def test_a_kernel_that_slices_may_read_less(kernel: Kernel) -> None:
    assert "≤ " not in block_picture([kernel], BLOCK)
    assert "≤ " in block_picture([replace(kernel, at_most=True)], BLOCK)


def test_names_are_escaped_and_long_operations_are_cut(kernel: Kernel) -> None:
    picture = block_picture([replace(kernel, name="<a>", operations=("Mul",) * 40)], BLOCK)
    assert "<a>" not in picture
    assert "&lt;a&gt;" in picture
    (shown,) = re.findall(r">(\w+: Mul[^<]*)<", picture)
    assert (len(shown), shown[-1]) == (58, "…")


def test_the_time_of_each_kernel_is_a_piece_of_one_bar(kernel: Kernel) -> None:
    kernels = [kernel, replace(kernel, predicted_ms=3.0), replace(kernel, predicted_ms=None)]
    picture = time_picture(kernels)
    assert picture is not None
    pieces = re.findall(r'x="([\d.]+)" y="0" width="([\d.]+)"', picture)
    assert [(float(x), float(width)) for x, width in pieces] == [(0, WIDTH / 4), (WIDTH / 4, WIDTH * 3 / 4)]
    assert time_picture([replace(kernel, predicted_ms=None)]) is None
    assert time_picture([]) is None
