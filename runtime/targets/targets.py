"""Find a device by its name, and check that its hardware supports a precision."""

import difflib
import re

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.numbers.formats import PRECISIONS
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.devices import TARGETS
from internvl_edge.runtime.targets.sms import SMS

_BARE = re.compile(r"^sm_?(\d+)$")


def find_target(name: str) -> Target:
    """Return the target called `name`, which may be a bare SM such as ``sm_89``.

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
    """Check that the device has units for a precision.

    Raises:
        EngineError: it has none; the message names devices that have them.
    """
    row = PRECISIONS.get(precision or "")
    if row is None or target.has(row.needs):
        return
    option = "--precision" if row.quantized else "--dtype"
    able = ", ".join(other.name for other in TARGETS if other.has(row.needs))
    raise EngineError(
        f"{option} {row.name} --target {target.name}: sm_{target.sm} has no {row.needs}; {able} have; use {row.instead}"
    )


def _bare(name: str, sm: int) -> Target:
    if all(sm != row.sm for row in SMS):
        known = ", ".join(f"sm_{row.sm}" for row in SMS)
        raise EngineError(f"--target {name}: unknown compute capability; TensorRT 10.3 and later know {known}")
    return Target(name=f"sm_{sm}", sm=sm)
