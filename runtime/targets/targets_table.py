"""The output of `internvl-edge targets`: devices, their capabilities, and the libraries here that build for them."""

from typing import Any

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.devices import TARGETS
from internvl_edge.runtime.targets.flavour import flavour_for
from internvl_edge.runtime.targets.sms import sm_row

_HEAD = ("device", "SM", "memory", "GB/s", "fp16", "int8", "fp8", "TensorRT", "built here")
_RIGHT = frozenset({"SM", "memory", "GB/s", "fp16", "int8", "fp8"})
_FOOT = (
    "memory in GB; fp16, int8, fp8: dense 10^12 operations per second by the vendors, - where there are no units\n"
    "kit: what `internvl-edge build` makes for a device that builds its own plans"
)


def targets_text() -> str:
    """Return the table as text."""
    rows = [_HEAD, *(_row(target) for target in TARGETS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join([*(_line(row, widths) for row in rows), "", _FOOT])


def targets_json() -> list[dict[str, Any]]:
    """Return a list of one object per device for JSON; ``built_here`` is null where only the device can build."""
    return [_object(target) for target in TARGETS]


def tensorrt_line(target: Target) -> str:
    """Return in words which TensorRT `target` needs."""
    return sm_row(target.sm).tensorrt


def _row(target: Target) -> tuple[str, ...]:
    sheet = target.sheet
    tflops = sheet.tflops if sheet is not None else {}
    return (
        target.name,
        str(target.sm),
        f"{sheet.memory_gib:g}" if sheet is not None else "?",
        f"{sheet.bandwidth_gb_s:g}" if sheet is not None else "?",
        *(f"{tflops[kind]:g}" if kind in tflops else "-" for kind in ("fp16", "int8", "fp8")),
        tensorrt_line(target),
        _built_here(target),
    )


def _object(target: Target) -> dict[str, Any]:
    found = {"name": target.name, "sm": target.sm, "tensorrt": tensorrt_line(target), "built_here": _builder(target)}
    if (sheet := target.sheet) is not None:
        found |= {
            "memory_gib": sheet.memory_gib,
            "bandwidth_gb_s": sheet.bandwidth_gb_s,
            "tflops": dict(sheet.tflops),
            "source": sheet.source,
        }
    return found


def _built_here(target: Target) -> str:
    if (builder := _builder(target)) is not None:
        return f"yes, {builder}"
    return "no, install the extra rtx" if target.rtx else "no, a kit"


def _builder(target: Target) -> str | None:
    """Return the name and version of the installed library that builds for `target`."""
    try:
        flavour = flavour_for(target)
    except EngineError:
        return None
    return f"{flavour.name} {flavour.version}" if flavour is not None else None


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = (
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for name, cell, width in zip(_HEAD, row, widths, strict=True)
    )
    return "  ".join(cells).rstrip()
