"""Load the installed TensorRT with a logger and a runtime, of which a process has one each."""

import logging
from collections import deque
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from internvl_edge.runtime.backends.tensorrt_module import import_tensorrt, tensorrt_version
from internvl_edge.runtime.errors import BackendError

logger = logging.getLogger(__name__)

_LOGS: list[Any] = []
"""All loggers, which live until the process ends, since TensorRT keeps the address of the first one."""
_REMEMBERED = 16
"""Number of errors that are kept. The first error of a failure names its cause, the others follow from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A loaded flavour of TensorRT."""

    flavour: str
    trt: ModuleType
    version: str
    runtime: Any
    errors: "deque[str]"
    """Last errors that the library logged, oldest first."""


@cache
def load_library(flavour: str) -> Library:
    """Return the library of `flavour`, always as the same object.

    Raises:
        BackendError: it is not installed, or does not start.
    """
    try:
        trt = import_tensorrt(flavour)
    except ImportError as error:
        raise BackendError(f"backend {flavour}: {error}") from error
    errors: deque[str] = deque(maxlen=_REMEMBERED)
    _LOGS.append(_log(trt, errors))
    runtime = trt.Runtime(_LOGS[-1])
    return Library(flavour=flavour, trt=trt, version=tensorrt_version(trt), runtime=runtime, errors=errors)


def _log(trt: ModuleType, errors: "deque[str]") -> Any:
    """Return a logger that keeps errors for messages and passes all records to Python's logging."""

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                errors.append(message)
            logger.debug("%s", message)

    return Log()
