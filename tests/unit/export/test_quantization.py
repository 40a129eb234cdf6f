"""The stages of an export that quantize: what is wrong is said before ranges are measured."""

from pathlib import Path

import pytest

from internvl_edge.export import quantization
from internvl_edge.export.quantization import quantize_run
from internvl_edge.export.run.export_run import open_run
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.export.run.staging import Staging
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.progress import Silent
from tests.project import ROOT

CHECKPOINT = ROOT / "tests" / "data" / "golden" / "case_a_internvl14b" / "checkpoint"


def test_patterns_are_checked_before_ranges_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("ranges were measured first")

    monkeypatch.setattr(quantization, "measure_ranges", measure)
    options = ExportOptions(
        checkpoint=str(CHECKPOINT), output=tmp_path, precision="int8", data="random", keep_high=("no_such_linear",)
    )
    with pytest.raises(CalibrationError, match=r"^--keep-high no_such_linear: matches no linear"):
        quantize_run(open_run(options, Silent()), Staging(tmp_path), lambda graph: {})
