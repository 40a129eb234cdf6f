"""Devices by name, and the compute capability that TensorRT-RTX builds for on any machine."""

import difflib
import re
from dataclasses import dataclass

from internvl_edge.runtime.errors import EngineError

_BUILDABLE = {
    "t4": 75,
    "a100": 80,
    "a10": 86,
    "rtx-3090": 86,
    "l4": 89,
    "l40s": 89,
    "rtx-4090": 89,
    "rtx-5090": 120,
    "dgx-spark": 121,
}
_ON_DEVICE = ("orin-nano-8gb", "orin-nx-16gb", "agx-orin-64gb", "agx-thor", "h100", "h200", "gh200", "b200")
"""No targets of TensorRT-RTX: the standard TensorRT builds on the device itself."""

_BARE = re.compile(r"^sm_?(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device to build for."""

    name: str
    sm: int


FIRST_FP8_SM = 89
"""Ada; TensorRT refuses FP8 below."""


def require_precision(target: Target, precision: str | None) -> None:
    """Refuse a precision that the device has no units for.

    Raises:
        EngineError: naming the devices that have them.
    """
    if precision == "fp8" and target.sm < FIRST_FP8_SM:
        able = ", ".join(name for name, sm in _BUILDABLE.items() if sm >= FIRST_FP8_SM)
        raise EngineError(f"--precision fp8 --target {target.name}: sm_{target.sm} has no FP8; {able} have; use int8")


def find_target(name: str) -> Target:
    """Return the target called `name`, or a bare ``sm_89``.

    Raises:
        EngineError: the name is unknown, or plans for it cannot be built ahead of time.
    """
    wanted = name.lower()
    if wanted in _BUILDABLE:
        return Target(name=wanted, sm=_BUILDABLE[wanted])
    if (match := _BARE.match(wanted)) and int(match[1]) in _BUILDABLE.values():
        return Target(name=f"sm_{match[1]}", sm=int(match[1]))
    if wanted in _ON_DEVICE or match:
        built = ", ".join(f"sm_{sm}" for sm in sorted(set(_BUILDABLE.values())))
        raise EngineError(
            f"--target {name}: TensorRT-RTX builds ahead of time for {built} only; "
            "build on the device from the bundle's ONNX files with its own TensorRT"
        )
    known = [*_BUILDABLE, *_ON_DEVICE]
    near = [n for n in known if wanted in n] or difflib.get_close_matches(wanted, known, n=3) or known
    raise EngineError(f"--target {name}: unknown device; did you mean {', '.join(near)}?")
