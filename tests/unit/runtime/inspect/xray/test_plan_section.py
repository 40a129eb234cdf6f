"""The section of one plan: which answers it gives, and which parts it leaves out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.runtime.inspect.xray.plan_section import fused_word, plan_section
from internvl_edge.runtime.inspect.xray.xray_report import PlanXray, xray
from tests.unit.runtime.inspect.xray.excerpt import ROUND, write_plan


@pytest.fixture
def found(tmp_path: Path) -> PlanXray:
    return xray(write_plan(tmp_path / "a.plan"), target=ROUND, sizes={"pixel_values": (2, 3, 70, 70)})


@pytest.mark.parametrize(
    ("fused", "unfused", "word"), [({}, (), "no"), ({"fmha": 3}, (), "yes"), ({"fmha": 3}, ("layers.0",), "in part")]
)
def test_whether_attention_is_fused(
    found: PlanXray, fused: dict[str, int], unfused: tuple[str, ...], word: str
) -> None:
    changed = replace(found, fused_attention=fused, unfused_attention=unfused)
    assert fused_word(changed) == word
    assert f"Is attention fused?<b>{word}</b>" in plan_section(changed, "h2", folded=False)


def test_answers_are_those_of_the_plan(found: PlanXray) -> None:
    text = plan_section(found, "h2", folded=False)
    assert "How many launches?<b>10</b>10 in the whole graph" in text
    assert "What is in 8 bits?<b>0.0 % of FLOPs</b>" in text
    assert "built for sm_89, seen for round" in text
    assert "At pixel_values 2×3×70×70." in text


@pytest.mark.parametrize("folded", [False, True])
def test_tables_are_folded_where_there_are_other_plans(found: PlanXray, folded: bool) -> None:
    text = plan_section(found, "h3", folded=folded)
    assert text.count("<details>" if folded else "<details open>") == 2
    assert text.count("<details") == 2
    assert '<h3 class="head">All 10 kernels</h3>' in text


def test_a_row_for_each_kernel_and_columns_of_quantization_where_there_is_some(found: PlanXray) -> None:
    text = plan_section(found, "h2", folded=False)
    assert len(re.findall(r'<tr><td>\d+</td><td class="l" title=', text)) == 10
    assert ">quantizes</th>" not in text
    quantizing = replace(found, kernels=(replace(found.kernels[0], quantizes="own"), *found.kernels[1:]))
    text = plan_section(quantizing, "h2", folded=False)
    assert ">quantizes</th>" in text
    assert "<td>own</td>" in text


def test_what_stayed_wide_is_listed(found: PlanXray) -> None:
    assert "Left in high precision" not in plan_section(found, "h2", folded=False)
    text = plan_section(replace(found, high_precision={"a<b": 0.125}), "h2", folded=False)
    assert "<tr><td>a&lt;b</td><td>12.50 %</td></tr>" in text


def test_a_plan_without_kernels_says_what_is_lacking_and_draws_nothing(found: PlanXray) -> None:
    text = plan_section(
        replace(found, kernels=(), unreadable=("no <main>", "cut off"), notes=("seen for another SM",)),
        "h2",
        folded=False,
    )
    assert '<p class="bad">Not readable: no &lt;main&gt;; cut off.</p>' in text
    assert "<ul><li>seen for another SM</li></ul>" in text
    assert "<svg" not in text
    assert "<table" not in text


def test_sizes_and_profiles_that_were_taken_are_reported(found: PlanXray) -> None:
    text = plan_section(replace(found, profile=1, profiles=2, assumed=("x[0] = 1",)), "h2", folded=False)
    assert "(profile 1 of 2, counted from 0)" in text
    assert "Not given, taken as small as the plan allows: x[0] = 1." in text
    text = plan_section(replace(found, shapes={}, sm=None), "h2", folded=False)
    assert "built for" not in text
    assert " At " not in text


def test_without_predictions_there_is_no_bar_of_time(found: PlanXray) -> None:
    kernels = tuple(replace(kernel, predicted_ms=None) for kernel in found.kernels)
    text = plan_section(replace(found, kernels=kernels, quantized_share=None), "h2", folded=False)
    assert "Where the predicted time" not in text
    assert "What is in 8 bits?<b>not readable</b>" in text
