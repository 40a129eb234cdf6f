"""Texts that the commands print after an export and after a calibration."""

from internvl_edge.export.calibrate import CalibrateReport
from internvl_edge.export.compile import ExportReport
from internvl_edge.export.numerics.overflows import overflow_lines
from internvl_edge.export.plans.build_report import build_text
from internvl_edge.runtime.numbers.formats import QUANTIZED

_HARD_LINKS = (
    "hard links: onnx 1.23 and later, and with it polygraphy inspect and onnxslim, refuse to read this bundle, and the "
    "checkpoint while the links stand; export with --weights auto for them"
)


def ranges_text(report: CalibrateReport) -> str:
    """Return the summary of a calibration: what was measured, on which data, and the time."""
    info = report.info
    pictures, texts = (sum(int(part[key]) for part in info.data) for key in ("pictures", "texts"))
    unreadable = [name for part in info.data for name in part["unreadable"]]
    lines = [
        f"{report.output}: ranges of {len(info.blocks)} blocks in {', '.join(info.graphs)}",
        f"{pictures} pictures and {texts} texts of {', '.join(str(part['source']) for part in info.data)}, "
        f"{info.compute} products, {report.seconds:.1f} s",
    ]
    if unreadable:
        lines.append(f"left out, unreadable: {len(unreadable)} pictures: {', '.join(unreadable[:8])}")
    return "\n".join(lines)


def report_text(report: ExportReport) -> str:
    """Return the summary of an export, with one line for each graph and its difference to torch."""
    lines = [
        f"{report.output}: {', '.join(report.graphs)}",
        _weights(report),
        *([_HARD_LINKS] if report.hard_linked else []),
        f"verified on {report.samples} against torch {_reference(report)} (largest difference, lowest cosine):",
    ]
    for graph in report.graphs:
        errors = [error for error in report.errors if error.graph == graph]
        worst = max(errors, key=lambda error: error.max_abs_diff / error.atol if error.atol else error.max_abs_diff)
        cosine = min(error.cosine for error in errors)
        lines.append(
            f"  {graph:<10} {worst.max_abs_diff:.2e} in {worst.output} (allowed {worst.atol:.2e}), cosine {cosine:.7f}"
        )
    if report.dtype_reason is not None:
        lines.append(f"{report.precision}: {report.dtype_reason}")
    lines += overflow_lines(report.fp32_parts)
    if report.gate_result is not None:
        result = report.gate_result
        lines.append(
            f"accuracy: {result.drop:+.2f} points lost in the mean of {len(result.metrics)} figures on "
            f"{result.pictures} pictures of {result.source}; see reports/quantization.html"
        )
    if report.kept_high:
        lines.append(f"kept high: {len(report.kept_high)} sites, as {report.kept_high[0]}")
    if report.built is not None:
        lines.append(build_text(report.built))
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items())
    lines.append(f"seconds: {stages}")
    if report.without_llm is not None:
        lines.append(f"llm is missing: {report.without_llm}")
    if report.ignored:
        lines.append(f"not used from the checkpoint: {len(report.ignored)} tensors, for example {report.ignored[0]}")
    if report.absent_files:
        lines.append(
            f"missing shards that no graph needs: {len(report.absent_files)}, for example {report.absent_files[0]}"
        )
    return "\n".join(lines)


def _weights(report: ExportReport) -> str:
    shared = f"{report.shared_tensors} tensors shared with the checkpoint's files, " if report.shared_tensors else ""
    return f"weights: {report.store_bytes / 1e6:,.1f} MB, {shared}{report.written_tensors} tensors written"


def _reference(report: ExportReport) -> str:
    return f"with the same {report.precision} codes" if report.precision in QUANTIZED else "fp32"
