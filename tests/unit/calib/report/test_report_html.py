"""The page of the quantization report: whole, offline, escaped, and readable where parts are missing."""

import copy
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from internvl_edge.calib.report.page import render_html

_VOID = {"meta", "input", "br"}


class Checker(HTMLParser):
    """Collects what is opened and never closed, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def site(name: str, block: int, **changed: Any) -> dict[str, Any]:
    return {
        **{"name": name, "linears": [name], "graph": "vision", "tower": "vision", "block": block, "kind": "qkv"},
        **{"placement": "quantized", "reason": "a linear of a block", "amax": 12.0, "smoothed_amax": 6.0},
        **{"median_channel_amax": 2.0, "threshold": 5.5, "scale": 0.043, "method": "mse", "clipped_share": 1e-4},
        **{"alpha": 0.5, "sqnr_db": 41.0, "outlier_ratio": 6.0, "token_ratio": 2.0, "prescription": "smooth"},
        **{"errors": {"max": 1e-4}, "convergence": [8.0, 12.0]},
        **changed,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    entry = {"graph": "vision", "amax": 1000.0, "median": 2.0, "massive_tokens": 60.0, "fp16_headroom": 65.5}
    return {
        **{"schema": 1, "precision": "int8", "dtype": "float16", "method": "auto", "smooth": "auto"},
        "producer": {"internvl-edge": "0.1.0"},
        "checkpoint": "model",
        "data": {"source": "set.jsonl", "sha256": "ab", "pictures": 128, "texts": 16, "unreadable": []},
        "sites": [site("layers.0.qkv", 0), site("layers.1.qkv", 1, placement="high", reason="too loud", alpha=None)],
        "attention": [],
        "residual": [{**entry, "block": block, "massive_channels": [(7, 500.0)]} for block in (0, 1)],
        "channel_map": {"vision": [[1.0, 500.0], [1.0, 400.0]]},
        "sensitivity": [{"site": "layers.0.qkv", "graph": "vision", "sqnr_db": 30.0, "kept_high": False}],
        "accuracy": [{"metric": "mean", "fp32": 60.0, "quantized": 59.9, "drop": 0.1}],
        "gate": {"max_drop": 0.5, "drop": 0.1, "metric": "mean of 1 figures", "passed": True},
        "placement_rules": [{"rule": "norms stay high", "reason": "digits"}],
        "notes": ["a note"],
    }


def checked(report: dict[str, Any]) -> str:
    page = render_html(report)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.addresses == [], "the page opens offline"
    for part in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part[: part.index("</svg>")] + "</svg>")
    return page


def test_answers_come_first(report: dict[str, Any]) -> None:
    page = checked(report)
    head = page[: page.index("<h2>")]
    assert "yes: +0.10 points lost" in head
    assert "1 of 2 sites" in head
    assert "2 blocks with massive channels" in head
    assert all(found["name"] in page and found["reason"] in page for found in report["sites"])


def test_a_site_of_several_graphs_has_the_reason_of_the_one_that_loses_most(report: dict[str, Any]) -> None:
    reasons = {"query": ("loud", 30.0), "text": ("louder", 20.0), "itm": ("quiet", 40.0)}
    report["sites"] = [
        site("layers.1.qkv", 1, graph=graph, placement="high", reason=reason, sqnr_db=decibels)
        for graph, (reason, decibels) in reasons.items()
    ]
    page = checked(report)
    table = page[page.index("<h2>What stays high</h2>") :].partition("</table>")[0]
    assert [reason for reason, _ in reasons.values() if f">{reason}</td>" in table] == ["louder"]


def test_a_missed_gate_says_so(report: dict[str, Any]) -> None:
    report["gate"] |= {"passed": False, "drop": 3.0}
    assert "no: +3.00 points lost" in checked(report)


def test_missing_parts_are_words(report: dict[str, Any]) -> None:
    report |= {"gate": None, "accuracy": [], "sensitivity": [], "notes": []}
    page = checked(report)
    assert "Not measured: there was nothing to measure it on." in page
    assert "Not measured: one pass over the model a site" in page


def test_names_are_escaped(report: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>"
    report["data"]["source"] = report["checkpoint"] = report["sites"][0]["name"] = report["notes"][0] = evil
    assert evil not in checked(report)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_values_that_cannot_be_drawn(report: dict[str, Any], value: float) -> None:
    report["sites"][0] |= {"amax": value, "threshold": value, "clipped_share": 0.0}
    report["residual"][0]["amax"] = value
    assert "layers.0.qkv" in checked(report)


def test_a_large_model_makes_a_small_page(report: dict[str, Any]) -> None:
    kinds = ("qkv", "proj", "fc1", "fc2")
    report["sites"] = [site(f"layers.{block}.{kind}", block, kind=kind) for block in range(48) for kind in kinds] * 5
    report["residual"] = [{**report["residual"][0], "block": block} for block in range(48)]
    report["channel_map"] = {"vision": [[1.0 + (c * b) % 7 for c in range(64)] for b in range(48)]}
    page = checked(report)
    assert len(page) < 1_500_000
    assert page == render_html(copy.deepcopy(report))
