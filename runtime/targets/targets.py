"""Find a device by its name, and refuse a precision that its hardware lacks."""

import difflib
import re

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.devices import TARGETS
from internvl_edge.runtime.targets.sms import SMS

_BARE = re.compile(r"^sm_?(\d+)$")


def find_target(name: str) -> Target:
    """Return the target called `name`, or a bare ``sm_89``.

    Raises:
        EngineError: the name is unknown.
    """
    wanted = name.lower()
    for target in TARGETS:
        if target.name == wanted:
            return target
    if match := _BARE.match(wanted):
        return _bare(name, int(match[1]))
    known = [target.name for target in TARGETS]
    near = [n for n in known if wanted in n] or difflib.get_close_matches(wanted, known, n=3) or known
    raise EngineError(f"--target {name}: unknown device; did you mean {', '.join(near)}?")


def require_precision(target: Target, precision: str | None) -> None:
    """Refuse a precision that the device has no units for.

    Raises:
        EngineError: naming the devices that have them.
    """
    if precision == "fp8" and not target.fp8:
        able = ", ".join(other.name for other in TARGETS if other.fp8)
        raise EngineError(f"--precision fp8 --target {target.name}: sm_{target.sm} has no FP8; {able} have; use int8")
    if precision == "bf16" and not target.bf16:
        able = ", ".join(other.name for other in TARGETS if other.bf16)
        raise EngineError(f"--dtype bf16 --target {target.name}: sm_{target.sm} has no bf16; {able} have; use fp16")


def _bare(name: str, sm: int) -> Target:
    if all(sm != row.sm for row in SMS):
        known = ", ".join(f"sm_{row.sm}" for row in SMS)
        raise EngineError(f"--target {name}: unknown compute capability; TensorRT 10.3 and later know {known}")
    return Target(name=f"sm_{sm}", sm=sm)
