"""The planner keeps the fewest of the worst sites high, within its budget; ranges must cover the graphs asked for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.calib import choose
from internvl_edge.calib.choose import PrecisionOptions, choose_precision, fewest_high, with_enough_keys
from internvl_edge.calib.gate.result import AccuracyMetric, GateResult
from internvl_edge.calib.gate.sensitivity import Damage
from internvl_edge.calib.ranges.stored import open_ranges
from internvl_edge.calib.recipes.decide import Decision, Rules
from internvl_edge.calib.recipes.recipe import AttentionRange, Recipe
from internvl_edge.calib.sites import Site
from internvl_edge.export.blockwise.model import BlockwiseModel
from internvl_edge.export.calibrate import CalibrateOptions, calibrate
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.numbers.formats import QUANTIZED
from internvl_edge.runtime.progress import Silent


@dataclass
class CountingGate:
    """Finds half a drop too much until `needed` sites are high; remembers what it was asked."""

    needed: int
    asked: list[int] = field(default_factory=list)

    def measure(self, recipe: Recipe) -> GateResult:
        high = sum(not decision.quantized for decision in recipe.decisions)
        self.asked.append(high)
        lost = 0.4 if high >= self.needed else 0.6
        metric = AccuracyMetric(name="R@1", reference=80.0, quantized=80.0 - lost)
        return GateResult(metrics=(metric,), pictures=64, source="data.jsonl")


def quantized(count: int) -> Recipe:
    """Return a recipe of `count` quantized sites, s0 the first in the model."""
    sites = [
        Site(name=f"s{i}", linears=(f"s{i}",), tower="vision", block=i, kind="fc1", channels=4, fold=None)
        for i in range(count)
    ]
    decisions = [
        Decision(
            site=site,
            alpha=None,
            smoothing=None,
            smoothing_errors={},
            clips={},
            quantized=True,
            reason="a linear of a block",
            prescription="none",
        )
        for site in sites
    ]
    return Recipe(rules=Rules(precision=QUANTIZED["int8"], dtype="float32"), decisions=tuple(decisions))


def damages(count: int) -> list[Damage]:
    """Return the ranking: the last site of the model is the worst."""
    return [Damage(site=f"s{i}", graph="vision", sqnr_db=float(count - i)) for i in reversed(range(count))]


def marked_high(recipe: Recipe, high: Mapping[str, str], *_: object) -> Recipe:
    """Return what `keep_high` decides, without the weights that follow from it."""
    decisions = [
        replace(d, quantized=False, reason=high[d.site.name]) if d.site.name in high else d for d in recipe.decisions
    ]
    return replace(recipe, decisions=tuple(decisions))


def asked(budget: int | None) -> PrecisionOptions:
    return PrecisionOptions(
        graphs=("vision",),
        precision="int8",
        dtype="float32",
        method=None,
        smooth="auto",
        fp8_attention=False,
        high={},
        data="d",
        gate_samples=64,
        max_drop=0.5,
        budget_layers=budget,
    )


def planned(count: int, needed: int, budget: int | None = None) -> tuple[list[Decision], CountingGate]:
    """Return the decisions that are high in the plan, and the gate it was made with."""
    gate: Any = CountingGate(needed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "keep_high", marked_high)
        patch.setattr(choose, "run_with", lambda model, recipe: recipe)
        nothing: Any = None
        found = fewest_high(quantized(count), damages(count), asked(budget), gate, nothing, nothing)
    return [decision for decision in found.decisions if not decision.quantized], gate


def worst(count: int, kept: int) -> list[str]:
    return [f"s{i}" for i in range(count - kept, count)]


def names(high: Sequence[Decision]) -> list[str]:
    return [decision.site.name for decision in high]


@given(count=st.integers(1, 70), data=st.data())
def test_the_fewest_that_pass_are_kept_and_they_are_the_worst(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(1, count))
    high, gate = planned(count, needed)
    assert names(high) == worst(count, needed)
    assert len(gate.asked) <= 2 * count.bit_length(), "a trial runs the whole model"
    assert len(gate.asked) == len(set(gate.asked)), "a trial was run twice"


def test_the_reason_says_what_the_site_costs_alone() -> None:
    high, _ = planned(5, 2)
    assert {d.site.name: d.reason for d in high} == {
        "s4": "alone it leaves 1.0 dB of vision",
        "s3": "alone it leaves 2.0 dB of vision",
    }


@given(count=st.integers(1, 40), data=st.data())
def test_a_budget_is_never_exceeded(count: int, data: st.DataObject) -> None:
    needed, budget = data.draw(st.integers(1, count)), data.draw(st.integers(0, count + 5))
    high, gate = planned(count, needed, budget)
    assert names(high) == worst(count, min(needed, budget))
    assert max(gate.asked, default=0) <= budget


@pytest.mark.parametrize(("budget", "kept"), [(None, 9), (0, 0), (1, 1), (6, 6), (9, 9), (100, 9)])
def test_the_whole_budget_is_spent_where_nothing_passes(budget: int | None, kept: int) -> None:
    high, _ = planned(9, 10**6, budget)
    assert names(high) == worst(9, kept)


def test_without_a_ranking_nothing_can_be_kept() -> None:
    gate: Any = CountingGate(1)
    nothing: Any = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "keep_high", marked_high)
        assert fewest_high(quantized(3), [], asked(None), gate, nothing, nothing) == quantized(3)
    assert gate.asked == []


def test_ranges_must_cover_the_graphs(emoji: Path, tmp_path: Path) -> None:
    folder = str(emoji / "checkpoint")
    data = str(emoji / "data" / "calibration.jsonl")
    ranges = tmp_path / "ranges"
    calibrate(CalibrateOptions(checkpoint=folder, output=ranges, data=data, sample_count=16, graphs=("vision",)))
    checkpoint = open_checkpoint(folder)
    model = BlockwiseModel(folder, checkpoint, checkpoint.config)
    options = replace(asked(None), graphs=("vision", "text", "query"))
    with pytest.raises(CalibrationError, match="did not measure query, text; calibrate with these graphs"):
        choose_precision(model, open_ranges(ranges), options, lambda name: {}, Silent())


def test_attention_that_may_see_few_rows_is_not_quantized(emoji: Path) -> None:
    """Of fewer than 32 rows a plan has several kernels for it: the demo's 8 queries are too few, 37 tokens are not."""
    content = json.loads((emoji / "checkpoint" / "config.json").read_text())
    content["vision_config"]["image_size"] = 84
    held = AttentionRange(q=1.0, k=1.0, v=1.0)
    both = {"qllama.model.layers.0.self_attn": held, "qllama.model.layers.0.cross_attn": held}
    ranged = {
        "vision": {"vision_model.encoder.layers.0.attn": held},
        "query": both,
        "itm": both,
        "text": {},
        "decoder": {},
    }
    ranged["text"] = ranged["decoder"] = {"qllama.model.layers.0.self_attn": held}
    notes: list[str] = []
    checkpoint = open_checkpoint(emoji / "checkpoint")
    found = with_enough_keys(ranged, BlockwiseModel("demo", checkpoint, config_from_json(content)), notes)
    assert {graph: list(ranges) for graph, ranges in found.items()} == {
        "vision": ["vision_model.encoder.layers.0.attn"],
        "query": ["qllama.model.layers.0.cross_attn"],
        "itm": ["qllama.model.layers.0.cross_attn"],
        "text": [],
        "decoder": [],
    }
    assert [note.partition(":")[0] for note in notes] == ["query", "itm", "text", "decoder"]
    content["num_query_token"] = 96
    found = with_enough_keys(ranged, BlockwiseModel("demo", checkpoint, config_from_json(content)), notes)
    assert [graph for graph, ranges in found.items() if len(ranges) == len(ranged[graph])] == [
        "vision",
        "query",
        "itm",
        "decoder",
    ]
