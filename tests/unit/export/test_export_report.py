"""What is printed after an export."""

from dataclasses import replace
from pathlib import Path

from internvl_edge.export.compile import ExportReport
from internvl_edge.export.export_report import report_text

REPORT = ExportReport(
    output=Path("bundle"),
    precision="fp16",
    graphs=(),
    errors=(),
    seconds={"trace": 1.0},
    samples="synthetic pictures",
    shared_tensors=0,
    hard_linked=False,
    written_tensors=3,
    store_bytes=1000,
    built=None,
    ignored=("language_model.output.weight",),
)


def test_a_missing_language_model_has_its_reason_in_one_line() -> None:
    reason = "Qwen3MoeForCausalLM is a mixture of experts"
    lines = report_text(replace(REPORT, without_llm=reason)).splitlines()
    assert lines.count(f"llm is missing: {reason}") == 1
    assert "not used from the checkpoint: 1 tensors, for example language_model.output.weight" in lines
    assert not any("llm is missing" in line for line in report_text(REPORT).splitlines())
