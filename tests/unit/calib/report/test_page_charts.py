"""What the pictures of the report's page show: which values, which sites, and which marks."""

import re
from typing import Any

import pytest

from internvl_edge.calib.report.page import render_html
from tests.unit.calib.report.test_report_html import site


@pytest.fixture
def empty() -> dict[str, Any]:
    return {
        **{"schema": 1, "precision": "int8", "dtype": "float16", "method": "auto", "smooth": "auto"},
        "producer": {"internvl-edge": "0.1.0"},
        "checkpoint": "model",
        "data": {"source": "set.jsonl", "sha256": "ab", "pictures": 128, "texts": 16, "unreadable": []},
        **{"sites": [], "attention": [], "residual": [], "channel_map": {}, "sensitivity": [], "accuracy": []},
        **{"gate": None, "placement_rules": [], "notes": []},
    }


def pictures(report: dict[str, Any]) -> dict[str, str]:
    """Return the pictures of the page by their names."""
    found = re.findall(r'(<svg[^>]*aria-label="([^"]*)".*?</svg>)', render_html(report), re.DOTALL)
    return {name: picture for picture, name in found}


def test_the_six_ranges_that_moved_most_are_drawn_as_shares_of_where_they_ended(empty: dict[str, Any]) -> None:
    """Half way through, site i has reached (i + 1) tenths of its end; of eight the last two moved least."""
    curves = {f"s{i}": [0.0, float(i + 1), float(i + 1), 10.0] for i in range(8)}
    empty["sites"] = [site(name, 0, convergence=curve) for name, curve in curves.items()]
    page = render_html(empty)
    assert re.findall(r'<li class="k(s\d)">vision (s\d)</li>', page) == [(f"s{i + 1}", f"s{i}") for i in range(6)]
    hovers = re.findall(r"<title>(batch [^<]*)</title>", page)
    assert [text.split("\n")[0] for text in hovers] == [f"batch {i}" for i in range(1, 5)]
    assert hovers[1].split("\n")[1:] == [f"vision s{i}: {(i + 1) / 10:g}" for i in range(6)]
    assert set(hovers[3].split("\n")[1:]) == {f"vision s{i}: 1" for i in range(6)}


@pytest.mark.parametrize("curve", [[], [3.0]])
def test_one_batch_has_no_convergence(empty: dict[str, Any], curve: list[float]) -> None:
    empty["sites"] = [site("s", 0, convergence=curve)]
    assert "batch" not in pictures(empty).get("", "")


def test_ranges_before_and_after_smoothing_clip_and_median(empty: dict[str, Any]) -> None:
    """Values below 1 are drawn; what is 0 or no number is not."""
    high = {"placement": "high", "reason": "too loud"}
    empty["sites"] = [
        site("b", 1, **high, amax=0.5, smoothed_amax=0.25, threshold=0.0, median_channel_amax=float("nan")),
        site("a", 0, amax=12.0, smoothed_amax=6.0, threshold=5.5, median_channel_amax=2.0),
    ]
    hovers = re.findall(r"<title>(block [^<]*)</title>", pictures(empty)["vision: qkv"])
    assert hovers == [
        "block 0\nas measured: 12\nsmoothed: 6\nclip: 5.5\nmedian: 2",
        "block 1\nas measured: 0.5\nsmoothed: 0.25\nkept high: too loud",
    ]


def test_a_site_of_two_graphs_counts_once_with_its_worst(empty: dict[str, Any]) -> None:
    empty["sites"] = [
        site("a", 0, sqnr_db=40.0, placement="high", reason="by one graph"),
        site("a", 0, graph="text", sqnr_db=20.0),
        site("b", 0, sqnr_db=30.0),
    ]
    assert "2 of 2 sites" in render_html(empty)


def test_the_ranking_draws_the_worst_24(empty: dict[str, Any]) -> None:
    empty["sensitivity"] = [
        {"site": f"s{i}", "graph": "vision", "sqnr_db": 20.0 + i, "kept_high": i == 0} for i in range(30)
    ]
    (picture,) = (found for name, found in pictures(empty).items() if name.startswith("SQNR"))
    notes = re.findall(r'<text class="c"[^>]*>([^<]*)<', picture)
    assert notes == ["20 dB in vision, kept high", *(f"{20 + i} dB in vision" for i in range(1, 24))]
    assert re.findall(r'<rect class="(b\d)"', picture) == ["b2", *["b1"] * 23]


def test_clipped_shares_by_block(empty: dict[str, Any]) -> None:
    empty["sites"] = [
        site("a", 0, clipped_share=1e-4),
        site("b", 1, clipped_share=0.0),
        site("c", 1, clipped_share=0.02),
    ]
    hovers = re.findall(r"<title>([^<]*clipped[^<]*)</title>", pictures(empty)["vision"])
    assert hovers == ["a\n0.01 % clipped by mse", "c\n2 % clipped by mse"]


def test_a_heat_map_of_blocks_in_order(empty: dict[str, Any]) -> None:
    entry = {"graph": "vision", "amax": 1000.0, "median": 2.0, "massive_tokens": 60.0, "fp16_headroom": 65.5}
    empty["residual"] = [{**entry, "block": block, "massive_channels": []} for block in (1, 0)]
    empty["channel_map"] = {"vision": [[1.0, 500.0], [3.0, 3.0]]}
    page = render_html(empty)
    hovers = re.findall(r"<title>(block \d+\nlargest [^<]*)</title>", page)
    told = "largest 1000, median channel 2\nlargest token 60 x the median token"
    assert [hover for hover in hovers if "token" in hover] == [f"block 0\n{told}", f"block 1\n{told}"]
    assert "block 1, group 1: 500 × the median channel" in page
