"""A missed gate: one line with the remedy, no bundle, an earlier one untouched, and a report to read why."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.calib.gate.result import AccuracyMetric, GateResult
from internvl_edge.export import compile as stages
from internvl_edge.export.calibrate import CalibrateOptions, calibrate
from internvl_edge.export.compile import export_bundle
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime.errors import VerificationError
from tests.e2e.conftest import Run

PICTURES = 16
"""The fewest that calibration takes."""


@pytest.fixture(scope="module")
def folder(emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures without captions: measured by the cosine of features, which no rounding leaves at 100."""
    target = tmp_path_factory.mktemp("pictures")
    with zipfile.ZipFile(emoji / "data" / "calibration.zip") as archive:
        for name in sorted(archive.namelist())[:PICTURES]:
            archive.extract(name, target)
    return target


@pytest.fixture(scope="module")
def checkpoint(golden_b: Path) -> Path:
    return golden_b / "checkpoint_vit"


@pytest.fixture(scope="module")
def ranges(checkpoint: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("ranges") / "ranges"
    calibrate(CalibrateOptions(checkpoint=str(checkpoint), output=target, data=str(folder)))
    return target


def report_beside(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output.with_name(f"{output.name}.rejected") / "quantization.json").read_text())
    return found


def test_through_the_command(run: Run, checkpoint: Path, folder: Path, ranges: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    quantize = ("--precision", "int8", "--ranges", ranges, "--data", folder)
    strict = ("--max-drop", 0, "--budget-layers", 2, "--gate-samples", 8)
    done = run("export", checkpoint, "-o", output, *quantize, *strict)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    for part in ("int8 loses", "on 8 pictures", "--max-drop is 0", "quantization.html", "--budget-layers"):
        assert part in line, line
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.rejected"], "a bundle, or a half one"
    report = report_beside(output)
    assert report["gate"]["passed"] is False
    assert report["gate"]["drop"] > 0
    assert [row["metric"] for row in report["accuracy"]] == ["mean", "cosine of vision states"]
    ranking = report["sensitivity"]
    assert len(ranking) == 12, "three blocks of four linears"
    assert [row["kept_high"] for row in ranking] == [True] * 2 + [False] * 10, "the worst two are the budget"
    assert ranking == sorted(ranking, key=lambda row: row["sqnr_db"])
    page = (tmp_path / "bundle.rejected" / "quantization.html").read_text()
    assert page.startswith("<!")
    assert ranking[0]["site"] in page


def losing(points: float) -> Callable[[object, Path], GateResult]:
    """Return a gate that finds `points` lost, whatever the graphs are."""

    def gate(accuracy_gate: object, onnx: Path, progress: object) -> GateResult:
        assert sorted(path.name for path in onnx.glob("*.onnx")) == ["vision.onnx"], "measured before it was written"
        metric = AccuracyMetric(name="R@1", reference=90.0, quantized=90.0 - points)
        return GateResult(metrics=(metric,), pictures=4, source="pictures")

    return gate


def snapshot(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_bundle_stays_as_it_was(
    checkpoint: Path, folder: Path, ranges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the graphs that were written: here the plan passed, and they do not."""

    def export(points: float, max_drop: float) -> None:
        monkeypatch.setattr(stages, "run_gate", losing(points))
        export_bundle(
            ExportOptions(
                checkpoint=str(checkpoint),
                output=tmp_path / "bundle",
                precision="int8",
                ranges=ranges,
                data=str(folder),
                gate_samples=4,
                max_drop=max_drop,
            )
        )

    export(1.25, max_drop=1.25)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "what is just allowed passes"
    before = snapshot(tmp_path / "bundle")
    assert json.loads(before["reports/quantization.json"])["gate"]["passed"] is True
    assert "reports/quantization.html" in before
    for points, said in ((1.25, "1.25"), (np.nan, "nan")):
        with pytest.raises(VerificationError, match=f"loses {said} points on 4 pictures, --max-drop is 1;") as caught:
            export(points, max_drop=1)
        assert "\n" not in str(caught.value)
        assert snapshot(tmp_path / "bundle") == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.rejected"]
        assert report_beside(tmp_path / "bundle")["gate"]["passed"] is False
