"""The report as data: every figure is worked out by hand from small statistics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.calib.gate.result import AccuracyMetric, GateResult
from internvl_edge.calib.gate.sensitivity import Damage
from internvl_edge.calib.ranges.magnitudes import Magnitudes
from internvl_edge.calib.ranges.observer import Statistics
from internvl_edge.calib.ranges.stored import Ranges, RangesInfo, save_block
from internvl_edge.calib.recipes.decide import Clip, Decision, Rules
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.calib.report.content import PLACEMENT_RULES, build_report
from internvl_edge.calib.sites import Site
from internvl_edge.runtime.numbers.formats import QUANTIZED

BLOCK = "layers.3"
GATE = GateResult(
    metrics=(
        AccuracyMetric(name="R@1", reference=80.0, quantized=79.5),
        AccuracyMetric(name="R@5", reference=90.0, quantized=89.5),
    ),
    pictures=64,
    source="set.jsonl",
)


def seen(amax: Sequence[float], token_amax: float = 8.0, token_median: float = 2.0) -> Statistics:
    return Statistics(
        amax=np.array(amax, np.float32),
        mean=np.zeros(len(amax), np.float32),
        counted_rows=1,
        magnitudes=Magnitudes(),
        rows=np.zeros((1, len(amax)), np.float32),
        curve=np.array([1.0, 4.0], np.float32),
        token_amax=token_amax,
        token_median=token_median,
    )


def decision(name: str, smoothing: Sequence[float] | None, quantized: bool = True) -> Decision:
    return Decision(
        site=Site(name=name, linears=(name,), tower="vision", block=3, kind="fc1", channels=4, fold=None),
        alpha=0.5,
        smoothing=None if smoothing is None else np.array(smoothing, np.float32),
        smoothing_errors={},
        clips={
            "vision": Clip(
                threshold=6.0, scale=0.5, method="mse", clipped_share=0.25, sqnr_db=30.0, errors={"max": 0.125}
            )
        },
        quantized=quantized,
        reason="said so",
        prescription="smooth",
    )


def report(
    folder: Path,
    statistics: dict[tuple[str, str], Statistics],
    *decisions: Decision,
    damages: Sequence[Damage] = (),
    result: GateResult | None = None,
    max_drop: float = 0.5,
) -> dict[str, Any]:
    save_block(folder, BLOCK, statistics)
    shards = [
        {"source": "a", "sha256": "0a", "pictures": 2, "texts": 3, "unreadable": ["x.png"]},
        {"source": "b", "sha256": "0b", "pictures": 5, "texts": 7, "unreadable": []},
    ]
    info = RangesInfo(
        checkpoint="model",
        fingerprint="f",
        image_size=8,
        data=tuple(shards),
        method="auto",
        compute="fp32",
        producer={"internvl-edge": "1"},
        code="c",
        graphs=("vision",),
        blocks=(BLOCK,),
    )
    recipe = Recipe(rules=Rules(precision=QUANTIZED["int8"], dtype="float16"), decisions=decisions, attention={})
    return build_report(recipe, Ranges(folder, info), damages, result, max_drop, ["a note"])


def test_a_site(tmp_path: Path) -> None:
    """Channels 1, 2, 4, 12: the median is 3, the largest 4 times as large; smoothing by 1, 1, 2, 4 leaves at most 3."""
    statistics = {("vision", "layers.3.fc1"): seen([1, 2, 4, 12])}
    (site,) = report(tmp_path, statistics, decision("layers.3.fc1", [1, 1, 2, 4]))["sites"]
    assert site == {
        "name": "layers.3.fc1",
        "linears": ["layers.3.fc1"],
        "graph": "vision",
        "tower": "vision",
        "block": 3,
        "kind": "fc1",
        "placement": "quantized",
        "reason": "said so",
        "amax": 12.0,
        "smoothed_amax": 3.0,
        "median_channel_amax": 3.0,
        "threshold": 6.0,
        "scale": 0.5,
        "method": "mse",
        "clipped_share": 0.25,
        "alpha": 0.5,
        "sqnr_db": 30.0,
        "outlier_ratio": 4.0,
        "token_ratio": 4.0,
        "prescription": "smooth",
        "errors": {"max": 0.125},
        "convergence": [1.0, 4.0],
    }


def test_a_site_that_stays_high_and_is_not_smoothed(tmp_path: Path) -> None:
    statistics = {("vision", "layers.3.fc1"): seen([1, 2, 4, 12], token_median=0.0)}
    (site,) = report(tmp_path, statistics, decision("layers.3.fc1", None, quantized=False))["sites"]
    assert (site["placement"], site["smoothed_amax"]) == ("high", 12.0)
    assert site["token_ratio"] == pytest.approx(8e30), "no row is divided by 0"


def test_only_measured_graphs_of_known_sites_are_told(tmp_path: Path) -> None:
    statistics = {
        ("text", "layers.3.fc1"): seen([1]),
        ("vision", "layers.3.fc1"): seen([1]),
        ("vision", "layers.3.fc2"): seen([1]),
    }
    found = report(tmp_path, statistics, decision("layers.3.fc1", None))
    assert [(site["graph"], site["name"]) for site in found["sites"]] == [("vision", "layers.3.fc1")]


def test_the_residual_stream(tmp_path: Path) -> None:
    """The median channel is 2: 200 and 250 are massive, 199 is not; fp16 ends at 65504."""
    amax = [2.0] * 20 + [200.0, 199.0, 250.0]
    statistics = {("vision", "layers.3.residual"): seen(amax, token_amax=250.0, token_median=5.0)}
    found = report(tmp_path, statistics)
    assert found["residual"] == [
        {
            "graph": "vision",
            "block": 3,
            "amax": 250.0,
            "median": 2.0,
            "massive_channels": [(22, 125.0), (20, 100.0)],
            "massive_tokens": 50.0,
            "fp16_headroom": pytest.approx(65504 / 250),
        }
    ]
    assert found["channel_map"] == {"vision": [[1.0] * 20 + [100.0, 99.5, 125.0]]}
    assert found["sites"] == []


def test_at_most_eight_massive_channels_are_named(tmp_path: Path) -> None:
    amax = [1.0] * 30 + [100.0 + i for i in range(9)]
    (entry,) = report(tmp_path, {("vision", "layers.3.residual"): seen(amax)})["residual"]
    assert [channel for channel, _ in entry["massive_channels"]] == list(range(38, 30, -1))


def test_many_channels_are_drawn_in_64_groups(tmp_path: Path) -> None:
    """130 channels make 2 groups of 3 and 62 of 2, each shown by its largest over the median, which is 1."""
    amax = np.ones(130)
    amax[[2, 5, 129]] = (7, 8, 9)
    statistics = {("vision", "layers.3.residual"): seen(list(amax))}
    assert report(tmp_path, statistics)["channel_map"]["vision"] == [[7.0, 8.0, *[1.0] * 61, 9.0]]


def test_a_silent_stream(tmp_path: Path) -> None:
    found = report(tmp_path, {("vision", "layers.3.residual"): seen([0, 0], token_amax=0, token_median=0)})
    (entry,) = found["residual"]
    assert (entry["massive_channels"], entry["massive_tokens"], entry["median"]) == ([], 0.0, 0.0)
    assert entry["fp16_headroom"] == pytest.approx(65504e30)
    assert found["channel_map"] == {"vision": [[0.0, 0.0]]}


def test_attention_by_its_four_tensors(tmp_path: Path) -> None:
    parts = {"q": 2.0, "k": 3.0, "v": 5.0, "probabilities": 0.75}
    statistics = {
        ("vision", f"layers.3.attn.{part}"): seen([1.0 if part != "probabilities" else 0.5, amax])
        for part, amax in parts.items()
    }
    assert report(tmp_path, statistics)["attention"] == [
        {
            "name": "layers.3.attn",
            "graph": "vision",
            "block": 3,
            "q_amax": 2.0,
            "k_amax": 3.0,
            "v_amax": 5.0,
            "probability_amax": 0.75,
        }
    ]


def test_what_the_report_is_of(tmp_path: Path) -> None:
    found = report(tmp_path, {("vision", "layers.3.residual"): seen([1.0])})
    assert {name: found[name] for name in ("schema", "precision", "dtype", "method", "smooth", "producer")} == {
        "schema": 1,
        "precision": "int8",
        "dtype": "float16",
        "method": "auto",
        "smooth": "auto",
        "producer": {"internvl-edge": "1"},
    }
    assert found["checkpoint"] == "model"
    assert found["data"] == {
        "source": "a, b",
        "sha256": "0a, 0b",
        "pictures": 7,
        "texts": 10,
        "unreadable": ["x.png"],
    }
    assert found["notes"] == ["a note"]
    assert [(entry["rule"], entry["reason"]) for entry in found["placement_rules"]] == list(PLACEMENT_RULES)
    assert (found["accuracy"], found["gate"], found["sensitivity"]) == ([], None, [])


@pytest.mark.parametrize(("max_drop", "passed"), [(0.5, True), (0.49, False)])
def test_the_gate(tmp_path: Path, max_drop: float, passed: bool) -> None:
    statistics = {("vision", "layers.3.residual"): seen([1.0])}
    found = report(tmp_path, statistics, result=GATE, max_drop=max_drop)
    assert found["gate"] == {
        "max_drop": max_drop,
        "drop": 0.5,
        "metric": "mean of 2 figures on 64 pictures of set.jsonl",
        "passed": passed,
    }
    assert found["accuracy"] == [
        {"metric": "mean", "fp32": 85.0, "quantized": 84.5, "drop": 0.5},
        {"metric": "R@1", "fp32": 80.0, "quantized": 79.5, "drop": 0.5},
        {"metric": "R@5", "fp32": 90.0, "quantized": 89.5, "drop": 0.5},
    ]


def test_sensitivity_says_which_sites_were_kept_high(tmp_path: Path) -> None:
    names = {"layers.3.fc1": True, "layers.3.fc2": False}
    statistics = {("vision", name): seen([1.0]) for name in names}
    decisions = [decision(name, None, quantized=quantized) for name, quantized in names.items()]
    damages = [Damage(site=name, graph="vision", sqnr_db=20.0) for name in names]
    assert report(tmp_path, statistics, *decisions, damages=damages)["sensitivity"] == [
        {"site": "layers.3.fc1", "graph": "vision", "sqnr_db": 20.0, "kept_high": False},
        {"site": "layers.3.fc2", "graph": "vision", "sqnr_db": 20.0, "kept_high": True},
    ]
