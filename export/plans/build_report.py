"""Write the summary of a build as text; devices use it too, so it imports no large libraries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl_edge.export.plans.build import BuildReport
from internvl_edge.export.plans.kit import LINES_FILE, KitReport


def build_text(report: BuildReport | KitReport) -> str:
    """Return the summary of a build with a line for each plan, or the description of a kit."""
    if isinstance(report, KitReport):
        parts = [part for graph in report.blueprint.graphs.values() for part in graph.parts]
        return (
            f"{report.folder}: a kit for {report.target.name} (sm_{report.target.sm}), which is not built for here: "
            f"{len(parts)} graphs\n"
            f"on the device: internvl-edge build {report.folder.name}    (or the commands of {LINES_FILE})"
        )
    record = report.record
    lines = [f"{report.folder}: {record.flavour} {record.version} for sm_{record.sm}, {report.seconds:.1f} s"]
    for name, engines in record.graphs.items():
        for plan in engines.plans:
            kept = (
                "kept"
                if name in report.reused
                else f"{plan.seconds:.1f} s, {plan.peak_bytes / 2**30:.2f} GiB of memory"
            )
            lines.append(f"  {plan.file:<16} {plan.bytes / 1e6:>9,.1f} MB  {kept}")
        if engines.form is not None:
            lines.append(f"  {name}: {_form_text(engines.form)}")
        if engines.fell_back:
            lines.append(f"  {name}: built without attention kernels: {engines.fell_back}")
        if engines.gave_up:
            lines.append(f"  {name}: memory ran out, so given up: {', '.join(engines.gave_up)}")
    there = isinstance(report.page, Path)
    lines.append(f"{report.page}: their launches, bytes and predicted times" if there else f"no page: {report.page}")
    lines.append("built, not run: that takes the GPU")
    return "\n".join(lines)


def _form_text(form: Mapping[str, Any]) -> str:
    """Return the result of a search of forms: launches and bytes of a block in each profile, and the dialect."""
    costs = "; ".join(
        f"{cost['launches']} launches" + (f", {cost['bytes'] / 1e6:.1f} MB" if cost["bytes"] is not None else "")
        for cost in form["costs"]
    )
    fields = ", ".join(f"{name} {value}" for name, value in form["dialect"].items() if name != "opset")
    return f"{form['block']} takes {costs} in the form {fields}"


def trtexec_text(report: BuildReport | KitReport) -> str:
    """Return the trtexec commands of a kit, or a line that says that built plans need none."""
    if isinstance(report, KitReport):
        return "\n".join(report.lines)
    return "trtexec: not needed, the plans are built; a kit has the commands"
